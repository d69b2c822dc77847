"""Pure losses: arrays in, float32 values per example out. Needs jax and numpy alone."""

from jaxpt.losses.classification import cross_entropy
from jaxpt.losses.contrastive import info_nce, sup_con
from jaxpt.losses.neighbors import NO_POSITIVE, NeighborStats, look, nca

__all__ = ["NO_POSITIVE", "NeighborStats", "cross_entropy", "info_nce", "look", "nca", "sup_con"]
