"""NNCLR: uses one view's nearest neighbour as the other's positive (Dwibedi et al., ICCV 2021).

Labels are not used. There is no target encoder: the memory holds outputs of the online encoder.
"""

import math

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating
from jaxpt.ops.similarity import unit_vectors


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_two_views(config)
    encoding.check_temperature(config)
    updating.check_memory(config)
    require(
        config.memory_sharding == "replicated",
        "method nn_clr takes its positives from the memory, "
        "which each device must hold in full: set memory_sharding to replicated.",
    )
    encoder = encoding.projected_encoder(setup, predictor=True)

    def step(state, batch):
        memory = state.memory

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            embeddings, predictions = (
                jnp.split(x, 2) for x in (queries.output, queries.prediction)
            )
            both_ways = [
                losses.nn_clr(
                    embeddings[one],
                    predictions[1 - one],
                    memory.keys,
                    query_ids=batch.id,
                    key_ids=memory.ids,
                    key_mask=memory.valid,
                    temperature=config.temperature,
                    axis_name=setup.axis_name,
                )
                for one in (0, 1)
            ]
            return jnp.stack(both_ways), (queries, {})

        # The keys come from the parameters before the update. XLA shares this pass with the loss's.
        keys = unit_vectors(encoding.queries(encoder, state.params, state, batch, config).output)
        state, metrics = updating.descend(setup, state, loss_of)
        return updating.remember(setup, state, jnp.split(keys, 2)[0], batch), metrics

    return Method(
        encoder,
        updating.make_init(setup, encoder, memory=True),
        step,
        updating.make_fill(setup, encoder),
        chance=math.log(config.batch_size),
    )
