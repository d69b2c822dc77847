"""Metrics in records: display names, number formats, and the tables that group them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A measured number.

    Attributes:
      key: name in a record's values.
      title: heading in tables and figures.
      percent: whether it is a share, written in percent.
      score: whether higher is better, so that tables may mark the best. Geometry is not a score.
      digits: decimals of a metric that is not a share.
    """

    key: str
    title: str
    percent: bool = True
    score: bool = True
    digits: int = 3

    @property
    def heading(self) -> str:
        """Column heading, such as "fine kNN %"."""
        return self.title + " %" * self.percent

    def text(self, value: float, *, sign: bool = False) -> str:
        """Formats a value: "96.6" for the share 0.966, "0.522" for a number that is not a share."""
        number = f"{100 * value:+.1f}" if self.percent else f"{value:+.{self.digits}f}"
        return number.replace("-", "−") if sign or value < 0 else number[1:]


def _described(key: str, title: str, percent: bool = False, digits: int = 3) -> Metric:
    return Metric(key, title, percent, score=False, digits=digits)


COARSE_KNN = Metric("coarse_knn", "coarse kNN")
FINE = (
    Metric("fine_knn", "fine kNN"),
    Metric("fine_linear", "fine linear"),
    Metric("fine_5shot", "5-shot"),
)
FINETUNE = Metric("fine_finetune", "fine-tuned")
SEPARATION = _described("class_separation", "class separation R²")
# The columns of a set's main table, and the order of its summary sentence.
HEADLINE = (COARSE_KNN, *FINE, FINETUNE, SEPARATION)
# The metrics that are averaged over sets.
SUMMARY = (*FINE, FINETUNE)

_SHOTS = (
    ("1shot", "1-shot"),
    ("5shot", "5-shot"),
    ("10shot", "10-shot"),
    ("25shot", "25-shot"),
    ("1shot_logistic", "1-shot logistic"),
    ("5shot_logistic", "5-shot logistic"),
    ("10shot_logistic", "10-shot logistic"),
    ("25shot_logistic", "25-shot logistic"),
    ("5way1shot", "5-way 1-shot"),
    ("5way5shot", "5-way 5-shot"),
)
_RETRIEVAL = (("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"), ("map", "mAP"))
_COARSE = (("knn", "kNN"), ("linear", "linear"), *_SHOTS, *_RETRIEVAL)
GROUPS = {
    "Linear probe": (
        Metric("fine_linear", "fine linear"),
        Metric("fine_linear_top1", "top-1"),
        Metric("coarse_linear_top1", "coarse top-1"),
    ),
    "Few shots": tuple(Metric(f"fine_{key}", title) for key, title in _SHOTS),
    "Retrieval": tuple(Metric(f"fine_{key}", title) for key, title in _RETRIEVAL),
    "Coarse labels": tuple(Metric(f"coarse_{key}", f"coarse {title}") for key, title in _COARSE),
    "Geometry of the features": (
        SEPARATION,
        _described("fine_purity", "fine purity", True),
        _described("effective_rank", "effective rank", digits=1),
        _described("rank_me", "RankMe", digits=1),
        _described("alignment", "alignment"),
        _described("uniformity", "uniformity"),
        _described("cdnv", "CDNV"),
        _described("nc1", "NC1"),
        _described("nc2_equinorm", "NC2 equinorm"),
        _described("nc2_equiangular", "NC2 equiangular"),
        _described("nc2_maximal_angle", "NC2 maximal angle"),
        _described("nc3", "NC3"),
        _described("nc4", "NC4"),
        _described("confused_within", "errors inside coarse class", True),
    ),
}
OTHER = "Other measurements"
# Values in records that are no measurements: choices of an evaluator, and seconds.
ASIDE = (
    "pretrain_seconds",
    "linear_l2",
    "coarse_linear_l2",
    "finetune_validation",
    "learning_rate",
    "weight_decay",
)


def groups_of(names) -> dict[str, tuple[Metric, ...]]:
    """Tables in addition to the main one, as title → metrics; without those that add nothing to it.

    Args:
      names: keys of values. Unknown keys come last, under their own names.
    """
    headline = {metric.key for metric in HEADLINE}
    known = headline.union(ASIDE, *({m.key for m in metrics} for metrics in GROUPS.values()))
    found = {
        title: tuple(m for m in metrics if m.key in names) for title, metrics in GROUPS.items()
    }
    found[OTHER] = tuple(
        _described(name, name.replace("cka_features", "CKA of last layers"))
        for name in names
        if name not in known
    )
    return {
        title: metrics for title, metrics in found.items() if {m.key for m in metrics} - headline
    }
