"""Square roots of covariance matrices by Newton–Schulz iterations."""

import functools

import jax
import jax.numpy as jnp

# Accelerators multiply float32 in lower precision by default.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def covariance_sqrt(x: jax.Array, iterations: int = 24) -> jax.Array:
    """Square root of the covariance Σ of the columns of each matrix.

    Let X₀ be the centred matrix over its Frobenius norm, so that Σ = (tr Σ) X₀ᵀ X₀. The iteration
    of Newton and Schulz, X ← ½ (3 I − X Xᵀ) X, raises all positive singular values to 1, which
    leaves the orthogonal factor of X₀, and √Σ = √(tr Σ) X₀ᵀ Xₙ. This equals the iteration on Σ
    itself (iSQRT-COV) in exact arithmetic. But it is stable for singular Σ, where that one
    diverges once rounding makes an eigenvalue negative, and cheaper with fewer rows than columns.

    Singular values of X₀ far below 1.5⁻ⁿ after n iterations have not converged: their roots come
    out too small. The error of the result is at most 0.036 √(tr Σ) in spectral norm after 5
    iterations, 0.0048 after 10 and 0.000017 after 24. The gradient is that of the iterations.

    Args:
      x: float [batch, rows, columns]. Σ divides by the number of rows.
      iterations: n ≥ 1.

    Returns:
      float32 [batch, columns, columns]; zero for rows that are all equal.

    Source:
      Li et al., "Towards faster training of global covariance pooling networks by iterative matrix
      square root normalization" (iSQRT-COV), CVPR 2018; Björck and Bowie, 1971, for the iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    x = x.astype(jnp.float32)
    x = (x - jnp.mean(x, axis=1, keepdims=True)) / jnp.sqrt(x.shape[1])
    # The norm is over the largest entry first, so that no square leaves the range of float32.
    # Neither division has a gradient at 0.
    largest = jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
    x = x / largest
    squares = jnp.sum(x**2, axis=(1, 2), keepdims=True)
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    start = x / norm
    # The smaller of X Xᵀ and Xᵀ X.
    wide = x.shape[1] < x.shape[2]

    def iterate(x, _):
        product = _matmul(_matmul(x, x.mT), x) if wide else _matmul(x, _matmul(x.mT, x))
        return (3 * x - product) / 2, None

    end, _ = jax.lax.scan(iterate, start, length=iterations)
    root = _matmul(start.mT, end)
    # Exactly symmetric, whatever the rounding.
    return largest * norm * (root + root.mT) / 2
