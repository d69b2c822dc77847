import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.errors import InputError
from jaxpt.evaluation import PowerLaw, fit_power_law, scaling

SIZES = np.array([500, 1000, 2000, 5000, 10_000, 30_000])


def law(a, b, c, sizes=SIZES):
    return a * np.asarray(sizes, float) ** -b + c


def noisy(seed=0, seeds=5, spread=0.03, a=3.0, b=0.4, c=0.1, sizes=SIZES):
    noise = np.random.default_rng(seed).normal(size=(len(sizes), seeds))
    return law(a, b, c, sizes)[:, None] * np.exp(spread * noise)


def relative_loss(params, sizes, means):
    return np.sum(((law(*params, sizes) - means) / means) ** 2)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 50), st.floats(0.05, 2), st.floats(0, 0.5))
def test_an_exact_law_is_found_and_predicts_the_held_out_size(a, b, c):
    errors = np.repeat(law(a, b, c)[:, None], 2, axis=1)
    found = fit_power_law(SIZES, errors, bootstrap=0)
    np.testing.assert_allclose(law(*found[:3]), law(a, b, c), rtol=1e-4)
    assert found.predicted == pytest.approx(found.measured, rel=1e-4)
    assert found.measured == pytest.approx(law(a, b, c)[-1]) and found.held_out == 30_000


@pytest.mark.parametrize(
    "a, b, c", [(2.0, 0.3, 0.05), (30.0, 0.9, 0.2), (0.9, 0.15, 0.0), (1e10, 3.0, 0.01)]
)
def test_parameters_of_an_exact_law(a, b, c):
    found = fit_power_law(SIZES, law(a, b, c)[:, None], bootstrap=0)
    np.testing.assert_allclose(found[:3], (a, b, c), rtol=1e-5, atol=1e-6)
    if c == 0:
        found = fit_power_law(SIZES, law(a, b, c)[:, None], offset=False, bootstrap=0)
        np.testing.assert_allclose(found[:3], (a, b, 0), rtol=1e-6)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_weighted_least_squares_by_another_solver(seed, offset):
    errors = noisy(seed)
    fitted, means = SIZES[:-1], errors[:-1].mean(axis=1)
    found = fit_power_law(SIZES, errors, offset=offset, bootstrap=0)
    loss = relative_loss(found[:3], fitted, means)
    best = min(
        (
            scipy.optimize.least_squares(
                lambda p: law(np.exp(p[0]), p[1], p[2] if offset else 0, fitted) / means - 1,
                start,
                bounds=([-20, 1e-3, 0], [40, 10, 1]),
            )
            for start in ([1, 0.5, 0.05], [0, 0.1, 0.2])
        ),
        key=lambda solution: solution.cost,
    )
    assert loss <= 2 * best.cost * (1 + 1e-9)
    assert found.b == pytest.approx(best.x[1], rel=1e-3)
    assert found.predicted == pytest.approx(law(*found[:3])[-1])


def test_deviations_count_relative_to_the_error():
    # Absolute least squares would hardly see the third size, whose error is small.
    sizes, errors = np.array([1, 10, 100, 1000]), np.array([[1.0], [0.1], [0.004], [1.0]])
    found = fit_power_law(sizes, errors, offset=False, bootstrap=0)
    slope = -np.polyfit(np.log(sizes[:3]), np.log(errors[:3, 0]), 1)[0]
    absolute, _ = scipy.optimize.curve_fit(lambda n, a, b: a * n**-b, sizes[:3], errors[:3, 0])
    assert abs(found.b - slope) < 0.1 < 0.19 < abs(absolute[1] - slope)


def test_the_largest_size_is_not_fitted_on_and_order_does_not_matter():
    errors, changed = noisy(1), noisy(1)
    changed[-1] *= 3
    before, after = (fit_power_law(SIZES, e, bootstrap=50) for e in (errors, changed))
    assert after._replace(measured=0) == before._replace(measured=0)
    assert before.measured == pytest.approx(errors[-1].mean())
    assert after.measured == pytest.approx(3 * before.measured)
    order = np.array([5, 2, 0, 4, 1, 3])
    assert fit_power_law(SIZES[order], errors[order], bootstrap=50) == before


def test_the_offset_and_the_factor_are_never_negative():
    concave = np.array([[1.0], [0.9], [0.7], [0.4], [0.2], [0.1]])  # steeper and steeper
    found = fit_power_law(SIZES, concave, bootstrap=0)
    pure = fit_power_law(SIZES, concave, offset=False, bootstrap=0)
    assert found.c == 0 and found[:3] == pytest.approx(pure[:3], rel=1e-6)
    rising = fit_power_law(SIZES, concave[::-1], bootstrap=0)
    assert rising.a == 0 and rising.predicted == rising.c > 0


def test_an_offset_fits_no_worse():
    errors = noisy(2)
    means = errors[:-1].mean(axis=1)
    with_offset, without = (
        relative_loss(fit_power_law(SIZES, errors, offset=o, bootstrap=0)[:3], SIZES[:-1], means)
        for o in (True, False)
    )
    assert with_offset < without


@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_units_of_size_and_of_error_carry_over(factor):
    errors = noisy(3)
    before = fit_power_law(SIZES, errors, bootstrap=20)
    after = fit_power_law(factor * SIZES, errors, bootstrap=20)
    assert (after.b, after.c, after.predicted) == pytest.approx(
        (before.b, before.c, before.predicted), rel=1e-5
    )
    assert after.a == pytest.approx(before.a * factor**before.b, rel=1e-4)
    percent = fit_power_law(SIZES, 100 * errors, bootstrap=20)
    assert (percent.a, percent.b, percent.c) == pytest.approx(
        (100 * before.a, before.b, 100 * before.c), rel=1e-5
    )


def test_the_bootstrap_draws_whole_seeds():
    # Every seed is an exact law of its own height; so is each mean of them, with the same b.
    heights = np.array([0.8, 1.0, 1.5])
    errors = law(1.0, 0.5, 0)[:, None] * heights
    found = fit_power_law(SIZES, errors, offset=False, bootstrap=400, coverage=0.999)
    assert found.b_interval == pytest.approx((0.5, 0.5), abs=1e-6)
    assert found.a_interval == pytest.approx((0.8, 1.5), rel=1e-4)
    assert found.predicted_interval == pytest.approx(
        (0.8 * 30_000**-0.5, 1.5 * 30_000**-0.5), rel=1e-4
    )
    assert found.c_interval == (0, 0)


def test_an_interval_leaves_out_equal_tails():
    # Two seeds: a quarter of the draws is twice the first, half is both, a quarter twice the other.
    errors = law(1.0, 0.5, 0)[:, None] * [1.0, 3.0]
    for coverage, expected in (0.6, (1, 3)), (0.4, (2, 2)):
        found = fit_power_law(SIZES, errors, offset=False, bootstrap=500, coverage=coverage)
        assert found.a_interval == pytest.approx(expected, rel=1e-4)


def test_intervals_narrow_with_coverage_and_follow_the_seed():
    errors = noisy(4)
    wide, narrow, again, other = (
        fit_power_law(SIZES, errors, bootstrap=200, coverage=c, seed=s)
        for c, s in ((0.95, 0), (0.5, 0), (0.95, 0), (0.95, 1))
    )
    assert wide == again and wide != other and wide[:3] == other[:3]
    for name in ("a_interval", "b_interval", "c_interval", "predicted_interval"):
        (low, high), (inner_low, inner_high) = getattr(wide, name), getattr(narrow, name)
        assert low <= inner_low <= inner_high <= high and low < high
    assert wide.predicted_interval[0] < wide.predicted < wide.predicted_interval[1]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(60):
        errors = noisy(seed, seeds=20, c=0.0, spread=0.1)
        low, high = fit_power_law(SIZES, errors, offset=False, bootstrap=200).b_interval
        hits += low <= 0.4 <= high
    assert 0.8 <= hits / 60 < 1


def test_defaults():
    errors = noisy(5, seeds=2)
    assert fit_power_law(SIZES, errors) == fit_power_law(
        SIZES, errors, offset=True, bootstrap=1000, seed=0, coverage=0.95
    )
    assert isinstance(fit_power_law(SIZES.tolist(), errors.tolist(), bootstrap=0), PowerLaw)
    assert fit_power_law(SIZES, errors, bootstrap=0).predicted_interval is None


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"sizes": [1, 2, 3], "errors": np.ones((3, 2))},
            r"at least 4 sizes, .* got sizes of .* \[3",
        ),
        ({"sizes": [1, 2], "errors": np.ones((2, 2)), "offset": False}, "at least 3 sizes"),
        (
            {"sizes": [], "errors": np.ones((0, 2))},
            r"at least 4 sizes, .* got sizes of shape \[0\]",
        ),
        (
            {"errors": np.ones((4, 2))},
            r"errors must be \[sizes, seeds\] with 6 sizes, got \[4, 2\]",
        ),
        ({"errors": np.ones(6)}, r"errors must be \[sizes, seeds\] with 6 sizes, got \[6\]"),
        ({"errors": np.ones((6, 0))}, r"errors must be \[sizes, seeds\]"),
        (
            {"errors": np.zeros((6, 2))},
            r"errors must be positive and finite, got \[0.0, 0.0, 0.0\]",
        ),
        ({"errors": np.full((6, 2), np.inf)}, r"errors must be positive and finite, got \[inf"),
        ({"errors": np.full((6, 2), np.nan)}, r"errors must be positive and finite, got \[nan"),
        ({"sizes": [0, 1, 2, 3, 4, 5]}, r"sizes must be positive and finite, got \[0.0\]"),
        ({"sizes": [1, 2, 2, 3, 4, 5]}, "every size must be given once"),
        ({"errors": np.ones((6, 1))}, "one seed has no spread .* or bootstrap=0"),
        ({"bootstrap": -1}, "bootstrap must not be negative, got -1"),
        ({"coverage": 95}, "coverage must lie between 0 and 1, got 95"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        fit_power_law(**{"sizes": SIZES, "errors": noisy()} | change)


def test_the_band_is_the_interval_of_the_curve():
    rng = np.random.default_rng(0)
    sizes = np.array([100, 200, 400, 800])
    errors = 2 * sizes[:, None] ** -0.4 * np.exp(0.05 * rng.normal(size=(4, 5)))
    law = scaling.fit_power_law(sizes, errors, offset=False, bootstrap=200)
    low, high = scaling.power_law_band(sizes, errors, [100, 300, 800], offset=False, bootstrap=200)
    assert (low[-1], high[-1]) == pytest.approx(law.predicted_interval)
    assert low.shape == high.shape == (3,)
    curve = law.a * np.array([100, 300, 800]) ** -law.b
    assert (low < curve).all() and (curve < high).all()
    with pytest.raises(InputError, match="a band needs at least one resample, got 0"):
        scaling.power_law_band(sizes, errors, [100], bootstrap=0)
    with pytest.raises(InputError, match="one seed has no spread"):
        scaling.power_law_band(sizes, errors[:, :1], [100], bootstrap=10)
