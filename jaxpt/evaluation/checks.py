"""What every evaluator asks of the arrays it is given."""

import numpy as np

from jaxpt.errors import require


def check_features(name: str, features, labels=None) -> None:
    """Raises InputError unless ``features`` is finite [n, dim], n ≥ 1, with n labels if any."""
    features, of = np.asarray(features), f"{name} features".strip()
    require(
        features.ndim == 2 and len(features) > 0,
        f"{of} must be [n, dim] with n of at least 1, got {list(features.shape)}.",
    )
    bad = ~np.isfinite(features).all(axis=1)
    require(
        not bad.any(),
        f"{of} of {int(bad.sum())} examples are not finite, the first at row "
        f"{int(np.argmax(bad))}.",
    )
    if labels is not None:
        shape = np.shape(labels)
        require(
            len(shape) != 2 or shape[1:] == (1,) or shape[0] != len(features),
            f"{name} labels have shape {list(shape)}, as if one-hot: give one integer a row, "
            "labels.argmax(axis=1).".strip(),
        )
        require(
            shape == (len(features),),
            f"{of} have {len(features)} rows but labels of shape {list(shape)}.",
        )
        check_labels(name, labels)


def check_labels(name: str, labels) -> None:
    """Raises InputError unless all labels are whole numbers."""
    labels = np.asarray(labels)
    whole = (
        labels == np.floor(labels)
        if labels.dtype.kind == "f"
        else np.full(labels.shape, labels.dtype.kind in "iub")
    )
    first = labels[~whole][:1].tolist()
    require(
        whole.all(),
        f"{name} labels must be integers, got {first and first[0]!r}: number the classes.".strip(),
    )


def check_split(train_features, train_labels, test_features, test_labels=None) -> None:
    """Raises InputError unless both parts are sound and their features have the same length."""
    check_features("train", train_features, train_labels)
    check_features("test", test_features, test_labels)
    dims = np.shape(train_features)[1], np.shape(test_features)[1]
    require(
        dims[0] == dims[1], f"train features have {dims[0]} columns but test features {dims[1]}."
    )


def check_known(train_labels, test_labels) -> None:
    """Raises InputError where test has a class that train lacks: it can never be predicted."""
    unknown = np.setdiff1d(test_labels, train_labels)
    require(
        len(unknown) == 0,
        f"test has class {unknown[:1].tolist()} without an example in train "
        f"({len(unknown)} such classes): leave its rows out or add examples.",
    )
