"""Power laws of the error in the number of pre-training examples, tested at a held-out size.

As in few-shot scaling laws (Prato et al. 2021): E(n) = a·n^−b, or a·n^−b + c with an irreducible
error c.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxpt.errors import require

EXPONENTS = (1e-3, 10.0)  # search range of b
Interval = tuple[float, float]


class PowerLaw(NamedTuple):
    """Power law E(n) = a·n^−b + c and its prediction for the held-out size.

    Attributes:
      a, b, c: coefficients of the fit to means over seeds; c is 0 without offset.
      a_interval, b_interval, c_interval, predicted_interval: (low, high) percentile intervals
        of the bootstrap over seeds; None if bootstrap is 0.
      held_out: the largest size, left out of the fit.
      predicted: E(held_out).
      measured: mean error at the held-out size.
    """

    a: float
    b: float
    c: float
    a_interval: Interval | None
    b_interval: Interval | None
    c_interval: Interval | None
    held_out: float
    predicted: float
    predicted_interval: Interval | None
    measured: float


def fit_power_law(
    sizes: Sequence[float] | np.ndarray,
    errors: Sequence[float] | np.ndarray,
    *,
    offset: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> PowerLaw:
    """Fits E(n) = a·n^−b (+ c) to all sizes but the largest, and predicts the largest.

    The fit minimises Σ ((E(n) − Ē) / Ē)² over the mean errors Ē, with a ≥ 0, c ≥ 0 and b in
    [0.001, 10]: weighted least squares of relative deviations. To first order these are deviations
    of log E, so a small error at a large size counts as much as a large error at a small size.
    Unlike in log space, a and c are linear given b, so that only b is searched and the result does
    not depend on a starting point. Weights from the variance over seeds would be noise with a
    handful of seeds.

    The bootstrap draws seeds with replacement, the same draw for all sizes, which is valid whether
    or not the runs of one seed are correlated across sizes. With few seeds the intervals are too
    narrow.

    Args:
      sizes: float [sizes], positive and all different, in any order.
      errors: float [sizes, seeds], positive.
      offset: whether to fit c; at least four sizes are needed with it, three without.
      bootstrap: number of resamples; 0 for no intervals.
      seed: seed of the bootstrap.
      coverage: coverage of the intervals, in (0, 1).

    Returns:
      a ``PowerLaw``.

    Raises:
      InputError: for shapes that do not match, too few sizes, values that are not positive and
        finite, a size given twice, a negative bootstrap, a coverage outside (0, 1), or a
        bootstrap of a single seed.

    Example:
      >>> from jaxpt.evaluation import fit_power_law
      >>> errors = [[n**-0.5 + 0.1, n**-0.5 + 0.1] for n in (100, 400, 1600, 6400)]
      >>> law = fit_power_law([100, 400, 1600, 6400], errors, bootstrap=10)
      >>> print(f"{law.a:.3f} {law.b:.3f} {law.c:.3f} {law.predicted:.4f} {law.measured:.4f}")
      1.000 0.500 0.100 0.1125 0.1125
    """
    sizes, errors = _check(sizes, errors, offset)
    _check_bootstrap(errors, bootstrap, coverage)
    fitted, held_out = sizes[:-1], sizes[-1]
    a, b, c = _fit(fitted, errors[:-1].mean(axis=1)[None], offset)[:, 0]
    intervals = [None] * 4
    if bootstrap:
        samples = _resampled(fitted, errors[:-1], offset, bootstrap, seed)
        predicted = _evaluate(held_out, *samples)
        tails = (1 - coverage) / 2, (1 + coverage) / 2
        intervals = [tuple(np.quantile(x, tails).tolist()) for x in (*samples, predicted)]
    return PowerLaw(
        float(a),
        float(b),
        float(c),
        *intervals[:3],
        float(held_out),
        float(_evaluate(held_out, a, b, c)),
        intervals[3],
        float(errors[-1].mean()),
    )


def power_law_band(
    sizes: Sequence[float] | np.ndarray,
    errors: Sequence[float] | np.ndarray,
    at: Sequence[float] | np.ndarray,
    *,
    offset: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    coverage: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile band of the bootstrap around the curve fitted by ``fit_power_law``.

    Args:
      sizes, errors, offset, bootstrap, seed, coverage: as in ``fit_power_law``.
      at: float [points], sizes at which to compute the band.

    Returns:
      (low, high), float [points] each; at the held-out size they equal ``predicted_interval``.

    Raises:
      InputError: as in ``fit_power_law``, and if bootstrap is 0.
    """
    require(bootstrap > 0, f"a band needs at least one resample, got {bootstrap}.")
    sizes, errors = _check(sizes, errors, offset)
    _check_bootstrap(errors, bootstrap, coverage)
    samples = _resampled(sizes[:-1], errors[:-1], offset, bootstrap, seed)
    curves = _evaluate(np.asarray(at, np.float64)[:, None], *samples)
    return tuple(np.quantile(curves, [(1 - coverage) / 2, (1 + coverage) / 2], axis=1))


def _resampled(sizes, errors, offset, bootstrap, seed):
    """Coefficients a, b and c for each resample of seeds, [3, bootstrap]."""
    seeds = errors.shape[1]
    drawn = np.random.default_rng(seed).integers(seeds, size=(bootstrap, seeds))
    return _fit(sizes, errors[:, drawn].mean(axis=2).T, offset)


def _check(sizes, errors, offset):
    """Checks sizes and errors and returns both in float64, sorted by size."""
    sizes, errors = np.asarray(sizes, np.float64), np.asarray(errors, np.float64)
    fewest = 4 if offset else 3
    require(
        sizes.ndim == 1 and len(sizes) >= fewest,
        f"the fit needs at least {fewest} sizes, one "
        f"of them held out, got sizes of shape {list(sizes.shape)}.",
    )
    require(
        errors.ndim == 2 and len(errors) == len(sizes) and errors.shape[1] > 0,
        f"errors must be [sizes, seeds] with {len(sizes)} sizes, got {list(errors.shape)}.",
    )
    for name, array in ("sizes", sizes), ("errors", errors):
        bad = ~(np.isfinite(array) & (array > 0))
        require(
            not bad.any(), f"{name} must be positive and finite, got {array[bad][:3].tolist()}."
        )
    require(
        len(np.unique(sizes)) == len(sizes),
        "every size must be given once, got "
        f"{sizes.tolist()}; put all seeds of a size into one row of errors.",
    )
    order = np.argsort(sizes)
    return sizes[order], errors[order]


def _check_bootstrap(errors, bootstrap, coverage):
    require(bootstrap >= 0, f"bootstrap must not be negative, got {bootstrap}.")
    require(0 < coverage < 1, f"coverage must lie between 0 and 1, got {coverage}.")
    require(
        bootstrap == 0 or errors.shape[1] > 1,
        "one seed has no spread to bootstrap: give errors of more seeds, or bootstrap=0.",
    )


def _evaluate(n, a, b, c):
    return a * n**-b + c


def _fit(sizes, means, offset):
    """Coefficients a, b and c, [3, fits], for each row of means [fits, sizes]."""
    # Sizes relative to their geometric mean, so that the columns n^−b and 1 have similar magnitude.
    unit = np.exp(np.mean(np.log(sizes)))
    log_n = np.log(sizes / unit)
    grid = np.broadcast_to(np.linspace(*np.log(EXPONENTS), 200), (len(means), 200))
    for _ in range(9):  # each pass narrows the range of the exponent by a factor of ten
        loss, *_ = _solve(np.exp(grid), log_n, means, offset)
        best = np.argmin(loss, axis=1)[:, None]
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), axis=1)
        high = np.take_along_axis(grid, np.minimum(best + 1, grid.shape[1] - 1), axis=1)
        grid = low + (high - low) * np.linspace(0, 1, 21)
    b = np.exp(grid[:, 10:11])
    _, a, c = _solve(b, log_n, means, offset)
    return np.stack([a * unit**b, b, c])[..., 0]


def _solve(b, log_n, means, offset):
    """Loss, a and c, each [fits, exponents], for exponents b [fits, exponents]."""
    powers = np.exp(-b[..., None] * log_n) / means[:, None]  # relative: divided by the error
    ones = np.broadcast_to(1 / means[:, None], powers.shape)
    pp, po, oo = ((x * y).sum(-1) for x, y in ((powers, powers), (powers, ones), (ones, ones)))
    p, o = powers.sum(-1), ones.sum(-1)
    a, c = p / pp, np.zeros_like(p)
    if offset:
        determinant = pp * oo - po**2
        both = (p * oo - o * po) / determinant, (o * pp - p * po) / determinant
        # If one of the two would be negative, the optimum is on the boundary: c = 0, or a = 0.
        a, c = np.where(both[0] < 0, 0, both[0]), np.where(both[0] < 0, o / oo, both[1])
        a, c = np.where(both[1] < 0, p / pp, a), np.where(both[1] < 0, 0, c)
    return np.sum((a[..., None] * powers + c[..., None] * ones - 1) ** 2, axis=-1), a, c
