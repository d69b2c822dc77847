"""What becomes of the pixels' values: jitter, greyscale, blur, solarise; images in 0 … 1.

Each function does one thing by given numbers; ``augment`` draws them. Images have one channel, or
three: red, green, blue. On one channel saturation, hue and greyscale change nothing.
"""

import functools

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as PIL and torchvision weigh


def grey(image):
    """The luma in every channel: [height, width, channels]."""
    if image.shape[-1] == 1:
        return image
    return jnp.broadcast_to(_luma(image), image.shape)


def jitter(image, factors, turn, order, *, hues=True):
    """Brightness, contrast and saturation times their factors, and hue turned, in any order.

    Every step ends within 0 … 1, so the order matters. The arithmetic is that of torchvision's
    ``ColorJitter`` on floats. Brightness, contrast and saturation are one operation, away from
    black, from the mean luma, or from each pixel's luma. What is due before the hue is done
    before it and the others are passed over (factor 1), so that the dear step is taken once.

    Args:
      image: float [height, width, 1 or 3] in 0 … 1.
      factors: float [3], of brightness, contrast, saturation.
      turn: float scalar, of the hue, in whole turns of the colour circle.
      order: int [4], a permutation: which of brightness 0, contrast 1, saturation 2 and hue 3 is
        first, second, …
      hues: False leaves the hue as it is and saves its cost.

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
    """The image after a change that is due, else as it is.

    Where images are treated one by one (``augment.draw_view``), what is not due costs nothing, and
    no compiler fuses a change with the next, to compute it anew for every use of a pixel.
    """
    return jax.lax.cond(due, change, lambda image: image, image)


def _scaled(image, factors, order, due):
    """Those steps of the order that are due, but for the hue."""

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
    """Moves the hue of HSV by so many turns; greys stay. float [height, width, 3] in 0 … 1."""
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
        # It falls from the highest value to the lowest as the hue goes away from it.
        away = (start + sixth) / 6 + turn
        away = 6 * (away - jnp.floor(away))  # CPUs compute % by a call for each pixel
        return high - chroma * jnp.clip(jnp.minimum(away, 4 - away), 0.0, 1.0)

    return jnp.stack([channel(start) for start in (5.0, 3.0, 1.0)], axis=-1)


def blur(image, sigma, radius, *, by_taps=False):
    """Gaussian blur, one direction after the other; the border is repeated outwards.

    Args:
      image: float [height, width, channels].
      sigma: float scalar, pixels.
      radius: int; the kernel has 2 · radius + 1 pixels.
      by_taps: as in ``geometry.crop``.
    """
    weights = jnp.exp(-0.5 * (jnp.arange(radius + 1) / sigma) ** 2)
    weights = weights / (2 * jnp.sum(weights) - weights[0])
    offsets = jnp.arange(-radius, radius + 1)
    if by_taps:
        return _convolve(image, weights[jnp.abs(offsets)], radius)
    rows, columns = (_taps(size, offsets, weights[jnp.abs(offsets)]) for size in image.shape[:2])
    # Products of matrices: compilers fuse sums of shifted images with what is before them, and then
    # compute that anew for every tap.
    image = jnp.einsum("ij,jkc->ikc", rows, image, precision="highest")
    return jnp.einsum("kl,ilc->ikc", columns, image, precision="highest")


def _convolve(image, taps, radius):
    """The same taps along both directions; the border is repeated outwards."""
    channels = image.shape[-1]
    padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    # Rows of pixels whose channels lie side by side: one channel, its columns further apart.
    flat = padded.reshape(1, 1, len(padded), -1)
    flat = jax.lax.conv_general_dilated(flat, taps[None, None, :, None], (1, 1), "VALID")
    flat = jax.lax.conv_general_dilated(
        flat, taps[None, None, None, :], (1, 1), "VALID", rhs_dilation=(1, channels)
    )
    return flat.reshape(image.shape)


def _taps(size, offsets, weights):
    """float32 [size, size]: how much of each place goes to each; beyond the border, of its last."""
    places = jnp.clip(jnp.arange(size)[:, None] + offsets, 0, size - 1)
    return jnp.sum(weights[:, None] * (places[:, :, None] == jnp.arange(size)), axis=1)


def solarise(image):
    """Turns round what is at least half bright."""
    return jnp.where(image < 0.5, image, 1 - image)


def _luma(image):
    """[height, width, 1] of [height, width, 3]; a sum in this order, not a product of matrices,
    which accelerators may round to fewer bits."""
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
