"""LOOK: leave-one-out k-nearest-neighbour pre-training (Feng et al., ICLR 2022).

    queries ← projector(backbone(view)), keys ← the same by the EMA target on another view
    loss    ← losses.look: each query is classified by its k nearest keys in the memory
    update  ← optimizer step; target ← EMA of the online encoder; memory ← push the keys

The paper's k, temperature, memory and head are not public: the values here are jaxpt's defaults.
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
    check(config)
    encoder = encoding.projected_encoder(setup)
    k_at = k_schedule(config, setup.steps)

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
        k = k_at(state.step)

        def loss_of(params):
            queries, _, stats = models.encode(encoder, params, state.batch_stats, images,
                                              train=True)
            per_query, neighbors = losses.look(
                queries, state.memory.keys, labels, state.memory.labels,
                query_ids=ids, key_ids=state.memory.ids, key_mask=state.memory.valid,
                k=k, temperature=config.temperature, no_positive=config.no_positive)
            if config.own_view:  # beyond the paper: the query's own second view as a positive
                own = losses.info_nce(
                    queries, jnp.tile(keys, (config.views, 1)), state.memory.keys,
                    temperature=config.temperature, query_ids=ids, key_ids=state.memory.ids,
                    key_mask=state.memory.valid)
                per_query = (1 - config.own_view) * per_query + config.own_view * own
            return jnp.mean(per_query), (stats, neighbors)

        (loss, (stats, neighbors)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params)
        state = apply_gradients(state, gradients, stats, setup.optimizer, axis)
        state = state.replace(
            target=move_target(state.target, state, target_stats, config.ema, axis),
            memory=encoding.push_keys(state.memory, keys, batch, axis))
        metrics = {"loss": loss, "k": k, **neighbors._asdict()}
        return state, encoding.mean_over_devices(metrics, axis)

    return Method(encoder, init, step, fill)


def check(config) -> None:
    """Raises InputError where LOOK's own settings make no sense."""
    require(isinstance(config.k, int) and config.k >= 1,
            f"k must be a whole number of at least 1, got {config.k}.")
    require(config.temperature > 0, f"temperature must be positive, got {config.temperature}.")
    require(config.no_positive in losses.NO_POSITIVE,
            f"no_positive must be one of {losses.NO_POSITIVE}, got {config.no_positive!r}.")
    require(0 <= config.own_view <= 1, f"own_view must lie in 0 … 1, got {config.own_view}.")
    encoding.check_memory(config)


def k_schedule(config, steps):
    """k over the steps: from the whole memory down to ``config.k``, geometrically.

    ``config.k_warmup`` is the duration of the way down; "0 steps" is ``config.k`` throughout. The
    result is traced, so the schedule compiles once.
    """
    duration = steps(config.k_warmup)
    if duration == 0:
        return lambda step: jnp.asarray(config.k, jnp.int32)
    start = jnp.log(float(max(config.memory, config.k)))
    end = jnp.log(float(config.k))

    def k_at(step):
        share = jnp.minimum(step / duration, 1.0)
        return jnp.round(jnp.exp(start + share * (end - start))).astype(jnp.int32)

    return k_at
