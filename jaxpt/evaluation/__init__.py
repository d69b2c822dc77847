"""Measurements on frozen features: plain arrays in, plain results out."""

from jaxpt.evaluation.few_shot import few_shot
from jaxpt.evaluation.geometry import class_separation, effective_rank, fine_purity
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.linear import LinearProbe, linear_probe

__all__ = ["LinearProbe", "class_separation", "effective_rank", "few_shot", "fine_purity",
           "knn_classify", "linear_probe"]
