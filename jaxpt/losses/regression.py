"""Regression of one view's embedding onto another's: BYOL, SimSiam."""

import jax
import jax.numpy as jnp

from jaxpt.losses import similarity as sim


def cosine_regression(
    predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """2 − 2·cos(prediction, target): the squared distance of the two unit vectors.

    This is BYOL's loss. SimSiam minimises −cos, which is half of it minus 1 and has half its
    gradient. Both are symmetric in the views: call it once each way and add (BYOL) or average
    (SimSiam). Without a predictor or a moving target it collapses to a constant at loss 0.

    Use:
      For images without labels and without negatives, with small batches. BYOL: EMA from 0.99 or
      0.996 to 1, head 4096-256, LARS; SimSiam: no EMA, learning rate 0.05 for each 256 images,
      predictor of width 512.

    Args:
      predictions: float [batch, dim], the predictor's output for one view.
      targets: float [batch, dim], the target encoder's for the other; no gradient flows into it.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch], 0 … 4 up to rounding. A zero row of either has loss 2 and gradient 0.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import cosine_regression
      >>> prediction = jnp.array([[3.0, 4.0]])
      >>> print(f"{cosine_regression(prediction, jnp.array([[2.0, 0.0]]))[0]:.4f}")  # cosine 0.6
      0.8000

    References:
      Grill et al., "Bootstrap your own latent", NeurIPS 2020, equation 2; Chen and He, "Exploring
      simple Siamese representation learning", CVPR 2021.
    """
    sim.check_embeddings("predictions", predictions)
    sim.check_like("targets", targets, "predictions", predictions)
    sim.check_rows("where", where, predictions.shape[0])
    targets = jax.lax.stop_gradient(sim.rows(targets, where=where))
    losses = 2 - 2 * jnp.sum(sim.rows(predictions, where=where) * targets, axis=-1)
    return losses if where is None else jnp.where(where, losses, 0.0)
