"""MoCo v2: finds each query's own key among a queue of keys (Chen et al., arXiv:2003.04297).

Labels are not used. Earlier keys of the query's own image are not used as negatives, which matters
on small data sets. There is no shuffled BatchNorm: on several devices use
``model.norm = "sync_batch"``.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)

    def loss_of(queries, own, memory):
        per_query = losses.info_nce(
            queries.output,
            own,
            memory.keys,
            query_ids=queries.ids,
            key_ids=memory.ids,
            key_mask=memory.valid,
            axis_name=axis,
            temperature=config.temperature,
        )
        return per_query, {}

    chance = math.log(1 + updating.memory_size(setup))
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=chance)
