import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from jaxpt.errors import InputError
from jaxpt.evaluation import log_odds, mean_log_odds, mean_per_class_accuracy, top1, voc07_map


def eleven_points(scores, positive):
    """The definition, in fractions of whole numbers: recall 3/10 is at least 0.3."""
    ranking = sorted(range(len(scores)), key=lambda i: (-scores[i], positive[i]))
    right, total = [positive[i] for i in ranking], sum(positive)
    return (
        sum(
            max(
                sum(right[:n]) / n
                for n in range(1, len(right) + 1)
                if sum(right[:n]) * 10 >= tenths * total
            )
            for tenths in range(11)
        )
        / 11
    )


# top1 and mean_per_class_accuracy


def test_classes_count_alike_and_examples_do_not():
    labels = np.array([7] * 6 + [-1] * 2 + [3])
    predictions = np.array([7, 7, 7, 7, 3, 4] + [-1, 7] + [3])
    assert top1(predictions, labels) == pytest.approx(6 / 9)
    assert mean_per_class_accuracy(predictions, labels) == pytest.approx((4 / 6 + 1 / 2 + 1) / 3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40))
def test_mean_per_class_accuracy_is_scikit_learns(seed, n):
    labels = np.random.default_rng(seed).integers(4, size=n)
    labels[:2] = 0, 3  # scikit-learn warns of a single class
    predictions = np.where(np.random.default_rng(seed + 1).random(n) < 0.5, labels, labels[::-1])
    assert mean_per_class_accuracy(predictions, labels) == pytest.approx(
        balanced_accuracy_score(labels, predictions)
    )
    assert top1(predictions, labels) == np.mean(predictions == labels)


# voc07_map


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40))
def test_average_precision_is_the_definition(seed, n):
    rng = np.random.default_rng(seed)
    scores, targets = np.round(3 * rng.normal(size=(n, 3))), rng.integers(2, size=(n, 3))
    targets[0] = 1
    difficult = rng.random((n, 3)) < 0.2
    difficult[0] = False
    expected, without = (
        [
            eleven_points(scores[kept, c].tolist(), targets[kept, c].tolist())
            for c, kept in enumerate(masks)
        ]
        for masks in (np.ones((3, n), bool), ~difficult.T)
    )
    assert voc07_map(scores, targets) == pytest.approx(np.mean(expected))
    assert voc07_map(scores, targets, difficult=difficult) == pytest.approx(np.mean(without))


def test_precision_is_interpolated_at_eleven_recalls():
    # Precisions 1, 1/2, 2/3, 2/4, 3/5 at recalls 1/3, 1/3, 2/3, 2/3, 1: 4 points at 1 (0 to 0.3),
    # 3 at 2/3 (0.4 to 0.6), 4 at 3/5 (0.7 to 1).
    scores, targets = np.arange(5, 0, -1.0)[:, None], np.array([1, 0, 1, 0, 1])[:, None]
    assert voc07_map(scores, targets) == pytest.approx((4 + 3 * 2 / 3 + 4 * 3 / 5) / 11)


def test_three_of_ten_is_a_recall_of_three_tenths():
    # 0.1·3 is above 3/10 in floating point, so that the third point would miss.
    targets = np.array([1] * 3 + [0] * 90 + [1] * 7)[:, None]
    late = max((3 + r) / (93 + r) for r in range(1, 8))
    assert voc07_map(-np.arange(100.0)[:, None], targets) == pytest.approx((4 + 7 * late) / 11)


def test_a_constant_score_earns_the_share_of_positives_whatever_the_order_of_rows():
    targets = np.array([1, 1, 0, 0, 0, 0, 0, 0])[:, None]
    for order in (targets, targets[::-1]):
        assert voc07_map(np.ones((8, 1)), order) == pytest.approx(1 / 4)


def test_difficult_pairs_are_left_out_of_their_class_alone():
    scores, targets = np.array([[3.0, 3], [2, 2], [1, 1]]), np.array([[0, 0], [1, 1], [1, 1]])
    difficult = np.zeros((3, 2), bool)
    difficult[0, 0] = True
    assert voc07_map(scores, targets, difficult=difficult) == pytest.approx((1 + 2 / 3) / 2)
    assert voc07_map(scores, targets.astype(bool)) == pytest.approx(2 / 3)


# log_odds


def test_log_odds_are_the_logit():
    a = np.array([[0.5, 0.9], [0.999, 1e-6]])
    np.testing.assert_allclose(log_odds(a), np.log(a / (1 - a)))
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds(a))), a)
    assert log_odds(0.25) == pytest.approx(-math.log(3))


def test_clipping_is_by_half_an_example_and_only_at_the_ends():
    np.testing.assert_allclose(
        log_odds([0, 0.01, 0.99, 1], examples=100),
        [-math.log(199), -math.log(99), math.log(99), math.log(199)],
    )
    np.testing.assert_allclose(log_odds([1.0, 1.0], examples=[50, 1]), [math.log(99), 0])


def test_mean_log_odds_is_the_mean_over_sets():
    assert mean_log_odds([0.9, 0.5]) == pytest.approx(math.log(9) / 2)
    assert mean_log_odds([1, 0.5, 0], examples=[50, 10, 5]) == pytest.approx(
        (math.log(99) - math.log(9)) / 3
    )


# Bad input


@pytest.mark.parametrize("measure", [top1, mean_per_class_accuracy])
@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        ([], [], r"labels must be \[n\] with n of at least 1, got \[0\]"),
        ([1], [[1]], r"labels must be \[n\]"),
        ([1, 2], [1, 2, 3], r"each of 3 labels, not scores, got shape \[2\]"),
        (np.ones((3, 5)), [1, 2, 3], r"not scores, got shape \[3, 5\]"),
        ([1, np.nan], [1, 2], "predictions hold NaN"),
        ([1, 1], [np.nan, 2], "labels hold NaN"),
    ],
)
def test_bad_input_of_accuracies_is_named(measure, predictions, labels, message):
    with pytest.raises(InputError, match=message):
        measure(predictions, labels)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"scores": [[1.0, np.nan], [0, 0]]},
            "scores of 1 examples are not finite, the first at row",
        ),
        (
            {"scores": np.ones((0, 2)), "targets": np.ones((0, 2))},
            r"scores must be .* got \[0, 2\]",
        ),
        ({"scores": np.ones(2)}, r"scores must be \[n, classes\]"),
        (
            {"targets": np.ones((2, 3))},
            r"targets must have the shape of scores, \[2, 2\], got \[2, 3",
        ),
        ({"targets": [[1, -1], [-1, 1]]}, r"targets must be 0 or 1, got \[-1\]"),
        ({"targets": [[1, np.nan], [0, 1]]}, r"targets must be 0 or 1, got \[nan\]"),
        (
            {"difficult": [True, False]},
            r"difficult must have the shape of scores, \[2, 2\], got \[2",
        ),
        ({"targets": [[1, 0], [1, 0]]}, "class 1 has no positive example"),
        ({"difficult": [[1, 0], [0, 0]]}, "class 0 has no positive example"),
    ],
)
def test_bad_input_of_voc07_map_is_named(change, message):
    sound = {"scores": [[1.0, 2], [3, 4]], "targets": [[1, 0], [0, 1]]}
    with pytest.raises(InputError, match=message):
        voc07_map(**sound | change)


@pytest.mark.parametrize(
    "accuracy, examples, message",
    [
        ([0.5, np.nan], None, r"accuracies must lie in \[0, 1\], got \[nan\]"),
        ([93.5], None, r"accuracies must lie in \[0, 1\], got \[93.5\]"),
        ([-0.1], 10, r"accuracies must lie in \[0, 1\], got \[-0.1\]"),
        ([1.0], None, "exactly 0 or 1 has no finite log-odds: give the number of test examples"),
        ([0.5], 0, "examples must be at least 1, got 0"),
    ],
)
def test_bad_input_of_log_odds_is_named(accuracy, examples, message):
    for measure in log_odds, mean_log_odds:
        with pytest.raises(InputError, match=message):
            measure(accuracy, examples=examples)


@pytest.mark.parametrize(
    "accuracies, examples, message",
    [
        ([], None, r"accuracies must be \[sets\], at least one, got \[0\]"),
        (0.5, None, r"accuracies must be \[sets\]"),
        ([0.5, 0.6], [1, 2, 3], r"examples must be one number or 2, got \[3\]"),
    ],
)
def test_bad_input_of_mean_log_odds_is_named(accuracies, examples, message):
    with pytest.raises(InputError, match=message):
        mean_log_odds(accuracies, examples=examples)
