"""Augmentation inside the jitted step, with random keys from (seed, view, epoch, id).

An example gets the same views regardless of its batch, its device, or a resume. The operations
stand below in the order of ``Settings``, in which they are applied.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.data.feed import Batch
from jaxpt.errors import require

MOST_PIXELS = 4096  # largest side of a crop, and largest shift
CPU_PIXELS = 32 * 32  # from this size on, a CPU processes one image after another
LUMA = (0.299, 0.587, 0.114)  # weights of ITU-R BT.601, as in PIL and torchvision
_planned = contextvars.ContextVar("planned", default=False)


class Settings(NamedTuple):
    """Augmentation operations, applied in this order; the defaults do nothing.

    A config is a ConfigDict of some of these fields; missing ones have the defaults.

    Attributes:
      crop_area: smallest and largest fraction of the image area kept by a random resized crop;
        (1, 1) for no crop.
      crop_size: side of the crop in pixels; 0 for the size of the image.
      crop_interpolation: bilinear or bicubic; both antialiased.
      shift: largest translation in pixels.
      flip: whether to flip horizontally with probability 1/2.
      rand_augment: number of RandAugment operations.
      rand_augment_level: strength of these, 0 … 10.
      jitter: largest changes of brightness, contrast, saturation (factors between 1 − x and 1 + x,
        not below 0) and hue (in turns of the color wheel, up to 1/2), in random order.
      jitter_probability: probability of color jitter.
      grey: probability of conversion to grayscale.
      blur: probabilities of Gaussian blur for the first, second, … view; the last one holds for
        all further views, including a target's keys and small crops.
      blur_sigma: smallest and largest standard deviation of the blur in pixels.
      blur_size: side of the blur kernel as a fraction of the smaller image side.
      solarise: probabilities of solarization by view, as for ``blur``.
      contrast: largest relative change, unclipped.
      brightness: largest change, a share of the full range, unclipped.
      noise: standard deviation of Gaussian noise, as a fraction of the full range.
      erase: side of an erased square as a fraction of the smaller image side; 0 for none.
    """

    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_size: int = 0
    crop_interpolation: str = "bilinear"
    shift: int = 0
    flip: bool = False
    rand_augment: int = 0
    rand_augment_level: float = 9.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_probability: float = 0.8
    grey: float = 0.0
    blur: tuple[float, ...] = (0.0,)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_size: float = 0.1
    solarise: tuple[float, ...] = (0.0,)
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    erase: float = 0.0


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 images to float32 in −1 … 1, the input range of all networks here."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def draw_view(config, batch: Batch, *, view: int) -> jax.Array:
    """Draws one augmented view of every image of a batch.

    Args:
      config: ConfigDict with some or all fields of ``Settings``.
      batch: uint8 images, or the crops of each view, with ids and epochs, and the run's seed.
      view: number of the view; different numbers give independent views.

    Returns:
      float32 [batch, height, width, channels], roughly in −1 … 1; height and width are
      ``crop_size`` if it is set.
    """
    settings, images = Settings(**config), batch.image
    if isinstance(images, dict):  # the host has taken the crops, see ``crops``
        settings, images = settings._replace(crop_area=(1, 1), crop_size=0), images[view]
    # Keys depend on the example, not on its place in the batch: any split gives the same views.
    root = jax.random.fold_in(jax.random.key(batch.seed), view)
    one_by_one = _one_by_one(images.shape)

    def one(image, example, epoch):
        key = jax.random.fold_in(jax.random.fold_in(root, epoch), example)
        return _augment(settings, key, to_float(image), view, one_by_one)

    rows = images, batch.id, batch.epoch
    if one_by_one:
        return jax.lax.map(lambda row: one(*row), rows)
    return jax.vmap(one)(*rows)


def _one_by_one(shape) -> bool:
    """Whether images are processed one after another.

    On a CPU this skips operations that an image does not need, keeps the image in cache and uses
    all cores for each. Accelerators need the whole batch at once.
    """
    return (
        not _planned.get() and jax.default_backend() == "cpu" and shape[1] * shape[2] >= CPU_PIXELS
    )


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Context manager in which tracing on a CPU gives the program of an accelerator."""
    token = _planned.set(True)
    try:
        yield
    finally:
        _planned.reset(token)


def check(config) -> None:
    """Raises InputError if an augmentation config is invalid."""
    settings = Settings(**config)
    for name in (
        "contrast",
        "brightness",
        "noise",
        "erase",
        "grey",
        "jitter_probability",
        "blur_size",
    ):
        value = getattr(settings, name)
        require(0 <= value <= 1, f"augment.{name} must lie between 0 and 1, got {value}.")
    require(settings.erase < 1, f"augment.erase must be below 1, got {settings.erase}.")
    for name in "shift", "crop_size":
        value = getattr(settings, name)
        require(
            0 <= value <= MOST_PIXELS,
            f"augment.{name} must lie between 0 and {MOST_PIXELS} pixels, got {value}.",
        )
    area, sigma, jitter = (
        tuple(x) for x in (settings.crop_area, settings.blur_sigma, settings.jitter)
    )
    require(
        len(area) == 2 and 0 < area[0] <= area[1] <= 1,
        f"augment.crop_area must be two shares above 0 and at most 1, the smaller first, got "
        f"{area}.",
    )
    require(
        settings.crop_interpolation in _FILTERS,
        f"augment.crop_interpolation must be {' or '.join(_FILTERS)}, got "
        f"{settings.crop_interpolation!r}.",
    )
    require(
        len(sigma) == 2 and 0 < sigma[0] <= sigma[1] < math.inf,
        f"augment.blur_sigma must be two numbers above 0, the smaller first, got {sigma}.",
    )
    require(
        len(jitter) == 4 and all(0 <= x < math.inf for x in jitter) and jitter[3] <= 0.5,
        "augment.jitter must be four numbers, none negative, of brightness, contrast, "
        f"saturation and, up to 0.5, hue, got {jitter}.",
    )
    for name in "blur", "solarise":
        shares = tuple(getattr(settings, name))
        require(
            shares and all(0 <= x <= 1 for x in shares),
            f"augment.{name} must be probabilities between 0 and 1, one per view, such as "
            f"(1.0, 0.1), got {shares}.",
        )
    require(
        0 <= settings.rand_augment <= 16,
        f"augment.rand_augment must lie between 0 and 16 operations, got {settings.rand_augment}.",
    )
    require(
        0 <= settings.rand_augment_level <= 10,
        f"augment.rand_augment_level must lie between 0 and 10, got {settings.rand_augment_level}.",
    )


def _augment(settings, key, image, view, by_taps):
    """Applies the operations to one image in −1 … 1."""
    keys = jax.random.split(key, 5)

    # Operations added later have separate keys, so that the first five draws did not change.
    def further(number):
        return jax.random.fold_in(key, len(keys) + number)

    if settings.crop_size or tuple(settings.crop_area) != (1, 1):
        image = _crop(
            further(0),
            image,
            settings.crop_area,
            settings.crop_size,
            interpolation=settings.crop_interpolation,
            by_taps=by_taps,
        )
    if settings.shift:
        image = _shift(keys[0], image, settings.shift)
    if settings.flip:
        image = jnp.where(jax.random.bernoulli(keys[1]), image[:, ::-1], image)
    image = _change_colours(settings, further, image, view, by_taps)
    if settings.contrast or settings.brightness:
        contrast, brightness = jax.random.uniform(keys[2], (2,), minval=-1.0, maxval=1.0)
        image = image * (1 + settings.contrast * contrast) + 2 * settings.brightness * brightness
    if settings.noise:
        image = image + 2 * settings.noise * jax.random.normal(keys[3], image.shape)
    if settings.erase:
        image = _erase(keys[4], image, settings.erase)
    return image


def _change_colours(settings, further, image, view, by_taps):
    """Applies the operations that are defined on images in 0 … 1.

    An image has one channel, or three: red, green, blue. On one channel, saturation, hue and
    grayscale change nothing.
    """
    to_blur, to_solarise = (of_view(shares, view) for shares in (settings.blur, settings.solarise))
    if not (
        any(settings.jitter) or settings.grey or to_blur or to_solarise or settings.rand_augment
    ):
        return image
    image = jnp.clip((image + 1) / 2, 0.0, 1.0)
    if settings.rand_augment:
        image = rand_augment(further(1), image, settings.rand_augment, settings.rand_augment_level)
    if any(settings.jitter):
        is_due, draws = jax.random.split(further(2))
        image = _with_probability(
            is_due,
            settings.jitter_probability,
            lambda image: jitter(
                image, *draw_jitter(draws, settings.jitter), hues=settings.jitter[3] > 0
            ),
            image,
        )
    if settings.grey:
        image = _with_probability(further(3), settings.grey, grey, image)
    if to_blur:
        is_due, draws = jax.random.split(further(4))
        low, high = settings.blur_sigma
        image = _with_probability(
            is_due,
            to_blur,
            lambda image: blur(
                image,
                jax.random.uniform(draws, minval=low, maxval=high),
                blur_radius(image.shape, settings.blur_size),
                by_taps=by_taps,
            ),
            image,
        )
    if to_solarise:
        image = _with_probability(further(5), to_solarise, solarise, image)
    return 2 * image - 1


def of_view(shares, view: int) -> float:
    """Value for a view in a list by views; the last one holds for all further views."""
    return shares[min(view, len(shares) - 1)]


def _with_probability(key, probability, change, image):
    return _if_due(jax.random.bernoulli(key, probability), change, image)


def _if_due(due, change, image):
    """Applies ``change`` to the image if ``due``.

    If images are processed one by one (``draw_view``), a change that is not due costs nothing, and
    the compiler cannot fuse it with the next one, which would recompute it for every use of a
    pixel.
    """
    return jax.lax.cond(due, change, lambda image: image, image)


class _Filter(NamedTuple):
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


_FILTERS = {
    "bilinear": _Filter("linear", 1, lambda x: jnp.maximum(0.0, 1 - x)),
    "bicubic": _Filter("cubic", 2, _cubic),
}


def _crop(key, image, area, size, *, interpolation="bilinear", by_taps=False):
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
      interpolation: a key of ``_FILTERS``. Bicubic values beyond −1 … 1 are clipped.
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
    filter = _FILTERS[interpolation]
    if not by_taps:
        image = jax.image.scale_and_translate(
            image, (*out, channels), (0, 1), scale, shift, filter.name
        )
    else:
        # At most this fraction of an axis is scaled, which bounds the number of taps.
        largest = min(1.0, math.sqrt(area[1] * 4 / 3))
        for axis in 0, 1:
            n_taps = math.ceil(2 * filter.reach * max(1.0, largest * image.shape[axis] / out[axis]))
            image = _resampled(image, axis, scale[axis], shift[axis], (out[axis], n_taps), filter)
    return image if filter.reach == 1 else jnp.clip(image, -1.0, 1.0)


def _resampled(image, axis, scale, shift, sizes, filter):
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


def _shift(key, image, pixels):
    """Translates by up to ``pixels`` in each direction; the border is repeated outwards."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


# Operations of RandAugment.
RAND_OPERATIONS = (
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
_FIRST_BLEND, _FIRST_WARP = RAND_OPERATIONS.index("colour"), RAND_OPERATIONS.index("rotate")
_DEGREES, _SHEAR, _TRANSLATION, _BLEND, _BITS = 30.0, 0.3, 150 / 331, 0.9, 4  # at strength 10
_MID_GREY = 128.0  # fills pixels that a warp takes from outside the image


def rand_augment(key, image, n, m):
    """RandAugment (Cubuk et al., NeurIPS 2020): n operations from a list of 14, all of strength m.

    Operations are drawn with replacement. Strength 0 changes nothing, and 10 is the end of the
    range in AutoAugment's Table 6 (Cubuk et al., CVPR 2019). Every range is oriented so that a
    higher strength changes more; operations with a direction use either direction. The operations
    are PIL's on 8 bits, so the image is first rounded to 8 bits.

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
    which = jax.random.randint(draws, (n,), 0, len(RAND_OPERATIONS))
    sign = jnp.where(jax.random.bernoulli(signs, shape=(n,)), 1.0, -1.0)
    for i in range(n):
        image = rand_operation(image, which[i], sign[i] * m / 10)
    return image / 255


def rand_operation(image, which, strength):
    """Applies one operation of RandAugment.

    Args:
      image: float [height, width, 1 or 3] of whole numbers 0 … 255.
      which: int scalar, index into ``RAND_OPERATIONS``.
      strength: float scalar in −1 … 1; operations without a direction use its absolute value.

    Returns:
      float, the shape of ``image``.
    """
    size = jnp.abs(strength)
    # Under vmap every branch is computed. Operations that differ only in a number share a branch.
    family = jnp.where(which < _FIRST_BLEND, which, _FIRST_BLEND + (which >= _FIRST_WARP))
    return jax.lax.switch(
        family,
        [
            lambda: image,
            lambda: _auto_contrast(image),
            lambda: _equalize(image),
            lambda: _posterize(image, 8 - jnp.round(_BITS * size)),
            lambda: jnp.where(image < 256 * (1 - size), image, 255 - image),
            lambda: _blend(image, which - _FIRST_BLEND, 1 + _BLEND * strength),
            lambda: _warp(
                image, _warp_matrix(image.shape, which - _FIRST_WARP, strength), _MID_GREY
            ),
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


def _warp_matrix(shape, which, strength):
    """Matrix of a rotation about the center, a shear from the top left corner, or a translation."""
    height, width = shape[:2]
    angle = jnp.where(which == 0, jnp.deg2rad(_DEGREES) * strength, 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    shear, translation = _SHEAR * strength, _TRANSLATION * strength
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


def _warp(image, matrix, fill):
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


def draw_jitter(key, strengths):
    """Draws (factors [3] of brightness, contrast and saturation, turn of the hue, order [4])."""
    factors, order = jax.random.split(key)
    largest = jnp.array(strengths)
    middle = jnp.array([1.0, 1.0, 1.0, 0.0])
    low = jnp.where(middle > 0, jnp.maximum(middle - largest, 0.0), -largest)
    drawn = jax.random.uniform(factors, (4,), minval=low, maxval=middle + largest)
    return drawn[:3], drawn[3], jax.random.permutation(order, 4)


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
    image = _jitter_steps(image, factors, order, places < where)
    if hues:
        image = turn_hue(image, turn)
    return _jitter_steps(image, factors, order, places > where)


def _jitter_steps(image, factors, order, due):
    """Applies the steps of the order that are due, except the hue."""

    def step(place, image):
        luma = _luma(image) if image.shape[-1] == 3 else image
        away_from = jnp.where(
            order[place] == 0, 0.0, jnp.where(order[place] == 1, jnp.mean(luma), luma)
        )
        factor = factors[order[place]]
        return jnp.clip(factor * image + (1 - factor) * away_from, 0.0, 1.0)

    for place in range(4):
        image = _if_due(due[place], functools.partial(step, place), image)
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


def grey(image):
    """Converts to grayscale: the luma in every channel, [height, width, channels]."""
    if image.shape[-1] == 1:
        return image
    return jnp.broadcast_to(_luma(image), image.shape)


def _luma(image):
    """Luma [height, width, 1] of [height, width, 3].

    It is a sum in fixed order, not a matrix product, which accelerators may round to fewer bits.
    """
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))


def blur_radius(shape, size: float) -> int:
    """Radius of a kernel about ``size`` times as wide as the smaller side; at least 1."""
    return max(1, round(size * min(shape[:2]) / 2))


def blur(image, sigma, radius, *, by_taps=False):
    """Separable Gaussian blur; the border is repeated outwards.

    Args:
      image: float [height, width, channels].
      sigma: float scalar, standard deviation in pixels.
      radius: int; the kernel is 2 · radius + 1 pixels wide.
      by_taps: see ``_crop``.
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


def _erase(key, image, share):
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
