"""Several steps in one compiled call, so that an accelerator does not wait for the host."""

import math
from typing import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require

AUTOMATIC = 16  # steps per call on accelerators: relieves the host, yet a stop comes soon enough
MOST = 1000  # steps per call: their rows are transferred at once


def most_steps(asked: int, *, resident: bool, platform: str = "cpu") -> int:
    """Maximum number of steps per call.

    Returns ``asked`` unless it is 0, which means one on CPUs, else 16. On CPUs a convolution inside
    a loop is slower than outside, and a call costs next to nothing. A streamed set needs one step
    per call: its next batch is transferred meanwhile.

    Args:
      asked: ``config.steps_per_call``.
      resident: whether the set is resident on the devices, see ``feed``.
      platform: of the devices.

    Raises:
      InputError: for a negative or very large number, or several steps per call of a streamed set.
    """
    require(0 <= asked <= MOST, f"steps_per_call must be 0 (automatic) to {MOST}, got {asked}.")
    require(
        resident or asked <= 1,
        f"steps_per_call is {asked}, but the set is streamed: set "
        "steps_per_call to 1, or data.resident to yes.",
    )
    return asked or (AUTOMATIC if resident and platform != "cpu" else 1)


def spans(done: int, total: int, most: int, borders: Iterable[int]) -> Iterator[range]:
    """Yields the range of steps of each call, from ``done`` to ``total``; see ``length``."""
    while done < total:
        steps = range(done, done + length(done, most, borders))
        yield steps
        done = steps.stop


def length(done: int, most: int, borders: Iterable[int]) -> int:
    """Number of steps of the next call: ``most``, or fewer if a border comes earlier.

    Args:
      done: number of steps done before.
      most: see ``most_steps``.
      borders: intervals, in steps, at which the host has work to do; 0 for never.
    """
    return min([most, *(every - done % every for every in borders if every)])


def stack(rows: list, most: int):
    """Stacks rows of single steps, trees of arrays [batch], to a tree of arrays [batch, most]."""
    rows = rows + rows[-1:] * (most - len(rows))  # padding that is never read
    return jax.tree.map(lambda *of_step: np.stack(of_step, axis=1), *rows)


def several(step: Callable) -> Callable:
    """Runs ``step`` in a loop with a dynamic trip count.

    One program then serves calls of all lengths, and the division into calls changes no bit.

    Args:
      step: (state, data, rows) → (state, metrics).

    Returns:
      (state, (data, count), rows stacked by ``stack``) → (state, metrics of the last step).
    """

    def run(state, data_and_count, rows):
        data, count = data_and_count

        def one(i, carry):
            return step(carry[0], data, jax.tree.map(lambda x: x[:, i], rows))

        metrics = jax.eval_shape(lambda: one(0, (state,)))[1]
        metrics = jax.tree.map(lambda x: jnp.full(x.shape, math.nan, x.dtype), metrics)
        return jax.lax.fori_loop(0, count, one, (state, metrics))

    return run
