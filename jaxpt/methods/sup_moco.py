"""SupMoCo: SupCon over a labelled queue of target keys (Majumder et al., arXiv:2101.11058).

A query's positives are its own key and all keys of its class.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)

    def loss_of(queries, own, memory):
        per_query = losses.sup_moco(
            queries.output,
            own,
            memory.keys,
            queries.labels,
            memory.labels,
            query_ids=queries.ids,
            key_ids=memory.ids,
            key_mask=memory.valid,
            axis_name=axis,
            temperature=config.temperature,
        )
        return per_query, {}

    chance = math.log(1 + updating.memory_size(setup))
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=chance)
