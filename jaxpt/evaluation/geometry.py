"""Geometry of a feature space: spread of classes, pairs and directions, and signs of collapse."""

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features


def unit_rows(features) -> np.ndarray:
    """Scales rows to length one, float64 [n, dim]; zero rows stay zero."""
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)


def class_separation(features: np.ndarray, labels: np.ndarray) -> float:
    """R² of Kornblith et al. 2021: the share of cosine dispersion that lies between classes.

    R² = 1 − (1 − mean_k ‖μ_k‖²) / (1 − ‖mean_k μ_k‖²), μ_k the mean unit vector of class k. It is
    1 for collapsed classes and 0 for classes that do not differ. Higher is not better: Kornblith
    et al. found that losses with higher separation transfer worse.

    Args:
      features: float [n, dim].
      labels: int [n].

    Returns:
      R², from 0 to 1.
    """
    labels = check_features("", features, labels)
    unit = unit_rows(features)
    means = np.stack([unit[labels == c].mean(axis=0) for c in np.unique(labels)])
    within = 1 - np.mean(np.sum(means**2, axis=1))
    total = 1 - np.sum(means.mean(axis=0) ** 2)
    return float(1 - within / total) if total > 1e-12 else 0.0  # less is rounding


def fine_purity(
    features: np.ndarray, coarse: np.ndarray, fine: np.ndarray, *, k: int = 20
) -> float:
    """Mean share of the k nearest examples of the same coarse class with the same fine label.

    Args:
      features: float [n, dim].
      coarse, fine: int [n].
      k: number of neighbours by cosine, excluding the example itself. An example that is alone in
        its coarse class has no neighbours and does not count.

    Returns:
      the purity, from 0 to 1.
    """
    coarse, fine = (check_features("", features, labels) for labels in (coarse, fine))
    require(k >= 1, f"k must be at least 1, got {k}.")
    unit = unit_rows(features)
    agreement = []
    for c in np.unique(coarse):
        members = np.flatnonzero(coarse == c)
        if len(members) == 1:
            continue
        cosine = unit[members] @ unit[members].T
        np.fill_diagonal(cosine, -np.inf)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, len(members) - 1)]
        agreement.append((fine[members][nearest] == fine[members][:, None]).mean(axis=1))
    require(len(agreement) > 0, "no coarse class has two examples: fine purity is not defined.")
    return float(np.concatenate(agreement).mean())


def effective_rank(features: np.ndarray, labels: np.ndarray) -> float:
    """Effective rank within classes: exp(entropy) of the class's spectrum, mean over classes.

    The spectrum is that of the class's covariance (Roy & Vetterli 2007, applied within classes).

    Args:
      features: float [n, dim]; scaled to length one here.
      labels: int [n].

    Returns:
      the mean effective rank, between 1 and dim. A class with a single example has none.

    Raises:
      InputError: if no class has two examples.
    """
    labels = check_features("", features, labels)
    unit = unit_rows(features)
    ranks = []
    for c in np.unique(labels):
        members = unit[labels == c]
        if len(members) < 2:
            continue
        variances = np.linalg.svd(members - members.mean(axis=0), compute_uv=False) ** 2
        p = variances / max(variances.sum(), 1e-30)
        ranks.append(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-30)))))
    require(len(ranks) > 0, "no class has two examples: the effective rank is not defined.")
    return float(np.mean(ranks))


def alignment(first: np.ndarray, second: np.ndarray, power: float = 2) -> float:
    """Alignment of positive pairs: mean power of their distance on the unit sphere.

    E ‖f(x) − f(y)‖^power, ℓ_align of Wang & Isola 2020 (section 4.1; their α is ``power``). Lower
    is closer.

    Args:
      first, second: float [n, dim], two views of the same n images; scaled to length one here.
      power: exponent; 2 by default, as in the paper's experiments.

    Raises:
      InputError: for features with NaN, empty sets, different shapes, or a power that is not
        positive.

    Example:
      >>> from jaxpt.evaluation import alignment
      >>> # The same direction, and a right angle: (0 + 2) / 2.
      >>> round(alignment([[1, 0], [1, 0]], [[2, 0], [0, 3]]), 6)
      1.0
    """
    check_features("first", first)
    check_features("second", second)
    require(
        np.shape(first) == np.shape(second),
        "positive pairs need two arrays of the same shape, got "
        f"{list(np.shape(first))} and {list(np.shape(second))}.",
    )
    require(power > 0, f"power must be positive, got {power}.")
    return float(np.mean(np.linalg.norm(unit_rows(first) - unit_rows(second), axis=1) ** power))


def uniformity(features: np.ndarray, t: float = 2, *, batch_size: int = 1024) -> float:
    """Uniformity: log of the mean Gaussian potential of all pairs on the unit sphere.

    log E exp(−t ‖f(x) − f(y)‖²) over the pairs of two different rows, ℓ_uniform of Wang & Isola
    2020 (section 4.1). Lower is more uniform: it is 0 if all features are alike, and never below
    −4t.

    Args:
      features: float [n, dim], n ≥ 2; scaled to length one here.
      t: scale of the potential; 2 by default, as in the paper's experiments.
      batch_size: rows per step; memory grows as batch_size × n.

    Raises:
      InputError: for features with NaN, a single row, or t or batch_size that is not positive.

    Example:
      >>> from jaxpt.evaluation import uniformity
      >>> round(uniformity([[1, 0], [-1, 0]], t=0.5), 6)  # −t·2²
      -2.0
    """
    check_features("", features)
    from scipy.special import logsumexp  # here, as it takes a tenth of a second

    unit = unit_rows(features)
    require(len(unit) > 1, "uniformity is a mean over pairs: give at least two rows, got 1.")
    require(t > 0, f"t must be positive, got {t}.")
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}.")
    potentials = []
    for start in range(0, len(unit), batch_size):
        rows = unit[start : start + batch_size]
        squared = np.sum(rows**2, axis=1)[:, None] + np.sum(unit**2, axis=1) - 2 * rows @ unit.T
        squared[np.arange(len(rows)), np.arange(start, start + len(rows))] = np.inf  # itself
        potentials.append(logsumexp(-t * np.maximum(squared, 0)))
    return float(logsumexp(potentials) - np.log(len(unit) * (len(unit) - 1)))


def cdnv(features: np.ndarray, labels: np.ndarray) -> float:
    """Class-distance normalised variance (Galanti et al. 2022), mean over pairs of classes.

    V(i, j) = (Var_i + Var_j) / (2 ‖μ_i − μ_j‖²), Var_i the mean squared distance of class i from
    its mean, divided by n and not n − 1. It is 0 for collapsed classes.

    Args:
      features: float [n, dim], used as given, neither centred nor scaled.
      labels: int [n].

    Raises:
      InputError: for features with NaN, lengths that do not match, a single class, a class with
        one example, or two classes with the same mean.

    Example:
      >>> from jaxpt.evaluation import cdnv
      >>> cdnv([[1], [-1], [5], [3]], [0, 0, 1, 1])  # (1 + 1) / (2·4²)
      0.0625
    """
    classes, index, means = class_means(features, labels)
    spread = np.sum((np.asarray(features, np.float64) - means[index]) ** 2, axis=1)
    variances = np.bincount(index, spread) / np.bincount(index)
    ratios = []
    for i in range(len(classes) - 1):
        distances = np.sum((means[i + 1 :] - means[i]) ** 2, axis=1)
        same = np.flatnonzero(distances == 0)
        require(
            len(same) == 0,
            f"classes {classes[i]} and {classes[i + 1 + sum(same[:1])]} have "
            "the same mean: their CDNV is not defined.",
        )
        ratios.append((variances[i] + variances[i + 1 :]) / (2 * distances))
    return float(np.mean(np.concatenate(ratios)))


def rank_me(features: np.ndarray, *, epsilon: float = 1e-7) -> float:
    """RankMe (Garrido et al. 2023): exp(entropy) of the singular values of the whole set.

    exp(−Σ p_k log p_k) with p_k = σ_k / Σσ + ε; features are neither centred nor scaled.
    ``effective_rank`` is a different measure: it uses variances (σ²), within classes, after
    scaling to length one.

    Args:
      features: float [n, dim]; the rank is at most min(n, dim), so choose n well above dim.
      epsilon: ε, 1e-7 in the paper.

    Raises:
      InputError: for features with NaN, an empty set, all zeros, or a negative ε.

    Example:
      >>> from jaxpt.evaluation import rank_me
      >>> round(rank_me([[3, 0], [0, 3], [0, 0]]), 5)  # two equal directions
      2.0
    """
    check_features("", features)
    require(epsilon >= 0, f"epsilon must not be negative, got {epsilon}.")
    values = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    require(values.sum() > 0, "features are all zero: RankMe is not defined.")
    p = values / values.sum() + epsilon
    return float(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-300)))))


def spread(features: np.ndarray) -> dict[str, float]:
    """Spread and rank of a set of features.

    Args:
      features: float [n, dim], n ≥ 2.

    Returns:
      feature_spread: 1 − ‖mean unit vector‖², from 0 (all alike, or all zero) to 1;
      feature_rank: RankMe, exp of the entropy of the singular values; 0 if all features are zero.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    if not unit.any():
        return {"feature_spread": 0.0, "feature_rank": 0.0}
    return {
        "feature_spread": float(1 - np.sum(unit.mean(axis=0) ** 2)),
        "feature_rank": rank_me(features),
    }


# A run is warned below the first two thresholds and above the third, the zero-loss rate. Random
# features of any network are far on the other side.
LEAST_SPREAD, LEAST_RANK, MOST_ZERO_LOSS = 0.01, 1.5, 0.99


def collapse_warnings(values: dict[str, float]) -> list[str]:
    """Warnings about signs of collapse in a row of metrics."""
    found = []
    if values.get("feature_spread", 1.0) < LEAST_SPREAD:
        found.append(
            f"the features of all images are nearly alike (spread "
            f"{values['feature_spread']:.2g}): lower optimizer.learning_rate, or check "
            "the temperature and the views"
        )
    elif values.get("feature_rank", np.inf) < LEAST_RANK:
        found.append(
            f"the features lie nearly on one line (RankMe {values['feature_rank']:.2f}): "
            "lower optimizer.learning_rate, or check the projector"
        )
    if values.get("zero_loss", 0.0) > MOST_ZERO_LOSS:
        found.append(
            f"{values['zero_loss']:.0%} of the queries have no loss, so little is learnt: "
            "raise k, or stop the run"
        )
    return found


def class_means(features, labels):
    """Class means of a set.

    Returns:
      (sorted classes [classes], index of each example's class [n], means float64 [classes, dim]).

    Raises:
      InputError: for features or labels that ``check_features`` refuses, a single class, or a
        class with one example, which has no variance within the class.
    """
    labels = check_features("", features, labels)
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    require(len(classes) > 1, f"at least two classes are needed, got {classes.tolist()}.")
    require(
        counts.min() > 1,
        f"variance within a class needs two examples of it, but class "
        f"{classes[np.argmin(counts)]} has one: leave it out.",
    )
    features = np.asarray(features, np.float64)
    return (
        classes,
        index,
        np.stack([features[index == c].mean(axis=0) for c in range(len(classes))]),
    )
