"""What every evaluator asks of the arrays it is given."""

import numpy as np

from jaxpt.errors import require


def check_features(name: str, features, labels=None) -> None:
    """Raises InputError unless ``features`` is finite [n, dim], n ≥ 1, with n labels if any."""
    features = np.asarray(features)
    require(features.ndim == 2 and len(features) > 0,
            f"{name} features must be [n, dim] with n of at least 1, got {list(features.shape)}.")
    bad = ~np.isfinite(features).all(axis=1)
    require(not bad.any(), f"{name} features of {int(bad.sum())} examples are not finite, the "
            f"first at row {int(np.argmax(bad))}.")
    if labels is not None:
        require(np.shape(labels) == (len(features),),
                f"{name} has {len(features)} features but labels of shape {list(np.shape(labels))}.")
