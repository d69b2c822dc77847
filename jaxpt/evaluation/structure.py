"""Evaluators of feature geometry: functions of a task and constants.

Classes are the coarse ones (those of pre-training) unless the name says fine; without a label map
they are the fine ones. All evaluators measure the scored images except neural collapse and RankMe,
which use the images that are fitted on, as in their papers.
"""

import numpy as np

from jaxpt.evaluation import geometry, logistic
from jaxpt.evaluation.cka import cka_matrix
from jaxpt.evaluation.neural_collapse import neural_collapse as collapse_of
from jaxpt.evaluation.task import Measured, Task, some_rows


def class_separation(task: Task) -> Measured:
    """R² of the coarse classes, as class_separation."""
    return Measured(
        {"class_separation": geometry.class_separation(task.score.features, task.score.coarse)}
    )


def alignment_uniformity(task: Task, *, power: float, t: float, examples: int) -> Measured:
    """Alignment of pairs of one fine class, and uniformity of all, as alignment and uniformity.

    Each example is paired with another of its fine class, in a fixed draw; an example that is alone
    in its class is in no pair.
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
    """Index of another example of the same class for each example, or its own if it is alone."""
    rng = np.random.default_rng(0)
    partner = np.arange(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        partner[members] = np.roll(members, 1)
    return partner


def cdnv(task: Task) -> Measured:
    """Class-distance normalised variance of the coarse classes, as cdnv."""
    return Measured({"cdnv": geometry.cdnv(task.score.features, task.score.coarse)})


def neural_collapse(task: Task, *, classifier_l2: float, examples: int) -> Measured:
    """NC1 to NC4 of the coarse classes on images that are fitted on: nc1, nc2_equinorm, …, nc4.

    The classifier of NC3 and NC4 is a logistic regression on the same features, neither centred
    nor scaled. It is not the classifier of pre-training, because not every method has one.
    """
    rows = some_rows(len(task.fit.ids), examples)
    features, labels = task.fit.features[rows], task.fit.coarse[rows]
    classes, targets = np.unique(labels, return_inverse=True)
    classifier = logistic.fit(features, targets, len(classes), [classifier_l2])
    found = collapse_of(features, labels, weights=classifier.weights[0], bias=classifier.bias[0])
    return Measured({name: float(value) for name, value in found._asdict().items()})


def rank_me(task: Task, *, examples: int) -> Measured:
    """RankMe of the images that are fitted on, as rank_me."""
    rows = some_rows(len(task.fit.ids), examples)
    return Measured({"rank_me": geometry.rank_me(task.fit.features[rows])})


def effective_rank(task: Task) -> Measured:
    """Effective rank within coarse classes, as effective_rank."""
    return Measured(
        {"effective_rank": geometry.effective_rank(task.score.features, task.score.coarse)}
    )


def fine_purity(task: Task, *, k: int) -> Measured:
    """Fine-label purity of the nearest neighbours in the coarse class, as fine_purity."""
    return Measured(
        {
            "fine_purity": geometry.fine_purity(
                task.score.features, task.score.coarse, task.score.fine, k=k
            )
        }
    )


def cka(layers, other_layers, *, batch_size: int, seed: int) -> Measured:
    """CKA of all pairs of layers of two networks on the same images, as cka_features.

    Args:
      layers, other_layers: name → float [n, channels], the last layer last.

    Returns:
      the value cka_features, of the last layers; details layers, other_layers and matrix.
    """
    matrix = cka_matrix(layers, other_layers, batch_size=batch_size, seed=seed)
    return Measured(
        {"cka_features": float(matrix[-1, -1])},
        {"layers": list(layers), "other_layers": list(other_layers), "matrix": matrix.tolist()},
    )
