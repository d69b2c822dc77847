"""Several steps in one compiled call, so that an accelerator does not wait for the host's next."""

import math
from typing import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require

AUTOMATIC = 16  # steps of a call on an accelerator: many to the host, few to who waits for a stop
MOST = 1000  # rows of that many batches are sent in one go


def most_steps(asked: int, *, resident: bool) -> int:
    """Steps of a call, at most: ``config.steps_per_call``, or for 0 one on CPUs, else 16.

    On CPUs a convolution inside a loop is slower than outside, and a call costs nothing. A set
    that is streamed has one step a call: its next batch is on the way meanwhile.

    Raises:
      InputError: for a negative or very large number, or several steps of a streamed set.
    """
    require(0 <= asked <= MOST, f"steps_per_call must be 0 (automatic) to {MOST}, got {asked}.")
    require(
        resident or asked <= 1,
        f"steps_per_call is {asked}, but the set is streamed: set "
        "steps_per_call to 1, or data.resident to yes.",
    )
    return asked or (AUTOMATIC if resident and jax.default_backend() != "cpu" else 1)


def spans(done: int, total: int, most: int, borders: Iterable[int]) -> Iterator[range]:
    """The steps of one call after another, 0, 1, …, from ``done`` to ``total``; see ``length``."""
    while done < total:
        steps = range(done, done + length(done, most, borders))
        yield steps
        done = steps.stop


def length(done: int, most: int, borders: Iterable[int]) -> int:
    """Steps of the next call: ``most``, or as many as are left to the next border.

    Args:
      done: steps done before.
      most: see ``most_steps``.
      borders: after every so many steps the host has something to do; 0: never.
    """
    return min([most, *(every - done % every for every in borders if every)])


def stack(rows: list, most: int):
    """Rows of one step each, trees of arrays [batch], as one tree of arrays [batch, most]."""
    rows = rows + rows[-1:] * (most - len(rows))  # never looked at
    return jax.tree.map(lambda *of_step: np.stack(of_step, axis=1), *rows)


def several(step: Callable) -> Callable:
    """The step as often as it is told, in a loop whose length is known only when it runs.

    So one program serves calls of all lengths, and where a call ends changes no bit.

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
