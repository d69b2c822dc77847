"""Shape of a feature space: how far classes are apart, and what is left inside them."""

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features


def class_separation(features, labels) -> float:
    """R² of Kornblith et al. 2021: the share of cosine dispersion that lies between classes.

    R² = 1 − (1 − mean_k ‖μ_k‖²) / (1 − ‖mean_k μ_k‖²), μ_k the mean unit vector of class k. 1 for
    collapsed classes, 0 for classes that do not differ. Higher is not better: Kornblith et al.
    found that losses with higher separation transfer worse.

    Args:
      features: float [n, dim].
      labels: int [n].
    """
    check_features("", features, labels)
    unit = _unit(features)
    means = np.stack([unit[labels == c].mean(axis=0) for c in np.unique(labels)])
    within = 1 - np.mean(np.sum(means**2, axis=1))
    total = 1 - np.sum(means.mean(axis=0) ** 2)
    return float(1 - within / total) if total > 1e-12 else 0.0  # less is rounding


def fine_purity(features, coarse, fine, *, k: int = 20) -> float:
    """Mean share of fine-label agreement among the k nearest examples of the same coarse class.

    Args:
      features: float [n, dim].
      coarse, fine: int [n].
      k: neighbours by cosine, the example itself left out. An example that is alone in its coarse
        class has none and does not count.
    """
    check_features("", features, coarse)
    check_features("", features, fine)
    require(k >= 1, f"k must be at least 1, got {k}.")
    unit = _unit(features)
    agreement = []
    for c in np.unique(coarse):
        members = np.flatnonzero(coarse == c)
        if len(members) == 1:
            continue
        cosine = unit[members] @ unit[members].T
        np.fill_diagonal(cosine, -np.inf)
        nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :min(k, len(members) - 1)]
        agreement.append((fine[members][nearest] == fine[members][:, None]).mean(axis=1))
    require(len(agreement) > 0, "no coarse class has two examples: fine purity is not defined.")
    return float(np.concatenate(agreement).mean())


def effective_rank(features, labels) -> float:
    """Mean over classes of exp(entropy) of the spectrum within the class.

    Args:
      features: float [n, dim]; scaled to length one.
      labels: int [n].
    """
    check_features("", features, labels)
    unit = _unit(features)
    ranks = []
    for c in np.unique(labels):
        members = unit[labels == c]
        variances = np.linalg.svd(members - members.mean(axis=0), compute_uv=False) ** 2
        p = variances / max(variances.sum(), 1e-30)
        ranks.append(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-30)))))
    return float(np.mean(ranks))


def _unit(features):
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
