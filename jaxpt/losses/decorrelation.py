"""Losses of batch statistics: Barlow Twins and VICReg.

They compare columns (a feature over the batch), not rows. A single example has no correlation and
no variance, so these losses have no value per example: both return one scalar for the batch.

With ``axis_name`` that scalar is the loss of the whole batch, on every device. Differentiate it on
each device and average the gradients of shared parameters over the devices (``jax.lax.pmean``), as
for a loss that each device averages over its own rows. Under pmap, vmap and
``shard_map(check_vma=False)`` a psum passes the gradient of every device back to all others, so the
average is the gradient of the full batch. (If ``shard_map`` tracks varying values, its rule, to
take the mean of the loss over devices before differentiating, holds too.)
"""

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim

BATCH_NORM_EPSILON = 1e-5  # ε of the standardising BatchNorm in Barlow Twins' published code
STD_EPSILON = 1e-4  # VICReg's ε under the square root


def barlow_twins(
    first: jax.Array,
    second: jax.Array,
    *,
    redundancy: float = 0.0051,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Barlow Twins loss, which pulls the cross-correlation of two views towards the identity.

    Let C_ij be the correlation over the batch of feature i of the first view with feature j of the
    second, both standardised over the batch (biased variance)::

        loss = Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²

    As in the published code, 1e-5 is added to each variance; the paper's pseudo-code adds nothing.
    A constant column therefore has correlation 0, and columns whose spread is far below 0.003 come
    close to 0: keep the embeddings larger, for example with a final BatchNorm.

    Use:
      Images without labels; needs no predictor, EMA or negatives. Zbontar et al.: projector
      8192-8192-8192, λ 0.0051, LARS, batch 2,048.

    Args:
      first, second: float [batch, dim], the two views of the same examples.
      redundancy: λ; 0.0051 is the paper's, tuned for 8,192 features.
      where: bool [batch]; False rows are left out of the statistics.
      axis_name: mapped axis; the statistics are then those of the rows of all its devices.

    Returns:
      float32 scalar, a statistic of the whole batch; there are no losses per example. 0 if there is
      no row, dim if there is only one.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      Two uncorrelated features that are equal in both views, so C_ii = 1 except for the 1e-5; then
      the same with the features of the second view swapped: C = [[0, 1], [1, 0]].

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import barlow_twins
      >>> z = jnp.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
      >>> print(f"{barlow_twins(z, z):.4f} {barlow_twins(z, z[:, ::-1], redundancy=0.1):.4f}")
      0.0000 2.2000

    References:
      Zbontar et al., "Barlow Twins: self-supervised learning via redundancy reduction", ICML 2021,
      equation 1.
    """
    views, kept, rows = _prepare(first, second, where, axis_name)
    n = jnp.maximum(rows, 1)
    first, second = jnp.split(_standardised(views, kept, n, axis_name), 2, axis=1)
    correlation = _over_devices(sim.similarities(first.T, second.T), axis_name) / n
    diagonal = jnp.eye(correlation.shape[0], dtype=bool)
    loss = jnp.sum(jnp.where(diagonal, (1 - correlation) ** 2, redundancy * correlation**2))
    return jnp.where(rows > 0, loss, 0.0)


def vicreg(
    first: jax.Array,
    second: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """VICReg loss of invariance between views, variance of features and their covariance.

    It makes the two views alike, keeps the standard deviation of every feature at 1 or more, and
    decorrelates the features. With n rows, d features, and unbiased variances Var and covariances
    Cov over the batch::

        loss = invariance · mean over rows and features of (first − second)²
             + variance   · mean over both views and features of max(0, 1 − √(Var_j + 1e-4))
             + covariance · Σ over both views of 1/d Σ_{i≠j} Cov_ij²

    The terms are scaled as in the published code, for which the weights 25, 25, 1 were chosen: the
    variance term is the *mean* over the views, the covariance term the *sum* over the views, and
    the distance is averaged over the features (the paper's text sums over both views in the
    variance term and over the features in the distance). Embeddings are not normalised: coordinates
    beyond about 1e7 overflow float32 in the squared covariances.

    Use:
      Like ``barlow_twins``; the branches need not share weights, so they may be different networks.
      Bardes et al.: weights 25, 25, 1, expander 8192-8192-8192, LARS, batch 2,048.

    Args:
      first, second: float [batch, dim], the two views of the same examples.
      invariance, variance, covariance: the three weights.
      where: bool [batch]; False rows are left out of the statistics.
      axis_name: mapped axis; the statistics are then those of the rows of all its devices.

    Returns:
      float32 scalar, a statistic of the whole batch; there are no losses per example. 0 if there is
      no row; a single row has variance 0.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      Both views are equal and constant: standard deviation √1e-4 = 0.01, so the loss is 25 · 0.99.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import vicreg
      >>> print(f"{vicreg(jnp.ones((4, 2)), jnp.ones((4, 2))):.4f}")
      24.7500

    References:
      Bardes, Ponce and LeCun, "VICReg: variance-invariance-covariance regularization for
      self-supervised learning", ICLR 2022.
    """
    views, kept, rows = _prepare(first, second, where, axis_name)
    n = jnp.maximum(rows, 1)
    dim = views.shape[1] // 2
    distance, total = _over_devices(
        (jnp.sum((views[:, :dim] - views[:, dim:]) ** 2), jnp.sum(views, axis=0)), axis_name
    )
    centred = jnp.where(kept, views - total / n, 0.0)
    products = jnp.stack([sim.similarities(x.T, x.T) for x in jnp.split(centred, 2, axis=1)])
    products, squares = _over_devices((products, jnp.sum(centred**2, axis=0)), axis_name)
    degrees = jnp.maximum(n - 1, 1)
    hinge = jnp.mean(jax.nn.relu(1 - jnp.sqrt(squares / degrees + STD_EPSILON)))
    between = jnp.sum((products / degrees) ** 2, where=~jnp.eye(dim, dtype=bool)) / dim
    loss = invariance * distance / (n * dim) + variance * hinge + covariance * between
    return jnp.where(rows > 0, loss, 0.0)


def _prepare(first, second, where, axis_name):
    """Checks the arguments and returns the views side by side.

    Returns:
      (float32 [batch, 2·dim] with masked rows set to zero, bool [batch, 1] of kept rows, number of
      kept rows over all devices).
    """
    sim.check_embeddings("first", first)
    sim.check_like("second", second, "first", first)
    sim.check_rows("where", where, first.shape[0])
    kept = jnp.ones((first.shape[0], 1), bool) if where is None else where[:, None]
    views = jnp.concatenate([sim.rows(x, False, where) for x in (first, second)], axis=1)
    return views, kept, _over_devices(jnp.sum(kept), axis_name)


def _standardised(views, kept, n, axis_name):
    """Standardises columns to mean 0 and biased variance 1, as BatchNorm; masked rows are 0.

    Each column is first shifted to start at 0 and, if its spread is above 1, scaled to 0 … 1. A
    constant column is then exactly 0, and squares do not overflow. The result is not affected.
    """
    fixed = jax.lax.stop_gradient(views)
    lowest = jnp.min(fixed, axis=0, where=kept, initial=jnp.inf)
    highest = jnp.max(fixed, axis=0, where=kept, initial=-jnp.inf)
    if axis_name is not None:
        lowest, highest = jax.lax.pmin(lowest, axis_name), jax.lax.pmax(highest, axis_name)
    spread = jnp.maximum(highest - lowest, 1.0)
    x = jnp.where(kept, (views - lowest) / spread, 0.0)
    x = jnp.where(kept, x - _over_devices(jnp.sum(x, axis=0), axis_name) / n, 0.0)
    variances = _over_devices(jnp.sum(x * x, axis=0), axis_name) / n
    return x * jax.lax.rsqrt(variances + BATCH_NORM_EPSILON / spread**2)


def _over_devices(tree, axis_name):
    """Sums over the devices along a named axis; without an axis, returns the values unchanged."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
