"""Checks of the arrays passed to evaluators."""

import numpy as np

from jaxpt.errors import require


def check_features(name: str, features, labels=None):
    """Checks that ``features`` is finite [n, dim], n ≥ 1, and that labels, if given, number n.

    Returns:
      the labels converted by ``integers``, or None if no labels are given.

    Raises:
      InputError: if a check fails.
    """
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
    if labels is None:
        return None
    shape = np.shape(labels)
    require(
        len(shape) != 2 or shape[1:] == (1,) or shape[0] != len(features),
        f"{name} labels have shape {list(shape)}, as if one-hot: give one integer per row, "
        "labels.argmax(axis=1).".strip(),
    )
    require(
        shape == (len(features),),
        f"{of} have {len(features)} rows but labels of shape {list(shape)}.",
    )
    return integers(f"{name} labels".strip(), labels)


def integers(name: str, values) -> np.ndarray:
    """Converts ``values`` exactly to int64, or to uint64 if one is 2⁶³ or more.

    Booleans become 0 and 1; floats are accepted if they are whole and small enough to be exact.

    Raises:
      InputError: if a value is not such an integer.
    """
    values = _typed(values)
    kind = values.dtype.kind
    whole = np.full(values.shape, kind in "iub")
    if kind == "f":
        exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        large = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0)
        require(
            large < exact,
            f"{name} are {values.dtype}, which is exact below {exact:.0f} only, and reach "
            f"{large:.0f}: give integers.",
        )
        whole = np.isfinite(values) & (values == np.floor(values))
    if kind == "O":  # NumPy's type for integers that fit none of its integer types
        whole = np.array([isinstance(value, int) and abs(value) < 2**63 for value in values])
    first, of_64_bits = values[~whole][:1].tolist(), " of 64 bits" if kind == "O" else ""
    require(
        whole.all(),
        f"{name} must be integers{of_64_bits}, got {first and first[0]!r}: number the classes.",
    )
    large = kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max
    return values.astype(np.uint64 if large else np.int64)


def of_one_type(name: str, other_name: str, values: np.ndarray, others: np.ndarray):
    """Casts two results of ``integers`` to a common type.

    NumPy would promote int64 and uint64 to float64, which is not exact.

    Raises:
      InputError: if no integer type holds both.
    """
    if values.dtype == others.dtype:
        return values, others
    for this, array in (name, values), (other_name, others):
        require(
            array.min(initial=0) >= 0,
            f"{this} hold {array.min(initial=0)} next to integers of 2^63 and more, and no "
            "type holds both: number the classes.",
        )
    return values.astype(np.uint64), others.astype(np.uint64)


def numbered(name: str, other_name: str, ids, other_ids):
    """Maps ids [n] and [m] to int32 numbers that are equal exactly where the ids are.

    Ids are integers of any size, or text.

    Raises:
      InputError: for ids of other types, or integers in one array and text in the other.
    """
    ids, other_ids = _typed(ids), _typed(other_ids)
    text = [array.dtype.kind in "US" for array in (ids, other_ids)]
    require(
        text[0] == text[1],
        f"{name} and {other_name} must both be integers or both text, got {ids.dtype} and "
        f"{other_ids.dtype}.",
    )
    if not text[0]:
        ids, other_ids = integers(name, ids), integers(other_name, other_ids)
        ids, other_ids = of_one_type(name, other_name, ids, other_ids)
    _, numbers = np.unique(np.concatenate([ids, other_ids]), return_inverse=True)
    return np.split(numbers.astype(np.int32), [len(ids)])


def _typed(values) -> np.ndarray:
    """An array of ``values``; the type of an object array (a pandas column) is inferred."""
    values = np.asarray(values)
    return np.asarray(values.tolist()) if values.dtype == object else values


def check_split(train_features, train_labels, test_features, test_labels=None):
    """Checks both parts with ``check_features`` and that their features have the same dimension.

    Returns:
      (train_labels, test_labels), integers of one type; None for labels that are not given.

    Raises:
      InputError: if a check fails.
    """
    train_labels = check_features("train", train_features, train_labels)
    test_labels = check_features("test", test_features, test_labels)
    dims = np.shape(train_features)[1], np.shape(test_features)[1]
    require(
        dims[0] == dims[1], f"train features have {dims[0]} columns but test features {dims[1]}."
    )
    if test_labels is None:
        return train_labels, None
    return of_one_type("train labels", "test labels", train_labels, test_labels)


def check_known(train_labels, test_labels) -> None:
    """Raises InputError if test has a class that train lacks, since it can never be predicted."""
    unknown = np.setdiff1d(test_labels, train_labels)
    require(
        len(unknown) == 0,
        f"test has class {unknown[:1].tolist()} without an example in train "
        f"({len(unknown)} such classes): leave its rows out or add examples.",
    )
