"""Neural collapse (Papyan, Han & Donoho 2020): distance of features from a simplex of class means.

All classes have equal weight, regardless of their size: Σ_W is the mean of the classes' covariances
and the centre is the mean of the class means. For classes of equal size, as in the
paper, this equals the mean over examples.
"""

from typing import NamedTuple

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.geometry import class_means

# Smallest singular value of the class means that is kept, relative to the largest. The means span
# at most C − 1 directions; float32 features leave rounding of about 1e-7 in the others, which would
# dominate NC1 when inverted.
SMALLEST = 1e-6


class NeuralCollapse(NamedTuple):
    """Neural-collapse measures of the paper's figures 2 to 7; each goes to 0 in neural collapse.

    Attributes:
      nc1: tr(Σ_W Σ_B⁺) / C, variability within classes relative to that between them (figure 6).
      nc2_equinorm: standard deviation of the lengths of centred class means, divided by their mean
        (figure 2).
      nc2_equiangular: standard deviation of the cosines between centred class means (figure 3).
      nc2_maximal_angle: mean |cosine + 1/(C − 1)| of these cosines (figure 4).
      nc3: ‖W/‖W‖ − M/‖M‖‖² in Frobenius norm, M the centred class means: 0 for a self-dual
        classifier, 2 for an unrelated one, at most 4 (figure 5). None without weights.
      nc4: share of examples for which classifier and nearest class mean disagree (figure 7). None
        without weights.
    """

    nc1: float
    nc2_equinorm: float
    nc2_equiangular: float
    nc2_maximal_angle: float
    nc3: float | None
    nc4: float | None


def neural_collapse(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> NeuralCollapse:
    """NC1 and NC2 of a set of features, and NC3 and NC4 of a linear classifier on top of them.

    Standard deviations and variances are divided by n, not n − 1. The class means are those of
    this set; the paper measures NC1 to NC3 on the training set.

    Args:
      features: float [n, dim], the classifier's input, neither centred nor scaled.
      labels: int [n].
      weights: float [dim, classes] as the kernel of a Flax ``Dense``, columns in the order of the
        sorted labels; None leaves NC3 and NC4 out.
      bias: float [classes]; zero by default.

    Returns:
      a ``NeuralCollapse``.

    Raises:
      InputError: for features with NaN, mismatched lengths, a single class, a class with one
        example, class means that coincide or lie on their centre, weights or a bias that are not
        finite or have the wrong shape, or a bias without weights.

    Example:
      >>> from jaxpt.evaluation import neural_collapse
      >>> found = neural_collapse([[2, 1], [2, -1], [-2, 1], [-2, -1]], [0, 0, 1, 1],
      ...                         weights=[[1, -1], [0, 0]])
      >>> # All variance lies across the line through the means.
      >>> print(f"{found.nc1:.3f} {found.nc3:.3f} {found.nc4:.3f}")
      0.000 0.000 0.000
    """
    classes, index, means = class_means(features, labels)
    center = means.mean(axis=0)
    features, means = np.asarray(features, np.float64) - center, means - center
    lengths = np.linalg.norm(means, axis=1)
    extent = np.abs(center).max() + lengths.max()
    require(
        lengths.max() > 1e-12 * extent,
        "all class means coincide: there is no direction "
        "between classes to measure collapse against.",
    )
    on_center = np.flatnonzero(lengths <= 1e-12 * extent)
    require(
        len(on_center) == 0,
        f"the mean of class {classes[sum(on_center[:1])]} lies on the "
        "centre of the class means, so its angles are not defined.",
    )
    cosines = _cosines(means / lengths[:, None])
    nc3 = nc4 = None
    if weights is not None:
        weights, bias = _classifier(weights, bias, means)
        nc3 = _distance_from_duality(weights, means)
        nc4 = _disagreement(features, means, weights, bias + center @ weights)
    else:
        require(bias is None, "a bias without weights is not a classifier: give weights too.")
    return NeuralCollapse(
        nc1=_variability(features - means[index], index, means),
        nc2_equinorm=float(lengths.std() / lengths.mean()),
        nc2_equiangular=float(cosines.std()),
        nc2_maximal_angle=float(np.mean(np.abs(cosines + 1 / (len(classes) - 1)))),
        nc3=nc3,
        nc4=nc4,
    )


def _variability(residuals, index, means):
    """tr(Σ_W Σ_B⁺) / C from the singular vectors of the means, without a dim × dim matrix."""
    _, values, directions = np.linalg.svd(means, full_matrices=False)
    kept = values > SMALLEST * values[0]
    along = (residuals @ directions[kept].T) ** 2
    counts = np.bincount(index)
    within = np.sum(along / counts[index][:, None], axis=0) / len(means)
    between = values[kept] ** 2 / len(means)
    return float(np.sum(within / between) / len(means))


def _cosines(directions):
    """Cosines of all pairs of different rows."""
    return (directions @ directions.T)[np.triu_indices(len(directions), 1)]


def _classifier(weights, bias, means):
    """Checks the classifier and returns weights [dim, classes] and bias [classes] in float64."""
    expected = [means.shape[1], len(means)]
    require(
        list(np.shape(weights)) == expected,
        f"weights must be [dim, classes] = {expected}, "
        f"got {list(np.shape(weights))}; if the classifier has more classes than the labels, "
        "keep only the columns of these classes.",
    )
    weights = np.asarray(weights, np.float64)
    require(
        np.isfinite(weights).all() and weights.any(),
        "weights must be finite and not all zero, to be compared with class means.",
    )
    bias = np.zeros(len(means)) if bias is None else np.asarray(bias, np.float64)
    require(
        bias.shape == (len(means),) and np.isfinite(bias).all(),
        f"bias must be finite and of shape [{len(means)}], got {bias.tolist()}.",
    )
    return weights, bias


def _distance_from_duality(weights, means):
    difference = weights.T / np.linalg.norm(weights) - means / np.linalg.norm(means)
    return float(np.sum(difference**2))


def _disagreement(features, means, weights, bias):
    chosen = np.argmax(features @ weights + bias, axis=1)
    nearest = np.argmin(np.sum(means**2, axis=1) - 2 * features @ means.T, axis=1)
    return float(np.mean(chosen != nearest))
