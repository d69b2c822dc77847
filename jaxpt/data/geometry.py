"""Geometric augmentation: crops, shifts, affine maps, an erased square."""

import math

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Filter(NamedTuple):
    """Filter of an interpolation.

    Attributes:
      name: in ``jax.image``.
      reach: largest distance of a pixel that counts.
      weight: of a pixel by its distance.
    """

    name: str
    reach: int
    weight: Callable[[jax.Array], jax.Array]


def _cubic(x):
    """Keys' cubic with a = −1/2, as in Pillow."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


FILTERS = {
    "bilinear": Filter("linear", 1, lambda x: jnp.maximum(0.0, 1 - x)),
    "bicubic": Filter("cubic", 2, _cubic),
}


def crop(key, image, area, size, *, interpolation="bilinear", by_taps=False):
    """Random resized crop with antialiased interpolation.

    The area is drawn uniformly, the aspect ratio from 3:4 to 4:3 as far as the image allows.
    torchvision draws (area, ratio) again if the box does not fit, and takes the center after ten
    tries; here the ratio is moved to the nearest one that fits, so areas stay uniform. Ratios in
    torchvision are in pixels, here they are relative to the image's own; boxes here need not end at
    a pixel.

    Args:
      key: random key.
      image: float [height, width, channels].
      area: smallest and largest fraction of the image area.
      size: side of the output square in pixels; 0 for the image's height and width.
      interpolation: a key of ``FILTERS``. Bicubic values beyond −1 … 1 are clipped.
      by_taps: True computes each pixel from the few source pixels that it depends on, faster on
        CPUs; False uses products with mostly zero matrices, faster on accelerators. Both agree up
        to rounding.

    Returns:
      float [size, size, channels], or of the image's shape.
    """
    height, width, channels = image.shape
    draws = jax.random.uniform(key, (4,))
    share = area[0] + (area[1] - area[0]) * draws[0]
    stretch = jnp.exp((draws[1] - 0.5) * jnp.log(4 / 3))  # square root of the sides' ratio
    stretch = jnp.clip(stretch, jnp.sqrt(share), 1 / jnp.sqrt(share))
    sides = jnp.sqrt(share) * jnp.array([1 / stretch, stretch])  # as shares of the image's
    corner = (1 - sides) * draws[2:]
    out = size or height, size or width
    scale = jnp.array(out) / (sides * jnp.array([height, width]))
    shift = -corner * jnp.array([height, width]) * scale
    filter = FILTERS[interpolation]
    if not by_taps:
        image = jax.image.scale_and_translate(
            image, (*out, channels), (0, 1), scale, shift, filter.name
        )
    else:
        # At most this fraction of an axis is scaled, which bounds the number of taps.
        largest = min(1.0, math.sqrt(area[1] * 4 / 3))
        for axis in 0, 1:
            n_taps = math.ceil(2 * filter.reach * max(1.0, largest * image.shape[axis] / out[axis]))
            image = _scaled(image, axis, scale[axis], shift[axis], (out[axis], n_taps), filter)
    return image if filter.reach == 1 else jnp.clip(image, -1.0, 1.0)


def _scaled(image, axis, scale, shift, sizes, filter):
    """Antialiased interpolation along one axis, as in ``jax.image.scale_and_translate``.

    ``sizes`` are the number of pixels of the result, and of pixels that each is computed from.
    """
    length, (size, n_taps) = image.shape[axis], sizes
    stretch = jnp.maximum(1.0, 1 / scale)  # of the filter, if the image shrinks
    reach = filter.reach * stretch
    centre = (jnp.arange(size) + 0.5 - shift) / scale - 0.5
    places = jnp.floor(centre - reach).astype(jnp.int32) + 1 + jnp.arange(n_taps)[:, None]
    weights = filter.weight(jnp.abs(centre - places) / stretch)
    weights = jnp.where((places >= 0) & (places < length), weights, 0.0)
    weights = weights / jnp.sum(weights, axis=0)
    weights = weights.reshape(n_taps, *(size if i == axis else 1 for i in range(image.ndim)))
    return sum(
        weight * jnp.take(image, place, axis, mode="clip") for place, weight in zip(places, weights)
    )


def shift(key, image, pixels):
    """Translates by up to ``pixels`` in each direction; the border is repeated outwards."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def erase(key, image, share):
    """Sets a random square to mid-gray.

    Cutout (DeVries & Taylor, 2017) draws the square's center, so that it may extend beyond the
    border; this square is always inside.
    """
    height, width = image.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height - side + 1, width - side + 1]))
    rows, columns = jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left
    square = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return jnp.where(square[:, :, None], 0.0, image)


def warp(image, matrix, fill):
    """Affine map of an image with nearest-neighbor interpolation.

    Args:
      image: [height, width, channels].
      matrix: float [2, 3], maps a position (x, y, 1) of the output to its position in the input;
        the center of the first pixel is at (0.5, 0.5), as in PIL.
      fill: value of pixels from outside the input.
    """
    height, width = image.shape[:2]
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    column, row = (jnp.floor(a * x + b * y + c).astype(jnp.int32) for a, b, c in matrix)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    taken = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[:, :, None], taken, fill)
