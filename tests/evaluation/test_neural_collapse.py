import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.errors import InputError
from jaxpt.evaluation import NeuralCollapse, neural_collapse


def simplex(classes, dim=None, seed=0):
    """A simplex equiangular tight frame [classes, dim] in random directions, of length one."""
    frame = np.eye(classes) - 1 / classes
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim or classes,) * 2))[0]
    return frame @ turn[:classes] / np.linalg.norm(frame[0])


def around(means, offsets, shift=0.0):
    """Examples at ± each offset from each mean, and their labels."""
    deltas = np.concatenate([offsets, -np.asarray(offsets)])
    x = (np.asarray(means)[:, None] + deltas).reshape(-1, np.shape(means)[1]) + shift
    return x, np.repeat(np.arange(len(means)), len(deltas))


def by_definition(x, labels):
    """NC1 and NC2 with covariance matrices and a pseudo-inverse, class by class."""
    classes = sorted(set(labels.tolist()))
    means = [x[labels == c].mean(axis=0) for c in classes]
    center = np.mean(means, axis=0)
    within = np.mean([np.atleast_2d(np.cov(x[labels == c].T, bias=True)) for c in classes], axis=0)
    between = np.mean([np.outer(m - center, m - center) for m in means], axis=0)
    lengths = [np.linalg.norm(m - center) for m in means]
    cosines = [
        (means[i] - center) @ (means[j] - center) / (lengths[i] * lengths[j])
        for i in range(len(classes))
        for j in range(len(classes))
        if i != j
    ]
    return (
        np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(classes),
        np.std(lengths) / np.mean(lengths),
        np.std(cosines),
        np.mean([abs(cosine + 1 / (len(classes) - 1)) for cosine in cosines]),
    )


@pytest.mark.parametrize("classes, dim", [(2, 2), (3, 5), (10, 12)])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_simplex_with_its_own_classifier_is_collapsed(classes, dim, shift):
    means = simplex(classes, dim)
    x, labels = around(4 * means, np.zeros((2, dim)), shift)
    # With features off the centre the bias has to make up for it.
    found = neural_collapse(x, labels, weights=7 * means.T, bias=-7 * shift * means.sum(axis=1))
    np.testing.assert_allclose(found, 0, atol=1e-14)


def test_variability_is_measured_in_the_directions_between_classes():
    # Three classes at the corners of a triangle of radius 2: Σ_B = 2·I in the plane. Offsets of
    # 0.3 and 0.5 there give Σ_W a trace of (0.09 + 0.25)/2; the third direction does not count.
    means = 2 * simplex(3, 3)
    plane, normal = np.linalg.svd(means)[2][:2], np.linalg.svd(means)[2][2]
    x, labels = around(means, [0.3 * plane[0] + 9 * normal, 0.5 * plane[1] - 9 * normal])
    found = neural_collapse(x, labels)
    assert found.nc1 == pytest.approx((0.09 + 0.25) / 2 / 2 / 3)
    np.testing.assert_allclose(found[1:4], 0, atol=1e-12)
    assert found.nc3 is None and found.nc4 is None


def test_lengths_and_angles_of_class_means():
    # In a plane: lengths 3, 3, 4, 4 at right angles, each class at its mean.
    means = np.array([[3, 0], [-3, 0], [0, 4], [0, -4]], float)
    found = neural_collapse(*around(means, np.zeros((1, 2)), shift=10))
    cosines = np.array([-1, -1, 0, 0, 0, 0])
    assert found.nc2_equinorm == pytest.approx(0.5 / 3.5)
    assert found.nc2_equiangular == pytest.approx(cosines.std())
    assert found.nc2_maximal_angle == pytest.approx(np.mean(abs(cosines + 1 / 3)))
    assert found.nc1 == pytest.approx(0, abs=1e-20)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 7))
def test_it_follows_the_definition(seed, classes, dim):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(classes), 2), rng.integers(classes, size=20)])
    x = rng.normal(size=(len(labels), dim)) + 3 * rng.normal(size=(classes, dim))[labels]
    np.testing.assert_allclose(
        neural_collapse(x, 5 * labels - 7)[:4], by_definition(x, labels), rtol=1e-6, atol=1e-12
    )


def test_classes_count_alike_however_many_examples_they_have():
    x, labels = around(np.array([[1.0, 0], [0, 2], [-3, 0]]), [[0.3, 0.1], [0.1, -0.4]])
    repeats = np.array([1, 4, 2])[labels]
    np.testing.assert_allclose(
        neural_collapse(np.repeat(x, repeats, axis=0), np.repeat(labels, repeats))[:4],
        neural_collapse(x, labels)[:4],
    )


def test_units_rotation_and_shift_change_nothing():
    x, labels = around(np.random.default_rng(1).normal(size=(4, 5)), 0.1 * np.eye(5))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    np.testing.assert_allclose(
        neural_collapse(1e-4 * x @ turn + 3, labels)[:4], neural_collapse(x, labels)[:4], rtol=1e-6
    )


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, math.pi])
def test_distance_from_duality_is_that_of_two_unit_matrices(angle):
    means = np.hstack([simplex(3), np.zeros((3, 3))])
    unrelated = np.hstack([np.zeros((3, 3)), simplex(3)])
    weights = math.cos(angle) * means + math.sin(angle) * unrelated
    x, labels = around(5 * means, np.zeros((2, 6)))
    assert neural_collapse(x, labels, weights=8 * weights.T).nc3 == pytest.approx(
        2 - 2 * math.cos(angle), abs=1e-12
    )


def test_disagreement_counts_examples_off_their_nearest_mean():
    # Class means at ±2 on a line; a bias of 1.5 moves the boundary from 0 to −0.75.
    x = np.array([[-3.5], [-2], [-0.5], [0.25], [2], [3.75]])
    labels = np.array([4, 4, 4, 9, 9, 9])
    weights = [[-1.0, 1.0]]
    assert neural_collapse(x, labels, weights=weights).nc4 == 0
    assert neural_collapse(x, labels, weights=weights, bias=[0, 1.5]).nc4 == pytest.approx(1 / 6)
    assert neural_collapse(x, labels, weights=[[1.0, -1.0]]).nc4 == 1
    shifted = neural_collapse(x + 100, labels, weights=weights, bias=[0, 1.5 - 200])
    assert shifted.nc4 == pytest.approx(1 / 6)


def test_agreement_is_with_the_nearest_mean_and_not_with_the_label():
    x, labels = around(np.array([[-1.0, 0], [1, 0]]), [[1.5, 0], [0, 1]])
    assert neural_collapse(x, labels, weights=[[-1.0, 1.0], [0, 0]]).nc4 == 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_disagreement_is_that_of_the_loop(seed, classes):
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % classes
    x = rng.normal(size=(40, 3)) + rng.normal(size=(classes, 3))[labels] * [0.1, 1, 3]
    weights, bias = rng.normal(size=(3, classes)), rng.normal(size=classes)
    means = [x[labels == c].mean(axis=0) for c in range(classes)]
    disagree = [
        max(range(classes), key=lambda c: z @ weights[:, c] + bias[c])
        != min(range(classes), key=lambda c: np.linalg.norm(z - means[c]))
        for z in x
    ]
    assert neural_collapse(x, labels, weights=weights, bias=bias).nc4 == np.mean(disagree)


def test_rounding_of_float32_is_no_direction_between_classes():
    means = np.zeros((4, 6))
    means[:, :2] = [[3, 0], [-3, 0], [0, 4], [0, -4]]
    x, labels = around(means, 0.1 * np.eye(6))
    exact = neural_collapse(x, labels)
    assert neural_collapse(
        (x + 1e-8 * np.random.default_rng(0).normal(size=x.shape)), labels
    ).nc1 == pytest.approx(exact.nc1, rel=1e-6)


def test_lists_will_do_and_fields_have_names():
    x, labels = around(simplex(3), np.eye(3))
    found = neural_collapse(x.tolist(), labels.tolist(), weights=np.eye(3).tolist(), bias=[0, 0, 1])
    assert isinstance(found, NeuralCollapse) and all(isinstance(v, float) for v in found)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": np.full((6, 3), np.nan)}, "features of 6 examples are not finite"),
        ({"features": np.ones((0, 3)), "labels": []}, "features must be"),
        ({"labels": [0, 1]}, r"6 rows but labels of shape \[2\]"),
        ({"labels": [2] * 6}, r"at least two classes are needed, got \[2\]"),
        ({"labels": [0, 0, 0, 1, 1, 2]}, "class 2 has one: leave it out"),
        ({"features": np.tile([[1e3, 1, 0], [1e3, -1, 0]], (3, 1))}, "all class means coincide"),
        (
            {"features": np.repeat([[1, 0, 0], [2, 0, 0], [3, 0, 0]], 2, axis=0)},
            "the mean of class 1 lies on the centre",
        ),
        (
            {
                "features": [[1e3, 0.1], [3, 0.2], [0, 0.3], [0, 0.3], [3, 0.2], [1e3, 0.1]],
                "labels": [0] * 3 + [1] * 3,
            },
            "all class means coincide",
        ),
        (
            {"weights": np.ones((2, 3))},
            r"weights must be \[dim, classes\] = \[3, 3\], got \[2, 3\]",
        ),
        ({"weights": np.full((3, 3), np.inf)}, "weights must be finite and not all zero"),
        ({"weights": np.zeros((3, 3))}, "weights must be finite and not all zero"),
        (
            {"weights": np.eye(3), "bias": [1, 2]},
            r"bias must be finite and of shape \[3\], got \[1",
        ),
        ({"weights": np.eye(3), "bias": [1, 2, np.nan]}, "bias must be finite"),
        ({"bias": [0, 0, 0]}, "a bias without weights is not a classifier"),
    ],
)
def test_bad_input_is_named(change, message):
    sound = {"features": np.repeat(np.eye(3), 2, axis=0), "labels": [0, 0, 1, 1, 2, 2]}
    with pytest.raises(InputError, match=message):
        neural_collapse(**sound | change)
