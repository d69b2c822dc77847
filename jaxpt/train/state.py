"""The state of pre-training as one pytree, and the two updates shared by all methods."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxpt.ops.memory import Memory
from jaxpt.train import parts


@flax.struct.dataclass
class Target:
    """The target encoder: an exponential moving average (EMA) of the online one."""

    params: Any
    batch_stats: Any


@flax.struct.dataclass
class TrainState:
    """Complete state of a run apart from its config; replicated, except for sharded arrays.

    Attributes:
      step: int32 scalar, number of updates done.
      skipped: int32 scalar, number of updates discarded because they were not finite.
      params: parameters of the online encoder, and other parameters that a method learns.
      batch_stats: BatchNorm's running statistics (empty without BatchNorm).
      opt_state: state of the optimizer.
      target: the EMA encoder, or None.
      memory: the labelled keys, or None.
      centre: the running mean of the target's outputs (DINO's), or None.
      probe: the linear probe that is trained alongside, or None.
      latest: the latest features, among which rwSAM estimates densities, or None.
    """

    step: jax.Array
    skipped: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    target: Target | None = None
    memory: Memory | None = None
    centre: jax.Array | None = None
    probe: Any = None
    latest: Memory | None = None


WEIGHTS = ("online", "target")


def measured(state: TrainState, weights: str) -> tuple[Any, Any]:
    """Returns (parameters, batch statistics) of the online or of the target encoder."""
    chosen = state if weights == "online" else state.target
    return chosen.params, chosen.batch_stats


def apply_gradients(
    state: TrainState, gradients, batch_stats, optimizer, axis_name
) -> tuple[TrainState, jax.Array]:
    """Applies one optimizer update, with gradients and statistics averaged over the devices.

    Returns:
      (the new state, the global norm of the averaged gradients).
    """
    gradients = parts.mean(gradients, axis_name)
    batch_stats = jax.lax.pmean(batch_stats, axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return new, parts.norm(gradients)


def move_target(target: Target, state: TrainState, target_stats, ema, axis_name) -> Target:
    """Moves the target towards the online encoder: ema · target + (1 − ema) · online.

    Args:
      target: to move; parameters of ``state`` that it lacks are ignored.
      state: has the online parameters.
      target_stats: running statistics from the target's own forward pass, averaged over the
        devices; None moves the target's statistics like its parameters.
      ema: weight of the old target.
      axis_name: over the devices.
    """

    def moved(old, new):
        new = {part: new[part] for part in old}
        return jax.tree.map(lambda t, p: ema * t + (1 - ema) * p, old, new)

    stats = (
        moved(target.batch_stats, state.batch_stats)
        if target_stats is None
        else jax.lax.pmean(target_stats, axis_name)
    )
    return Target(moved(target.params, state.params), stats)


def copy(tree):
    """Copies arrays into new buffers, as two parts of a donated state must not share any."""
    return jax.tree.map(jnp.copy, tree)
