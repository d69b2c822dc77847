"""RandAugment (Cubuk et al., NeurIPS 2020): n operations from a list of 14, all of strength m.

Strength 0 changes nothing, and 10 is the end of the range in AutoAugment's Table 6 (Cubuk et al.,
CVPR 2019). Every range is oriented so that a higher strength changes more; operations with a
direction use either direction. The operations are PIL's on 8 bits, so the image is first rounded to
8 bits.
"""

import jax
import jax.numpy as jnp

from jaxpt.data import geometry

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "posterize",
    "solarize",
    "colour",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
_BLENDS, _WARPS = OPERATIONS.index("colour"), OPERATIONS.index("rotate")
DEGREES, SHEAR, TRANSLATION, BLEND, BITS = 30.0, 0.3, 150 / 331, 0.9, 4  # at strength 10
GREY = 128.0  # fills pixels that a warp takes from outside the image


def rand_augment(key, image, n, m):
    """Applies ``n`` operations, drawn with replacement, each of strength ``m``.

    Args:
      key: random key.
      image: float [height, width, 1 or 3] in 0 … 1.
      n: int, number of operations.
      m: strength, 0 … 10.

    Returns:
      float, the shape of ``image``, with 256 possible values.
    """
    image = jnp.round(jnp.clip(image, 0.0, 1.0) * 255)
    draws, signs = jax.random.split(key)
    which = jax.random.randint(draws, (n,), 0, len(OPERATIONS))
    sign = jnp.where(jax.random.bernoulli(signs, shape=(n,)), 1.0, -1.0)
    for i in range(n):
        image = operate(image, which[i], sign[i] * m / 10)
    return image / 255


def operate(image, which, strength):
    """Applies one operation.

    Args:
      image: float [height, width, 1 or 3] of whole numbers 0 … 255.
      which: int scalar, index into ``OPERATIONS``.
      strength: float scalar in −1 … 1; operations without a direction use its absolute value.

    Returns:
      float, the shape of ``image``.
    """
    size = jnp.abs(strength)
    # Under vmap every branch is computed. Operations that differ only in a number share a branch.
    family = jnp.where(which < _BLENDS, which, _BLENDS + (which >= _WARPS))
    return jax.lax.switch(
        family,
        [
            lambda: image,
            lambda: _auto_contrast(image),
            lambda: _equalize(image),
            lambda: _posterize(image, 8 - jnp.round(BITS * size)),
            lambda: jnp.where(image < 256 * (1 - size), image, 255 - image),
            lambda: _blend(image, which - _BLENDS, 1 + BLEND * strength),
            lambda: geometry.warp(image, _matrix(image.shape, which - _WARPS, strength), GREY),
        ],
    )


def _auto_contrast(image):
    low, high = jnp.min(image, axis=(0, 1)), jnp.max(image, axis=(0, 1))
    scaled = (image - low) * (255 / jnp.maximum(high - low, 1))
    # PIL truncates; without the margin, a product just below a whole number would lose one.
    return jnp.where(high > low, jnp.clip(jnp.floor(scaled + 1e-4), 0, 255), image)


def _equalize(image):
    """Equalizes each channel's histogram, in PIL's integer arithmetic."""
    pixels = image.astype(jnp.int32).reshape(-1, image.shape[-1])

    def channel(values):
        counts = jnp.zeros(256, jnp.int32).at[values].add(1)
        last = counts[jnp.max(values)]
        step = (len(values) - last) // 255
        below = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[values], values)

    return jax.vmap(channel, 1, 1)(pixels).reshape(image.shape).astype(image.dtype)


def _posterize(image, bits):
    step = 2 ** (8 - bits)
    return jnp.floor(image / step) * step


def _blend(image, which, factor):
    """Moves away from luma, mean luma, black or a smoothed image, as PIL's ImageEnhance."""
    luma = _whole_luma(image)
    mean = jnp.floor(jnp.mean(luma) + 0.5)
    away_from = jax.lax.select_n(
        which,
        jnp.broadcast_to(luma, image.shape),
        jnp.full_like(image, mean),
        jnp.zeros_like(image),
        _smooth(image),
    )
    return jnp.floor(jnp.clip(away_from + factor * (image - away_from), 0, 255))


def _whole_luma(image):
    """Luma [height, width, 1] as whole numbers, as in PIL's conversion to grayscale."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., i : i + 1].astype(jnp.int32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(image.dtype)


def _smooth(image):
    """PIL's SMOOTH filter: 3 × 3 pixels with weight 5 in the middle; the border stays."""
    height, width = image.shape[:2]
    inner = sum(image[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = jnp.floor((inner + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    return image.at[1:-1, 1:-1].set(inner)


def _matrix(shape, which, strength):
    """Matrix of a rotation about the center, a shear from the top left corner, or a translation."""
    height, width = shape[:2]
    angle = jnp.where(which == 0, jnp.deg2rad(DEGREES) * strength, 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    shear, translation = SHEAR * strength, TRANSLATION * strength
    return [
        [
            cos,
            jnp.where(which == 1, shear, -sin),
            x - cos * x + sin * y + jnp.where(which == 3, translation * width, 0.0),
        ],
        [
            jnp.where(which == 2, shear, sin),
            cos,
            y - sin * x - cos * y + jnp.where(which == 4, translation * height, 0.0),
        ],
    ]
