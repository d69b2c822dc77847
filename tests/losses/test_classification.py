import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from jaxpt.losses import cross_entropy

BATCH, CLASSES = 6, 5
fast = jax.jit(cross_entropy, static_argnames="label_smoothing")


@functools.partial(jax.jit, static_argnames="label_smoothing")
def gradient_of(logits, labels, **options):
    return jax.grad(lambda x: cross_entropy(x, labels, **options).sum())(logits)


def random(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, CLASSES)).astype(np.float32), rng.integers(CLASSES, size=BATCH)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equal_logits_give_the_log_of_the_number_of_classes(smoothing):
    losses = fast(np.full((2, 4), 7.0, np.float32), np.array([0, 3]), label_smoothing=smoothing)
    np.testing.assert_allclose(losses, [math.log(4)] * 2, rtol=1e-6)
    assert losses.dtype == jnp.float32


def test_smoothing_spreads_its_share_over_all_classes_the_right_one_included():
    loss = fast(np.array([[math.log(3.0), 0.0]], np.float32), np.array([0]), label_smoothing=0.2)
    # p = (3/4, 1/4) against the target (0.9, 0.1).
    np.testing.assert_allclose(loss, [0.9 * math.log(4 / 3) + 0.1 * math.log(4)], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("scale, dtype", [(1, np.float32), (100, np.float32), (1e30, np.float32),
                                          (1, jnp.bfloat16), (300, jnp.float16)])
def test_it_equals_the_oracle(scale, dtype, smoothing):
    logits, labels = random()
    logits = (scale * logits).astype(dtype)
    losses = fast(logits, labels, label_smoothing=smoothing)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6 * scale)
    assert losses.dtype == jnp.float32


@given(logits=hnp.arrays(np.float32, (BATCH, CLASSES), elements=st.floats(-50, 50, width=16)),
       labels=hnp.arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1)),
       smoothing=st.sampled_from([0.0, 0.1]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_it_equals_the_oracle_and_its_gradients_sum_to_zero(logits, labels, smoothing):
    losses = fast(logits, labels, label_smoothing=smoothing)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    gradient = gradient_of(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_softmax_minus_target(smoothing):
    logits, labels = random(1)
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient_of(logits, labels, label_smoothing=smoothing),
                               softmax - target, rtol=1e-5, atol=1e-6)


def test_gradients_pass_jaxs_own_check():
    logits, labels = random(2)
    loss = functools.partial(fast, labels=labels, label_smoothing=0.1)
    check_grads(loss, (jnp.asarray(logits),), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("row, label, expected", [
    ([0.0, -np.inf, 0.0], 0, math.log(2)),
    ([3e38, -3e38, -3e38], 0, 0.0),
])
def test_classes_ruled_out_by_their_logit_cost_nothing_without_smoothing(row, label, expected):
    logits, labels = np.array([row], np.float32), np.array([label])
    np.testing.assert_allclose(fast(logits, labels), [expected], rtol=1e-6)
    assert np.isfinite(gradient_of(logits, labels)).all()


def test_a_label_outside_of_the_classes_gives_nan_in_its_own_row_alone():
    logits, labels = random(3)
    bad = np.where(np.arange(BATCH) == 1, -1, labels)
    bad[4] = CLASSES
    losses = fast(logits, bad)
    np.testing.assert_array_equal(np.isnan(losses), np.isin(np.arange(BATCH), [1, 4]))
    good = ~np.isnan(losses)
    np.testing.assert_allclose(losses[good], oracles.cross_entropy(logits, labels)[good], rtol=1e-5)


def test_where_zeroes_rows_even_with_a_label_outside():
    logits, labels = random(4)
    where = np.arange(BATCH) % 2 == 0
    losses = fast(logits, np.where(where, labels, -1), where=where)
    np.testing.assert_array_equal(losses[~where], 0)
    np.testing.assert_allclose(losses[where], fast(logits, labels)[where], rtol=1e-6)
    gradient = gradient_of(logits, labels, where=where)
    assert gradient[where].any(axis=1).all() and not gradient[~where].any()


@pytest.mark.parametrize("change, error, message", [
    ({"logits": np.ones((3, 2), int)}, TypeError, "logits must be floating point, got dtype int"),
    ({"logits": np.ones(3, np.float32)}, ValueError, r"logits must be \[batch, classes\]"),
    ({"labels": np.zeros(2, int)}, ValueError, r"got shapes \(3, 2\) and \(2,\)"),
    ({"labels": np.zeros((3, 2), np.float32)}, ValueError, r"got shapes \(3, 2\) and \(3, 2\)"),
    ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be at least 0 and below 1, got 1"),
    ({"label_smoothing": -0.1}, ValueError, "got -0.1"),
    ({"where": np.ones((3, 1), bool)}, ValueError, r"where must have shape \[3\], got .*3, 1"),
])
def test_bad_arguments_are_named(change, error, message):
    arguments = {"logits": np.ones((3, 2), np.float32), "labels": np.zeros(3, int)} | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: cross_entropy(**arguments))
