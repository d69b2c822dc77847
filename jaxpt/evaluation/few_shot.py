"""Few-shot accuracy: with all classes, or over episodes of a few classes each."""

from typing import NamedTuple

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation import logistic
from jaxpt.evaluation.checks import check_features, check_known, check_split
from jaxpt.evaluation.geometry import unit_rows


class Episodes(NamedTuple):
    """Result of ``episodes``.

    Attributes:
      accuracy: mean accuracy over episodes.
      interval: half width of its 95 % interval, 1.96 · standard deviation / √episodes.
      accuracies: float [episodes], accuracy of each episode.
    """

    accuracy: float
    interval: float
    accuracies: np.ndarray


def few_shot(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: int = 5,
    draws: int = 5,
    seed: int = 0,
    head: str = "ridge",
    l2: float | None = None,
) -> np.ndarray:
    """Top-1 accuracy of a classifier fitted on ``shots`` examples per class, for several draws.

    Args:
      train_features, train_labels: float [n, dim], int [n]; the shots are drawn from these.
      test_features, test_labels: float [m, dim], int [m].
      shots: examples per class.
      draws: number of independent draws of shots.
      seed: seed of the draws, which are the same for every head.
      head: "ridge" as in big_vision: targets ±1, a bias feature, features whitened by the mean and
        standard deviation of the shots, closed form. "logistic" as in Tian et al. 2020: features
        of length one, logistic regression.
      l2: penalty strength; keep it fixed in advance and the same for all methods. The default is
        2¹⁰ for ridge and 1/(shots · classes) for logistic, which is scikit-learn's C = 1.

    Returns:
      float [draws], the accuracy of each draw.

    Raises:
      InputError: for features with NaN, labels that are not integers or are one-hot, mismatched
        lengths, a single class, a class with fewer examples than shots or only in test, or an l2
        that is not positive.
    """
    predicted = few_shot_predictions(
        train_features,
        train_labels,
        test_features,
        test_labels,
        shots=shots,
        draws=draws,
        seed=seed,
        head=head,
        l2=l2,
    )
    return np.mean(predicted == np.asarray(test_labels), axis=1)


def few_shot_predictions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    shots: int = 5,
    draws: int = 5,
    seed: int = 0,
    head: str = "ridge",
    l2: float | None = None,
) -> np.ndarray:
    """Predicted labels [draws, m] of ``few_shot``, which has the arguments and errors."""
    train_features, test_features = np.asarray(train_features), np.asarray(test_features)
    train_labels, test_labels = check_split(
        train_features, train_labels, test_features, test_labels
    )
    require(shots >= 1, f"shots must be at least 1, got {shots}.")
    require(draws >= 1, f"draws must be at least 1, got {draws}.")
    require(head in ("ridge", "logistic"), f"head must be 'ridge' or 'logistic', got {head!r}.")
    require(l2 is None or l2 > 0, f"l2 must be positive, got {l2}.")
    classes, counts = np.unique(train_labels, return_counts=True)
    require(len(classes) > 1, f"at least two classes are needed, got {classes.tolist()}.")
    check_known(train_labels, test_labels)
    _check_counts(f"{shots} shots", shots, classes, counts)
    predict = {"ridge": _ridge, "logistic": _logistic}[head]
    predictions = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        chosen = np.concatenate(
            [rng.permutation(np.flatnonzero(train_labels == c))[:shots] for c in classes]
        )
        predicted = predict(
            train_features[chosen],
            np.repeat(np.arange(len(classes)), shots),
            test_features,
            len(classes),
            l2,
        )
        predictions.append(classes[predicted])
    return np.stack(predictions)


def episodes(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    count: int = 600,
    seed: int = 0,
    head: str = "centroid",
    l2: float | None = None,
) -> Episodes:
    """Mean accuracy of N-way K-shot episodes, each with its own draw of classes and examples.

    600 episodes of 5 classes with 1 or 5 shots and a 95 % interval follow Chen et al. 2019 ("A
    closer look at few-shot classification"); 15 queries per class follow Wang et al. 2019.

    Args:
      features, labels: float [n, dim], int [n], of classes that pre-training has not seen.
      ways: classes per episode.
      shots, queries: examples per class to fit on, and to classify.
      count: number of episodes.
      seed: seed of the episodes, which are the same for every head.
      head: "centroid": nearest class mean after scaling all vectors to length one (SimpleShot,
        Wang et al. 2019, without centring); ties go to the class drawn first. "logistic": as in
        ``few_shot``.
      l2: penalty strength of the logistic head; 1/(ways · shots) by default.

    Returns:
      an ``Episodes``.

    Raises:
      InputError: for features with NaN, labels that are not integers or are one-hot, mismatched
        lengths, fewer classes than ways, or a class with fewer examples than shots + queries.

    Example:
      >>> import numpy as np
      >>> from jaxpt.evaluation import episodes
      >>> labels = np.arange(60) % 3
      >>> episodes(np.eye(3)[labels], labels, ways=3, shots=1, queries=5, count=20)[:2]
      (1.0, 0.0)
    """
    labels = check_features("", features, labels)
    for name, value, least in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("count", count, 2),
    ):
        require(value >= least, f"{name} must be at least {least}, got {value}.")
    require(
        head in ("centroid", "logistic"), f"head must be 'centroid' or 'logistic', got {head!r}."
    )
    require(l2 is None or l2 > 0, f"l2 must be positive, got {l2}.")
    classes, counts = np.unique(labels, return_counts=True)
    require(len(classes) >= ways, f"{ways}-way episodes need {ways} classes, got {len(classes)}.")
    _check_counts(f"{shots} shots and {queries} queries", shots + queries, classes, counts)
    members = [np.flatnonzero(labels == c) for c in classes]
    features, predict = unit_rows(features), {"centroid": _centroid, "logistic": _logistic}[head]
    targets, accuracies = np.arange(ways), []
    for episode in range(count):
        rng = np.random.default_rng((seed, episode))
        rows = np.stack(
            [
                rng.choice(members[c], shots + queries, replace=False)
                for c in rng.choice(len(classes), ways, replace=False)
            ]
        )
        predicted = predict(
            features[rows[:, :shots].ravel()],
            np.repeat(targets, shots),
            features[rows[:, shots:].ravel()],
            ways,
            l2,
        )
        accuracies.append(np.mean(predicted == np.repeat(targets, queries)))
    return Episodes(
        float(np.mean(accuracies)),
        float(1.96 * np.std(accuracies, ddof=1) / np.sqrt(count)),
        np.array(accuracies),
    )


def _check_counts(wanted, needed, classes, counts):
    require(
        counts.min() >= needed,
        f"{wanted} need {needed} examples of every class, but class "
        f"{classes[np.argmin(counts)]} has {counts.min()}.",
    )


def _ridge(features, targets, queries, classes, l2):
    mean, scale = features.mean(0), features.std(0) + 1e-5

    def whiten(z):
        return np.append((z - mean) / scale, np.ones((len(z), 1)), axis=1).astype(np.float64)

    x, y = whiten(features), 2.0 * np.eye(classes)[targets] - 1.0
    # The dual form: shots × classes unknowns, independent of the number of features.
    l2 = 2.0**10 if l2 is None else l2
    weights = x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), y)
    return np.argmax(whiten(queries) @ weights, axis=1)


def _logistic(features, targets, queries, classes, l2):
    l2 = 1 / len(features) if l2 is None else l2
    found = logistic.fit(unit_rows(features), targets, classes, [l2])
    return np.argmax(unit_rows(queries) @ found.weights[0] + found.bias[0], axis=1)


def _centroid(features, targets, queries, classes, l2):
    centroids = features.reshape(classes, -1, features.shape[1]).mean(axis=1)
    return np.argmax(queries @ centroids.T - np.sum(centroids**2, axis=1) / 2, axis=1)
