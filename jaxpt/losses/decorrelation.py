"""Losses of the statistics of a batch: Barlow Twins and VICReg.

They compare columns (features over the batch), not rows: one example alone has no correlation and
no variance, so that there is no value per example and both return the batch's one scalar.

With ``axis_name`` that scalar is the whole batch's on every device. Let each device differentiate
it and average the gradients of shared parameters over the devices (``jax.lax.pmean``), as for a
loss that each device averages over its own rows: under pmap, vmap and
``shard_map(check_vma=False)`` a sum over devices passes every device's gradient back to every
other, so that the average is the gradient of the full batch. (Where ``shard_map`` keeps track of
what varies, its rule, take the mean over devices of the loss before differentiating, holds too.)
"""

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim

BATCH_NORM_EPSILON = 1e-5  # of the BatchNorm that standardises in Barlow Twins' published code
STD_EPSILON = 1e-4  # VICReg's ε, under the square root


def barlow_twins(
    first: jax.Array,
    second: jax.Array,
    *,
    redundancy: float = 0.0051,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Barlow Twins: the cross-correlation of two views' features should be the identity.

    With C_ij the correlation over the batch of feature i of the first view with feature j of the
    second, both standardised over the batch (biased variance)::

        loss = Σ_i (1 − C_ii)² + λ Σ_{i≠j} C_ij²

    As in the published code, 1e-5 is added to each variance; the paper's pseudo-code has none. A
    column of one value thereby has correlation 0, and columns of far smaller spread than 0.003
    come close to that: scale the embeddings, as a last BatchNorm does, before they get there.

    Use:
      For images without labels, without predictor, EMA or negatives. Zbontar et al.: projector
      8192-8192-8192, λ 0.0051, LARS, batch 2,048.

    Args:
      first, second: float [batch, dim], the two views of the same examples.
      redundancy: λ; 0.0051 is the paper's, tuned for 8,192 features.
      where: bool [batch]; False rows take part in no statistic.
      axis_name: where given, the statistics are those of the rows of all devices along that axis.

    Returns:
      float32 scalar: a statistic of the whole batch, there are no losses per example. 0 without
      any row, dim with one row alone.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      Two features that are the same in both views (C_ii = 1, but for the 1e-5) and are
      uncorrelated, then with the second view's features swapped: C = [[0, 1], [1, 0]].

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
    """VICReg: views alike, every feature of standard deviation 1 or more, no two correlated.

    With n rows, d features, unbiased variances Var and covariances Cov over the batch::

        loss = invariance · mean over rows and features of (first − second)²
             + variance   · mean over both views and features of max(0, 1 − √(Var_j + 1e-4))
             + covariance · Σ over both views of 1/d Σ_{i≠j} Cov_ij²

    These are the scales of the published code that the weights 25, 25, 1 belong to: the variance
    term is the *mean* of the views, the covariance term their *sum*, and the distance is averaged
    over the features (the paper's text sums over both views in the variance term and over the
    features in the distance). Nothing is normalised: coordinates beyond about 1e7 overflow
    float32 in the squared covariances.

    Use:
      As ``barlow_twins``; the two branches need share nothing, so they may be different networks.
      Bardes et al.: weights 25, 25, 1, expander 8192-8192-8192, LARS, batch 2,048.

    Args:
      first, second: float [batch, dim], the two views of the same examples.
      invariance, variance, covariance: the three weights.
      where: bool [batch]; False rows take part in no statistic.
      axis_name: where given, the statistics are those of the rows of all devices along that axis.

    Returns:
      float32 scalar: a statistic of the whole batch, there are no losses per example. 0 without
      any row; one row alone has variance 0.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      Both views alike and constant: standard deviation √1e-4 = 0.01, so 25 · 0.99.

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
    """(both views side by side float32 [batch, 2·dim], kept rows bool [batch, 1], their number).

    Rows that are left out are zero; the number is that of all devices.
    """
    sim.check_embeddings("first", first)
    sim.check_like("second", second, "first", first)
    sim.check_rows("where", where, first.shape[0])
    kept = jnp.ones((first.shape[0], 1), bool) if where is None else where[:, None]
    views = jnp.concatenate([sim.rows(x, False, where) for x in (first, second)], axis=1)
    return views, kept, _over_devices(jnp.sum(kept), axis_name)


def _standardised(views, kept, n, axis_name):
    """Columns of mean 0 and biased variance 1, as BatchNorm makes them; rows left out are 0.

    Columns are moved to 0 … 1 first, where their spread is above 1: then a column of one value is
    exactly 0 whatever the value, and squares do not overflow. Neither changes the result.
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
    """Sums over the devices along a named axis; the values themselves without one."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
