"""Frozen features of whole sets, every image exactly once."""

import functools

import jax
import numpy as np

from jaxpt.data.augment import to_float
from jaxpt.errors import require
from jaxpt.models.encoder import encode


def extract(encoder, params, batch_stats, images: np.ndarray, *,
            batch_size: int = 500, what: str = "features") -> np.ndarray:
    """Backbone features, or the head's output, in evaluation mode.

    Args:
      encoder: an ``Encoder``.
      params, batch_stats: its variables.
      images: uint8 [n, height, width, channels].
      batch_size: images at a time; the last batch is padded and the padding cut off.
      what: "features" of the backbone, or "output" of the head.

    Returns:
      float32 [n, dim].
    """
    require(len(images) > 0, "there are no images to take features of.")
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 3)
        parts.append(np.asarray(_encode(encoder, params, batch_stats, padded)[what])[:len(batch)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder, params, batch_stats, images):
    encoded = encode(encoder, params, batch_stats, to_float(images), train=False)
    return {"output": encoded.output, "features": encoded.features}
