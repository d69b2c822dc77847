"""Statistics over seeds: intervals, paired tests, and verdicts."""

import math
from typing import Mapping, NamedTuple, Sequence

import numpy as np
from scipy import stats

from jaxpt.errors import require

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
MIN_SEEDS = 2
ABOVE, BELOW = "apart (+)", "apart (−)"
TIE = "tie"  # shown to be equivalent, up to a bound
OPEN = "undecided"  # neither apart nor a tie


class Summary(NamedTuple):
    """Mean over ``n`` seeds and half the width of its 95 % t-interval (None for one seed)."""

    mean: float
    half_width: float | None
    n: int


class Comparison(NamedTuple):
    """Mean difference over ``n`` paired seeds, half the width of its 95 % t-interval, and p."""

    mean: float
    half_width: float
    p: float
    n: int


class Resampled(NamedTuple):
    """A difference of accuracies with intervals and p from a bootstrap.

    Attributes:
      mean: the difference, a − b.
      interval: ends of the 95 % interval.
      inner: ends of the 90 % interval, for two one-sided tests at 5 %.
      p: two-sided p value of no difference.
      n: number of seeds.
    """

    mean: float
    interval: tuple[float, float]
    inner: tuple[float, float]
    p: float
    n: int


class Verdict(NamedTuple):
    """A comparison, its p value adjusted for multiple comparisons, and ABOVE, BELOW or OPEN."""

    difference: Comparison
    p_adjusted: float
    word: str


def summary(values: Sequence[float]) -> Summary:
    """Mean and 95 % t-interval.

    Args:
      values: one number per seed.

    Raises:
      InputError: for fewer than two values, or one that is not finite.
    """
    values = _checked(values)
    n = len(values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return Summary(float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(n)), n)


def summary_of_any(values: Sequence[float]) -> Summary:
    """``summary`` that also accepts a single value, which gets no interval."""
    if len(values) == 1:
        return Summary(float(values[0]), None, 1)
    return summary(values)


def compare(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison:
    """Compares a and b by their difference a − b, paired over the seeds that both have.

    p is that of the two-sided paired t-test. The test is undefined if every seed differs by the
    same amount. Then p is 1 for an amount of zero, and otherwise that of the sign test, 2^(1−n), so
    that two seeds that happen to agree never count as evidence.

    Args:
      a, b: values by seed.

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
        # Equal up to the rounding of the subtraction.
        difference = difference._replace(half_width=0.0)
        p = 1.0 if math.isclose(difference.mean, 0.0, abs_tol=1e-12) else 2.0 ** (1 - len(seeds))
    return Comparison(difference.mean, difference.half_width, p, len(seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given.

    The m sorted p values are multiplied by m, m − 1, …, 1, made non-decreasing and capped at 1.
    Calling values below 5 % significant then errs in at most 5 % of such families of tests.
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
    """Verdicts of ``one`` against each peer, Holm-adjusted over the peers.

    Args:
      one: values by seed.
      peers: peer's name → values by seed.

    Returns:
      Peer's name → verdict: "apart (+)" if ``one`` is significantly larger, "apart (−)" if it is
      significantly smaller, else "undecided": these seeds do not distinguish the two.
    """
    comparisons = {name: compare(one, values) for name, values in peers.items()}
    adjusted = holm([c.p for c in comparisons.values()])
    return {
        name: Verdict(c, p, _word(c.mean, p)) for (name, c), p in zip(comparisons.items(), adjusted)
    }


def leader(values: Mapping[str, Mapping[int, float]]) -> str | None:
    """The name with the largest mean, if it is significantly above every other.

    Args:
      values: name → values by seed.

    Returns:
      None if the largest is not apart from another, shares fewer than two seeds with another, or
      has no other to be compared with.
    """
    if len(values) < 2:
        return None
    best = max(values, key=lambda name: np.mean(list(values[name].values())))
    others = {name: v for name, v in values.items() if name != best}
    if any(len(values[best].keys() & v.keys()) < MIN_SEEDS for v in others.values()):
        return None
    apart = all(v.word == ABOVE for v in against(values[best], others).values())
    return best if apart else None


def bootstrap(
    a: np.ndarray, b: np.ndarray, sizes: np.ndarray, *, times: int = 4000, seed: int = 0
) -> Resampled:
    """Difference of two accuracies, resampled over seeds, draws of shots and groups of test images.

    Seeds, draws and groups are each drawn with replacement, the same ones for both sides, so that
    the interval holds for other seeds, other shots and other groups. Deviations are widened by
    √(n / (n − 1)) for n seeds, since resampling few seeds understates their spread.

    Args:
      a, b: correct predictions [seeds, draws, groups], paired along all axes.
      sizes: images per group [groups], or [seeds, groups] if seeds have different images.
      times: number of bootstrap samples.
      seed: of the bootstrap.

    Raises:
      InputError: for fewer than two seeds, or shapes that do not fit.
    """
    a, b, sizes = (np.asarray(x, np.float64) for x in (a, b, sizes))
    require(
        a.shape == b.shape and a.ndim == 3 and sizes.shape in (a.shape[2:], a.shape[::2]),
        "a and b must be [seeds, draws, groups] and sizes [groups] or [seeds, groups], got "
        f"{list(a.shape)}, {list(b.shape)} and {list(sizes.shape)}.",
    )
    seeds, draws, groups = a.shape
    sizes = np.broadcast_to(sizes, (seeds, groups))
    require(seeds >= MIN_SEEDS, f"a bootstrap needs at least {MIN_SEEDS} seeds, got {seeds}.")
    difference = a - b
    mean = difference.sum() / (draws * sizes.sum())
    rng = np.random.default_rng(seed)

    def weights(n):
        return rng.multinomial(n, np.full(n, 1 / n), size=times) / n

    of_group, of_seed, of_draw = weights(groups), weights(seeds), weights(draws)
    values = np.einsum(
        "ts,td,tg,sdg->t", of_seed, of_draw, of_group, difference, optimize=True
    ) / np.einsum("ts,tg,sg->t", of_seed, of_group, sizes, optimize=True)
    values = mean + (values - mean) * math.sqrt(seeds / (seeds - 1))
    low, inner_low, inner_high, high = np.quantile(values, (0.025, 0.05, 0.95, 0.975))
    beyond = min(np.sum(values <= 0), np.sum(values >= 0))
    return Resampled(
        float(mean),
        (float(low), float(high)),
        (float(inner_low), float(inner_high)),
        min(1.0, 2 * (beyond + 1) / (times + 1)),
        seeds,
    )


def verdict(difference: Resampled, p_adjusted: float, bound: float) -> str:
    """ABOVE or BELOW if p < 5 %; else TIE if the 90 % interval lies within ± ``bound``, else open.

    A difference that is both significant and within the bounds is called what it is: apart.
    """
    if p_adjusted < SIGNIFICANCE:
        return ABOVE if difference.mean > 0 else BELOW
    low, high = difference.inner
    return TIE if -bound < low and high < bound else OPEN


def _word(mean: float, p: float) -> str:
    if p >= SIGNIFICANCE:
        return OPEN
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
