"""A whole set on the devices: batches are gathered from it by index inside the step."""

from typing import NamedTuple

import jax
import numpy as np

from jaxpt.data import order
from jaxpt.data.batch import Batch


class Resident(NamedTuple):
    """The training set as arrays.

    Attributes:
      image: uint8 [n, height, width, channels].
      label: int32 [n].
      id: int32 [n].
      seed: int32 scalar, the run's seed.
    """

    image: jax.Array
    label: jax.Array
    id: jax.Array
    seed: jax.Array


class Rows(NamedTuple):
    """Which examples make a batch, and how often each was seen before; int32 [batch] both."""

    index: np.ndarray
    epoch: np.ndarray


def rows_of_step(step: int, batch_size: int, *, n: int, seed: int) -> Rows:
    """The rows of step 0, 1, … of a run over ``n`` examples."""
    return Rows(*order.batch_at(step * batch_size, batch_size, n=n, seed=seed))


def gather(data: Resident, rows: Rows) -> Batch:
    """The batch of those rows, inside a jitted step."""
    return Batch(
        data.image[rows.index],
        data.label[rows.index],
        data.id[rows.index],
        rows.index,
        rows.epoch,
        data.seed,
    )
