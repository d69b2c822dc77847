"""Few-shot accuracy: closed-form ridge regression on whitened features (as in big_vision)."""

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_split


def few_shot(train_features, train_labels, test_features, test_labels, *, shots: int = 5,
             draws: int = 5, seed: int = 0, l2: float = 2.0**10) -> np.ndarray:
    """Top-1 accuracy from ``shots`` examples a class, for several random draws of them.

    Targets are ±1, a bias feature is added, features are whitened by the mean and standard
    deviation of the shots, and the ridge system is solved in closed form.

    Args:
      train_features, train_labels: float [n, dim], int [n], what shots are drawn from.
      test_features, test_labels: float [m, dim], int [m].
      shots: examples of each class.
      draws: how many independent draws.
      seed: of the draws.
      l2: ridge strength; the same for all methods and fixed beforehand.

    Returns:
      float [draws] accuracies.

    Raises:
      InputError: for features with NaN, mismatched lengths, or a class with too few examples.
    """
    train_features, train_labels, test_features, test_labels = map(
        np.asarray, (train_features, train_labels, test_features, test_labels))
    check_split(train_features, train_labels, test_features, test_labels)
    require(shots >= 1, f"shots must be at least 1, got {shots}.")
    require(draws >= 1, f"draws must be at least 1, got {draws}.")
    classes, counts = np.unique(train_labels, return_counts=True)
    require(counts.min() >= shots, f"{shots} shots need that many examples of every class, but "
            f"class {classes[np.argmin(counts)]} has {counts.min()}.")
    accuracies = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        chosen = np.concatenate([rng.permutation(np.flatnonzero(train_labels == c))[:shots]
                                 for c in classes])
        predicted = _ridge(train_features[chosen], np.searchsorted(classes, train_labels[chosen]),
                           test_features, len(classes), l2)
        accuracies.append(np.mean(classes[predicted] == test_labels))
    return np.array(accuracies)


def _ridge(features, targets, queries, classes, l2):
    mean, scale = features.mean(0), features.std(0) + 1e-5

    def whiten(z):
        return np.append((z - mean) / scale, np.ones((len(z), 1)), axis=1).astype(np.float64)

    x, y = whiten(features), 2.0 * np.eye(classes)[targets] - 1.0
    # The dual form: a system of shots × classes unknowns, however many features there are.
    weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), y)
    return np.argmax(whiten(queries) @ weights, axis=1)
