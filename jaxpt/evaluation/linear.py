"""Linear probes on frozen features: logistic regressions, solved by L-BFGS.

``linear_probe`` is for one label per image, ``multi_label_probe`` for several, in the metric of
PASCAL VOC 2007.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpt.data.dataset import validation_mask
from jaxpt.errors import require
from jaxpt.evaluation import logistic
from jaxpt.evaluation.checks import check_known, check_split
from jaxpt.evaluation.metrics import voc07_map

# Seven strengths over the part of Kornblith's range that is ever chosen on standardised features.
# This is the protocol of the demo and the studies, and part of each of their records.
L2_GRID = tuple(float(x) for x in np.logspace(-5, 1, 7))
# Kornblith et al. 2019: 45 logarithmically spaced values from 1e-6 to 1e5.
KORNBLITH_L2_GRID = tuple(float(x) for x in np.logspace(-6, 5, 45))


class LinearProbe(NamedTuple):
    """Result of ``linear_probe``.

    Attributes:
      accuracy: top-1 accuracy on the test part.
      l2: strength chosen on validation.
      validation_accuracy: float [strengths], accuracy of each strength in the order of the grid.
      predictions: int64 [m] on the test part; uint64 if a label is 2⁶³ or more.
      scores: float64 [m, classes], log-probabilities of the test part, for metrics such as
        ``voc07_map``.
      classes: int [classes], the label of each column of scores.
      gap: largest relative gap of all fits, see ``logistic.LogisticFit``; if it exceeds the
        tolerance, a warning was issued.
    """

    accuracy: float
    l2: float
    validation_accuracy: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    gap: float


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    validation: np.ndarray | float = 0.2,
    l2_grid: Sequence[float] = KORNBLITH_L2_GRID,
    standardize: bool = True,
    tolerance: float = 1e-9,
    max_iterations: int = 2000,
) -> LinearProbe:
    """Chooses the L2 strength on validation, refits on train + validation, and tests once.

    The protocol is that of Kornblith et al. 2019, who do not standardise. The probe minimises mean
    cross-entropy + (l2/2)·‖W‖² with an unpenalised bias; in scikit-learn's terms C = 1/(n·l2).
    Among equally good strengths the largest is chosen. Arrays may be NumPy or JAX arrays or torch
    tensors on the CPU.

    Args:
      train_features, train_labels: float [n, dim], int [n].
      test_features, test_labels: float [m, dim], int [m].
      validation: bool [n], mask of the training rows held out while l2 is chosen; or their share
        in (0, 1), taken from every class in a fixed draw.
      l2_grid: positive strengths to try.
      standardize: whether to standardise each column by the mean and standard deviation of the
        part that is fitted on.
      tolerance, max_iterations: of the solver, see ``logistic.fit``.

    Returns:
      a ``LinearProbe``.

    Raises:
      InputError: for features with NaN, labels that are not integers or are one-hot, mismatched
        lengths, a single class, a class only in test or only in validation, an empty part, or a
        strength that is not positive.

    Warns:
      RuntimeWarning: if a strength has not converged; the message names the strengths.

    Example:
      >>> from jaxpt.evaluation import linear_probe
      >>> x, labels = [[0], [1], [2], [7], [8], [9]], [0, 0, 0, 1, 1, 1]
      >>> linear_probe(x, labels, [[3], [6]], [0, 1], validation=0.4, l2_grid=[0.1]).accuracy
      1.0
    """
    train_labels, test_labels = check_split(
        train_features, train_labels, test_features, test_labels
    )
    train_features, test_features = (
        np.asarray(x).astype(np.float64) for x in (train_features, test_features)
    )
    l2_grid = _checked_grid(l2_grid)
    classes, targets = np.unique(train_labels, return_inverse=True)
    require(len(classes) > 1, f"a linear probe needs at least two classes, got {classes.tolist()}.")
    check_known(train_labels, test_labels)
    held_out = _held_out(validation, train_labels)
    lost = np.setdiff1d(train_labels, train_labels[~held_out])
    require(
        len(lost) == 0,
        f"all examples of class {lost[:1].tolist()} are held out for "
        "validation: leave some of them to fit on.",
    )

    def fit(rows, strengths):
        scale = _standardization if standardize else _identity
        apply = scale(train_features[rows])
        return apply, logistic.fit(
            apply(train_features[rows]),
            targets[rows],
            len(classes),
            strengths,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )

    apply, tried = fit(~held_out, l2_grid)
    accuracies = np.array(
        [
            np.mean(
                np.argmax(apply(train_features[held_out]) @ weights + bias, axis=1)
                == targets[held_out]
            )
            for weights, bias in zip(tried.weights, tried.bias, strict=True)
        ]
    )
    best = l2_grid[accuracies == accuracies.max()].max()
    apply, final = fit(slice(None), [best])
    scores = logistic.log_probabilities(apply(test_features), final.weights[0], final.bias[0])
    predictions = classes[np.argmax(scores, axis=1)]
    return LinearProbe(
        float(np.mean(predictions == test_labels)),
        float(best),
        accuracies,
        predictions,
        scores,
        classes,
        float(max(tried.gap.max(), final.gap[0])),
    )


def _checked_grid(l2_grid):
    require(np.size(l2_grid) > 0, "l2_grid must hold at least one strength, got none.")
    l2_grid = np.asarray(l2_grid, np.float64)
    require(l2_grid.ndim == 1, f"l2_grid must be [strengths], got {list(l2_grid.shape)}.")
    bad = l2_grid[~((l2_grid > 0) & np.isfinite(l2_grid))]
    require(
        len(bad) == 0,
        f"l2_grid must hold positive strengths, got {bad[:1].tolist()}: separable "
        "classes have no solution without a penalty.",
    )
    return l2_grid


def _held_out(validation, labels):
    """Boolean mask [n] of the rows held out, from a mask or a share."""
    rows = len(labels)
    if np.ndim(validation) == 0 and not isinstance(validation, (bool, np.bool_)):
        require(
            0 < validation < 1,
            "validation must be a share between 0 and 1 or a mask of "
            f"{rows} rows, got {validation}.",
        )
        mask = validation_mask(labels, validation)
    else:
        mask = np.asarray(validation)
        require(
            mask.shape == (rows,), f"validation must have shape {[rows]}, got {list(mask.shape)}."
        )
        require(
            mask.dtype == bool,
            f"validation must be a boolean mask, got {mask.dtype}: convert "
            "row numbers with np.isin(np.arange(n), rows).",
        )
    require(
        0 < mask.sum() < rows,
        f"validation must hold out some but not all of the {rows} "
        f"training rows, got {int(mask.sum())}.",
    )
    return mask


def _identity(features):
    return lambda z: z


class MultiLabelProbe(NamedTuple):
    """Result of ``multi_label_probe``.

    Attributes:
      map: mean over classes of the 11-point average precision on the test part.
      l2: strength chosen on validation, common to all classes.
      validation_map: float [strengths], mAP of each strength, from the smallest strength up.
      scores: float64 [m, classes], log-odds of each class on the test part.
    """

    map: float
    l2: float
    validation_map: np.ndarray
    scores: np.ndarray


def multi_label_probe(
    train_features: np.ndarray,
    train_targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
    *,
    validation: np.ndarray | float,
    l2_grid: Sequence[float],
    train_difficult: np.ndarray | None = None,
    test_difficult: np.ndarray | None = None,
) -> MultiLabelProbe:
    """Fits one logistic regression per class against the rest, with one L2 strength for all.

    The strength with the largest mAP on validation is chosen, the largest among equally good ones;
    then the probe is refitted on train + validation and tested once. Features are standardised by
    the mean and standard deviation of the part that is fitted on. For each class, a two-class
    regression minimises mean cross-entropy + (l2/2)·‖W‖² with W [dim, 2]; in terms of the weights w
    of the log-odds, the penalty is (l2/4)·‖w‖².

    Args:
      train_features, train_targets: float [n, dim], 0/1 [n, classes].
      test_features, test_targets: float [m, dim], 0/1 [m, classes].
      validation: bool [n], mask of the training rows held out while l2 is chosen.
      l2_grid: positive strengths to try.
      train_difficult, test_difficult: bool [n, classes], [m, classes], pairs of image and class
        that are neither fitted on nor scored; or None.

    Returns:
      a ``MultiLabelProbe``.

    Raises:
      InputError: for features with NaN, targets other than 0 and 1, shapes that do not match, an
        empty part or grid, or a class without positive or without negative images in a part.
    """
    train_features, test_features = np.asarray(train_features), np.asarray(test_features)
    check_split(train_features, np.zeros(len(train_features)), test_features)
    validation, l2_grid = np.asarray(validation, bool), sorted(l2_grid, reverse=True)
    train = _targets("train", train_features, train_targets, train_difficult)
    test = _targets("test", test_features, test_targets, test_difficult)
    require(
        train[0].shape[1] == test[0].shape[1],
        f"train targets have {train[0].shape[1]} classes but test targets {test[0].shape[1]}.",
    )
    require(
        validation.shape == (len(train_features),),
        f"validation must have shape [{len(train_features)}], got {list(validation.shape)}.",
    )
    require(
        0 < validation.sum() < len(validation),
        f"validation must hold out some but not all of the {len(validation)} training rows, "
        f"got {int(validation.sum())}.",
    )
    require(
        len(l2_grid) > 0 and l2_grid[-1] > 0,
        f"l2_grid must hold positive strengths, at least one, got {l2_grid}.",
    )
    fitted = [part[~validation] for part in (train_features, *train)]
    held_out = [part[validation] for part in (train_features, *train)]
    scores = _scores(*fitted, held_out[0], l2_grid)
    on_validation = np.array([voc07_map(s, held_out[1], difficult=held_out[2]) for s in scores])
    best = l2_grid[int(np.argmax(on_validation))]
    found = _scores(train_features, *train, test_features, [best])[0]
    return MultiLabelProbe(
        voc07_map(found, test[0], difficult=test[1]), best, on_validation[::-1], found
    )


def _targets(name, features, targets, difficult):
    """Checks targets and difficult pairs and returns both as bool [n, classes]."""
    targets = np.asarray(targets)
    require(
        targets.ndim == 2 and len(targets) == len(features),
        f"{name} targets must be [{len(features)}, classes], got {list(targets.shape)}.",
    )
    require(
        np.isin(targets, (0, 1)).all(),
        f"{name} targets must be 0 or 1, got {np.setdiff1d(targets, (0, 1))[:3].tolist()}.",
    )
    difficult = np.zeros(targets.shape) if difficult is None else np.asarray(difficult)
    require(
        difficult.shape == targets.shape,
        f"{name}_difficult must have the shape of targets, "
        f"{list(targets.shape)}, got {list(difficult.shape)}.",
    )
    return targets.astype(bool), difficult.astype(bool)


def _scores(features, targets, difficult, queries, l2_grid) -> np.ndarray:
    """Log-odds of the queries, float64 [strengths, queries, classes]."""
    apply = _standardization(features)
    x, z = apply(features), apply(np.asarray(queries, np.float64))
    columns = []
    for c, (positive, kept) in enumerate(zip(targets.T, ~difficult.T)):
        require(
            len(np.unique(positive[kept])) == 2,
            f"class {c} has no "
            f"{'negative' if positive[kept].any() else 'positive'} image to fit on: leave its "
            "column out.",
        )
        found = logistic.fit(x[kept], positive[kept].astype(int), 2, l2_grid)
        weights = found.weights[:, :, 1] - found.weights[:, :, 0]  # [strengths, dim]
        columns.append(z @ weights.T + found.bias[:, 1] - found.bias[:, 0])
    return np.stack(columns, axis=-1).transpose(1, 0, 2)


def _standardization(features):
    """Returns the function that standardises columns by the mean and deviation of ``features``."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale < 1e-6 * max(scale.max(), 1e-30), 1.0, scale)  # constant columns
    return lambda z: (z - mean) / scale
