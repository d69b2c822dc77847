"""Early signs of collapse: features that no longer differ, or a loss that is zero."""

import numpy as np

from jaxpt.evaluation.geometry import rank_me

# A run is warned below the first two thresholds and above the third, the zero-loss rate. Random
# features of any network are far on the other side.
SPREAD, RANK, ZERO_LOSS = 0.01, 1.5, 0.99


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


def warnings(values: dict[str, float]) -> list[str]:
    """Warnings about signs of collapse in a row of metrics."""
    found = []
    if values.get("feature_spread", 1.0) < SPREAD:
        found.append(
            f"the features of all images are nearly alike (spread "
            f"{values['feature_spread']:.2g}): lower optimizer.learning_rate, or check "
            "the temperature and the views"
        )
    elif values.get("feature_rank", np.inf) < RANK:
        found.append(
            f"the features lie nearly on one line (RankMe {values['feature_rank']:.2f}): "
            "lower optimizer.learning_rate, or check the projector"
        )
    if values.get("zero_loss", 0.0) > ZERO_LOSS:
        found.append(
            f"{values['zero_loss']:.0%} of the queries have no loss, so little is learnt: "
            "raise k, or stop the run"
        )
    return found
