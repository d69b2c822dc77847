"""Measurements on frozen features: plain arrays in, plain results out.

Labels are 64-bit integers, booleans or whole floats. They may have gaps and be negative: they
identify classes and are never used as numbers. Class names must be converted to numbers first.
"""

from jaxpt.evaluation.cka import cka_matrix, linear_cka
from jaxpt.evaluation.few_shot import Episodes, episodes, few_shot
from jaxpt.evaluation.geometry import (
    alignment,
    cdnv,
    class_separation,
    effective_rank,
    fine_purity,
    rank_me,
    uniformity,
)
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.linear import (
    KORNBLITH_L2_GRID,
    LinearProbe,
    MultiLabelProbe,
    linear_probe,
    multi_label_probe,
)
from jaxpt.evaluation.metrics import (
    log_odds,
    mean_log_odds,
    mean_per_class_accuracy,
    top1,
    voc07_map,
)
from jaxpt.evaluation.neural_collapse import NeuralCollapse, neural_collapse
from jaxpt.evaluation.retrieval import Retrieval, retrieval
from jaxpt.evaluation.scaling import PowerLaw, fit_power_law, power_law_band

__all__ = [
    "Episodes",
    "KORNBLITH_L2_GRID",
    "LinearProbe",
    "MultiLabelProbe",
    "NeuralCollapse",
    "PowerLaw",
    "Retrieval",
    "alignment",
    "cdnv",
    "cka_matrix",
    "class_separation",
    "effective_rank",
    "episodes",
    "few_shot",
    "fine_purity",
    "fit_power_law",
    "knn_classify",
    "linear_cka",
    "linear_probe",
    "log_odds",
    "mean_log_odds",
    "mean_per_class_accuracy",
    "multi_label_probe",
    "neural_collapse",
    "power_law_band",
    "rank_me",
    "retrieval",
    "top1",
    "uniformity",
    "voc07_map",
]
