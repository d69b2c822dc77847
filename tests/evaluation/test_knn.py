import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.errors import InputError
from jaxpt.evaluation import knn_classify


def features(seed=0, train=40, test=9, dim=6, classes=4):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(train, dim)).astype(np.float32),
        rng.integers(classes, size=train),
        rng.normal(size=(test, dim)).astype(np.float32),
    )


def vote(bank, labels, queries, *, k, temperature, train_ids=None, test_ids=None):
    """The classifier in loops: one dictionary of votes for each query."""
    bank, predictions = oracles.unit(bank), []
    for i, q in enumerate(oracles.unit(queries)):
        s = bank @ q
        allowed = oracles.admissible(i, len(bank), test_ids, train_ids, None)
        votes = dict.fromkeys(sorted(set(labels.tolist())), 0.0)
        for j in oracles.largest(s, k, allowed):
            votes[int(labels[j])] += math.exp(s[j] / temperature)
        predictions.append(max(votes, key=votes.get))
    return np.array(predictions)


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (5, 0.07), (5, 1.0), (40, 0.3), (999, 1e3)])
def test_predictions_are_those_of_the_loop(k, temperature):
    for seed in range(3):
        args = features(seed)
        predicted = knn_classify(*args, k=k, temperature=temperature)
        np.testing.assert_array_equal(predicted, vote(*args, k=k, temperature=temperature))
        assert predicted.dtype == np.int64


def test_ids_leave_an_example_out_of_its_own_bank():
    bank, labels, _ = features(3)
    ids = np.random.default_rng(3).permutation(40)
    own = knn_classify(bank, labels, bank, k=1)
    np.testing.assert_array_equal(own, labels)
    options = {"k": 1, "train_ids": ids, "test_ids": ids}
    without = knn_classify(bank, labels, bank, **options)
    np.testing.assert_array_equal(without, vote(bank, labels, bank, temperature=0.07, **options))
    assert (without != labels).any()


def test_lengths_of_features_do_not_matter():
    bank, labels, queries = features(4)
    stretch = np.geomspace(1e-20, 1e20, 40, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        knn_classify(stretch * bank, labels, 1e-10 * queries, k=7),
        knn_classify(bank, labels, queries, k=7),
    )


def test_temperature_decides_between_one_near_and_two_far():
    bank = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels, query = np.array([2, 1, 1]), np.array([[1.0, 0.0]])
    # The far ones outvote the near one where 2 exp(−0.4/τ) > 1: above τ = 0.4 / log 2 = 0.577.
    for temperature, winner in (0.01, 2), (0.5, 2), (0.65, 1):
        assert knn_classify(bank, labels, query, k=3, temperature=temperature) == winner


def test_defaults_belong_to_the_protocol():
    args = features(6, train=60, test=40)
    np.testing.assert_array_equal(knn_classify(*args), vote(*args, k=20, temperature=0.07))
    # Ten votes against ten, which goes to the lower class: with 19 or 21 neighbours class 1 wins.
    bank, labels = np.ones((30, 2)), np.repeat([1, 0, 1], 10)
    assert knn_classify(bank, labels, bank[:1]) == 0


def test_equal_votes_go_to_the_lower_class():
    bank, query = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[1.0, 0.0]])
    assert knn_classify(bank, np.array([3, 1]), query, k=2) == 1


def test_a_small_temperature_keeps_the_class_of_the_nearest_however_far():
    bank, query = np.eye(3)[:2], np.array([[0.3, 0.2, 0.9]])
    assert knn_classify(bank, np.array([1, 0]), query, k=2, temperature=1e-5) == 1


def exact_vote(bank, labels, queries, k, temperature):
    """In whole numbers: vectors of ±1 in four dimensions have cosines of quarters of −4 … 4."""
    predictions = []
    for q in queries.astype(int):
        quarters = bank.astype(int) @ q
        nearest = sorted(range(len(bank)), key=lambda j: (-quarters[j], j))[:k]
        # Neighbours of each cosine and class; equal counts are equal votes whatever the weights.
        votes = {
            c: math.fsum(
                math.exp((quarters[j] - 4) / 4 / temperature) for j in nearest if labels[j] == c
            )
            for c in set(labels.tolist())
        }
        predictions.append(min(votes, key=lambda c: (-votes[c], c)))
    return np.array(predictions)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 5, 12, 47, 48, 60]),
    st.sampled_from([0.07, 0.3, 1.0, 30.0]),
)
def test_ties_of_cosines_and_of_votes_are_those_of_whole_numbers(seed, k, temperature):
    rng = np.random.default_rng(seed)
    signs, stretch = rng.choice([-1, 1], size=(48, 4)), rng.choice([1, 2, 3, 5, 7], size=(48, 1))
    labels, queries = rng.choice([-5, 0, 3, 900], size=48), rng.choice([-1, 1], size=(16, 4))
    found = knn_classify(
        (signs * stretch).astype(np.float32), labels, 3.0 * queries, k=k, temperature=temperature
    )
    np.testing.assert_array_equal(found, exact_vote(signs, labels, queries, k, temperature))


def test_equal_votes_of_many_neighbours_are_equal_to_the_last_digit():
    # Neighbours at three cosines: as many of both classes at each, in another order.
    bank = np.array([[1, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, -1]])[np.arange(42) % 3]
    labels = np.zeros(42, int)
    for nearness in range(3):  # seven of both
        rows = np.flatnonzero(np.arange(42) % 3 == nearness)
        labels[rows] = np.random.default_rng(nearness).permutation(np.repeat([1, 0], 7))
    for temperature in np.linspace(0.05, 2, 40):
        assert knn_classify(bank, labels, np.ones((1, 4)), k=42, temperature=temperature) == 0


@pytest.mark.parametrize("batch_size", [1, 4, 9, 10])
def test_the_batch_size_does_not_matter(batch_size):
    bank, labels, _ = features(5)
    args, ids = (bank, labels, bank[:9]), {"train_ids": np.arange(40), "test_ids": np.arange(9)}
    np.testing.assert_array_equal(
        knn_classify(*args, k=5, batch_size=batch_size, **ids),
        vote(*args, k=5, temperature=0.07, **ids),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"train_features": np.full((40, 6), np.nan)},
            "train features of 40 examples are not finite",
        ),
        (
            {"test_features": np.array([[0.0] * 6, [np.inf] * 6])},
            "test features of 1 examples are not finite, the first at row 1",
        ),
        ({"train_features": np.ones((0, 6))}, "train features must be .* at least 1, got .0, 6"),
        ({"test_features": np.ones((0, 6))}, "test features must be .* at least 1, got .0, 6"),
        ({"test_features": np.ones(6)}, r"test features must be \[n, dim\] .* got \[6\]"),
        ({"train_labels": np.zeros(39, int)}, r"train features have 40 rows but labels .* \[39\]"),
        ({"test_features": np.ones((9, 5))}, "train features have 6 columns but test features 5"),
        ({"train_ids": np.arange(40)}, "train_ids and test_ids belong together"),
        ({"train_ids": np.arange(40), "test_ids": np.arange(8)}, r"test_ids must have shape \[9\]"),
        (
            {"train_ids": np.arange(9), "test_ids": np.arange(9)},
            r"train_ids must have shape \[40\]",
        ),
        (
            {"train_ids": np.full(40, 3), "test_ids": np.array([0, 1, 3, 4, 5, 6, 7, 8, 9])},
            "the query in row 2 has no neighbour",
        ),
        (
            {
                "train_ids": np.full(40, 3),
                "test_ids": np.array([0, 1, 2, 4, 5, 3, 7, 8, 3]),
                "batch_size": 4,
            },
            "the query in row 5 has no neighbour",
        ),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("train_features", "train_labels", "test_features")
    with pytest.raises(InputError, match=message):
        knn_classify(**dict(zip(names, features(), strict=True)) | change)
