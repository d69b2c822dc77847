"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of pairs of examples.

The weight of a pair is drawn from Beta(α, α). Pairs and weight are drawn from (seed, step) for the
whole batch, so they do not depend on the number of devices. Fine-tuning draws them on the host
(``draw_share``), pre-training in the step (``mix_views``).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_STREAM = 1  # separates these draws from those of ``order``, which are from (seed, epoch)
_KEY_STREAM = 1 << 21  # separates these keys from those of views


def draw_share(batch_size: int, *, alpha: float, seed: int, step: int) -> np.ndarray:
    """Draws one λ for a batch, whose examples are each mixed with the next one, as in BiT.

    Args:
      batch_size: number of examples.
      alpha: parameter of the Beta distribution.
      seed, step: determine the draw.

    Returns:
      float32 [batch_size], the weight λ of each example itself.
    """
    share = np.random.default_rng((seed, step, _STREAM)).beta(alpha, alpha)
    return np.full(batch_size, share, np.float32)


def mix(share: jax.Array, own: jax.Array, others: jax.Array) -> jax.Array:
    """Mixes λ · own + (1 − λ) · others, for share λ [batch], own and others [batch, …]."""
    share = share.reshape(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * others


class Draw(NamedTuple):
    """Random parameters of the mixing in one step.

    Attributes:
      share: float32 scalar, λ.
      cut: bool scalar, whether to paste a box of the other image (CutMix) or to mix (mixup).
      centre: float32 [2], row and column of the box's center, as fractions of height and width.
    """

    share: jax.Array
    cut: jax.Array
    centre: jax.Array


def draw(seed: jax.Array, step: jax.Array, *, mixup: float, cutmix: float) -> Draw:
    """Draws the parameters of a step, the same on every device.

    Args:
      seed, step: int32 scalars, which determine the draw.
      mixup, cutmix: α of each; 0 disables it. If both are enabled, each step uses one of them with
        probability 1/2.
    """
    root = jax.random.fold_in(jax.random.key(seed), _KEY_STREAM)
    which, weight, place = jax.random.split(jax.random.fold_in(root, step), 3)
    cut = jax.random.bernoulli(which, 0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(cut, cutmix, mixup)
    return Draw(jax.random.beta(weight, alpha, alpha), cut, jax.random.uniform(place, (2,)))


def mix_views(drawn: Draw, images: jax.Array, batch: int, axis_name: str):
    """Mixes views with the same view of the next example of the batch.

    CutMix's box has the fraction 1 − λ of the area and is clipped at the border; λ is then
    recomputed as the fraction of the example's own pixels.

    Args:
      drawn: parameters of this step.
      images: float [views · batch, height, width, channels], one view after the other.
      batch: number of examples on this device.
      axis_name: over the devices.

    Returns:
      (mixed images, float32 [views · batch] share λ of each example itself).
    """
    others = next_example(images, batch, axis_name)
    box = _box(drawn, images.shape[1:3])
    own = jnp.where(drawn.cut, 1.0 - box, drawn.share)  # of every pixel
    share = jnp.where(drawn.cut, 1.0 - jnp.mean(box), drawn.share)
    own = own[:, :, None]
    return own * images + (1 - own) * others, jnp.full(len(images), share)


def next_example(rows: jax.Array, batch: int, axis_name: str) -> jax.Array:
    """Rows [views · batch, …] of each example's successor in the global batch, cyclically."""
    views = rows.reshape(-1, batch, *rows.shape[1:])
    devices = jax.lax.axis_size(axis_name)
    ring = [(i, (i - 1) % devices) for i in range(devices)]
    following = jax.lax.ppermute(views[:, :1], axis_name, ring)
    return jnp.concatenate([views[:, 1:], following], axis=1).reshape(rows.shape)


def _box(drawn, shape):
    """Mask of CutMix's box, float32 [height, width], 1 inside."""
    side = jnp.sqrt(1 - drawn.share)
    inside = []
    for length, centre in zip(shape, drawn.centre, strict=True):
        middle, half = jnp.floor(centre * length), jnp.floor(side * length) / 2
        low, high = jnp.floor(middle - half), jnp.floor(middle + half)
        place = jnp.arange(length)
        inside.append((place >= low) & (place < high))
    return (inside[0][:, None] & inside[1][None, :]).astype(jnp.float32)
