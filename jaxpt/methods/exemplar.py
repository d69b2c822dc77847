"""Exemplar v2: MoCo without negatives of the query's class (Zhao et al., ICLR 2021).

The only positive is the query's own key. Labels serve only to remove false negatives.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)

    def loss_of(queries, own, memory):
        per_query = losses.exemplar(
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

    negatives = updating.memory_size(setup) * (1 - 1 / setup.classes)
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=math.log(1 + negatives))
