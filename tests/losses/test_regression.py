import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding

from jaxpt.losses import cosine_regression

pytestmark = pytest.mark.usefixtures("unoptimised")

fast = jax.jit(cosine_regression)


@jax.jit
def gradients(predictions, targets, where=None):
    return jax.grad(lambda p, t: cosine_regression(p, t, where=where).sum(), (0, 1))(
        predictions, targets
    )


@pytest.mark.parametrize(
    "target, expected",
    [([2.0, 0.0], 0), ([0.0, 7.0], 2), ([-0.1, 0.0], 4), ([3.0, 4.0], 0.8), ([0.0, 0.0], 2)],
)
def test_it_is_two_less_twice_the_cosine(target, expected):
    prediction = np.array([[5.0, 0.0]], np.float32)
    for dtype in np.float32, jnp.bfloat16:
        losses = fast(prediction.astype(dtype), np.array([target], dtype))
        np.testing.assert_allclose(losses, [expected], atol=1e-5 if dtype == np.float32 else 0.02)
        assert losses.dtype == jnp.float32


def test_the_gradient_turns_the_prediction_towards_the_target_and_is_smaller_for_longer_ones():
    prediction, target = np.array([[4.0, 0.0]], np.float32), np.array([[0.0, 9.0]], np.float32)
    gradient, none = gradients(prediction, target)
    np.testing.assert_allclose(gradient, [[0, -2 / 4]], rtol=rounding.FEW, atol=rounding.FEW)
    assert not none.any()


def test_zero_rows_have_no_gradient():
    rows, zeros = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    for predictions, targets in (rows, zeros), (zeros, rows), (zeros, zeros):
        np.testing.assert_array_equal(fast(predictions, targets), [2])
        assert not any(x.any() for x in gradients(predictions, targets))


def test_nan_in_a_masked_row_reaches_neither_loss_nor_gradient():
    rows = np.array([[1, 2], [np.nan, np.nan]], np.float32)
    where = np.array([True, False])
    np.testing.assert_array_equal(fast(rows, rows, where=where)[1], 0)
    gradient, _ = gradients(rows, np.ones((2, 2), np.float32), where)
    assert gradient[0].all() and not gradient[1].any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"predictions": np.ones((3, 2), int)}, TypeError, "predictions must be floating point"),
        ({"targets": np.ones((3, 2), int)}, TypeError, "targets must be floating point"),
        (
            {"targets": np.ones((3, 1), np.float32)},
            ValueError,
            r"targets must have the shape of predictions, \(3, 2\), got \(3, 1\)",
        ),
        ({"where": np.ones((3, 1), bool)}, ValueError, r"where must have shape \[3\], got .*3, 1"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = dict.fromkeys(("predictions", "targets"), np.ones((3, 2), np.float32)) | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: cosine_regression(**arguments))
