"""A step that never lets a number that is not finite into the state."""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from jaxpt.train.parallel import AXIS


def guarded(step: Callable, *, max_skipped: int) -> Callable:
    """The step, but a new state with a NaN or an infinity in it is thrown away.

    Up to ``max_skipped`` such steps are skipped: the state stays, its ``step`` and ``skipped`` go
    up by one. The next one is too many: then the state stays for good as it was before that step,
    ``skipped`` being ``max_skipped + 1``, whatever further steps are made before the host looks.
    A gradient that is not finite shows in the parameters after its update.

    Args:
      step: (state, batch) → (state, metrics with "loss").
      max_skipped: 0 stops at the first.
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
    """Whether all numbers are finite, on all devices."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
    return jax.lax.pmin(finite.astype(jnp.int32), AXIS) == 1
