"""Pre-training methods by name, one page each."""

import importlib

from jaxpt.errors import require
from jaxpt.methods.setup import Method, Setup

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
