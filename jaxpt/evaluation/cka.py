"""Linear centred kernel alignment (CKA) of representations, by the unbiased estimator of HSIC.

HSIC_1 is the unbiased estimator of Song et al. 2012 (Nguyen, Raghu & Kornblith 2021, equation 3).
With K̃ and L̃ the linear kernels of n examples, their diagonals set to zero,

  HSIC_1 = [tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1 / ((n−1)(n−2)) − 2·1ᵀK̃L̃1 / (n−2)] / (n(n−3))

and CKA = Σ HSIC_1(K, L) / √(Σ HSIC_1(K, K) · Σ HSIC_1(L, L)), the sums over mini-batches (Nguyen
et al., equation 2) or over one batch of all examples. Unlike the biased HSIC, it does not grow with
the number of features when examples are few; for unrelated features it is near 0, sometimes below.
"""

import numpy as np

from jaxpt.errors import require
from jaxpt.evaluation.checks import check_features

FEWEST = 4  # examples; the estimator divides by n − 3
ROWS = 256  # rows of a kernel that are in memory at a time


def linear_cka(
    first: np.ndarray, second: np.ndarray, *, batch_size: int | None = None, seed: int = 0
) -> float:
    """Linear CKA of two representations of the same examples, in [−1, 1]; 1 for equal ones.

    It is invariant to rotations, shifts and a common scale of all features of a representation.

    Args:
      first, second: float [n, dim_a], [n, dim_b], n ≥ 4; row i of both is the same example. They
        are centred first, which does not change HSIC_1 and reduces rounding.
      batch_size: largest mini-batch, at least 8, or None for all examples at once. The examples
        are assigned at random to as few batches as possible; batch sizes differ by at most one,
        and every example is in exactly one batch.
      seed: seed of the assignment. It is random because rows sorted by class would make batches
        of a single class.

    Raises:
      InputError: for features with NaN, fewer than 4 rows, different numbers of rows, features
        that are all alike or whose pairs are all equally similar, or too small a batch_size.

    Example:
      >>> from jaxpt.evaluation import linear_cka
      >>> x = [[1, 0], [-1, 0], [0, 1], [0, -1]]
      >>> round(linear_cka(x, [[3 * b, -3 * a] for a, b in x]), 6)  # a rotation and a scale
      1.0
    """
    return float(
        cka_matrix({"first": first}, {"second": second}, batch_size=batch_size, seed=seed)[0, 0]
    )


def cka_matrix(
    layers_a: dict, layers_b: dict, *, batch_size: int | None = None, seed: int = 0
) -> np.ndarray:
    """Linear CKA of each layer of one network with each layer of another, or of the same one.

    Args:
      layers_a, layers_b: name → float [n, dim], the same examples in all; dims may differ.
      batch_size, seed: as in ``linear_cka``; all layers see the same batches.

    Returns:
      float64 [len(layers_a), len(layers_b)], in the order of the dicts.

    Raises:
      InputError: as in ``linear_cka``, and for an empty dict.
    """
    rows = _check_layers(layers_a, layers_b)
    require(
        batch_size is None or batch_size >= 2 * FEWEST,
        f"batch_size must be None or at least "
        f"{2 * FEWEST}, so that no batch has fewer than {FEWEST} rows, got {batch_size}.",
    )
    joint = np.zeros((len(layers_a), len(layers_b)))
    own_a, own_b = np.zeros(len(layers_a)), np.zeros(len(layers_b))
    for batch in _batches(rows, batch_size, seed):
        own_a += [_own_hsic(name, x, batch) for name, x in layers_a.items()]
        own_b += [_own_hsic(name, x, batch) for name, x in layers_b.items()]
        for i, a in enumerate(layers_a.values()):
            x = _centered(a, batch)
            joint[i] += [_hsic(x, _centered(b, batch)) for b in layers_b.values()]
    return joint / np.sqrt(own_a[:, None] * own_b)


def _check_layers(layers_a, layers_b):
    """Checks the layers and returns their common number of rows."""
    require(
        len(layers_a) > 0 and len(layers_b) > 0,
        f"CKA needs a layer on both sides, got {len(layers_a)} and {len(layers_b)}.",
    )
    rows = None
    for name, layer in (*layers_a.items(), *layers_b.items()):
        check_features(name, layer)
        rows = rows or len(layer)
        require(
            len(layer) == rows,
            f"all layers must be of the same examples, but {name} has "
            f"{len(layer)} rows and {next(iter(layers_a))} {rows}.",
        )
        require(rows >= FEWEST, f"the unbiased HSIC needs at least {FEWEST} rows, got {rows}.")
        require(np.ptp(layer, axis=0).any(), f"{name} features are all alike: CKA is not defined.")
    return rows


def _batches(rows, batch_size, seed):
    if batch_size is None:
        return [slice(None)]
    order = np.random.default_rng(seed).permutation(rows)
    return np.array_split(order, -(-rows // batch_size))


def _centered(features, batch):
    features = np.asarray(features)[batch].astype(np.float64)
    return features - features.mean(axis=0)


def _own_hsic(name, features, batch):
    """HSIC_1 of a layer with itself, which is nonnegative up to rounding."""
    x = _centered(features, batch)
    value = _hsic(x, x)
    require(
        value > 1e-12 * np.mean(np.sum(x**2, axis=1)) ** 2,
        f"all pairs of {name} features "
        "are equally similar: CKA is not defined. Give more examples or larger batches.",
    )
    return value


def _hsic(x, y):
    """HSIC_1 of the linear kernels of x and y, [n, dim_a] and [n, dim_b]."""
    n = len(x)
    diagonal_k, diagonal_l = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    trace = _kernel_product(x, y) - diagonal_k @ diagonal_l
    sums_k, sums_l = x @ x.sum(axis=0) - diagonal_k, y @ y.sum(axis=0) - diagonal_l  # K̃1, L̃1
    total = (
        trace + sums_k.sum() * sums_l.sum() / ((n - 1) * (n - 2)) - 2 * sums_k @ sums_l / (n - 2)
    )
    return total / (n * (n - 3))


def _kernel_product(x, y):
    """tr(KL) by the cheaper of two exact forms; neither holds an n × n kernel."""
    n, width = len(x), x.shape[1] + y.shape[1]
    if x.shape[1] * y.shape[1] <= n * width:
        return np.sum((x.T @ y) ** 2)
    return sum(np.sum((x[i : i + ROWS] @ x.T) * (y[i : i + ROWS] @ y.T)) for i in range(0, n, ROWS))
