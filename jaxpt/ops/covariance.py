"""Square roots of covariance matrices by Newton–Schulz iterations."""

import functools

import jax
import jax.numpy as jnp

# Accelerators multiply float32 in lower precision by default.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def covariance(x: jax.Array) -> jax.Array:
    """Covariance of the columns of each matrix: float [batch, rows, dim] → [batch, dim, dim].

    Divides by the number of rows, as second-order pooling does.
    """
    x = x - jnp.mean(x, axis=1, keepdims=True)
    return _matmul(x.mT, x) / x.shape[1]


def matrix_sqrt(matrices: jax.Array, iterations: int = 24) -> jax.Array:
    """Square roots of symmetric positive semi-definite matrices.

    With A = Σ / tr Σ, Y₀ = A and Z₀ = I, each iteration computes T = ½ (3 I − Z Y), Y ← Y T and
    Z ← T Z. Y converges to √A, and the result is √(tr Σ) Y. Only matrix products are needed, and
    the gradient is that of the iterations, which is finite for singular matrices too.

    Eigenvalues of A far below 1.5^(−2n) after n iterations have not converged: their roots come out
    too small. The error of the result is at most 0.036 √(tr Σ) in spectral norm after 5 iterations,
    0.0048 after 10 and 0.000017 after 24.

    Args:
      matrices: float [batch, dim, dim].
      iterations: n ≥ 1.

    Returns:
      float32 [batch, dim, dim]; zero for a matrix of zeros.

    Source:
      Li et al., "Towards faster training of global covariance pooling networks by iterative matrix
      square root normalization" (iSQRT-COV), CVPR 2018.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    matrices = matrices.astype(jnp.float32)
    trace = jnp.trace(matrices, axis1=1, axis2=2)[:, None, None]
    # A matrix of zeros has trace 0, where division and root have no gradient.
    trace = jnp.where(trace > 0, trace, 1.0)
    identity = jnp.eye(matrices.shape[-1])

    def iterate(pair, _):
        y, z = pair
        t = (3 * identity - _matmul(z, y)) / 2
        return (_matmul(y, t), _matmul(t, z)), None

    start = matrices / trace, jnp.broadcast_to(identity, matrices.shape)
    (y, _), _ = jax.lax.scan(iterate, start, length=iterations)
    return jnp.sqrt(trace) * y
