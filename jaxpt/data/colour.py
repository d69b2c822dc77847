"""Operations on pixel values: color jitter, grayscale, blur, solarize; for images in 0 … 1.

The functions are deterministic; ``augment`` draws their parameters. Images have one channel, or
three: red, green, blue. On one channel, saturation, hue and grayscale change nothing.
"""

import functools

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # weights of ITU-R BT.601, as in PIL and torchvision


def grey(image):
    """Converts to grayscale: the luma in every channel, [height, width, channels]."""
    if image.shape[-1] == 1:
        return image
    return jnp.broadcast_to(_luma(image), image.shape)


def jitter(image, factors, turn, order, *, hues=True):
    """Scales brightness, contrast and saturation and rotates the hue, in a given order.

    Every step is clipped to 0 … 1, so the order matters. The arithmetic is that of torchvision's
    ``ColorJitter`` on floats. Brightness, contrast and saturation are one operation, which moves
    the image away from black, from the mean luma, or from each pixel's luma. These steps run in two
    passes, those before the hue and those after it, so that the expensive hue is computed only
    once.

    Args:
      image: float [height, width, 1 or 3] in 0 … 1.
      factors: float [3], of brightness, contrast, saturation.
      turn: float scalar, rotation of the hue in turns of the color wheel.
      order: int [4], a permutation: which of brightness 0, contrast 1, saturation 2 and hue 3 is
        first, second, …
      hues: False skips the hue and saves its cost.

    Returns:
      float, as ``image``.
    """
    if image.shape[-1] == 1:
        factors, hues = factors.at[2].set(1.0), False
    places = jnp.arange(4)
    where = jnp.argmax(order == 3)
    image = _scaled(image, factors, order, places < where)
    if hues:
        image = turn_hue(image, turn)
    return _scaled(image, factors, order, places > where)


def if_due(due, change, image):
    """Applies ``change`` to the image if ``due``.

    If images are processed one by one (``augment.draw_view``), a change that is not due costs
    nothing, and the compiler cannot fuse it with the next one, which would recompute it for every
    use of a pixel.
    """
    return jax.lax.cond(due, change, lambda image: image, image)


def _scaled(image, factors, order, due):
    """Applies the steps of the order that are due, except the hue."""

    def step(place, image):
        luma = _luma(image) if image.shape[-1] == 3 else image
        away_from = jnp.where(
            order[place] == 0, 0.0, jnp.where(order[place] == 1, jnp.mean(luma), luma)
        )
        factor = factors[order[place]]
        return jnp.clip(factor * image + (1 - factor) * away_from, 0.0, 1.0)

    for place in range(4):
        image = if_due(due[place], functools.partial(step, place), image)
    return image


def turn_hue(image, turn):
    """Rotates the HSV hue by ``turn`` turns; float [height, width, 3] in 0 … 1. Grays stay."""
    red, green, blue = (image[..., i] for i in range(3))
    high = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = high - low
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        high == red,
        (green - blue) / safe,
        jnp.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )

    def channel(start):
        # A channel falls from the highest value to the lowest as the hue moves away from it.
        away = (start + sixth) / 6 + turn
        away = 6 * (away - jnp.floor(away))  # on CPUs, % is a function call per pixel
        return high - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0.0, 1.0)

    return jnp.stack([channel(start) for start in (5.0, 3.0, 1.0)], axis=-1)


def blur(image, sigma, radius, *, by_taps=False):
    """Separable Gaussian blur; the border is repeated outwards.

    Args:
      image: float [height, width, channels].
      sigma: float scalar, standard deviation in pixels.
      radius: int; the kernel is 2 · radius + 1 pixels wide.
      by_taps: see ``geometry.crop``.
    """
    weights = jnp.exp(-0.5 * (jnp.arange(radius + 1) / sigma) ** 2)
    weights = weights / (2 * jnp.sum(weights) - weights[0])
    offsets = jnp.arange(-radius, radius + 1)
    if by_taps:
        return _convolve(image, weights[jnp.abs(offsets)], radius)
    rows, columns = (_taps(size, offsets, weights[jnp.abs(offsets)]) for size in image.shape[:2])
    # Matrix products, as compilers fuse a sum of shifted images with the operations before it, and
    # then recompute those for every tap.
    image = jnp.einsum("ij,jkc->ikc", rows, image, precision="highest")
    return jnp.einsum("kl,ilc->ikc", columns, image, precision="highest")


def _convolve(image, taps, radius):
    """Convolves with the same taps in both directions; the border is repeated outwards."""
    channels = image.shape[-1]
    padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    # Interleaved channels are treated as one channel whose columns are ``channels`` apart.
    flat = padded.reshape(1, 1, len(padded), -1)
    flat = jax.lax.conv_general_dilated(flat, taps[None, None, :, None], (1, 1), "VALID")
    flat = jax.lax.conv_general_dilated(
        flat, taps[None, None, None, :], (1, 1), "VALID", rhs_dilation=(1, channels)
    )
    return flat.reshape(image.shape)


def _taps(size, offsets, weights):
    """Blur matrix, float32 [size, size]; weights beyond the border go to the border pixel."""
    places = jnp.clip(jnp.arange(size)[:, None] + offsets, 0, size - 1)
    return jnp.sum(weights[:, None] * (places[:, :, None] == jnp.arange(size)), axis=1)


def solarise(image):
    """Solarizes: inverts values of at least one half."""
    return jnp.where(image < 0.5, image, 1 - image)


def _luma(image):
    """Luma [height, width, 1] of [height, width, 3].

    It is a sum in fixed order, not a matrix product, which accelerators may round to fewer bits.
    """
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
