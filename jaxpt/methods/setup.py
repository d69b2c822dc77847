"""What a method is given and what it gives back."""

from typing import Any, Callable, NamedTuple

import optax


class Setup(NamedTuple):
    """What every method is made from.

    Attributes:
      config: the pre-training config.
      classes: how many classes the training labels have.
      examples: how many training examples there are.
      optimizer: over the online encoder's parameters, and those that a method has beside it.
      steps: turns a duration such as "10 epochs" into steps.
      axis_name: the mapped axis over the devices.
    """

    config: Any
    classes: int
    examples: int
    optimizer: optax.GradientTransformation
    steps: Callable[[str], int]
    axis_name: str


class Method(NamedTuple):
    """A pre-training method, as three pure functions for one device.

    Attributes:
      encoder: the online ``Encoder``.
      init: (key, images [batch, …]) → TrainState.
      step: (state, Batch) → (state, metrics), metrics float32 scalars averaged over the devices.
      fill: (state, Batch) → state with the batch's keys in the memory; None without a memory.
    """

    encoder: Any
    init: Callable
    step: Callable
    fill: Callable | None = None
