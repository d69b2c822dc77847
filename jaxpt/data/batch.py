"""What travels from the data to a step."""

from typing import NamedTuple

import jax


class Batch(NamedTuple):
    """One batch of decoded images.

    Attributes:
      image: uint8 [batch, height, width, channels].
      label: int32 [batch].
      id: int32 [batch], which example of the set.
      index: int32 [batch], its place among the training examples, 0 … n − 1.
      epoch: int32 [batch], how often the example was seen before; −1 while the memory is filled.
      seed: int32 scalar, the run's; an input of the step, so that one compiled step serves all.
    """

    image: jax.Array
    label: jax.Array
    id: jax.Array
    index: jax.Array
    epoch: jax.Array
    seed: jax.Array
