"""Pre-training methods by name, one page each."""

import importlib
from typing import Any, Callable, NamedTuple

import optax

from jaxpt.errors import require


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


# Each the name of the file beside this one that has the method's ``make``.
METHODS = [
    "look",
    "nca",
    "cross_entropy",
    "sup_con",
    "sup_moco",
    "exemplar",
    "spread",
    "mask_con",
    "grafit",
    "t_rex",
    "moco_v2",
    "moco_v3",
    "simclr",
    "byol",
    "simsiam",
    "barlow_twins",
    "vicreg",
    "dino",
    "nn_clr",
]

__all__ = ["METHODS", "Method", "Setup", "make_method"]


def make_method(setup: Setup) -> Method:
    """The method that ``setup.config.method`` names.

    Raises:
      InputError: for an unknown name, or settings that make no sense for the method.
    """
    name = setup.config.method
    require(name in METHODS, f"method must be one of {METHODS}, got {name!r}.")
    return importlib.import_module(f"jaxpt.methods.{name}").make(setup)
