"""The measurements of one feature function on one set: what a record holds."""

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
    """All frozen-feature measurements.

    Args:
      features: function from uint8 images [n, height, width, channels] to float [n, dim]; anybody's
        model will do, as long as it has not seen ``part``.
      dataset: its set.
      part: "validation": evaluators fit on train and are scored on validation; "test": they fit
        on train + validation and are scored on test, the linear probe choosing its strength on
        validation.

    Returns:
      coarse_knn, fine_knn, fine_linear, fine_5shot (accuracies), class_separation (R² of the
      coarse classes), fine_purity, effective_rank.
    """
    task = make_task(lambda name: features(getattr(dataset, name).images), dataset, part=part)
    values = {}
    for name, (labels, constants) in EVALUATORS.items():
        values |= suites.measure(name, task._replace(labels=labels), **constants).values
    return values
