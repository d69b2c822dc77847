"""Protects the state from non-finite values."""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from jaxpt.train.parallel import AXIS


def guarded(step: Callable, *, max_skipped: int) -> Callable:
    """Wraps ``step``; discards updates that contain NaN or infinity.

    Up to ``max_skipped`` such steps are skipped: the state is kept, except that ``step`` and
    ``skipped`` increase by one. At the next such step the state is frozen as it was before that
    step, with ``skipped = max_skipped + 1``, however many steps follow before the host reads it. A
    non-finite gradient is detected in the updated parameters.

    Args:
      step: (state, batch) → (state, metrics with "loss").
      max_skipped: number of steps that may be skipped; 0 freezes the state at the first.

    Returns:
      A step (state, batch) → (state, metrics with "skipped").
    """

    def run(state, batch):
        new, metrics = step(state, batch)
        sound = _finite((new, metrics["loss"])) & (state.skipped <= max_skipped)
        one_too_many = state.skipped >= max_skipped
        kept = state.replace(
            step=state.step + jnp.where(one_too_many, 0, 1),
            skipped=jnp.minimum(state.skipped + 1, max_skipped + 1),
        )
        state = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, kept)
        return state, metrics | {"skipped": state.skipped.astype(jnp.float32)}

    return run


def _finite(tree: Any):
    """Whether all floating-point values are finite, on all devices."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
    # All devices must agree, as each keeps or discards its own copy of the state.
    return jax.lax.pmin(finite.astype(jnp.int32), AXIS) == 1
