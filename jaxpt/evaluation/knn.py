"""Weighted k-nearest-neighbour classification (Wu et al. 2018; the DINO protocol)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_split, numbered
from jaxpt.ops import knn
from jaxpt.ops.similarity import unit_vectors


def knn_classify(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    *,
    k: int = 20,
    temperature: float = 0.07,
    train_ids: np.ndarray | None = None,
    test_ids: np.ndarray | None = None,
    batch_size: int = 1024,
) -> np.ndarray:
    """Predicts the class with the largest vote Σ e^{cosine/temperature} among the k nearest.

    Features are scaled to length one. Among equally near bank entries the lower row counts as
    nearer; equal votes go to the lower class.

    Args:
      train_features: float [n, dim], the bank.
      train_labels: int [n], any 64-bit integers.
      test_features: float [m, dim].
      k: number of neighbours; the whole bank if it is smaller.
      temperature: τ of the votes.
      train_ids, test_ids: int or str [n], [m]; a bank entry with the query's id is excluded.
      batch_size: queries per step.

    Returns:
      int64 [m] predicted labels; uint64 if a label of the bank is 2⁶³ or more.

    Raises:
      InputError: for features with NaN, labels that are not integers or are one-hot, empty sets,
        mismatched lengths, or a query for which the whole bank is excluded.
    """
    train_labels, _ = check_split(train_features, train_labels, test_features)
    require(k >= 1, f"k must be at least 1, got {k}.")
    require(temperature > 0, f"temperature must be positive, got {temperature}.")
    require(
        (train_ids is None) == (test_ids is None),
        "train_ids and test_ids belong together: give both or neither.",
    )
    for name, ids, rows in (
        ("train_ids", train_ids, len(train_features)),
        ("test_ids", test_ids, len(test_features)),
    ):
        require(
            ids is None or np.shape(ids) == (rows,),
            f"{name} must have shape [{rows}], got {list(np.shape(ids))}.",
        )
    if train_ids is not None:
        train_ids, test_ids = numbered("train_ids", "test_ids", train_ids, test_ids)
    classes, targets = np.unique(train_labels, return_inverse=True)
    unit = jax.jit(unit_vectors)  # one program instead of one per operation
    bank = unit(jnp.asarray(train_features))
    k = min(k, len(train_labels))
    starts, predictions = range(0, len(test_features), batch_size), []
    bank_ids = None if train_ids is None else jnp.asarray(train_ids)

    def search(start):
        rows = slice(start, start + batch_size)
        ids = None if test_ids is None else jnp.asarray(test_ids[rows])
        queries = unit(jnp.asarray(test_features[rows]))
        return knn.search(queries, bank, k, query_ids=ids, key_ids=bank_ids)

    # All searches are under way before the first result is read, so that none waits for the host.
    for start, (near, index) in [(start, search(start)) for start in starts]:
        alone = np.asarray(index[:, 0]) < 0
        require(
            not alone.any(),
            f"the query in row {start + np.argmax(alone)} has no neighbour: "
            "every example of the bank has its id.",
        )
        # Votes relative to the nearest: a common factor does not change the winner, and with a
        # small τ the exponentials neither overflow nor all vanish. Each class is summed from near
        # to far, so that equal neighbours give bitwise equal votes.
        near, index = np.asarray(near, np.float64), np.asarray(index)
        weight = np.exp((near - near[:, :1]) / temperature)  # exp(−∞) = 0 if none is left
        votes = np.zeros((len(near), len(classes)))
        np.add.at(votes, (np.arange(len(near))[:, None], targets[index]), weight)
        predictions.append(np.argmax(votes, axis=1))
    return classes[np.concatenate(predictions)]
