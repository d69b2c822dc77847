"""Exemplar v2: MoCo whose same-class negatives are left out (Zhao et al., ICLR 2021).

The only positive is the query's own key; labels say which keys are no negatives.
"""

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.methods import encoding, updating
from jaxpt.methods.setup import Method, Setup


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_temperature(config)
    encoding.check_target(config)
    updating.check_memory(config)
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        memory = state.memory
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_query = losses.exemplar(
                queries.output, encoding.each_view(keys, config), memory.keys, queries.labels,
                memory.labels, query_ids=queries.ids, key_ids=memory.ids, key_mask=memory.valid,
                temperature=config.temperature)
            return jnp.mean(per_query), (queries.batch_stats, {})

        state, metrics = updating.descend(setup, state, loss_of)
        state = updating.follow(setup, state, target_stats)
        return updating.remember(setup, state, keys, batch), metrics

    return Method(encoder, updating.make_init(setup, encoder, target=True, memory=True), step,
                  updating.make_fill(setup, encoder))
