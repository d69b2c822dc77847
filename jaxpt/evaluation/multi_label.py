"""Linear probe for sets with several labels per image, in the metric of PASCAL VOC 2007."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation import logistic
from jaxpt.evaluation.checks import check_split
from jaxpt.evaluation.linear import standardization
from jaxpt.evaluation.metrics import voc07_map


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
    apply = standardization(features)
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
