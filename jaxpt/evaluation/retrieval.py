"""Retrieval by cosine: recall at k and mean average precision of class labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features, check_split, numbered
from jaxpt.evaluation.geometry import unit_rows

# Cosines are rounded to this many decimals: in a matrix product equal rows differ by rounding, and
# collapsed features have many equal rows.
DECIMALS = 12


class Retrieval(NamedTuple):
    """Result of ``retrieval``.

    Attributes:
      recall: k → share of queries with an example of their class among the first k.
      map: mean over queries of the average precision over the full ranking.
      queries: number of queries that count, which have an example of their class in the gallery.
    """

    recall: dict[int, float]
    map: float
    queries: int


def retrieval(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    query_features: np.ndarray | None = None,
    query_labels: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    query_ids: np.ndarray | None = None,
    at: Sequence[int] = (1, 5, 10),
    batch_size: int = 256,
) -> Retrieval:
    """Recall at k (as in Oh Song et al. 2016) and mean average precision over the full ranking.

    The average precision of a query is the mean, over the examples of its class, of the precision
    at their rank. Among equal cosines (to 12 decimals) the examples of other classes come first, so
    neither the order of rows nor a collapse of all classes to one point raises the result. A query
    whose class has no (other) example in the gallery does not count.

    Args:
      features: float [n, dim], the gallery; their lengths do not matter.
      labels: int [n].
      query_features, query_labels: float [m, dim], int [m]; by default every example of the
        gallery queries the others, excluding itself.
      ids, query_ids: int or str [n], [m]; a gallery example with the query's id is excluded.
        Without query_features, ids alone are enough, for rows of one image that share an id.
      at: values of k for the recall.
      batch_size: queries per step; memory grows as batch_size × n.

    Returns:
      a ``Retrieval``.

    Raises:
      InputError: for features with NaN, empty sets, mismatched lengths, query features without
        labels or ids without query ids (or the reverse), k or batch_size below 1, or if no query
        counts.

    Example:
      >>> from jaxpt.evaluation import retrieval
      >>> x = [[1, 0], [3, 1], [4, 3], [0, 1]]
      >>> found = retrieval(x, [0, 1, 0, 1], at=(1, 2))
      >>> found.recall, round(found.map, 4)  # ranks of the other example: 2, 3, 2, 2
      ({1: 0.0, 2: 0.75}, 0.4583)
    """
    at = tuple(at)
    require(len(at) > 0 and min(at) >= 1, f"at must hold ks of at least 1, got {at}.")
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}.")
    require(
        (query_features is None) == (query_labels is None),
        "query_features and query_labels belong together: give both or neither.",
    )
    if query_features is None:
        require(query_ids is None, "query_ids belong to query_features: give those too.")
        check_features("", features, labels)
        ids = np.arange(len(features)) if ids is None else ids
        query_features, query_labels, query_ids = features, labels, ids
    labels, query_labels = check_split(features, labels, query_features, query_labels)
    _check_ids(ids, len(features), query_ids, len(query_features))
    if ids is not None:
        ids, query_ids = numbered("ids", "query_ids", ids, query_ids)
    gallery, queries = unit_rows(features), unit_rows(query_features)
    first, precision = [], []
    for start in range(0, len(queries), batch_size):
        rows = slice(start, start + batch_size)
        relevant = query_labels[rows, None] == labels
        cosine = np.round(queries[rows] @ gallery.T, DECIMALS)
        if ids is not None:
            left_out = query_ids[rows, None] == ids
            relevant &= ~left_out
            cosine[left_out] = -np.inf
        counts = relevant.any(axis=1)
        ranked = _ranked(cosine[counts], relevant[counts])
        first.append(np.argmax(ranked, axis=1))
        precision.append(_average_precision(ranked))
    first, precision = np.concatenate(first), np.concatenate(precision)
    require(len(first) > 0, "no query has another example of its class in the gallery.")
    return Retrieval(
        {int(k): float(np.mean(first < k)) for k in at}, float(precision.mean()), len(first)
    )


def _check_ids(ids, rows, query_ids, query_rows):
    require(
        (ids is None) == (query_ids is None),
        "ids and query_ids belong together: give both or neither.",
    )
    for name, given, expected in ("ids", ids, rows), ("query_ids", query_ids, query_rows):
        require(
            given is None or np.shape(given) == (expected,),
            f"{name} must have shape [{expected}], got {list(np.shape(given))}.",
        )


def _ranked(cosine, relevant):
    """Relevance in the order of the ranking; excluded examples come last and are not relevant."""
    order = np.lexsort((relevant, -cosine), axis=1)
    return np.take_along_axis(relevant, order, axis=1)


def _average_precision(ranked):
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)
    return np.sum(precision * ranked, axis=1) / np.sum(ranked, axis=1)
