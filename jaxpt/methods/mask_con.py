"""MaskCon: soft targets over the keys of the query's class (Feng and Patras, CVPR 2023).

The target encoder's view of the query says how much each key of its class should attract it.
"""

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import encoding, updating
from jaxpt.methods.setup import Method, Setup


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_temperature(config)
    encoding.check_temperature(config, "target_temperature")
    require(0 <= config.weight <= 1, f"weight must lie in 0 … 1, got {config.weight}.")
    encoding.check_target(config)
    updating.check_memory(config)
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        memory = state.memory
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_query = losses.mask_con(
                queries.output, encoding.each_view(keys, config), memory.keys, queries.labels,
                memory.labels, query_ids=queries.ids, key_ids=memory.ids, key_mask=memory.valid,
                temperature=config.temperature,
                target_temperature=config.target_temperature, weight=config.weight)
            return jnp.mean(per_query), (queries.batch_stats, {})

        state, metrics = updating.descend(setup, state, loss_of)
        state = updating.follow(setup, state, target_stats)
        return updating.remember(setup, state, keys, batch), metrics

    return Method(encoder, updating.make_init(setup, encoder, target=True, memory=True), step,
                  updating.make_fill(setup, encoder))
