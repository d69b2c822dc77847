"""Grafit: SupCon over the memory plus instance discrimination (Touvron et al., ICCV 2021).

``weight`` is the share of SupCon.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)
    encoding.check_shares(config, "grafit.weight")

    def loss_of(queries, own, memory):
        per_query = losses.grafit(
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
            weight=config.grafit.weight,
        )
        return per_query, {}

    chance = math.log(1 + updating.memory_size(setup))
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=chance)
