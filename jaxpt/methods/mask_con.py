"""MaskCon: soft targets over the keys of the query's class (Feng and Patras, CVPR 2023).

The more similar a key of the query's class is to the target encoder's key of the query's image, the
more it attracts the query.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, memory_contrast, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, updating.memory_axis(setup)
    encoding.check_temperature(config)
    encoding.check_temperature(config, "mask_con.target_temperature")
    encoding.check_shares(config, "mask_con.weight")

    def loss_of(queries, own, memory):
        per_query = losses.mask_con(
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
            target_temperature=config.mask_con.target_temperature,
            weight=config.mask_con.weight,
        )
        return per_query, {}

    chance = math.log(1 + updating.memory_size(setup))
    return memory_contrast.contrast_with_memory(setup, loss_of, chance=chance)
