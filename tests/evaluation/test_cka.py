import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.errors import InputError
from jaxpt.evaluation import cka, cka_matrix, linear_cka


def features(seed=0, n=40, dim=6):
    return np.random.default_rng(seed).normal(size=(n, dim))


def related(seed=0, n=60, dims=(5, 7), noise=0.7):
    x = features(seed, n, dims[0])
    return x, x @ features(seed + 1, *dims) + noise * features(seed + 2, n, dims[1]) + 2


def hsic(x, y):
    """HSIC_1 from whole kernels, as its equation is printed."""
    n, ones = len(x), np.ones(len(x))
    k, l = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    return (
        np.trace(k @ l)
        + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ l @ ones)
    ) / (n * (n - 3))


def whole_cka(x, y):
    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("n, dims", [(4, (1, 1)), (9, (3, 8)), (7, (20, 30)), (300, (90, 2))])
def test_it_is_the_cka_of_whole_kernels(n, dims):
    x, y = related(3, n, dims)
    assert linear_cka(x, y) == pytest.approx(whole_cka(x, y), abs=1e-10)


def test_hsic_is_the_mean_over_quadruples_of_different_examples():
    # The U-statistic that the closed form stands for: E k(l + l'' − 2l').
    x, y = related(4, 6, (2, 3))
    k, l = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
        for i, j, q, r in itertools.permutations(range(6), 4)
    ]
    assert cka._hsic(x, y) == pytest.approx(np.mean(terms), abs=1e-12)


def test_both_forms_of_the_trace_are_the_same():
    wide, narrow = (features(5, 500, 1200), features(6, 500, 1300)), (features(7, 500, 3),) * 2
    for x, y in wide, narrow:
        assert cka._kernel_product(x, y) == pytest.approx(np.sum((x @ x.T) * (y @ y.T)), rel=1e-10)
        assert cka._kernel_product(x, y) == pytest.approx(np.sum((x.T @ y) ** 2), rel=1e-10)


@pytest.mark.parametrize("n, dim, megabytes", [(20_000, 2, 8), (64, 2000, 16)])
def test_memory_is_neither_of_all_pairs_of_examples_nor_of_features(n, dim, megabytes):
    x, y = features(17, n, dim), features(18, n, dim)
    tracemalloc.start()
    try:
        linear_cka(x, y)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 30), st.integers(1, 40))
def test_rotation_scale_and_shift_change_nothing(seed, n, dim):
    x, y = features(seed, n, dim), features(seed + 1, n, 3)
    turn = np.linalg.qr(features(seed + 2, dim, dim))[0]
    assert linear_cka(-40 * x @ turn + 9, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x, 0.01 * x @ turn - 3) == pytest.approx(1)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x)) and -1 <= linear_cka(x, y) <= 1


def test_scaling_some_features_does_change_it():
    x = features()
    assert linear_cka(x, x * [100, 1, 1, 1, 1, 1]) < 0.7


def test_unrelated_features_are_around_zero_however_wide():
    values = [linear_cka(features(s, 30, 400), features(s + 100, 30, 400)) for s in range(30)]
    assert abs(np.mean(values)) < 0.02 and min(values) < 0 < max(values)


def test_a_large_mean_costs_no_precision():
    x, y = related(8)
    assert linear_cka(x + 1e6, y) == pytest.approx(linear_cka(x, y), abs=1e-6)


@pytest.mark.parametrize("batch_size", [60, 1000])
def test_one_batch_of_all_is_the_whole_set(batch_size):
    x, y = related(9)
    assert linear_cka(x, y, batch_size=batch_size) == pytest.approx(linear_cka(x, y))


@pytest.mark.parametrize("rows, batch_size", [(9, 8), (17, 8), (60, 13), (64, 32), (4, 8)])
def test_batches_hold_every_example_once_and_are_no_larger(rows, batch_size):
    batches = cka._batches(rows, batch_size, seed=0)
    sizes = [len(b) for b in batches]
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert 4 <= min(sizes) and max(sizes) <= min(min(sizes) + 1, batch_size)


def test_mini_batches_sum_hsic_before_they_divide():
    x, y = related(10, 24)
    batches = cka._batches(24, 8, seed=3)
    xy, xx, yy = (sum(hsic(a[b], c[b]) for b in batches) for a, c in ((x, y), (x, x), (y, y)))
    expected = xy / math.sqrt(xx * yy)
    assert linear_cka(x, y, batch_size=8, seed=3) == pytest.approx(expected, abs=1e-10)
    assert linear_cka(x, y, batch_size=8, seed=4) != pytest.approx(expected, abs=1e-4)
    assert linear_cka(x, x, batch_size=8) == pytest.approx(1)


def test_mini_batches_tend_to_the_whole_set():
    x, y = related(11, 4000, (10, 12), noise=3)
    whole = linear_cka(x, y)
    assert 0.2 < whole < 0.8
    assert linear_cka(x, y, batch_size=16) == pytest.approx(whole, abs=0.03)
    assert linear_cka(x, y, batch_size=500) == pytest.approx(whole, abs=0.005)


def test_the_order_of_rows_does_not_make_batches():
    # Classes in order: batches of neighbouring rows would see nothing of what separates them.
    labels = np.repeat(np.arange(8), 50)
    x = 5 * np.eye(8)[labels] + features(12, 400, 8)
    y = 5 * np.eye(8)[labels] + features(13, 400, 8)
    assert linear_cka(x, y, batch_size=50) == pytest.approx(linear_cka(x, y), abs=0.05)


@pytest.mark.parametrize("batch_size", [None, 10])
def test_the_matrix_is_the_table_of_pairs(batch_size):
    x, y = related(14)
    a, b = {"stem": x, "head": y}, {"one": y, "two": features(15, 60, 3), "three": x + y[:, :5]}
    found = cka_matrix(a, b, batch_size=batch_size, seed=2)
    expected = [
        [linear_cka(p, q, batch_size=batch_size, seed=2) for q in b.values()] for p in a.values()
    ]
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[1, 0] == pytest.approx(1)


def test_float32_and_lists_are_summed_in_float64():
    x, y = related(16, 12)
    assert linear_cka(x.tolist(), y.tolist()) == pytest.approx(linear_cka(x, y))
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert linear_cka(x, y) == pytest.approx(whole_cka(x.astype(float), y.astype(float)), abs=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"first": np.full((9, 2), np.nan)}, "first features of 9 examples are not finite"),
        ({"second": np.ones(9)}, r"second features must be \[n, dim\]"),
        ({"first": np.ones((0, 2))}, "first features must be"),
        ({"second": features(0, 8)}, "second has 8 rows and first 9"),
        ({"first": features(0, 3), "second": features(1, 3)}, "at least 4 rows, got 3"),
        ({"second": np.full((9, 3), 0.1)}, "second features are all alike"),
        ({"first": np.eye(9)}, "all pairs of first features are equally similar"),
        ({"batch_size": 7}, "batch_size must be None or at least 8, .* got 7"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        linear_cka(**{"first": features(0, 9), "second": features(1, 9)} | change)


def test_a_matrix_needs_layers_and_names_the_one_that_is_wrong():
    with pytest.raises(InputError, match="a layer on both sides, got 1 and 0"):
        cka_matrix({"a": features()}, {})
    with pytest.raises(InputError, match="block 2 has 39 rows and stem 40"):
        cka_matrix({"stem": features()}, {"block 1": features(1), "block 2": features(2, 39)})
