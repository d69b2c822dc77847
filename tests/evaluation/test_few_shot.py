import itertools

import numpy as np
import oracles
import pytest
from sklearn.linear_model import LogisticRegression

from jaxpt.errors import InputError
from jaxpt.evaluation import episodes, few_shot


def classes(n, dim=12, labels=(0, 1, 2), seed=0, noise=1.5):
    """``n`` examples a class around random centres that do not depend on the seed."""
    centers = np.random.default_rng(100).normal(size=(len(labels), dim))
    rng = np.random.default_rng(seed)
    x = np.repeat(centers, n, axis=0) + noise * rng.normal(size=(n * len(labels), dim))
    return (3 * x + 1).astype(np.float32), np.repeat(labels, n)


def primal_accuracy(train, train_labels, test, test_labels, l2):
    """Ridge by its normal equations: a system of features × features unknowns."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-5
    x, z = (np.column_stack([(a - mean) / scale, np.ones(len(a))]) for a in (train, test))
    names = np.unique(train_labels)
    y = np.where(train_labels[:, None] == names, 1.0, -1.0)
    weights = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return np.mean(names[np.argmax(z @ weights, axis=1)] == test_labels)


@pytest.mark.parametrize("shots", [1, 4, 30])  # fewer and more examples than features
@pytest.mark.parametrize("l2", [0.1, 10.0, 1024.0])
def test_it_equals_ridge_regression_in_the_primal(shots, l2):
    # With no more examples than shots, every draw is the whole set.
    train, test = classes(shots, seed=1), classes(200, seed=2)
    accuracies = few_shot(*train, *test, shots=shots, draws=2, l2=l2)
    np.testing.assert_allclose(accuracies, primal_accuracy(*train, *test, l2), atol=2e-3)
    assert accuracies.shape == (2,) and 0.3 < accuracies[0] < 1


def test_every_draw_takes_the_same_number_of_each_class():
    x, labels = classes(3, labels=(0, 1), seed=3, noise=3)
    x, labels = x[:5], labels[:5]  # three of class 0, two of class 1
    test = classes(150, labels=(0, 1), seed=4, noise=3)
    possible = {
        primal_accuracy(x[[i, j]], labels[[i, j]], *test, 10.0)
        for i, j in itertools.product(range(3), range(3, 5))
    }
    found = set(few_shot(x, labels, *test, shots=1, draws=60, l2=10.0))
    assert len(possible) > 3 and found == possible


def test_draws_depend_on_the_seed_alone():
    train, test = classes(20, seed=5), classes(100, seed=6)
    first, again, other = (few_shot(*train, *test, shots=2, draws=6, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and len(set(first)) > 1
    np.testing.assert_array_equal(few_shot(*train, *test, shots=2, draws=3), first[:3])


def test_defaults_belong_to_the_protocol():
    train, test = classes(20, seed=13), classes(100, seed=14)
    np.testing.assert_array_equal(
        few_shot(*train, *test), few_shot(*train, *test, shots=5, draws=5, seed=0, l2=1024.0)
    )


def test_lists_will_do():
    train, test = classes(5, seed=5), classes(20, seed=6)
    as_lists = [x.tolist() for x in (*train, *test)]
    np.testing.assert_allclose(few_shot(*as_lists), few_shot(*train, *test))


def test_labels_may_be_any_integers():
    test = classes(50, seed=8)
    plain = few_shot(*classes(5, seed=7), *test, draws=3)
    renamed = few_shot(
        *classes(5, seed=7, labels=(-4, 9, 70)), test[0], np.array([-4, 9, 70])[test[1]], draws=3
    )
    np.testing.assert_array_equal(plain, renamed)


def test_well_separated_classes_need_one_shot():
    train, test = classes(3, seed=9, noise=0.1), classes(50, seed=10, noise=0.1)
    np.testing.assert_array_equal(few_shot(*train, *test, shots=1, draws=3, l2=1.0), 1)


def test_constant_features_change_nothing():
    train, test = classes(5, seed=11), classes(50, seed=12)
    wider = [(np.hstack([x, np.full((len(x), 2), 7.0, np.float32)]), y) for x, y in (train, test)]
    np.testing.assert_array_equal(few_shot(*wider[0], *wider[1]), few_shot(*train, *test))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"train_features": np.full((15, 12), np.inf)},
            "train features of 15 examples are not finite",
        ),
        ({"test_features": np.full((6, 12), np.nan)}, "test features of 6 examples are not finite"),
        ({"test_labels": np.zeros(5)}, r"test features have 6 rows but labels of shape \[5\]"),
        ({"test_features": np.ones((6, 3))}, "train features have 12 columns but test features 3"),
        ({"shots": 6}, "6 shots need 6 examples of every class, but class 0 has 5"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"head": "svm"}, "head must be 'ridge' or 'logistic', got 'svm'"),
        ({"l2": -1.0}, "l2 must be positive, got -1.0"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("train_features", "train_labels", "test_features", "test_labels")
    arguments = dict(zip(names, (*classes(5), *classes(2)), strict=True)) | change
    with pytest.raises(InputError, match=message):
        few_shot(**arguments)


def test_the_logistic_head_is_scikit_learns_on_unit_vectors():
    train, test = classes(6, seed=15), classes(200, seed=16)
    found = few_shot(*train, *test, shots=6, draws=2, head="logistic")  # all there are
    model = LogisticRegression(C=1, tol=1e-8).fit(oracles.unit(train[0]), train[1])
    np.testing.assert_allclose(found, model.score(oracles.unit(test[0]), test[1]), atol=2e-3)
    strong = few_shot(*train, *test, shots=6, draws=1, head="logistic", l2=10.0)
    model = LogisticRegression(C=1 / 180, tol=1e-8).fit(oracles.unit(train[0]), train[1])
    np.testing.assert_allclose(strong, model.score(oracles.unit(test[0]), test[1]), atol=2e-3)


def centroid_accuracy(x, labels, ways, shots, queries, seed, episode):
    """One episode in loops: the class whose mean of unit vectors is nearest."""
    rng, names = np.random.default_rng((seed, episode)), np.unique(labels)
    chosen, unit, hits = rng.choice(len(names), ways, replace=False), oracles.unit(x), []
    rows = [
        rng.choice(np.flatnonzero(labels == names[c]), shots + queries, replace=False)
        for c in chosen
    ]
    means = [unit[r[:shots]].mean(axis=0) for r in rows]
    for way, r in enumerate(rows):
        for q in r[shots:]:
            hits.append(np.argmin([np.sum((unit[q] - m) ** 2) for m in means]) == way)
    return np.mean(hits)


@pytest.mark.parametrize("ways, shots, queries", [(5, 1, 15), (3, 5, 4), (2, 2, 1)])
def test_episodes_are_those_of_the_loop(ways, shots, queries):
    x, labels = classes(20, labels=(-3, 0, 4, 5, 9, 11, 70), seed=17)
    found = episodes(x, labels, ways=ways, shots=shots, queries=queries, count=20, seed=3)
    expected = [centroid_accuracy(x, labels, ways, shots, queries, 3, e) for e in range(20)]
    np.testing.assert_allclose(found.accuracies, expected, atol=1e-12)
    assert found.accuracy == pytest.approx(np.mean(expected))
    assert found.interval == pytest.approx(1.96 * np.std(expected, ddof=1) / np.sqrt(20))


def test_defaults_of_episodes_belong_to_the_protocol():
    x, labels = classes(20, labels=range(7), seed=18)
    first = episodes(x, labels)
    assert len(first.accuracies) == 600
    again = episodes(x, labels, ways=5, shots=1, queries=15, count=600, seed=0, head="centroid")
    np.testing.assert_array_equal(first.accuracies, again.accuracies)
    np.testing.assert_array_equal(episodes(x, labels, count=4).accuracies, first.accuracies[:4])
    assert (episodes(x, labels, count=4, seed=1).accuracies != first.accuracies[:4]).any()


def test_heads_see_the_same_episodes():
    x, labels = classes(20, labels=range(4), seed=19, noise=0.05)
    for head in "centroid", "logistic":
        assert episodes(x, labels, ways=3, shots=2, queries=3, count=3, head=head)[:2] == (1, 0)


def test_the_logistic_head_of_episodes_is_scikit_learns():
    x, labels = classes(4, labels=range(3), seed=20)
    found = episodes(x, labels, ways=3, shots=2, queries=2, count=2, head="logistic").accuracies
    for episode in range(2):
        rng = np.random.default_rng((0, episode))
        rows = np.stack(
            [
                rng.choice(np.flatnonzero(labels == c), 4, replace=False)
                for c in rng.choice(3, 3, replace=False)
            ]
        )
        known, new = rows[:, :2].ravel(), rows[:, 2:].ravel()
        model = LogisticRegression(C=1, tol=1e-8).fit(oracles.unit(x[known]), labels[known])
        assert found[episode] == model.score(oracles.unit(x[new]), labels[new])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ways": 1}, "ways must be at least 2, got 1"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"count": 1}, "count must be at least 2, got 1"),
        ({"head": "ridge"}, "head must be 'centroid' or 'logistic', got 'ridge'"),
        ({"l2": 0}, "l2 must be positive, got 0"),
        ({"ways": 4}, "4-way episodes need 4 classes, got 3"),
        (
            {"shots": 5},
            "5 shots and 15 queries need 20 examples of every class, but class 0 has 19",
        ),
        ({"features": np.full((57, 12), np.nan)}, "features of 57 examples are not finite"),
    ],
)
def test_bad_episodes_are_named(change, message):
    names = ("features", "labels")
    with pytest.raises(InputError, match=message):
        episodes(**dict(zip(names, classes(19), strict=True)) | {"ways": 3} | change)
