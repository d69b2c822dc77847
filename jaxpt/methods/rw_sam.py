"""rwSAM: sharpness-aware steps that count rare images more (Liu et al., ICLR 2022).

    w_i   ← density of image i's features ^ −alpha
    ε     ← rho · g / ‖g‖, where g is the gradient of mean(w_i · loss_i) at θ
    update: the gradient of the plain mean(loss_i) at θ + ε, applied to θ

``updating.descend`` does this for every method if ``config.rw_sam.rho`` is above 0: the minimum is
to be flat where images are rare. With ``alpha`` = 0 it is SAM (Foret et al., ICLR 2021). BatchNorm
normalises both passes by the batch; its running statistics are those of the pass at θ.

We read the paper's abstract and its authors' code; the formula of the weights is second-hand.
The authors estimate densities beforehand, with a trained network, or weight by class, and scale ε
by the squares of the parameters (adaptive SAM). Here densities follow the network while it trains,
among the latest features of the run, and ε is not scaled.
"""

import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.ops.memory import Memory
from jaxpt.ops.similarity import candidates, similarities, unit_vectors
from jaxpt.train import parts

TINY = 1e-12  # a shorter gradient has no direction


def check(config) -> None:
    """Raises InputError if a setting of rwSAM is invalid."""
    settings = config.rw_sam
    for name in "rho", "alpha":
        require(settings[name] >= 0, f"rw_sam.{name} must not be negative, got {settings[name]}.")
    require(settings.bandwidth > 0, f"rw_sam.bandwidth must be positive, got {settings.bandwidth}.")
    least, kept = config.batch_size, settings.features
    require(
        not weighs(config) or kept >= least,
        f"rw_sam.features must hold at least one batch, {least}, got {kept}.",
    )


def check_loss_per_image(config) -> None:
    """Raises InputError for weights; to be called by methods whose loss has no value per image."""
    require(
        not weighs(config),
        f"method {config.method} has one loss for the whole batch, which rwSAM cannot weigh by "
        "image: set rw_sam.alpha to 0 (plain SAM) or rw_sam.rho to 0.",
    )


def weighs(config) -> bool:
    """Whether steps weigh images by density, for which the state keeps the latest features."""
    return config.rw_sam.rho > 0 and config.rw_sam.alpha > 0


def perturbed(gradient, uphill, *, rho: float, axis_name: str):
    """Wraps a gradient function: the gradient is taken after a step of length ``rho`` uphill.

    Args:
      gradient, uphill: functions params → (gradient, auxiliary results) on this device. The step
        follows ``uphill``.
      rho: global norm of the step, over all parameters and devices.
      axis_name: the mapped axis over the devices.

    Returns:
      A function of the same form; its auxiliary results are those of ``uphill`` at ``params``.
    """

    def run(params):
        direction, about = uphill(params)
        direction = parts.mean(direction, axis_name)
        scale = rho / jnp.maximum(parts.norm(direction), TINY)
        above = jax.tree.map(lambda p, g: p + scale * g, params, direction)
        return gradient(above)[0], about

    return run


def weights(features, ids, latest: Memory, *, alpha: float, bandwidth: float) -> jax.Array:
    """Weight of each image: a kernel estimate of the density at its features, to the power −alpha.

    The density is the mean over the image itself and the n latest features of other images of a
    Gaussian kernel, exp(−d² / (2 h²)) with distance d of unit vectors, so it lies between
    1 / (n + 1) and 1. h is ``bandwidth`` times the root mean square distance of the latest
    features, so that it follows their scale. Only ratios of weights matter, as ε has a fixed
    length.

    Args:
      features: float [batch, dim].
      ids: int32 [batch]; earlier features of the same image do not count.
      latest: the latest features, the same on all devices.
      alpha, bandwidth: as above.

    Returns:
      float32 [batch], from 1 to (n + 1)^alpha, without gradient; 1 if ``latest`` is empty.
    """
    features = unit_vectors(jax.lax.stop_gradient(features))
    counted = latest.valid[:, None] * latest.keys.astype(jnp.float32)
    centre = jnp.sum(counted, axis=0) / jnp.maximum(jnp.sum(latest.valid), 1)
    # Mean squared distance of two unit vectors, in closed form.
    spread = jnp.maximum(2 * (1 - jnp.sum(centre**2)), TINY)
    squared = 2 * jnp.maximum(1 - similarities(features, counted), 0)
    kernel = jnp.exp(-squared / (2 * bandwidth**2 * spread))
    others = candidates(kernel.shape, ids, latest.ids, latest.valid)
    near, count = jnp.sum(kernel, axis=1, where=others), jnp.sum(others, axis=1)
    return ((1 + near) / (1 + count)) ** -alpha
