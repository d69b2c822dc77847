"""Pre-training methods by name, one page each."""

from jaxpt.errors import require
from jaxpt.methods import (barlow_twins, byol, cross_entropy, dino, exemplar, grafit, look,
                           mask_con, moco_v2, moco_v3, nca, nn_clr, simclr, simsiam, spread,
                           sup_con, sup_moco, t_rex, vicreg)
from jaxpt.methods.setup import Method, Setup

METHODS = {
    "look": look.make,
    "nca": nca.make,
    "cross_entropy": cross_entropy.make,
    "sup_con": sup_con.make,
    "sup_moco": sup_moco.make,
    "exemplar": exemplar.make,
    "spread": spread.make,
    "mask_con": mask_con.make,
    "grafit": grafit.make,
    "t_rex": t_rex.make,
    "moco_v2": moco_v2.make,
    "moco_v3": moco_v3.make,
    "simclr": simclr.make,
    "byol": byol.make,
    "simsiam": simsiam.make,
    "barlow_twins": barlow_twins.make,
    "vicreg": vicreg.make,
    "dino": dino.make,
    "nn_clr": nn_clr.make,
}

__all__ = ["METHODS", "Method", "Setup", "make_method"]


def make_method(setup: Setup) -> Method:
    """The method that ``setup.config.method`` names.

    Raises:
      InputError: for an unknown name, or settings that make no sense for the method.
    """
    name = setup.config.method
    require(name in METHODS, f"method must be one of {sorted(METHODS)}, got {name!r}.")
    return METHODS[name](setup)
