"""Evaluators of the shape of a feature space: each takes a task and its constants.

Classes are the coarse ones, those of pre-training, unless a name says fine; they are the fine ones
where the set has no label map. All is measured on the scored images, but for neural collapse and
RankMe, which their papers measure on images that are fitted on.
"""

import numpy as np

from jaxpt.evaluation import geometry, logistic
from jaxpt.evaluation.cka import cka_matrix
from jaxpt.evaluation.neural_collapse import neural_collapse as collapse_of
from jaxpt.evaluation.task import Measured, Task, some_rows


def class_separation(task: Task) -> Measured:
    """R² of the coarse classes: class_separation."""
    return Measured(
        {"class_separation": geometry.class_separation(task.score.features, task.score.coarse)}
    )


def alignment_uniformity(task: Task, *, power: float, t: float, examples: int) -> Measured:
    """Alignment of pairs of one fine class, and uniformity of all: alignment, uniformity.

    Every example is paired with another of its fine class, drawn once and for all; one that is
    alone in its class is in no pair.
    """
    rows = some_rows(len(task.score.ids), examples)
    features, other = task.score.features[rows], _partners(task.score.fine[rows])
    paired = other != np.arange(len(rows))
    return Measured(
        {
            "alignment": geometry.alignment(features[paired], features[other[paired]], power),
            "uniformity": geometry.uniformity(features, t),
        }
    )


def _partners(labels) -> np.ndarray:
    """Another example of the same class for each, itself where there is none."""
    rng = np.random.default_rng(0)
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        partner[members] = np.roll(members, 1)
    return partner


def cdnv(task: Task) -> Measured:
    """Class-distance normalised variance of the coarse classes: cdnv."""
    return Measured({"cdnv": geometry.cdnv(task.score.features, task.score.coarse)})


def neural_collapse(task: Task, *, classifier_l2: float, examples: int) -> Measured:
    """NC1 to NC4 of the coarse classes on images that are fitted on: nc1, nc2_equinorm, …, nc4.

    The classifier of NC3 and NC4 is not that of pre-training, which not every method has: it is a
    logistic regression on the same features, neither centred nor scaled.
    """
    rows = some_rows(len(task.fit.ids), examples)
    features, labels = task.fit.features[rows], task.fit.coarse[rows]
    classes, targets = np.unique(labels, return_inverse=True)
    classifier = logistic.fit(features, targets, len(classes), [classifier_l2])
    found = collapse_of(features, labels, weights=classifier.weights[0], bias=classifier.bias[0])
    return Measured({name: float(value) for name, value in found._asdict().items()})


def rank_me(task: Task, *, examples: int) -> Measured:
    """RankMe of the images that are fitted on: rank_me."""
    rows = some_rows(len(task.fit.ids), examples)
    return Measured({"rank_me": geometry.rank_me(task.fit.features[rows])})


def effective_rank(task: Task) -> Measured:
    """Effective rank within coarse classes: effective_rank."""
    return Measured(
        {"effective_rank": geometry.effective_rank(task.score.features, task.score.coarse)}
    )


def fine_purity(task: Task, *, k: int) -> Measured:
    """Fine labels among the nearest of the same coarse class: fine_purity."""
    return Measured(
        {
            "fine_purity": geometry.fine_purity(
                task.score.features, task.score.coarse, task.score.fine, k=k
            )
        }
    )


def cka(layers, other_layers, *, batch_size: int, seed: int) -> Measured:
    """CKA of each layer with each of another network on the same images: cka_features.

    Args:
      layers, other_layers: name → float [n, channels], the last layer last.

    Returns:
      values cka_features, of the last layers; details layers, other_layers and matrix.
    """
    matrix = cka_matrix(layers, other_layers, batch_size=batch_size, seed=seed)
    return Measured(
        {"cka_features": float(matrix[-1, -1])},
        {"layers": list(layers), "other_layers": list(other_layers), "matrix": matrix.tolist()},
    )
