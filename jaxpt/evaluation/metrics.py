"""Accuracy metrics of transfer sets, and their average over sets."""

from collections.abc import Sequence

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import numbered


def top1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy: the share of examples whose predicted class is the label.

    Args:
      predictions, labels: int [n], any 64-bit integers; or str [n].

    Returns:
      the accuracy, from 0 to 1.

    Raises:
      InputError: for an empty set, NaN, shapes that are not both [n], values that are neither
        integers nor text, or integers in one array and text in the other.
    """
    return float(np.mean(_hits(predictions, labels)))


def mean_per_class_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of ``labels`` of the accuracy on each class's examples.

    This is the metric of Aircraft, Caltech-101, Flowers and Pets (Kornblith et al. 2019, table 1).
    Classes that are predicted but have no example do not count.

    Args:
      predictions, labels: int [n], any 64-bit integers; or str [n].

    Returns:
      the accuracy, from 0 to 1.

    Raises:
      InputError: as in ``top1``.

    Example:
      >>> from jaxpt.evaluation import mean_per_class_accuracy, top1
      >>> predictions, labels = [0, 0, 0, 0], [0, 0, 0, 1]
      >>> top1(predictions, labels), mean_per_class_accuracy(predictions, labels)
      (0.75, 0.5)
    """
    hits = _hits(predictions, labels)
    _, index = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(index, hits) / np.bincount(index)))


def voc07_map(
    scores: np.ndarray, targets: np.ndarray, *, difficult: np.ndarray | None = None
) -> float:
    """Mean over classes of the 11-point interpolated average precision of PASCAL VOC 2007.

    The average precision of a class is the mean, over the recalls r = 0, 0.1, …, 1, of the largest
    precision at a recall of at least r (Everingham et al. 2010, section 4.2). Among equal scores,
    negative examples rank first.

    Args:
      scores: float [n, classes], higher for more confident; each class is ranked separately.
      targets: bool or 0/1 [n, classes]; an example may have several classes.
      difficult: bool [n, classes], pairs of example and class that are excluded from that class's
        ranking, as the challenge does with images that show only difficult objects of the class.

    Returns:
      the mean average precision, from 0 to 1.

    Raises:
      InputError: for scores with NaN, shapes that do not match, targets other than 0 and 1 (such
        as the −1 of the challenge's files), or a class without a positive example.

    Example:
      >>> from jaxpt.evaluation import voc07_map
      >>> round(voc07_map([[0.9], [0.8], [0.7]], [[1], [0], [1]]), 4)  # (6·1 + 5·2/3) / 11
      0.8485
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    require(
        scores.ndim == 2 and scores.size > 0,
        f"scores must be [n, classes], both at least 1, got {list(scores.shape)}.",
    )
    bad = ~np.isfinite(scores).all(axis=1)
    require(
        not bad.any(),
        f"scores of {int(bad.sum())} examples are not finite, the first at row "
        f"{int(np.argmax(bad))}.",
    )
    counts = np.ones(scores.shape, bool) if difficult is None else ~np.asarray(difficult, bool)
    for name, array in ("targets", targets), ("difficult", counts):
        require(
            array.shape == scores.shape,
            f"{name} must have the shape of scores, {list(scores.shape)}, got {list(array.shape)}.",
        )
    require(
        np.isin(targets, (0, 1)).all(),
        "targets must be 0 or 1, got "
        f"{np.setdiff1d(targets, (0, 1))[:3].tolist()}; mark difficult pairs in difficult.",
    )
    return float(
        np.mean(
            [
                _eleven_points(c, scores[kept, c], targets[kept, c].astype(bool))
                for c, kept in enumerate(counts.T)
            ]
        )
    )


def log_odds(
    accuracy: float | np.ndarray, *, examples: int | np.ndarray | None = None
) -> np.ndarray:
    """Log-odds log(a / (1 − a)) of accuracies.

    On this scale gains near 1 are comparable with gains elsewhere; Kornblith et al. 2019 and t-ReX
    average over sets on it. Accuracies of 0 and 1 have no finite log-odds: if ``examples`` is
    given, accuracies are clipped to half an example from either end,
    [1/(2·examples), 1 − 1/(2·examples)], which leaves the values in between unchanged.

    Args:
      accuracy: float in [0, 1], any shape.
      examples: number of test examples behind each accuracy; int, or an array of accuracy's shape.

    Returns:
      float64 of accuracy's shape.

    Raises:
      InputError: for NaN, an accuracy outside [0, 1] (percent, say), fewer than one example, or
        an accuracy of exactly 0 or 1 without ``examples``.

    Example:
      >>> from jaxpt.evaluation import log_odds
      >>> print(f"{log_odds(0.5):.1f} {log_odds(1.0, examples=50):.4f}")  # log 99
      0.0 4.5951
    """
    a = np.asarray(accuracy, np.float64)
    outside = ~((a >= 0) & (a <= 1))
    require(not outside.any(), f"accuracies must lie in [0, 1], got {a[outside][:3].tolist()}.")
    if examples is None:
        require(
            ((a > 0) & (a < 1)).all(),
            "an accuracy of exactly 0 or 1 has no finite log-odds: "
            "give the number of test examples, to clip it to half an example.",
        )
    else:
        require(np.min(examples) >= 1, f"examples must be at least 1, got {np.min(examples)}.")
        half = 0.5 / np.asarray(examples)
        a = np.clip(a, half, 1 - half)
    return np.log(a) - np.log1p(-a)


def mean_log_odds(
    accuracies: Sequence[float] | np.ndarray, *, examples: int | np.ndarray | None = None
) -> float:
    """Mean log-odds of the accuracies on several sets, t-ReX's summary of transfer.

    Args:
      accuracies: float [sets] in [0, 1].
      examples: int [sets] or one int, number of test examples of each set; see ``log_odds``.

    Returns:
      the mean log-odds.

    Raises:
      InputError: as in ``log_odds``, and for an empty list.
    """
    require(
        np.ndim(accuracies) == 1 and np.size(accuracies) > 0,
        f"accuracies must be [sets], at least one, got {list(np.shape(accuracies))}.",
    )
    require(
        examples is None or np.shape(examples) in ((), np.shape(accuracies)),
        f"examples must be one number or {len(accuracies)}, got {list(np.shape(examples))}.",
    )
    return float(np.mean(log_odds(accuracies, examples=examples)))


def _hits(predictions, labels):
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    require(
        labels.ndim == 1 and len(labels) > 0,
        f"labels must be [n] with n of at least 1, got {list(labels.shape)}.",
    )
    require(
        predictions.shape == labels.shape,
        "predictions must be one class for each of "
        f"{len(labels)} labels, not scores, got shape {list(predictions.shape)}.",
    )
    for name, array in ("predictions", predictions), ("labels", labels):
        require(not (array != array).any(), f"{name} hold NaN; they must be classes.")
    predictions, labels = numbered("predictions", "labels", predictions, labels)
    return predictions == labels


def _eleven_points(name, scores, positive):
    total = int(positive.sum())
    require(
        total > 0,
        f"class {name} has no positive example: its average precision is not "
        "defined. Leave its column out.",
    )
    found = np.cumsum(positive[np.lexsort((positive, -scores))])
    precision = found / np.arange(1, len(found) + 1)
    # In integers: 3 of 10 must reach the recall 0.3, but in floating point 3·0.1 exceeds 0.3.
    return np.mean([precision[10 * found >= r * total].max() for r in range(11)])


METRICS = {"top1": top1, "mean_per_class": mean_per_class_accuracy}  # for one label per image
