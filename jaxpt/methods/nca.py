"""NCA, the soft nearest-neighbour loss, over a memory of target keys (Wu et al., ECCV 2018).

LOOK with the whole memory as the neighbourhood; everything else is the same.
"""

import jax
import jax.numpy as jnp

from jaxpt import losses, memory, models
from jaxpt.errors import require
from jaxpt.methods import encoding
from jaxpt.methods.setup import Method, Setup
from jaxpt.train.state import Target, TrainState, apply_gradients, copy, move_target


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    require(config.temperature > 0, f"temperature must be positive, got {config.temperature}.")
    encoding.check_memory(config)
    encoder = encoding.projected_encoder(setup)

    def init(key, images):
        params, stats = models.init(encoder, key, images)
        return TrainState(
            jnp.zeros((), jnp.int32), params, stats, setup.optimizer.init(params),
            target=Target(copy(params), copy(stats)),
            memory=memory.create(config.memory, config.model.projector.dim))

    def fill(state, batch):
        keys, _ = encoding.target_keys(encoder, state.target, batch, config)
        return state.replace(memory=encoding.push_keys(state.memory, keys, batch, axis))

    def step(state, batch):
        images, labels, ids = encoding.query_views(config, batch)
        keys, target_stats = encoding.target_keys(encoder, state.target, batch, config)

        def loss_of(params):
            queries, _, stats = models.encode(encoder, params, state.batch_stats, images,
                                              train=True)
            per_query, neighbors = losses.nca(
                queries, state.memory.keys, labels, state.memory.labels,
                query_ids=ids, key_ids=state.memory.ids, key_mask=state.memory.valid,
                temperature=config.temperature)
            return jnp.mean(per_query), (stats, neighbors)

        (loss, (stats, neighbors)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params)
        state = apply_gradients(state, gradients, stats, setup.optimizer, axis)
        state = state.replace(
            target=move_target(state.target, state, target_stats, config.ema, axis),
            memory=encoding.push_keys(state.memory, keys, batch, axis))
        return state, encoding.mean_over_devices({"loss": loss, **neighbors._asdict()}, axis)

    return Method(encoder, init, step, fill)
