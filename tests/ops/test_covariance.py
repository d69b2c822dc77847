"""Square roots of covariance matrices, against NumPy's eigendecomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.ops.covariance import covariance_sqrt


def by_eigenvalues(x):
    covariances = [np.cov(one, rowvar=False, bias=True) for one in np.asarray(x, np.float64)]
    values, vectors = np.linalg.eigh(covariances)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)


def maps(rows, columns, batch=5):
    """Activations as after a ReLU, with correlated channels."""
    rng = np.random.default_rng((rows, columns))
    x = rng.normal(size=(batch, rows, columns)) @ rng.normal(size=(columns, columns))
    return np.maximum(x / np.sqrt(columns), 0).astype(np.float32)


# More rows than columns, as many, and fewer: then the covariance is singular.
@pytest.mark.parametrize(("rows", "columns"), [(50, 4), (16, 16), (4, 12)])
def test_the_root_is_numpys(rows, columns):
    x = maps(rows, columns)
    np.testing.assert_allclose(covariance_sqrt(x), by_eigenvalues(x), atol=1e-5)


@pytest.mark.parametrize(("iterations", "error"), [(5, 0.036), (10, 0.0048), (24, 0.000017)])
def test_the_error_is_at_most_what_is_documented(iterations, error):
    small = np.logspace(-6, 0, 400)
    sides = np.stack([small, np.sqrt(1 - small**2)], axis=1)  # singular values
    x = np.sqrt(2) * np.stack([-sides, sides], axis=1)[:, :, :, None] * np.eye(2)
    x = x.reshape(400, 4, 2)  # rows ± √2 s₁ e₁, ± √2 s₂ e₂
    found = covariance_sqrt(x, iterations)
    worst = np.abs(found - sides[:, :, None] * np.eye(2)).max()
    assert 0.9 * error < worst <= error


def test_the_root_scales_and_ignores_the_mean():
    x = maps(9, 4)
    root = covariance_sqrt(x)
    for scale in 1e-30, 1e30:
        np.testing.assert_allclose(covariance_sqrt(scale * x), scale * root, rtol=1e-5)
    np.testing.assert_allclose(covariance_sqrt(x + 2), root, atol=1e-5)
    assert not np.any(covariance_sqrt(np.ones((2, 3, 3))))


def test_bfloat16_is_computed_in_float32():
    x = jnp.asarray(maps(9, 4), jnp.bfloat16)
    np.testing.assert_array_equal(covariance_sqrt(x), covariance_sqrt(x.astype(jnp.float32)))


def test_the_gradient_is_that_of_the_root_and_finite_for_singular_matrices():
    weights = np.random.default_rng(0).normal(size=(4, 4))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * covariance_sqrt(x))))
    x = maps(12, 4, batch=1)
    step = 1e-6 * np.random.default_rng(1).normal(size=x.shape)
    high, low = (np.sum(weights * by_eigenvalues(y)) for y in (x + step, x - step))
    assert np.sum(gradient(x) * step) == pytest.approx((high - low) / 2, rel=1e-3)
    for singular in np.repeat(x[:, :3], 4, axis=1), np.ones((1, 12, 4), np.float32):
        found = gradient(singular)
        assert np.isfinite(found).all() and np.abs(found).max() < 10


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        covariance_sqrt(np.ones((1, 2, 2)), 0)
