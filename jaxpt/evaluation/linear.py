"""Linear probe: multinomial logistic regression by L-BFGS on frozen features."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_split

# Kornblith et al. 2019 search 45 strengths from 1e-6 to 1e5; these are fewer over the part of the
# range that is ever chosen on standardised features. The grid goes into every record.
L2_GRID = tuple(float(x) for x in np.logspace(-5, 1, 7))


class LinearProbe(NamedTuple):
    """What a linear probe found.

    Attributes:
      accuracy: top-1 on the test part.
      l2: the strength that validation chose.
      validation_accuracy: of every strength in the grid, [strengths].
      predictions: int32 [m] on the test part.
    """

    accuracy: float
    l2: float
    validation_accuracy: np.ndarray
    predictions: np.ndarray


def linear_probe(train_features, train_labels, test_features, test_labels, *, validation,
                 l2_grid=L2_GRID, max_iterations: int = 200) -> LinearProbe:
    """Chooses the L2 strength on validation, refits on train + validation, tests once.

    Minimises mean cross-entropy + (l2/2)·‖W‖², the bias not penalised, over features standardised
    by the mean and standard deviation of the part that is fitted on. Of equally good strengths
    the largest wins.

    Args:
      train_features, train_labels: float [n, dim], int [n].
      test_features, test_labels: float [m, dim], int [m].
      validation: bool [n], which training rows are held out while l2 is chosen.
      l2_grid: strengths to try.
      max_iterations: of L-BFGS, for each fit.

    Raises:
      InputError: for features with NaN, mismatched lengths, a single class, or an empty part.
    """
    check_split(train_features, train_labels, test_features, test_labels)
    validation = np.asarray(validation, bool)
    require(validation.shape == np.shape(train_labels), "validation must have shape "
            f"{list(np.shape(train_labels))}, got {list(validation.shape)}.")
    require(len(l2_grid) > 0, "l2_grid must hold at least one strength, got none.")
    require(0 < validation.sum() < len(validation),
            f"validation must hold out some but not all of the {len(validation)} training rows, "
            f"got {int(validation.sum())}.")
    classes = np.unique(train_labels)
    require(len(classes) > 1, f"a linear probe needs at least two classes, got {classes.tolist()}.")
    targets = np.searchsorted(classes, train_labels)
    fitted, held_out = train_features[~validation], train_features[validation]
    scores, start = [], None
    for l2 in sorted(l2_grid, reverse=True):  # strong to weak: each fit starts from the last
        predict, start = _fit(fitted, targets[~validation], len(classes), l2, max_iterations, start)
        scores.append(float(np.mean(predict(held_out) == targets[validation])))
    best = sorted(l2_grid, reverse=True)[int(np.argmax(scores))]
    predict, _ = _fit(train_features, targets, len(classes), best, max_iterations, None)
    predictions = classes[predict(test_features)].astype(np.int32)
    return LinearProbe(float(np.mean(predictions == test_labels)), best, np.array(scores[::-1]),
                       predictions)


def _fit(features, targets, classes, l2, max_iterations, start):
    """(function from features to class indices, solution to start the next fit from)."""
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale < 1e-6 * max(scale.max(), 1e-30), 1.0, scale)  # constant columns
    x = ((features - mean) / scale).astype(np.float64)
    one_hot = np.eye(classes)[targets]

    def objective(flat):
        weights, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = x @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = (np.exp(log_p) - one_hot) / len(x)
        value = -np.sum(one_hot * log_p) / len(x) + 0.5 * l2 * np.sum(weights**2)
        return value, np.append((x.T @ error + l2 * weights).ravel(), error.sum(axis=0))

    start = np.zeros((x.shape[1] + 1) * classes) if start is None else start
    solution = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B",
                                       options={"maxiter": max_iterations}).x
    weights, bias = solution[:-classes].reshape(-1, classes), solution[-classes:]
    return lambda z: np.argmax((z - mean) / scale @ weights + bias, axis=1), solution
