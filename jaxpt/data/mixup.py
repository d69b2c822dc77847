"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): images and labels in pairs,
weighed by a draw from Beta(α, α).

Pairs and weight are drawn from (seed, step), for the whole batch and not for the part of one
device: the number of devices changes nothing. Fine-tuning draws them on the host (``pairs``),
pre-training in the step (``mix_views``).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.data.feed import Rows

_STREAM = 1  # apart from the draws of ``order``, which are from (seed, epoch)
_KEY_STREAM = 1 << 21  # apart from those of views


class Pairs(NamedTuple):
    """A batch, and what it is mixed with.

    Attributes:
      rows: of the batch.
      partners: of what each is mixed with; None without mixup.
      share: float32 [batch], weight λ of ``rows``, 1 − λ of ``partners``; None without mixup.
    """

    rows: Rows
    partners: Rows | None = None
    share: np.ndarray | None = None


def pairs(rows: Rows, *, alpha: float, seed: int, step: int) -> Pairs:
    """Pairs every example with the one after it; one λ for the batch, as BiT draws it.

    Args:
      rows: of a batch in shuffled order.
      alpha: of the Beta distribution; 0 gives no mixup.
      seed, step: what λ is drawn from.
    """
    if alpha == 0:
        return Pairs(rows)
    share = np.random.default_rng((seed, step, _STREAM)).beta(alpha, alpha)
    partners = Rows(*(np.roll(values, -1, axis=0) for values in rows))
    return Pairs(rows, partners, np.full(len(rows.index), share, np.float32))


def mix(share: jax.Array, own: jax.Array, others: jax.Array) -> jax.Array:
    """λ · own + (1 − λ) · others; share [batch], own and others [batch, …]."""
    share = share.reshape(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * others


class Draw(NamedTuple):
    """How the batch of one step is mixed.

    Attributes:
      share: float32 scalar, λ.
      cut: bool scalar, a box of the other image in place of a weighted sum.
      centre: float32 [2], of the box: row and column, as shares of height and width.
    """

    share: jax.Array
    cut: jax.Array
    centre: jax.Array


def draw(seed: jax.Array, step: jax.Array, *, mixup: float, cutmix: float) -> Draw:
    """The same on every device.

    Args:
      seed, step: int32 scalars, what it is drawn from.
      mixup, cutmix: α of each; 0 leaves it out. With both, each has every other step, at random.
    """
    root = jax.random.fold_in(jax.random.key(seed), _KEY_STREAM)
    which, weight, place = jax.random.split(jax.random.fold_in(root, step), 3)
    cut = jax.random.bernoulli(which, 0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(cut, cutmix, mixup)
    return Draw(jax.random.beta(weight, alpha, alpha), cut, jax.random.uniform(place, (2,)))


def mix_views(drawn: Draw, images: jax.Array, batch: int, axis_name: str):
    """Views mixed with the same view of the batch's next example.

    CutMix's box has the share 1 − λ of the area, is cut off at the border, and λ is then what is
    left of the example's own pixels.

    Args:
      drawn: of this step.
      images: float [views · batch, height, width, channels], one view after the other.
      batch: examples of this device.
      axis_name: over the devices.

    Returns:
      (the images, float32 [views · batch] the share of each that is its own).
    """
    others = next_example(images, batch, axis_name)
    box = _box(drawn, images.shape[1:3])
    own = jnp.where(drawn.cut, 1.0 - box, drawn.share)  # of every pixel
    share = jnp.where(drawn.cut, 1.0 - jnp.mean(box), drawn.share)
    own = own[:, :, None]
    return own * images + (1 - own) * others, jnp.full(len(images), share)


def next_example(rows: jax.Array, batch: int, axis_name: str) -> jax.Array:
    """For every row [views · batch, …] that of the next example of the whole batch, in a ring."""
    views = rows.reshape(-1, batch, *rows.shape[1:])
    devices = jax.lax.axis_size(axis_name)
    ring = [(i, (i - 1) % devices) for i in range(devices)]
    following = jax.lax.ppermute(views[:, :1], axis_name, ring)
    return jnp.concatenate([views[:, 1:], following], axis=1).reshape(rows.shape)


def _box(drawn, shape):
    """float32 [height, width], 1 inside the box of CutMix."""
    side = jnp.sqrt(1 - drawn.share)
    inside = []
    for length, centre in zip(shape, drawn.centre, strict=True):
        middle, half = jnp.floor(centre * length), jnp.floor(side * length) / 2
        low, high = jnp.floor(middle - half), jnp.floor(middle + half)
        place = jnp.arange(length)
        inside.append((place >= low) & (place < high))
    return (inside[0][:, None] & inside[1][None, :]).astype(jnp.float32)
