"""The measurements of one feature function on one set: what a record holds."""

import numpy as np

from jaxpt.data.sources import Dataset, validation_mask
from jaxpt.errors import require
from jaxpt.evaluation.few_shot import few_shot
from jaxpt.evaluation.geometry import class_separation, effective_rank, fine_purity
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.linear import L2_GRID, linear_probe

# Fixed for all methods, and part of every record.
PROTOCOL = {
    "knn": {"k": 20, "temperature": 0.07, "features": "backbone, unit length"},
    "linear": {"l2_grid": L2_GRID, "features": "backbone, standardised", "solver": "L-BFGS"},
    "few_shot": {"shots": 5, "draws": 10, "l2": 10.0, "features": "backbone, whitened"},
    "fine_purity": {"k": 20},
}
PARTS = ("validation", "test")


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
    require(part in PARTS, f"part must be one of {PARTS}, got {part!r}.")
    fit, score = ((dataset.train, dataset.validation) if part == "validation"
                  else (dataset.trainval, dataset.test))
    require(len(score.ids) > 0, f"{dataset.name} has no {part} images.")
    known, new = features(fit.images), features(score.images)
    coarse = dataset.coarse(score.labels)

    def knn(labels, wanted):
        return float(np.mean(knn_classify(
            known, labels, new, k=PROTOCOL["knn"]["k"],
            temperature=PROTOCOL["knn"]["temperature"]) == wanted))

    held_out = (validation_mask(fit.labels) if part == "validation"
                else np.isin(fit.ids, dataset.validation.ids))
    probe = linear_probe(known, fit.labels, new, score.labels, validation=held_out,
                         l2_grid=PROTOCOL["linear"]["l2_grid"])
    shots = PROTOCOL["few_shot"]
    few = few_shot(known, fit.labels, new, score.labels, shots=shots["shots"],
                   draws=shots["draws"], l2=shots["l2"])
    return {
        "coarse_knn": knn(dataset.coarse(fit.labels), coarse),
        "fine_knn": knn(fit.labels, score.labels),
        "fine_linear": probe.accuracy,
        "fine_5shot": float(few.mean()),
        "class_separation": class_separation(new, coarse),
        "fine_purity": fine_purity(new, coarse, score.labels, k=PROTOCOL["fine_purity"]["k"]),
        "effective_rank": effective_rank(new, coarse),
        "linear_l2": probe.l2,
    }
