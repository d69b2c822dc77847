"""Shared steps of methods around the loss: initial state, optimizer step, target and memory."""

import jax
import jax.numpy as jnp

from jaxpt import models
from jaxpt.errors import require
from jaxpt.methods import encoding, rw_sam
from jaxpt.ops import memory as memories
from jaxpt.ops.similarity import gather, unit_vectors
from jaxpt.train.parts import SHARDINGS
from jaxpt.train.state import Target, TrainState, apply_gradients, copy, move_target

MEMORIES = ("queue", "bank")
DTYPES = ("float32", "bfloat16")


def make_init(setup, encoder, *, target: bool = False, memory: bool = False, more_params=None):
    """Returns the function (key, images) → initial TrainState.

    Args:
      setup, encoder: the setup and the online encoder of the method.
      target: whether the state has an EMA copy of the encoder (without its predictor).
      memory: whether the state has a memory, which starts empty.
      more_params: key → dict of parameters in addition to the encoder's; optional.
    """
    config = setup.config

    def init(key, images):
        params, stats = models.init(encoder, key, images)
        if more_params is not None:
            params = {**params, **more_params(jax.random.fold_in(key, 1))}
        parts = (
            {name: tree[name] for name in ("backbone", "head") if name in tree}
            for tree in (params, stats)
        )
        return TrainState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            params,
            stats,
            setup.optimizer.init(params),
            target=Target(*copy(tuple(parts))) if target else None,
            memory=memories.create(
                memory_size(setup), config.model.projector.dim, config.memory_dtype
            )
            if memory
            else None,
            latest=memories.create(config.rw_sam.features, width(params, stats, images))
            if rw_sam.weighs(config)
            else None,
        )

    def width(params, stats, images):
        """Width of the backbone's features."""
        encoded = jax.eval_shape(
            lambda x: models.encode(encoder, params, stats, x, train=False), images
        )
        return encoded.features.shape[1]

    return init


def make_fill(setup, encoder):
    """Returns the function (state, batch) → state with the batch's keys in the memory.

    BatchNorm always uses batch statistics here, because there are no running statistics before the
    first update.
    """

    def fill(state, batch):
        source = state.target or Target(state.params, state.batch_stats)
        images = encoding.key_images(setup.config, batch)
        keys, _ = encoding.target_outputs(encoder, source, images, setup.config, norm="batch")
        return remember(setup, state, unit_vectors(keys), batch)

    return fill


def descend(setup, state, loss_of):
    """Takes one optimizer step on the mean of losses; with ``config.rw_sam.rho``, a step of rwSAM.

    Args:
      setup, state: the setup of the method and the state before the step.
      loss_of: params → (losses, (``encoding.Queries``, metrics)). The losses are float32 [any],
        or [views, batch], with a view's images in the order of the batch; or a scalar.

    Returns:
      (state, metrics), with the metrics, including "loss", averaged over the devices, and
      "gradient_norm", that of the averaged gradient.
    """
    config, settings = setup.config, setup.config.rw_sam

    def first(rows):  # those of the first view
        return rows[: rows.shape[0] // (config.views + config.local_views)]

    def weights_of(queries):
        return rw_sam.weights(
            first(queries.features),
            first(queries.ids),
            state.latest,
            alpha=settings.alpha,
            bandwidth=settings.bandwidth,
        )

    gradient = _gradient(loss_of)
    if settings.rho > 0:
        uphill = _gradient(loss_of, weights_of) if rw_sam.weighs(config) else gradient
        gradient = rw_sam.perturbed(gradient, uphill, rho=settings.rho, axis_name=setup.axis_name)
    gradients, (loss, queries, metrics) = gradient(state.params)
    state, norm = apply_gradients(
        state, gradients, queries.batch_stats, setup.optimizer, setup.axis_name
    )
    if rw_sam.weighs(config):
        latest = unit_vectors(first(queries.features)), first(queries.labels), first(queries.ids)
        latest = (gather(x, setup.axis_name) for x in latest)
        state = state.replace(latest=memories.push(state.latest, *latest))
    # A metric may be a Python int, such as k.
    metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"loss": loss, **metrics})
    return state, jax.lax.pmean(metrics, setup.axis_name) | {"gradient_norm": norm}


def _gradient(loss_of, weights_of=None):
    """Makes params → (gradient of the mean loss, (plain mean loss, queries, metrics)).

    Args:
      loss_of: see ``descend``.
      weights_of: ``Queries`` → float32 [batch], weights of the images in the mean that is
        differentiated; None for the plain mean.
    """

    def mean_of(params):
        losses, (queries, metrics) = loss_of(params)
        loss = mean = jnp.mean(losses)
        if weights_of is not None:
            weights = weights_of(queries)
            mean = jnp.mean(weights * losses.reshape(-1, len(weights)))
        return mean, (loss, queries, metrics)

    return jax.grad(mean_of, has_aux=True)


def follow(setup, state, target_stats):
    """Moves the target towards the online encoder and returns the new state.

    The EMA's decay is ``config.ema``, constant or on a cosine to ``config.ema_end``. The target's
    BatchNorm statistics become ``target_stats``, those of its own pass; with ``target_norm``
    "running" they are averages of the online encoder's statistics instead, like the parameters.
    """
    config = setup.config
    ema = config.ema
    if config.ema_end >= 0:
        share = state.step / setup.steps(config.duration)
        ema = config.ema_end - (config.ema_end - ema) * (1 + jnp.cos(jnp.pi * share)) / 2
    if config.target_norm == "running":
        target_stats = None
    return state.replace(
        target=move_target(state.target, state, target_stats, ema, setup.axis_name)
    )


def remember(setup, state, keys, batch):
    """Writes the keys of all devices, in device order, into the memory; returns the new state."""
    # Gathered, because each device's memory, or shard of it, must see the whole batch.
    keys, labels, ids, index = (
        gather(x, setup.axis_name) for x in (keys, batch.label, batch.id, batch.index)
    )
    axis = memory_axis(setup)
    if setup.config.memory_kind == "queue":
        memory = memories.push(state.memory, keys, labels, ids, axis_name=axis)
    else:
        memory = memories.write(
            state.memory,
            index,
            keys,
            labels,
            ids,
            axis_name=axis,
            momentum=setup.config.memory_momentum,
        )
    return state.replace(memory=memory)


def check_memory(config) -> None:
    """Raises InputError if a setting of the memory is invalid."""
    require(
        config.memory_kind in MEMORIES,
        f"memory_kind must be one of {MEMORIES}, got {config.memory_kind!r}.",
    )
    require(
        config.memory_sharding in SHARDINGS,
        f"memory_sharding must be one of {SHARDINGS}, got {config.memory_sharding!r}.",
    )
    require(
        config.memory_dtype in DTYPES,
        f"memory_dtype must be one of {DTYPES}, got {config.memory_dtype!r}.",
    )
    require(
        config.memory_kind == "bank" or config.memory >= config.batch_size,
        f"memory must hold at least one batch, {config.batch_size}, got {config.memory}.",
    )
    require(
        0 <= config.memory_momentum < 1,
        f"memory_momentum must be at least 0 and below 1, got {config.memory_momentum}.",
    )


def check_workspace(config) -> None:
    """Raises InputError if ``neighbor_workspace`` is not a positive number."""
    require(
        config.neighbor_workspace > 0,
        f"neighbor_workspace must be a positive number of MiB, got {config.neighbor_workspace}.",
    )


def workspace(config) -> int:
    """Bytes of similarities that a neighbour loss may hold at a time on accelerators."""
    return int(config.neighbor_workspace * 2**20)


def memory_axis(setup):
    """Axis over which the memory's slots are split, for losses; None if it is replicated."""
    return setup.axis_name if setup.config.memory_sharding == "sharded" else None


def memory_size(setup) -> int:
    """Number of slots: ``config.memory`` for a queue, the number of examples for a bank."""
    return setup.config.memory if setup.config.memory_kind == "queue" else setup.examples
