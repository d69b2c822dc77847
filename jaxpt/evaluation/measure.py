"""Frozen-feature measurements of the demo and the studies."""

from jaxpt.data.sources import Dataset
from jaxpt.evaluation import suites
from jaxpt.evaluation.linear import L2_GRID
from jaxpt.evaluation.task import make_task

# The evaluators of ``suites`` that a study takes: labels to score, and constants that are not the
# evaluator's own.
EVALUATORS = {
    "knn": (("coarse", "fine"), {}),
    "linear": (("fine",), {"l2_grid": L2_GRID}),
    "few_shot": (("fine",), {"shots": (5,)}),
    "class_separation": (("fine",), {}),
    "fine_purity": (("fine",), {}),
    "effective_rank": (("fine",), {}),
}
# Part of every record.
PROTOCOL = {
    name: suites.EVALUATORS[name].stated | suites.constants_of(name, constants)
    for name, (_, constants) in EVALUATORS.items()
}


def frozen(features, dataset: Dataset, *, part: str) -> dict[str, float]:
    """Measures a feature function on a set with the constants of ``PROTOCOL``.

    Args:
      features: function from uint8 images [n, height, width, channels] to float [n, dim], of any
        model that was not trained on ``part``.
      dataset: the set to measure on.
      part: "validation": evaluators fit on train and are scored on validation; "test": they fit
        on train + validation and are scored on test, and the linear probe chooses its strength on
        validation.

    Returns:
      name → float for coarse_knn, fine_knn, fine_linear, fine_5shot (accuracies),
      class_separation (R² of the coarse classes), fine_purity and effective_rank.
    """
    task = make_task(lambda name: features(getattr(dataset, name).images), dataset, part=part)
    values = {}
    for name, (labels, constants) in EVALUATORS.items():
        values |= suites.measure(name, task._replace(labels=labels), **constants).values
    return values
