"""Statistics over seeds: intervals, paired tests, and the verdict "apart" or "tie"."""

import math
from typing import Mapping, NamedTuple, Sequence

import numpy as np
from scipy import stats

from jaxpt.errors import require

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
MIN_SEEDS = 2
TIE, ABOVE, BELOW = "tie", "apart (+)", "apart (−)"


class Summary(NamedTuple):
    """Mean over ``n`` seeds, and half the width of its 95 % t-interval; None for one seed."""

    mean: float
    half_width: float | None
    n: int


class Comparison(NamedTuple):
    """Mean difference over ``n`` paired seeds, half the width of its 95 % t-interval, and p."""

    mean: float
    half_width: float
    p: float
    n: int


class Verdict(NamedTuple):
    """A comparison with its p adjusted for the number of comparisons, and what follows."""

    difference: Comparison
    p_adjusted: float
    word: str


def summary(values: Sequence[float]) -> Summary:
    """Mean and 95 % t-interval.

    Args:
      values: one number a seed.

    Raises:
      InputError: for fewer than two values, or one that is not finite.
    """
    values = _checked(values)
    n = len(values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return Summary(float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(n)), n)


def summary_of_any(values: Sequence[float]) -> Summary:
    """As ``summary``, but a single value is its own mean and has no interval."""
    if len(values) == 1:
        return Summary(float(values[0]), None, 1)
    return summary(values)


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """The difference a − b, paired over the seeds that both have.

    p is that of the two-sided paired t-test. That test is undefined where every seed differs by
    the same amount; p is then 1 if the amount is zero, and otherwise that of the sign test,
    2^(1−n), so that two seeds that happen to agree are never called evidence.

    Args:
      a, b: a value by seed.

    Raises:
      InputError: for fewer than two seeds in common, or a value that is not finite.
    """
    seeds = sorted(a.keys() & b.keys())
    require(
        len(seeds) >= MIN_SEEDS,
        f"a paired comparison needs at least {MIN_SEEDS} seeds that "
        f"both sides have, got {len(seeds)} in common.",
    )
    left, right = np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds])
    difference = summary(left - right)
    if difference.half_width > 1e-12 * max(1.0, np.abs(left).max(), np.abs(right).max()):
        p = float(stats.ttest_rel(left, right).pvalue)
    else:
        # Subtraction rounds: this is equality up to the last bits.
        difference = difference._replace(half_width=0.0)
        p = 1.0 if math.isclose(difference.mean, 0.0, abs_tol=1e-12) else 2.0 ** (1 - len(seeds))
    return Comparison(difference.mean, difference.half_width, p, len(seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given.

    Each of m sorted p values times m, m − 1, …, 1, made non-decreasing and at most 1; calling
    "apart" what lies below 5 % then errs in at most 5 % of such families.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(p_values[index])))
        adjusted[index] = highest
    return adjusted


def against(
    one: Mapping[int, float], peers: Mapping[str, Mapping[int, float]]
) -> dict[str, Verdict]:
    """The verdict of ``one`` against each peer, adjusted over the peers.

    Args:
      one: a value by seed.
      peers: values by seed, by the peer's name.

    Returns:
      By peer: "apart (+)" where ``one`` is significantly larger, "apart (−)" where it is
      smaller, else "tie", which means that these seeds do not tell the two apart.
    """
    comparisons = {name: compare(one, values) for name, values in peers.items()}
    adjusted = holm([c.p for c in comparisons.values()])
    return {
        name: Verdict(c, p, _word(c.mean, p)) for (name, c), p in zip(comparisons.items(), adjusted)
    }


def leader(values: Mapping[str, Mapping[int, float]]) -> str | None:
    """The name with the largest mean, where it is significantly above each of the others.

    Args:
      values: by name, a value by seed.

    Returns:
      None where the largest ties with any other, where two names do not share two seeds, or
      where there is nothing to compare.
    """
    if len(values) < 2:
        return None
    best = max(values, key=lambda name: np.mean(list(values[name].values())))
    others = {name: v for name, v in values.items() if name != best}
    if any(len(values[best].keys() & v.keys()) < MIN_SEEDS for v in others.values()):
        return None
    apart = all(v.word == ABOVE for v in against(values[best], others).values())
    return best if apart else None


def _word(mean: float, p: float) -> str:
    if p >= SIGNIFICANCE:
        return TIE
    return ABOVE if mean > 0 else BELOW


def _checked(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    require(
        values.size >= MIN_SEEDS,
        f"an interval over seeds needs at least {MIN_SEEDS} seeds, got {values.size}.",
    )
    require(
        bool(np.isfinite(values).all()), f"values over seeds must be finite, got {values.tolist()}."
    )
    return values
