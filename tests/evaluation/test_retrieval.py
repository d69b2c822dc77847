import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from jaxpt.errors import InputError
from jaxpt.evaluation import Retrieval, retrieval


def features(seed=0, n=30, dim=4, classes=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)), rng.integers(classes, size=n)


def loop(gallery, labels, queries, wanted, ids, query_ids, at):
    """One query at a time, the ranking as a sorted list: wrong ones first among equals."""
    gallery, queries, recall, precisions = oracles.unit(gallery), oracles.unit(queries), [], []
    for i, q in enumerate(queries):
        allowed = oracles.admissible(i, len(gallery), query_ids, ids, None)
        ranking = sorted(
            allowed, key=lambda j: (-round(float(gallery[j] @ q), 9), labels[j] == wanted[i])
        )
        right = [labels[j] == wanted[i] for j in ranking]
        if any(right):
            recall.append([any(right[:k]) for k in at])
            precisions.append(
                np.mean([np.mean(right[: r + 1]) for r in range(len(right)) if right[r]])
            )
    return dict(zip(at, np.mean(recall, axis=0))), np.mean(precisions), len(precisions)


def assert_same(found, expected):
    assert found.recall == pytest.approx(expected[0])
    assert found.map == pytest.approx(expected[1]) and found.queries == expected[2]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 12))
def test_a_set_against_itself_is_the_loop(seed, dim, batch_size):
    x, labels = features(seed, dim=dim)
    x = np.round(2 * x)  # many equal directions, and some vectors of zero
    found = retrieval(x, labels, at=(1, 3, 7), batch_size=batch_size)
    own = np.arange(30)
    assert_same(found, loop(x, labels, x, labels, own, own, (1, 3, 7)))


@pytest.mark.parametrize("with_ids", [False, True])
def test_queries_of_their_own_are_the_loop(with_ids):
    x, labels = features(1)
    queries, wanted = features(2, n=11, classes=7)  # classes 5 and 6 are not in the gallery
    ids, query_ids = (np.arange(30) // 3, np.arange(11)) if with_ids else (None, None)
    found = retrieval(
        x,
        labels,
        query_features=queries,
        query_labels=wanted,
        ids=ids,
        query_ids=query_ids,
        at=(2, 5),
        batch_size=4,
    )
    assert_same(found, loop(x, labels, queries, wanted, ids, query_ids, (2, 5)))
    assert found.queries < 11


def test_average_precision_is_scikit_learns_where_nothing_is_tied():
    x, labels = features(3)
    queries, wanted = features(4, n=9)
    found = retrieval(x, labels, query_features=queries, query_labels=wanted)
    cosine = oracles.unit(queries) @ oracles.unit(x).T
    assert found.map == pytest.approx(
        np.mean([average_precision_score(labels == w, s) for w, s in zip(wanted, cosine)])
    )


def test_a_ranking_by_hand():
    # Ranks of the right ones: 1 and 3 of four.
    angles = np.array([0.1, 0.2, 0.3, 0.4])
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    found = retrieval(x, [1, 0, 1, 0], query_features=[[5, 0]], query_labels=[1], at=(1, 2))
    assert found == Retrieval({1: 1.0, 2: 1.0}, pytest.approx((1 + 2 / 3) / 2), 1)
    found = retrieval(x, [1, 0, 1, 0], query_features=[[5, 0]], query_labels=[0], at=(1, 2, 99))
    assert found.recall == {1: 0, 2: 1, 99: 1} and found.map == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_an_example_never_finds_itself():
    x = np.eye(4)
    assert retrieval(x, [0, 1, 0, 1], at=(1,)).recall == {1: 0}
    # One image in two rows: with ids its copy is left out too, and class 0 has no other.
    doubled, labels = np.repeat(x, 2, axis=0), [0, 0, 1, 1, 1, 1, 2, 2]
    assert retrieval(doubled, labels, at=(1,)).recall == {1: 1}
    found = retrieval(doubled, labels, ids=np.repeat(range(4), 2), at=(1,))
    assert found.recall == {1: 0} and found.queries == 4


def test_collapse_to_one_point_earns_nothing_whatever_the_order_of_rows():
    x, labels = np.full((30, 7), 0.3), np.repeat([0, 1, 2], 10)
    expected = np.mean([r / (20 + r) for r in range(1, 10)])  # 20 wrong ones before the nine
    for order in np.arange(30), np.random.default_rng(0).permutation(30):
        found = retrieval(x * np.geomspace(0.1, 10, 30)[:, None], labels[order])
        assert found.recall == {1: 0, 5: 0, 10: 0} and found.map == pytest.approx(expected)


def test_collapsed_classes_are_found_at_once():
    found = retrieval(np.repeat(features(5, n=6)[0], 5, axis=0), np.repeat(range(6), 5))
    assert found.recall == {1: 1, 5: 1, 10: 1} and found.map == 1 and found.queries == 30


def test_a_class_of_one_example_does_not_count():
    x = np.array([[1, 0], [2, 0.1], [0, 1.0]])
    assert retrieval(x, [0, 0, 5], at=(1,)) == Retrieval({1: 1.0}, 1.0, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": np.full((4, 2), np.nan)}, "features of 4 examples are not finite"),
        ({"features": np.ones((0, 2)), "labels": []}, "features must be"),
        ({"labels": [0, 1]}, r"4 rows but labels of shape \[2\]"),
        ({"labels": [0, 1, 2, 3]}, "no query has another example of its class"),
        ({"at": ()}, r"at must hold ks of at least 1, got \(\)"),
        ({"at": (1, 0)}, r"at must hold ks of at least 1, got \(1, 0\)"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"query_features": np.ones((2, 2))}, "query_features and query_labels belong together"),
        (
            {"query_features": np.ones((2, 3)), "query_labels": [0, 1]},
            "2 columns but test features 3",
        ),
        ({"query_features": np.ones((2, 2)), "query_labels": [0]}, r"labels of shape \[1\]"),
        ({"query_ids": [0, 1, 2, 3]}, "query_ids belong to query_features"),
        ({"ids": [0, 1]}, r"ids must have shape \[4\], got \[2\]"),
        (
            {"query_features": np.ones((2, 2)), "query_labels": [0, 1], "ids": [0, 1, 2, 3]},
            "ids and query_ids belong together",
        ),
        (
            {
                "query_features": np.ones((2, 2)),
                "query_labels": [0, 1],
                "ids": [0, 1, 2, 3],
                "query_ids": [3],
            },
            r"query_ids must have shape \[2\], got \[1\]",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    sound = {"features": np.arange(8.0).reshape(4, 2), "labels": [0, 0, 1, 1]}
    with pytest.raises(InputError, match=message):
        retrieval(**sound | change)
