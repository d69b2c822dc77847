"""What every evaluator asks of the arrays it is given."""

import numpy as np

from jaxpt.errors import require


def check_features(name: str, features, labels=None) -> None:
    """Raises InputError unless ``features`` is finite [n, dim], n ≥ 1, with n labels if any."""
    features, name = np.asarray(features), f"{name} features".strip()
    require(features.ndim == 2 and len(features) > 0,
            f"{name} must be [n, dim] with n of at least 1, got {list(features.shape)}.")
    bad = ~np.isfinite(features).all(axis=1)
    require(not bad.any(), f"{name} of {int(bad.sum())} examples are not finite, the first at row "
            f"{int(np.argmax(bad))}.")
    if labels is not None:
        require(np.shape(labels) == (len(features),),
                f"{name} have {len(features)} rows but labels of shape {list(np.shape(labels))}.")


def check_split(train_features, train_labels, test_features, test_labels=None) -> None:
    """Raises InputError unless both parts are sound and their features have the same length."""
    check_features("train", train_features, train_labels)
    check_features("test", test_features, test_labels)
    dims = np.shape(train_features)[1], np.shape(test_features)[1]
    require(dims[0] == dims[1],
            f"train features have {dims[0]} columns but test features {dims[1]}.")
