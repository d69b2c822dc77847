"""Two-dimensional projections of unit-length features, for maps."""

from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features
from jaxpt.evaluation.geometry import unit_rows


class Projection(NamedTuple):
    """PCA and t-SNE coordinates of the same examples.

    Attributes:
      pca: float64 [rows, 2], coordinates in the principal plane of all features.
      pca_share: share of the variance of all features that lies in the plane.
      tsne: float64 [rows, 2], centred at the origin. Only which points are near each other is
        meaningful; lengths, sizes and densities are not.
    """

    pca: np.ndarray
    pca_share: float
    tsne: np.ndarray


def project(features, rows, left, *, perplexity: float, seed: int = 0) -> Projection:
    """Computes PCA and t-SNE coordinates of selected rows.

    Args:
      features: float [n, dim], scaled to length one here; all rows determine the principal plane.
      rows: int [rows], indices of the rows to project.
      left: bool [rows], rows whose mean is placed on the left, since the sign of a projection is
        arbitrary.
      perplexity: perplexity of t-SNE, reduced if rows are few.
      seed: seed of t-SNE, which starts from the plane so that both maps have the same orientation.

    Raises:
      InputError: for features that ``check_features`` refuses, fewer than three rows, a single
        column, features that all point the same way, or no row on the left.
    """
    check_features("", features)
    require(
        len(rows) >= 3 and np.shape(features)[1] >= 2,
        "a map needs at least three examples of "
        f"two features, got {len(rows)} of {np.shape(features)[1]}.",
    )
    require(bool(np.any(left)), "no example is chosen to lie on the left.")
    unit = unit_rows(features)
    require(bool(np.ptp(unit, axis=0).any()), "all features point the same way: there is no map.")
    pca = PCA(2, svd_solver="full").fit(unit)
    plane = pca.transform(unit[rows])
    if plane[np.asarray(left), 0].mean() > 0:
        plane[:, 0] *= -1
    # One thread, because with two threads t-SNE took 20 times as long on a busy machine.
    with threadpool_limits(1):
        tsne = (
            TSNE(
                2,
                init=(1e-4 * plane / plane[:, 0].std()).astype(np.float32),
                random_state=seed,
                perplexity=min(perplexity, (len(rows) - 1) / 3),
            )
            .fit_transform(unit[rows])
            .astype(np.float64)
        )
    middle = (tsne.min(axis=0) + tsne.max(axis=0)) / 2
    return Projection(plane, float(pca.explained_variance_ratio_.sum()), tsne - middle)
