"""Frozen-feature measurements of the demo and the studies."""

from jaxpt.data.sources import Dataset
from jaxpt.evaluation import accuracy, structure
from jaxpt.evaluation.linear import L2_GRID
from jaxpt.evaluation.task import make_task

# The same for all methods, and part of every record.
PROTOCOL = {
    "knn": {"k": 20, "temperature": 0.07, "features": "backbone, unit length"},
    "linear": {"l2_grid": L2_GRID, "features": "backbone, standardised", "solver": "L-BFGS"},
    "few_shot": {"shots": 5, "draws": 10, "l2": 10.0, "features": "backbone, whitened"},
    "fine_purity": {"k": 20},
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
    both, fine = task._replace(labels=("coarse", "fine")), task._replace(labels=("fine",))
    knn, shots = PROTOCOL["knn"], PROTOCOL["few_shot"]
    measured = [
        accuracy.knn(both, k=knn["k"], temperature=knn["temperature"]),
        accuracy.linear(fine, l2_grid=PROTOCOL["linear"]["l2_grid"]),
        accuracy.few_shot(fine, shots=(shots["shots"],), draws=shots["draws"], l2=shots["l2"]),
        structure.class_separation(task),
        structure.fine_purity(task, k=PROTOCOL["fine_purity"]["k"]),
        structure.effective_rank(task),
    ]
    return {name: value for found in measured for name, value in found.values.items()}
