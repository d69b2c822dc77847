import math

import numpy as np
import oracles
import pytest
from scipy.special import ive

from jaxpt.errors import InputError
from jaxpt.evaluation import (
    alignment,
    cdnv,
    class_separation,
    effective_rank,
    fine_purity,
    rank_me,
    uniformity,
)

# class_separation


def test_collapsed_classes_have_separation_one():
    x = np.repeat(np.random.default_rng(0).normal(size=(3, 5)), 4, axis=0)
    x *= np.geomspace(0.1, 10, 12)[:, None]  # lengths do not count
    assert class_separation(x, np.repeat([0, 1, 2], 4)) == pytest.approx(1)


def test_classes_that_do_not_differ_have_separation_zero():
    x = np.tile(np.random.default_rng(1).normal(size=(6, 5)), (2, 1))
    assert class_separation(x, np.repeat([0, 1], 6)) == pytest.approx(0, abs=1e-12)


def test_many_draws_of_one_distribution_have_nearly_no_separation():
    rng = np.random.default_rng(2)
    assert class_separation(rng.normal(size=(20_000, 5)), rng.integers(4, size=20_000)) < 0.002


@pytest.mark.parametrize("angle", [0.3, 1.0])
def test_two_classes_of_two_directions_each(angle):
    # Class means have length cos(angle) along ±x: within = sin², total = 1 − 0.
    c, s = math.cos(angle), math.sin(angle)
    x = np.array([[c, s], [c, -s], [-c, s], [-c, -s]])
    assert class_separation(x, np.array([0, 0, 1, 1])) == pytest.approx(c * c)


def test_classes_count_alike_however_many_examples_they_have():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = np.array([0, 0, 1])
    # μ_0 = (½, ½), μ_1 = (−1, 0): within = 1 − (½ + 1)/2, total = 1 − (1/16 + 1/16).
    expected = 1 - (1 / 4) / (7 / 8)
    assert class_separation(x, labels) == pytest.approx(expected)
    repeated = np.repeat([0, 1, 2], [1, 1, 9])
    assert class_separation(x[repeated], labels[repeated]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_features_that_are_all_alike_have_separation_zero(seed):
    row = np.random.default_rng(seed).normal(size=(1, 7))
    assert class_separation(np.repeat(row, 9, axis=0), np.arange(9) % 3) == 0


# fine_purity


def test_purity_counts_fine_labels_inside_the_coarse_class_alone():
    angles = np.array([0.0, 0.1, 0.2, 0.05, 0.15])  # the last two are of the other coarse class
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    coarse, fine = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 2])
    # Nearest: 0→1 agrees, 1→0 (tied with 2, lower first) agrees, 2→1 does not; 3↔4 agree.
    assert fine_purity(x, coarse, fine, k=1) == pytest.approx(4 / 5)
    # Two neighbours: ½, ½, 0; the other class has one neighbour only.
    assert fine_purity(x, coarse, fine, k=2) == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)


@pytest.mark.parametrize("k", [1, 3, 5, 6, 100])
def test_purity_never_counts_the_example_itself(k):
    x = np.ones((6, 3))  # all alike
    assert fine_purity(x, np.zeros(6), np.arange(6), k=k) == 0


def test_random_features_have_the_purity_of_chance():
    rng = np.random.default_rng(3)
    fine = rng.integers(10, size=2000)
    assert fine_purity(rng.normal(size=(2000, 16)), fine // 5, fine, k=20) == pytest.approx(
        1 / 5, abs=0.01
    )


def test_a_coarse_class_of_one_example_has_no_neighbors_to_count():
    x = np.random.default_rng(4).normal(size=(5, 3))
    coarse, fine = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 0, 5])
    assert fine_purity(x, coarse, fine) == 1


# effective_rank


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_counts_equal_directions(rank):
    directions = np.eye(6)[:rank]
    x = np.concatenate([directions, -directions])
    assert effective_rank(x, np.zeros(2 * rank)) == pytest.approx(rank)


def test_effective_rank_is_exp_of_the_entropy_and_the_mean_over_classes():
    # Class 0: three quarters of the variance along x, a quarter along y. Class 1: a line.
    x = np.array([[1, 0]] * 3 + [[-1, 0]] * 3 + [[0, 1], [0, -1]] + [[2, 0], [-2, 0]], float)
    x *= np.geomspace(0.1, 10, 10)[:, None]  # lengths do not count
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(x, np.repeat([0, 1], [8, 2])) == pytest.approx(
        (math.exp(entropy) + 1) / 2
    )


def test_effective_rank_is_that_of_the_differences_from_the_mean():
    # Eight points on a circle around the x axis: two directions, whatever the circle's distance.
    angles = np.arange(8) * math.pi / 4
    x = np.column_stack([np.full(8, 3.0), np.cos(angles), np.sin(angles)])
    assert effective_rank(x, np.zeros(8)) == pytest.approx(2)


def test_a_collapsed_class_has_effective_rank_one():
    assert effective_rank(np.ones((5, 3)), np.zeros(5)) == pytest.approx(1)


def test_an_example_alone_in_its_class_has_no_effective_rank():
    x = np.random.default_rng(5).normal(size=(9, 4))
    pair_and_more = effective_rank(x[:8], np.repeat([0, 1], [6, 2]))
    assert effective_rank(x, np.repeat([0, 1, 2], [6, 2, 1])) == pair_and_more
    with pytest.raises(InputError, match="no class has two examples"):
        effective_rank(x, np.arange(9))


# alignment and uniformity


def test_alignment_is_the_mean_distance_on_the_sphere_to_a_power():
    angles = np.array([0.0, math.pi / 2, math.pi])
    first, second = np.tile([[2.0, 0.0]], (3, 1)), np.column_stack([np.cos(angles), np.sin(angles)])
    assert alignment(first, 7 * second) == pytest.approx((0 + 2 + 4) / 3)
    assert alignment(first, second, power=1) == pytest.approx((0 + math.sqrt(2) + 2) / 3)
    assert alignment(first, first) == 0


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
@pytest.mark.parametrize("t", [0.5, 2])
def test_uniformity_is_the_loop_over_pairs(batch_size, t):
    x = np.random.default_rng(5).normal(size=(7, 3))
    potentials = [
        math.exp(-t * np.sum((oracles.unit(x)[i] - oracles.unit(x)[j]) ** 2))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert uniformity(x, t, batch_size=batch_size) == pytest.approx(
        math.log(np.mean(potentials)), abs=1e-12
    )


def test_uniformity_of_one_point_is_zero_and_of_two_poles_minus_4t():
    assert uniformity(np.full((50, 3), 0.3)) == pytest.approx(0, abs=1e-12)
    assert uniformity([[0, 1], [0, -3]], t=500) == pytest.approx(-2000)  # exp would underflow


def test_uniformity_of_a_regular_polygon_is_the_integral_over_the_circle():
    # On the circle E exp(−t(2 − 2 cos θ)) = e^{−2t} I_0(2t), which a regular polygon meets exactly;
    # of its 40 terms the one of the corner with itself, 1, does not count.
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    assert uniformity(x, t=1) == pytest.approx(math.log((40 * ive(0, 2) - 1) / 39))


def test_alignment_and_uniformity_take_lengths_away():
    x, scale = np.random.default_rng(6).normal(size=(9, 4)), np.geomspace(1e-6, 1e6, 9)[:, None]
    assert alignment(x, scale * x[::-1]) == pytest.approx(alignment(x, x[::-1]))
    assert uniformity(scale * x) == pytest.approx(uniformity(x))


# cdnv


def test_cdnv_is_the_mean_over_pairs_of_classes():
    # On a line: means 0, 4, 10; variances 1, 0, 4.
    x = np.array([[-1], [1], [4], [4], [4], [8], [12]], float)
    labels = np.array([5, 5, 2, 2, 2, 9, 9])
    pairs = (1 + 0) / (2 * 16), (1 + 4) / (2 * 100), (0 + 4) / (2 * 36)
    assert cdnv(x, labels) == pytest.approx(sum(pairs) / 3)
    assert cdnv(1e3 * x + 77, labels) == pytest.approx(sum(pairs) / 3)


def test_variance_of_cdnv_is_over_all_directions():
    x = np.array([[0, 1, 2], [0, -1, -2], [3, 0, 0], [3, 0, 0]], float)
    assert cdnv(x, np.array([0, 0, 1, 1])) == pytest.approx((1 + 4) / (2 * 9))


def test_collapsed_classes_have_no_cdnv():
    assert cdnv(np.repeat(np.eye(4), 3, axis=0), np.repeat(range(4), 3)) == 0


# rank_me


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rank_me_counts_equal_directions(rank):
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(6, 6)))[0]
    x = 5 * np.concatenate([basis[:rank], np.zeros((4, 6))])
    assert rank_me(x, epsilon=0) == pytest.approx(rank)
    assert rank_me(x) == pytest.approx(rank, rel=1e-5)


def test_rank_me_is_of_singular_values_and_of_lengths_as_they_are():
    p = np.array([0.75, 0.25])  # of σ; the variances are 0.9 and 0.1
    x = np.array([[6.0, 0.0], [0.0, 2.0]])
    assert rank_me(x, epsilon=0) == pytest.approx(math.exp(-np.sum(p * np.log(p))))
    p = p + 0.01
    assert rank_me(x, epsilon=0.01) == pytest.approx(math.exp(-np.sum(p * np.log(p))))


def test_rank_me_does_not_center():
    assert rank_me(np.ones((8, 3)), epsilon=0) == pytest.approx(1)
    x = np.array([[1.0, 1.0], [1.0, -1.0]])  # two directions, though a line once centred
    assert rank_me(x, epsilon=0) == pytest.approx(2)


# Bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: alignment(x, np.ones((4, 3))), r"same shape, got \[4, 2\] and \[4, 3\]"),
        (
            lambda x, y: alignment(x, np.full((4, 2), np.nan)),
            "second features of 4 examples are not",
        ),
        (lambda x, y: alignment(x[:0], x[:0]), "first features must be"),
        (lambda x, y: alignment(x, x, power=0), "power must be positive, got 0"),
        (lambda x, y: uniformity(x * np.inf), "features of 4 examples are not finite"),
        (lambda x, y: uniformity(x[:1]), "at least two rows, got 1"),
        (lambda x, y: uniformity(x, t=-1), "t must be positive, got -1"),
        (lambda x, y: uniformity(x, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda x, y: cdnv(x, y[:3]), r"4 rows but labels of shape \[3\]"),
        (lambda x, y: cdnv(x * np.nan, y), "features of 4 examples are not finite"),
        (lambda x, y: cdnv(x, np.full(4, 3)), r"at least two classes are needed, got \[3\]"),
        (lambda x, y: cdnv(x, [0, 0, 0, 7]), "class 7 has one: leave it out"),
        (
            lambda x, y: cdnv([[0], [4], [1], [3], [2], [2]], [1, 1, 5, 5, 7, 7]),
            "classes 1 and 5 have the same mean",
        ),
        (
            lambda x, y: cdnv([[9], [4], [1], [3], [2], [2]], [1, 1, 5, 5, 7, 7]),
            "classes 5 and 7 have the same mean",
        ),
        (lambda x, y: rank_me(0 * x), "features are all zero"),
        (lambda x, y: rank_me(x[0]), r"features must be \[n, dim\]"),
        (lambda x, y: rank_me(x, epsilon=-1e-3), "epsilon must not be negative, got -0.001"),
    ],
)
def test_bad_input_of_the_others_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(np.arange(8.0).reshape(4, 2) + 1, np.array([0, 0, 1, 1]))


@pytest.mark.parametrize(
    "measure", [class_separation, effective_rank, lambda x, y: fine_purity(x, y, y)]
)
@pytest.mark.parametrize(
    "features, labels, message",
    [
        (
            np.full((4, 2), np.nan),
            np.zeros(4),
            "^features of 4 examples are not finite, .* at row 0",
        ),
        (np.ones((0, 2)), np.zeros(0), r"^features must be \[n, dim\] .* got \[0, 2\]"),
        (np.ones(4), np.zeros(4), r"^features must be \[n, dim\] .* got \[4\]"),
        (np.ones((4, 2)), np.zeros(3), r"^features have 4 rows but labels of shape \[3\]"),
    ],
)
def test_bad_input_is_named(measure, features, labels, message):
    with pytest.raises(InputError, match=message):
        measure(features, labels)


@pytest.mark.parametrize(
    "coarse, k, message",
    [
        (np.zeros(3), 1, r"^features have 4 rows but labels of shape \[3\]"),
        (np.zeros(4), 0, "k must be at least 1, got 0"),
        (np.arange(4), 1, "no coarse class has two examples"),
    ],
)
def test_bad_input_of_fine_purity_is_named(coarse, k, message):
    with pytest.raises(InputError, match=message):
        fine_purity(np.eye(4), coarse, np.zeros(4), k=k)
