"""Losses as pure functions of arrays, in float32, most with one value per example.

They depend on jax and numpy only. Labels and ids are int32. NumPy integers that do not fit raise a
ValueError, but ``jit`` truncates its arguments to 32 bits before a loss sees them: renumber larger
ids first with ``np.unique(x, return_inverse=True)[1]``.
"""

from jaxpt.losses.classification import (
    cosine_softmax,
    cross_entropy,
    entropy,
    prototype_softmax,
    reverse_gradient,
)
from jaxpt.losses.contrastive import FORMS, info_nce, nn_clr, nt_xent, sup_con
from jaxpt.losses.decorrelation import barlow_twins, vicreg
from jaxpt.losses.distillation import cosine_regression, dino, move_centre
from jaxpt.losses.neighbors import NO_POSITIVE, NeighborStats, look, nca
from jaxpt.losses.supervised import exemplar, grafit, mask_con, spread, sup_moco

__all__ = [
    "FORMS",
    "NO_POSITIVE",
    "NeighborStats",
    "barlow_twins",
    "cosine_regression",
    "cosine_softmax",
    "cross_entropy",
    "dino",
    "entropy",
    "exemplar",
    "grafit",
    "info_nce",
    "look",
    "mask_con",
    "move_centre",
    "nca",
    "nn_clr",
    "nt_xent",
    "prototype_softmax",
    "reverse_gradient",
    "spread",
    "sup_con",
    "sup_moco",
    "vicreg",
]
