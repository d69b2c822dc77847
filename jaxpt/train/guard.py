"""Protects the state from non-finite values."""

from typing import Any, Callable

import jax
import jax.numpy as jnp

from jaxpt.train.parallel import AXIS


def guarded(step: Callable, *, max_skipped: int) -> Callable:
    """Wraps ``step``; discards updates that contain NaN or infinity.

    Up to ``max_skipped`` such steps are skipped: the state is kept, except that ``step`` and
    ``skipped`` increase by one. At the next such step the state is frozen as it was before that
    step, with ``skipped = max_skipped + 1``, however many steps follow before the host reads it.

    Parameters, moments and target are not read again if the metrics have "gradient_norm", which is
    finite only if the gradient is, and no entry of it is above 1.8e19. From such a gradient, finite
    parameters and a finite learning rate, no optimizer makes anything that is not finite. Reading
    them would cost more memory traffic than the optimizer itself, and would keep the selection
    between the new state and the old from becoming a part of the optimizer's own pass.

    Args:
      step: (state, batch) → (state, metrics with "loss" and, optionally, "gradient_norm").
      max_skipped: number of steps that may be skipped; 0 freezes the state at the first.

    Returns:
      A step (state, batch) → (state, metrics with "skipped").
    """

    def run(state, batch):
        new, metrics = step(state, batch)
        checked, norm = new, metrics.get("gradient_norm", 0.0)
        if "gradient_norm" in metrics:
            checked = new.replace(params=None, opt_state=None)
            if new.target is not None:
                checked = checked.replace(target=new.target.replace(params=None))
        sound = _finite((checked, metrics["loss"], jnp.asarray(norm)))
        sound = sound & (state.skipped <= max_skipped)
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
