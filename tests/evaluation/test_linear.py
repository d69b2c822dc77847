import functools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from jaxpt.errors import InputError
from jaxpt.evaluation import KORNBLITH_L2_GRID, linear_probe, logistic
from jaxpt.evaluation.linear import L2_GRID

GRID = (1e-4, 1e-2, 1.0)


@functools.cache
def digits():
    """400 training rows (every fourth held out) and 400 test rows of noisy pixels."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels + 8 * np.random.default_rng(0).normal(size=pixels.shape)).astype(np.float32)
    return pixels[:400], labels[:400], pixels[400:800], labels[400:800], np.arange(400) % 4 == 0


def standardised(features, others):
    mean, scale = features.mean(axis=0), features.std(axis=0)
    return (features - mean) / scale, (others - mean) / scale


@functools.cache
def sklearn_fit(l2, part):
    """scikit-learn's solution of the same problem: C = 1 / (n·l2)."""
    train, labels, *_, held_out = digits()
    rows = ~held_out if part == "fitted" else np.ones(400, bool)
    model = LogisticRegression(C=1 / (rows.sum() * l2), tol=1e-8, max_iter=5000)
    return model.fit(standardised(train[rows], train)[0], labels[rows]), rows


def probe(**changes):
    names = ("train_features", "train_labels", "test_features", "test_labels", "validation")
    return linear_probe(**dict(zip(names, digits(), strict=True)) | {"l2_grid": GRID} | changes)


@pytest.mark.parametrize("l2", GRID)
def test_the_solution_is_scikit_learns(l2):
    train, labels, *_ = digits()
    model, _ = sklearn_fit(l2, "all")
    x, _ = standardised(train, train)
    found = logistic.fit(x, labels, 10, [l2])
    weights, bias = found.weights[0], found.bias[0]

    def objective(weights, bias):
        logits = (x @ weights + bias).astype(np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(400), labels].mean() + l2 / 2 * np.sum(weights**2)

    assert objective(weights, bias) < objective(model.coef_.T, model.intercept_) * (1 + 1e-6)
    # The same weights, where the penalty is strong enough to pin them down.
    if l2 >= 1e-2:
        np.testing.assert_allclose(weights, model.coef_.T, atol=5e-3)
        np.testing.assert_allclose(
            bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=5e-3
        )
    assert np.mean(np.argmax(x @ weights + bias, axis=1) == model.predict(x)) > 0.995


def test_validation_chooses_by_fits_that_never_saw_it():
    train, labels, *_, held_out = digits()
    found, expected = probe(), []
    for l2 in GRID:
        model, rows = sklearn_fit(l2, "fitted")
        _, x = standardised(train[rows], train[held_out])
        expected.append(np.mean(model.predict(x) == labels[held_out]))
    np.testing.assert_allclose(found.validation_accuracy, expected, atol=0.011)  # one of 100
    assert found.validation_accuracy.argmax() == GRID.index(found.l2)
    assert found.l2 == 1e-2 and np.ptp(found.validation_accuracy) > 0.03


def test_the_test_part_is_predicted_by_a_fit_on_train_and_validation():
    train, _, test, labels, _ = digits()
    found = probe()
    _, x = standardised(train, test)
    everything, _ = sklearn_fit(found.l2, "all")
    agreement = np.mean(found.predictions == everything.predict(x))
    assert agreement > 0.99
    fitted, rows = sklearn_fit(found.l2, "fitted")
    assert np.mean(found.predictions == fitted.predict(standardised(train[rows], test)[1])) < 0.98
    assert found.accuracy == np.mean(found.predictions == labels)
    assert found.predictions.dtype == np.int64


def test_nothing_but_the_accuracy_depends_on_test_labels():
    _, _, test, labels, _ = digits()
    before, shuffled = probe(), np.random.default_rng(0).permutation(labels)
    after = probe(test_labels=shuffled)
    assert after.l2 == before.l2
    np.testing.assert_array_equal(after.validation_accuracy, before.validation_accuracy)
    np.testing.assert_array_equal(after.predictions, before.predictions)
    assert after.accuracy == np.mean(before.predictions == shuffled) < 0.2 < before.accuracy


def test_the_choice_does_not_depend_on_test_features():
    _, _, test, _, _ = digits()
    before, after = probe(), probe(test_features=1e6 * test[::-1])
    assert after.l2 == before.l2
    np.testing.assert_array_equal(after.validation_accuracy, before.validation_accuracy)


def blobs(classes=(0, 1), n=30, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(classes, n)
    centers = 8 * np.eye(len(classes), dim)
    x = centers[np.repeat(np.arange(len(classes)), n)] + rng.normal(size=(len(labels), dim))
    return x.astype(np.float32), labels


def test_of_equally_good_strengths_the_largest_wins():
    x, labels = blobs()
    validation = np.arange(60) % 3 == 0
    for grid in (1e-3, 1e-2, 0.1), (1e-2, 0.1, 1e-3):
        found = linear_probe(x, labels, x, labels, validation=validation, l2_grid=grid)
        np.testing.assert_array_equal(found.validation_accuracy, 1)
        assert found.l2 == 0.1 and found.accuracy == 1


def test_labels_may_be_any_integers():
    x, labels = blobs(classes=(-3, 7, 40))
    found = linear_probe(x, labels, x, labels, validation=np.arange(90) % 3 == 0)
    np.testing.assert_array_equal(found.predictions, labels)


def test_units_of_features_do_not_matter():
    train, _, test, _, _ = digits()
    unit, shift = np.geomspace(1e-3, 1e3, 64), np.linspace(-5, 5, 64)
    before = probe(l2_grid=(0.1,))
    after = probe(
        train_features=train * unit + shift, test_features=test * unit + shift, l2_grid=(0.1,)
    )
    assert np.mean(after.predictions == before.predictions) > 0.995


def test_constant_features_change_nothing():
    train, _, test, _, _ = digits()
    constant = np.full((400, 3), [0.0, 1e-7, 1e5], np.float32)
    before, after = (
        probe(),
        probe(
            train_features=np.hstack([train, constant]), test_features=np.hstack([test, constant])
        ),
    )
    assert np.mean(after.predictions == before.predictions) > 0.995


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"train_features": np.full((400, 64), np.nan)},
            "train features of 400 examples are not fin",
        ),
        ({"test_features": np.ones((0, 64)), "test_labels": np.ones(0)}, "test features must be"),
        ({"train_labels": np.zeros(3)}, r"train features have 400 rows but labels of shape \[3\]"),
        ({"test_labels": np.zeros(3)}, r"test features have 400 rows but labels of shape \[3\]"),
        (
            {"test_features": np.ones((400, 5))},
            "train features have 64 columns but test features 5",
        ),
        ({"validation": np.zeros(400, bool)}, "hold out some but not all of the 400 .* got 0"),
        ({"validation": np.ones(400, bool)}, "hold out some but not all of the 400 .* got 400"),
        ({"validation": np.arange(5) < 2}, r"validation must have shape \[400\], got \[5\]"),
        ({"train_labels": np.full(400, 3)}, r"at least two classes, got \[3\]"),
        ({"l2_grid": ()}, "l2_grid must hold at least one strength"),
        ({"l2_grid": [1.0, 0.0]}, r"must hold positive strengths, got \[0.0\]: separable classes"),
        ({"l2_grid": [-2.0]}, r"must hold positive strengths, got \[-2.0\]"),
        ({"l2_grid": [np.nan]}, r"must hold positive strengths, got \[nan\]"),
        ({"l2_grid": 1.0}, r"l2_grid must be \[strengths\], got \[\]"),
        ({"validation": 0.0}, "a share between 0 and 1 or a mask of 400 rows, got 0.0"),
        ({"validation": 1.0}, "a share between 0 and 1 or a mask of 400 rows, got 1.0"),
        ({"validation": 1e-6}, "hold out some but not all of the 400 .* got 0"),
        ({"validation": np.arange(400)}, "validation must be a boolean mask, got int64"),
        ({"validation": digits()[1] == 3}, r"all examples of class \[3\] are held out"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        probe(**change)


def test_a_share_holds_out_that_part_of_every_class():
    train, labels, *_ = digits()
    rng, mask = np.random.default_rng(0), np.zeros(400, bool)
    for c in range(10):
        rows = rng.permutation(np.flatnonzero(labels == c))
        mask[rows[: round(0.3 * len(rows))]] = True
    assert same(probe(validation=0.3), probe(validation=mask))
    assert same(probe(validation=0.2), linear_probe(*digits()[:4], l2_grid=GRID))
    assert not same(probe(validation=0.2), probe(validation=0.3))


def test_a_share_leaves_one_example_of_every_class():
    x, labels = blobs(classes=(0, 1, 2))
    few = np.r_[0:31, 60:90]  # one of class 1
    found = linear_probe(x[few], labels[few], x, labels, validation=0.9, l2_grid=[0.1])
    assert found.classes.tolist() == [0, 1, 2]


def same(a, b):
    return (
        a.l2 == b.l2
        and (a.scores == b.scores).all()
        and list(a.validation_accuracy) == list(b.validation_accuracy)
    )


def test_defaults_belong_to_the_protocol():
    x, labels = blobs()
    np.testing.assert_allclose(KORNBLITH_L2_GRID, np.logspace(-6, 5, 45))
    np.testing.assert_allclose(L2_GRID, 10.0 ** np.arange(-5, 2))
    assert len(linear_probe(x, labels, x, labels).validation_accuracy) == 45


def test_scores_are_log_probabilities_in_the_order_of_classes():
    train, labels, test, wanted, _ = digits()
    names = np.array([9, 7, -3, 4, 40, 5, 6, 1, 8, 2])
    found = probe(train_labels=names[labels], test_labels=names[wanted])
    np.testing.assert_array_equal(found.classes, sorted(names))
    np.testing.assert_allclose(np.exp(found.scores).sum(axis=1), 1)
    np.testing.assert_array_equal(found.classes[found.scores.argmax(axis=1)], found.predictions)
    model, _ = sklearn_fit(found.l2, "all")
    expected = model.predict_log_proba(standardised(train, test)[1])[:, np.argsort(names)]
    np.testing.assert_allclose(found.scores, expected, atol=0.02)
    assert 0 < found.gap <= 1e-9


def test_validation_accuracies_keep_the_order_of_the_grid():
    forward, backward = probe(), probe(l2_grid=GRID[::-1])
    np.testing.assert_array_equal(forward.validation_accuracy, backward.validation_accuracy[::-1])
    assert forward.l2 == backward.l2


def test_features_can_stay_as_they_are():
    train, labels, test, wanted, _ = digits()
    units = np.where(np.arange(64) < 32, 1e-3, 1.0)
    plain = probe(l2_grid=[1.0], standardize=False)
    # In float64: in float32 scikit-learn stops where the processor's rounding makes it.
    model = LogisticRegression(C=1 / 400, tol=1e-8, max_iter=5000).fit(train.astype(float), labels)
    assert np.mean(plain.predictions == model.predict(test)) > 0.995
    scaled = probe(
        train_features=train * units, test_features=test * units, l2_grid=[1.0], standardize=False
    )
    assert np.mean(scaled.predictions == plain.predictions) < 0.99


def test_lists_jax_arrays_and_whole_floats_will_do():
    x, labels = blobs()
    options = {"validation": 0.25, "l2_grid": [0.1]}
    plain = linear_probe(x, labels, x, labels, **options)
    for kind in np.ndarray.tolist, jnp.asarray:
        assert same(plain, linear_probe(kind(x), kind(labels), kind(x), kind(labels), **options))
    assert same(plain, linear_probe(x, labels.astype(float), x, labels, **options))
