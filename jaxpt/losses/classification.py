"""Losses of a classifier over a fixed list of classes."""

import jax
import jax.numpy as jnp

from jaxpt.losses import similarity as sim


def cross_entropy(logits, labels, *, label_smoothing=0.0, where=None):
    """Softmax cross-entropy with integer labels, in float32.

    Args:
      logits: float [batch, classes].
      labels: int [batch], each in 0 … classes − 1. A label outside gives NaN, which the training
        loop stops on; arrays cannot be checked inside jit.
      label_smoothing: share α of the target that is spread evenly over all classes, 0 ≤ α < 1.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer logits.
      ValueError: for a smoothing outside [0, 1) or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import cross_entropy
      >>> print(f"{cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]:.4f}")  # log 4
      1.3863

    References:
      Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, for the smoothing.
    """
    if not jnp.issubdtype(jnp.asarray(logits).dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got dtype {jnp.asarray(logits).dtype}.")
    if jnp.ndim(logits) != 2 or jnp.shape(labels) != logits.shape[:1]:
        raise ValueError("logits must be [batch, classes] and labels [batch], got shapes "
                         f"{jnp.shape(logits)} and {jnp.shape(labels)}.")
    sim.check_rows("where", where, logits.shape[0])
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    classes = logits.shape[1]
    own = jnp.take_along_axis(log_p, jnp.clip(labels, 0, classes - 1)[:, None], axis=-1)[:, 0]
    spread = jnp.mean(log_p, axis=-1) if label_smoothing else 0.0  # else a logit of −∞ gives NaN
    losses = -(1 - label_smoothing) * own - label_smoothing * spread
    losses = jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)
    return losses if where is None else jnp.where(where, losses, 0.0)
