"""Two-dimensional projections of features of length one, for maps."""

from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features
from jaxpt.evaluation.geometry import unit_rows


class Projection(NamedTuple):
    """Two ways to draw the same examples.

    Attributes:
      pca: float64 [rows, 2] in the principal plane of all features.
      pca_share: of the variance of all features that the plane holds.
      tsne: float64 [rows, 2], its middle at the origin. It shows who is near whom; its lengths,
        sizes and densities mean nothing.
    """

    pca: np.ndarray
    pca_share: float
    tsne: np.ndarray


def project(features, rows, left, *, perplexity: float, seed: int = 0) -> Projection:
    """PCA and t-SNE of some of the features.

    Args:
      features: float [n, dim], scaled to length one; all of them span the principal plane.
      rows: int [rows], which are projected.
      left: bool [rows], whose mean comes to lie on the left: a projection's sign is arbitrary.
      perplexity: of t-SNE; less where rows are few.
      seed: of t-SNE, which starts from the plane, so that both maps lie the same way round.

    Raises:
      InputError: for unsound features, fewer than three of them, or none on the left.
    """
    check_features("", features)
    require(
        len(rows) >= 3 and np.shape(features)[1] >= 2,
        "a map needs at least three examples of "
        f"two features, got {len(rows)} of {np.shape(features)[1]}.",
    )
    require(bool(np.any(left)), "no example is named to lie on the left.")
    unit = unit_rows(features)
    require(bool(np.ptp(unit, axis=0).any()), "all features point the same way: there is no map.")
    pca = PCA(2, svd_solver="full").fit(unit)
    plane = pca.transform(unit[rows])
    if plane[np.asarray(left), 0].mean() > 0:
        plane[:, 0] *= -1
    # One thread: with two, t-SNE's took 20 times as long on a machine that was busy.
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
