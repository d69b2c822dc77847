"""Pre-training methods by name, one page each."""

from jaxpt.errors import require
from jaxpt.methods import cross_entropy, look, nca, sup_con
from jaxpt.methods.setup import Method, Setup

METHODS = {"cross_entropy": cross_entropy.make, "sup_con": sup_con.make, "nca": nca.make,
           "look": look.make}

__all__ = ["METHODS", "Method", "Setup", "make_method"]


def make_method(setup: Setup) -> Method:
    """The method that ``setup.config.method`` names.

    Raises:
      InputError: for an unknown name, or settings that make no sense for the method.
    """
    name = setup.config.method
    require(name in METHODS, f"method must be one of {sorted(METHODS)}, got {name!r}.")
    return METHODS[name](setup)
