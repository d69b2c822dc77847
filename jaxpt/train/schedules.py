"""Learning rates that fall in steps, beside the cosine of ``optimizer.learning_rate``."""

import jax.numpy as jnp
import optax

from jaxpt.errors import require


def step_decay(
    rate: float, *, total_steps: int, warmup_steps: int, at, factor: float
) -> optax.Schedule:
    """Linear warm-up from zero to ``rate``, then times ``factor`` at each of some moments.

    Args:
      rate: the highest learning rate.
      total_steps: of training.
      warmup_steps: of them, in the beginning.
      at: shares of ``total_steps``, rising, each above 0 and below 1.
      factor: of each drop, above 0 and at most 1.

    Raises:
      InputError: for shares or a factor outside of that.
    """
    require(
        all(0 < share < 1 for share in at) and list(at) == sorted(at),
        f"schedule.at must be rising shares between 0 and 1, got {tuple(at)}.",
    )
    require(0 < factor <= 1, f"schedule.factor must be above 0 and at most 1, got {factor}.")
    drops = optax.piecewise_constant_schedule(
        rate, {round(share * total_steps): factor for share in at}
    )
    require(
        warmup_steps < total_steps,
        f"a warm-up of {warmup_steps} steps leaves nothing of the "
        f"{total_steps} steps of training: shorten it.",
    )
    if not warmup_steps:
        return drops
    return lambda step: jnp.minimum(1.0, step / warmup_steps) * drops(step)
