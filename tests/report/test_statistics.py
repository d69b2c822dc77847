"""Statistics against closed forms, scipy and hand-made numbers."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxpt.errors import InputError
from jaxpt.report import statistics


def test_summary_of_three_values_in_closed_form():
    mean, half_width, n = statistics.summary([1.0, 2.0, 3.0])
    # The standard deviation is 1; t(0.975, 2 degrees of freedom) = 4.3027.
    assert (mean, n) == (2.0, 3)
    assert half_width == pytest.approx(4.30265273 / math.sqrt(3))


def test_summary_equals_scipys_interval():
    values = np.random.default_rng(0).normal(size=7)
    mean, half_width, _ = statistics.summary(values)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose((mean - half_width, mean + half_width), (low, high))


def test_identical_values_have_an_interval_of_width_zero():
    assert statistics.summary([0.5] * 4) == (0.5, 0.0, 4)


@pytest.mark.parametrize(
    "values, message",
    [
        ([], "at least 2 seeds, got 0"),
        ([0.9], "at least 2 seeds, got 1"),
        ([0.9, float("nan")], "must be finite"),
    ],
)
def test_too_little_or_broken_input_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        statistics.summary(values)


def test_comparison_equals_scipys_paired_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=6), rng.normal(size=6)
    found = statistics.compare(dict(enumerate(a)), dict(enumerate(b)))
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    np.testing.assert_allclose(
        (found.mean - found.half_width, found.mean + found.half_width),
        (interval.low, interval.high),
    )


def test_pairs_are_matched_by_seed_whatever_their_order():
    a = {3: 0.93, 1: 0.91, 2: 0.92, 9: 0.1}
    b = {2: 0.83, 7: 0.9, 1: 0.81, 3: 0.82}
    found = statistics.compare(a, b)
    assert found.n == 3
    # Matched in any other way, the mean may be the same, but hardly the spread.
    assert found[:2] == pytest.approx(statistics.summary([0.10, 0.09, 0.11])[:2])


def test_a_comparison_needs_two_seeds_in_common():
    with pytest.raises(InputError, match="at least 2 seeds that both sides have, got 1"):
        statistics.compare({0: 0.9, 1: 0.8}, {1: 0.9, 2: 0.8})


def test_the_same_values_on_both_sides_are_a_tie():
    values = {0: 0.9, 1: 0.8, 2: 0.7}
    assert statistics.compare(values, values) == (0.0, 0.0, 1.0, 3)
    assert statistics.against(values, {"peer": values})["peer"].word == "undecided"


@pytest.mark.parametrize("n, p", [(2, 0.5), (5, 2**-4), (8, 2**-7)])
def test_a_difference_without_spread_falls_back_on_the_sign_test(n, p):
    a = {seed: 0.7 + 0.1 * seed for seed in range(n)}
    b = {seed: value - 0.3 for seed, value in a.items()}  # 0.3 up to rounding
    found = statistics.compare(a, b)
    assert (found.half_width, found.p) == (0.0, p)
    assert found.mean == pytest.approx(0.3)


@pytest.mark.parametrize(
    "given, expected",
    [
        # 3 × 0.01; 2 × 0.02; 1 × 0.03, raised to what stands before it.
        ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(given, expected):
    assert statistics.holm(given) == pytest.approx(expected)


def test_verdicts_have_a_sign_and_are_adjusted_over_the_peers():
    rng = np.random.default_rng(2)
    one = dict(enumerate(0.9 + 0.01 * rng.normal(size=5)))

    def shifted(by):
        return {seed: value + by + 0.002 * rng.normal() for seed, value in one.items()}

    peers = {"higher": shifted(0.1), "lower": shifted(-0.1), "same": shifted(0.0)}
    found = statistics.against(one, peers)
    assert {name: verdict.word for name, verdict in found.items()} == {
        "higher": "apart (−)",
        "lower": "apart (+)",
        "same": "undecided",
    }
    raw = [statistics.compare(one, peer).p for peer in peers.values()]
    assert [v.p_adjusted for v in found.values()] == pytest.approx(statistics.holm(raw))


def test_a_p_that_the_adjustment_lifts_above_five_percent_is_undecided():
    one = {0: 0.012, 1: 0.010, 2: 0.011, 3: 0.004}
    zero = dict.fromkeys(one, 0.0)
    assert 0.0125 < statistics.compare(one, zero).p < 0.05
    alone = statistics.against(one, {"a": zero})
    among_five = statistics.against(one, {name: zero for name in "abcde"})
    assert alone["a"].word == "apart (+)"
    assert {verdict.word for verdict in among_five.values()} == {"undecided"}


def _correct(rng, seeds=6, draws=4, groups=9):
    sizes = rng.integers(5, 30, groups)
    return rng.binomial(sizes, 0.7, (seeds, draws, groups)), sizes


@pytest.mark.parametrize("own_sizes", [False, True])
def test_bootstrap_resamples_seeds_draws_and_groups(own_sizes):
    rng = np.random.default_rng(0)
    a, sizes = _correct(rng)
    if own_sizes:  # every seed has images of its own
        sizes = rng.integers(5, 30, (6, 9))
        a = rng.binomial(sizes[:, None], 0.7, a.shape)
    of_seeds = np.broadcast_to(sizes, (6, 9))
    b = rng.binomial(of_seeds[:, None], 0.6, a.shape)
    found = statistics.bootstrap(a, b, sizes, times=4000)
    assert found.n == 6
    assert found.mean == pytest.approx((a - b).sum() / 4 / of_seeds.sum())
    # The slow, obvious form.
    samples = []
    for _ in range(4000):
        s, d, g = (rng.integers(n, size=n) for n in a.shape)
        rows = np.ix_(s, d, g)
        samples.append((a[rows] - b[rows]).sum() / 4 / of_seeds[np.ix_(s, g)].sum())
    wide = found.mean + (np.array(samples) - found.mean) * np.sqrt(6 / 5)
    np.testing.assert_allclose(found.interval, np.quantile(wide, (0.025, 0.975)), atol=0.006)
    np.testing.assert_allclose(found.inner, np.quantile(wide, (0.05, 0.95)), atol=0.006)


def test_bootstrap_of_equal_sides_and_of_a_constant_lead():
    a, sizes = _correct(np.random.default_rng(1))
    same = statistics.bootstrap(a, a, sizes)
    assert (same.mean, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    ahead = statistics.bootstrap(a + sizes, a, sizes)
    assert ahead.mean == pytest.approx(1.0) and ahead.p < 0.001
    with pytest.raises(InputError, match="at least 2 seeds"):
        statistics.bootstrap(a[:1], a[:1], sizes)
    with pytest.raises(InputError, match=r"\[seeds, draws, groups\]"):
        statistics.bootstrap(a, a, sizes[1:])


@pytest.mark.parametrize(
    "mean, inner, p, word",
    [
        (0.03, (0.02, 0.04), 0.01, statistics.ABOVE),
        (-0.005, (-0.008, -0.002), 0.01, statistics.BELOW),
        (0.002, (-0.005, 0.009), 0.6, statistics.TIE),
        (0.002, (-0.005, 0.011), 0.6, statistics.OPEN),
        (0.02, (0.001, 0.04), 0.08, statistics.OPEN),
    ],
)
def test_only_equivalence_is_a_tie(mean, inner, p, word):
    found = statistics.Resampled(mean, inner, inner, p, 10)
    assert statistics.verdict(found, p, 0.01) == word
