import functools
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from xla_flags import xla_flags

from jaxpt.evaluation import logistic

GRID = np.logspace(-6, 5, 45)  # Kornblith et al. 2019


def mixture(seed=0, spread=1.0, decades=0.0, collinear=False):
    """300 + 1,000 rows of five classes; columns scaled over ``decades``, some collinear."""
    rng = np.random.default_rng(seed)
    labels = np.arange(1300) % 5
    x = spread * rng.normal(size=(5, 12))[labels] + rng.normal(size=(1300, 12)) + 3
    if collinear:
        x = np.hstack(
            [x, x[:, :3] @ rng.normal(size=(3, 3)), x[:, :2] + 1e-6 * rng.normal(size=(1300, 2))]
        )
    x = x * 10.0 ** rng.permutation(np.linspace(-decades / 2, decades / 2, x.shape[1]))
    return x[:300], labels[:300], x[300:], labels[300:]


def small_digits():
    pixels, labels = load_digits(return_X_y=True)
    x = pixels.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return x[:797], labels[:797], x[797:], labels[797:]


SETS = {
    "digits": small_digits,
    "three decades": functools.partial(mixture, decades=3),
    "six decades": functools.partial(mixture, decades=6),
    "collinear": functools.partial(mixture, decades=6, collinear=True),
    "separable": functools.partial(mixture, spread=6.0),
}


def objective(x, labels, weights, bias, l2):
    logits = x @ weights + bias
    logits = logits - logits[np.arange(len(x)), labels, None]  # the right class at 0
    top = np.maximum(logits.max(axis=1), 0)
    others = np.exp(logits - top[:, None])
    others[np.arange(len(x)), labels] = 0
    loss = top + np.log1p(others.sum(axis=1) + np.expm1(-top))
    return loss.mean() + l2 / 2 * np.sum(weights**2)


@pytest.mark.parametrize("name", SETS)
def test_every_strength_is_scikit_learns(name):
    x, labels, test, test_labels = SETS[name]()
    classes = labels.max() + 1
    found = logistic.fit(x, labels, classes, GRID)
    assert found.gap.max() <= 1e-9
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=200, warm_start=True)
    for i in range(len(GRID))[::-1]:
        model.set_params(C=1 / (len(x) * GRID[i]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it is not good enough, ours must be
            model.fit(x, labels)
        ours = objective(x, labels, found.weights[i], found.bias[i], GRID[i])
        theirs = objective(x, labels, model.coef_.T, model.intercept_, GRID[i])
        assert ours <= theirs * (1 + 1e-5)
        assert found.objective[i] == pytest.approx(ours, rel=1e-6)
        if theirs <= ours * (1 + 1e-5):
            right = np.argmax(test @ found.weights[i] + found.bias[i], axis=1) == test_labels
            assert abs(right.mean() - model.score(test, test_labels)) <= 0.001 + 1e-12


def test_large_problems_in_float32_first_end_at_the_same_place(monkeypatch):
    x, labels, *_ = mixture(decades=3, collinear=True)
    double = logistic.fit(x, labels, 5, GRID[::4])
    monkeypatch.setattr(logistic, "SMALL", 0)
    mixed = logistic.fit(x, labels, 5, GRID[::4])
    assert mixed.gap.max() <= 1e-9
    np.testing.assert_allclose(mixed.objective, double.objective, rtol=1e-7)
    assert (mixed.objective != double.objective).any()


def test_float32_keeps_the_small_digits_of_what_is_almost_certain():
    lead = np.array([-30.0, -1, 0, 1, 10, 30, 60])  # of the right class over the next
    logits = np.stack([lead, 0 * lead, 0 * lead - 3], axis=-1)[:, None] + 5
    one_hot = np.broadcast_to(np.arange(3) == 0, (7, 1, 3))
    others = np.exp(-lead) * (1 + np.exp(-3))
    for i in range(7):
        loss, residuals = logistic.cross_entropies(
            np.float32(logits[i : i + 1]), one_hot[i : i + 1]
        )
        np.testing.assert_allclose(loss, [np.log1p(others[i])], rtol=1e-5)
        np.testing.assert_allclose(residuals[0, 0, 0], -others[i] / (1 + others[i]), rtol=1e-5)
        np.testing.assert_allclose(
            residuals[0, 0, 1], np.exp(-lead[i]) / (1 + others[i]), rtol=1e-5
        )


def test_groups_do_not_matter(monkeypatch):
    x, labels, *_ = mixture()
    together = logistic.fit(x, labels, 5, GRID[::4])
    monkeypatch.setattr(logistic, "COLUMNS", 25)
    assert logistic._group_size(300, 13, 5, 12) == 4
    apart = logistic.fit(x, labels, 5, GRID[::4])
    np.testing.assert_allclose(apart.objective, together.objective, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, size",
    [
        ((100, 10, 10, 45), 45),  # 450 columns at once
        ((10_000, 513, 50, 45), 9),  # at most ten: five groups of nine
        ((10_000, 513, 1000, 45), 1),
        ((10**6, 513, 10, 45), 5),  # 50 a group would be 20 GB
    ],
)
def test_a_group_stays_under_its_bounds(shape, size):
    assert logistic._group_size(*shape) == size


def test_the_order_of_strengths_is_the_callers():
    x, labels, *_ = mixture()
    grid = np.array([1e-2, 10.0, 1e-4, 0.1])
    found = logistic.fit(x, labels, 5, grid)
    for i, l2 in enumerate(grid):
        value = objective(x, labels, found.weights[i], found.bias[i], l2)
        assert found.objective[i] == pytest.approx(value, rel=1e-9)
    assert (np.argsort(found.objective) == [2, 0, 3, 1]).all()


def test_more_features_than_rows_end_at_a_stationary_point():
    x, labels, *_ = mixture()
    wide = np.hstack([x[:40], np.random.default_rng(1).normal(size=(40, 60))])
    found = logistic.fit(wide, labels[:40], 5, [1e-3, 1.0])
    for i, l2 in enumerate((1e-3, 1.0)):  # stationary in the features as they are
        p = np.exp(logistic.log_probabilities(wide, found.weights[i], found.bias[i]))
        error = (p - np.eye(5)[labels[:40]]) / 40
        np.testing.assert_allclose(wide.T @ error + l2 * found.weights[i], 0, atol=2e-5)
        np.testing.assert_allclose(error.sum(axis=0), 0, atol=2e-5)


def test_features_that_tell_nothing_leave_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    found = logistic.fit(np.full((10, 4), 7.0), labels, 3, [0.1])
    log_p = logistic.log_probabilities(np.full((1, 4), 7.0), found.weights[0], found.bias[0])
    np.testing.assert_allclose(np.exp(log_p), [[0.5, 0.3, 0.2]], rtol=1e-9)
    np.testing.assert_allclose(found.weights, 0, atol=1e-12)


def test_two_points_have_a_closed_form():
    # At ±1 with weights ±w/2 on a class: log(1 + e^(−w)) + l2·w²/4, so w = 2/(l2 (1 + e^w)).
    w = 1.0
    l2 = 2 / (w * (1 + np.exp(w)))
    found = logistic.fit([[1.0], [-1.0]], np.array([0, 1]), 2, [l2])
    np.testing.assert_allclose(found.weights[0], [[w / 2, -w / 2]], rtol=1e-4)
    assert found.objective[0] == pytest.approx(np.log1p(np.exp(-w)) + l2 * w**2 / 4, rel=1e-9)


def test_a_strength_may_come_twice(monkeypatch):
    monkeypatch.setattr(logistic, "COLUMNS", 10)  # groups of two
    x, labels, *_ = mixture()
    once, twice = (logistic.fit(x, labels, 5, grid) for grid in ([1.0, 0.1], [1, 1, 0.1, 0.1]))
    np.testing.assert_allclose(twice.objective, np.repeat(once.objective, 2), rtol=1e-7)


def test_the_order_of_rows_does_not_matter():
    x, labels, *_ = mixture()
    order = np.random.default_rng(2).permutation(300)
    first, second = (logistic.fit(x[r], labels[r], 5, [1e-3]) for r in (slice(None), order))
    assert second.objective[0] == pytest.approx(first.objective[0], rel=1e-9)


def test_what_has_not_converged_is_named():
    x, labels, *_ = mixture()
    with pytest.warns(RuntimeWarning, match=r"not converged for l2 = 1e-05: .* after 8 it"):
        found = logistic.fit(x, labels, 5, [100.0, 1e-5], max_iterations=8)
    assert found.gap[0] <= 1e-9 < found.gap[1] and found.iterations[1] == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic.fit(x, labels, 5, [1e-5])


PROGRAM = """
import numpy as np
from sklearn.datasets import load_digits
from jaxpt.evaluation import linear_probe
x, y = load_digits(return_X_y=True)
found = linear_probe(x[:300], y[:300], x[300:600], y[300:600], l2_grid=[1e-3, 0.1])
print(found.accuracy.hex(), found.l2, found.validation_accuracy.tolist(), found.scores.sum().hex())
"""


def test_one_and_eight_devices_give_the_same_numbers():
    def run(devices):
        env = os.environ | {"XLA_FLAGS": xla_flags(devices, optimization=3)}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, check=True, capture_output=True, text=True
        ).stdout

    assert run(1) == run(8) != ""
