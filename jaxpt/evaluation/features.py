"""Frozen features of whole sets, every image exactly once."""

import functools

import jax
import numpy as np

from jaxpt.data.augment import to_float
from jaxpt.methods.encoding import encode


def extract(encoder, params, batch_stats, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """Backbone features in evaluation mode.

    Args:
      encoder: an ``Encoder``; its head is not used.
      params, batch_stats: its variables.
      images: uint8 [n, height, width, channels].
      batch_size: images at a time; the last batch is padded and the padding cut off.

    Returns:
      float32 [n, dim].
    """
    if len(images) == 0:
        raise ValueError("there are no images to take features of.")
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 3)
        parts.append(np.asarray(_features(encoder, params, batch_stats, padded))[:len(batch)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _features(encoder, params, batch_stats, images):
    return encode(encoder, params, batch_stats, to_float(images), train=False)[1]
