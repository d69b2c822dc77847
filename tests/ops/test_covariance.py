"""Square roots of covariance matrices, against NumPy's eigendecomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.ops.covariance import covariance, matrix_sqrt


def by_eigenvalues(matrices):
    values, vectors = np.linalg.eigh(np.asarray(matrices, np.float64))
    return vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)


def maps(rows, dim, scale=1.0, batch=5):
    """Activations as after a ReLU, with unequal channels."""
    rng = np.random.default_rng((rows, dim))
    x = rng.normal(size=(batch, rows, dim)) @ rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return (scale * np.maximum(x, 0)).astype(np.float32)


# More rows than columns, as many, and fewer: then the covariance is singular.
@pytest.mark.parametrize(("rows", "dim"), [(50, 4), (16, 16), (9, 24), (2, 3)])
def test_the_root_is_numpys_root_of_numpys_covariance(rows, dim):
    x = maps(rows, dim)
    wanted = np.stack([np.cov(one, rowvar=False, bias=True) for one in x.astype(np.float64)])
    np.testing.assert_allclose(covariance(x), wanted, atol=1e-6)
    root = matrix_sqrt(covariance(x))
    np.testing.assert_allclose(root, by_eigenvalues(wanted), atol=1e-4)


@pytest.mark.parametrize(("iterations", "error"), [(5, 0.036), (10, 0.0048), (24, 0.000017)])
def test_the_error_is_at_most_what_is_documented(iterations, error):
    small = np.logspace(-12, np.log10(0.5), 300)
    matrices = np.stack([np.diag([x, 1 - x]) for x in small]).astype(np.float32)
    found = matrix_sqrt(matrices, iterations)
    worst = np.abs(found - by_eigenvalues(matrices)).max()
    assert 0.9 * error < worst <= error


def test_the_root_scales_with_the_square_root_and_zero_stays_zero():
    matrices = np.array(covariance(maps(9, 4)))
    for scale in 1e-20, 1e20:
        np.testing.assert_allclose(
            matrix_sqrt(scale * matrices), np.sqrt(scale) * matrix_sqrt(matrices), rtol=1e-4
        )
    assert not np.any(matrix_sqrt(np.zeros((2, 3, 3))))


def test_the_gradient_is_that_of_the_root_and_finite_for_singular_matrices():
    weights = np.random.default_rng(0).normal(size=(4, 4))

    @jax.jit
    @jax.grad
    def gradient(x):
        return jnp.sum(weights * matrix_sqrt(covariance(x)))

    x = maps(12, 4, batch=1)
    found = np.asarray(gradient(x))[0]
    step = 1e-6 * np.random.default_rng(1).normal(size=x.shape)
    high, low = (
        np.sum(weights * by_eigenvalues([np.cov(y[0].T.astype(np.float64), bias=True)]))
        for y in (x + step, x - step)
    )
    assert np.sum(found * step[0]) == pytest.approx((high - low) / 2, rel=1e-2)
    for singular in maps(2, 4), np.zeros((1, 2, 4), np.float32):
        assert np.isfinite(gradient(singular)).all()


def test_no_iteration_is_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        matrix_sqrt(np.eye(2)[None], 0)
