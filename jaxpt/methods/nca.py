"""NCA, the soft nearest-neighbour loss, over a memory of target keys (Wu et al., ECCV 2018).

LOOK with the whole memory as the neighbourhood; everything else is the same. Wu et al. keep one
key per training example (``memory_kind = "bank"``), computed by the online encoder.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)
    updating.check_workspace(config)

    def loss_of(queries, own, memory):
        per_query, neighbors = losses.nca(
            queries.output,
            memory.keys,
            queries.labels,
            memory.labels,
            query_ids=queries.ids,
            key_ids=memory.ids,
            key_mask=memory.valid,
            label_sources=setup.label_sources,
            axis_name=axis,
            temperature=config.temperature,
            workspace=updating.workspace(config),
        )
        return per_query, neighbors._asdict()

    chance = setup.chance(lambda classes, _: math.log(classes))
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=chance)
