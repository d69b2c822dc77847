"""Augmentation inside the jitted step, with random keys from (seed, view, epoch, id).

An example gets the same views regardless of its batch, its device, or a resume.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.data import colour, geometry
from jaxpt.data.feed import Batch
from jaxpt.data.rand_augment import rand_augment
from jaxpt.errors import require

MOST_PIXELS = 4096  # largest side of a crop, and largest shift
CPU_PIXELS = 32 * 32  # from this size on, a CPU processes one image after another
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
        settings.crop_interpolation in geometry.FILTERS,
        f"augment.crop_interpolation must be {' or '.join(geometry.FILTERS)}, got "
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
        image = geometry.crop(
            further(0),
            image,
            settings.crop_area,
            settings.crop_size,
            interpolation=settings.crop_interpolation,
            by_taps=by_taps,
        )
    if settings.shift:
        image = geometry.shift(keys[0], image, settings.shift)
    if settings.flip:
        image = jnp.where(jax.random.bernoulli(keys[1]), image[:, ::-1], image)
    image = _change_colours(settings, further, image, view, by_taps)
    if settings.contrast or settings.brightness:
        contrast, brightness = jax.random.uniform(keys[2], (2,), minval=-1.0, maxval=1.0)
        image = image * (1 + settings.contrast * contrast) + 2 * settings.brightness * brightness
    if settings.noise:
        image = image + 2 * settings.noise * jax.random.normal(keys[3], image.shape)
    if settings.erase:
        image = geometry.erase(keys[4], image, settings.erase)
    return image


def _change_colours(settings, further, image, view, by_taps):
    """Applies the operations that are defined on images in 0 … 1."""
    blur, solarise = (of_view(shares, view) for shares in (settings.blur, settings.solarise))
    if not (any(settings.jitter) or settings.grey or blur or solarise or settings.rand_augment):
        return image
    image = jnp.clip((image + 1) / 2, 0.0, 1.0)
    if settings.rand_augment:
        image = rand_augment(further(1), image, settings.rand_augment, settings.rand_augment_level)
    if any(settings.jitter):
        is_due, draws = jax.random.split(further(2))
        image = _with_probability(
            is_due,
            settings.jitter_probability,
            lambda image: colour.jitter(
                image, *draw_jitter(draws, settings.jitter), hues=settings.jitter[3] > 0
            ),
            image,
        )
    if settings.grey:
        image = _with_probability(further(3), settings.grey, colour.grey, image)
    if blur:
        is_due, draws = jax.random.split(further(4))
        low, high = settings.blur_sigma
        image = _with_probability(
            is_due,
            blur,
            lambda image: colour.blur(
                image,
                jax.random.uniform(draws, minval=low, maxval=high),
                blur_radius(image.shape, settings.blur_size),
                by_taps=by_taps,
            ),
            image,
        )
    if solarise:
        image = _with_probability(further(5), solarise, colour.solarise, image)
    return 2 * image - 1


def draw_jitter(key, strengths):
    """Draws (factors [3] of brightness, contrast and saturation, turn of the hue, order [4])."""
    factors, order = jax.random.split(key)
    largest = jnp.array(strengths)
    middle = jnp.array([1.0, 1.0, 1.0, 0.0])
    low = jnp.where(middle > 0, jnp.maximum(middle - largest, 0.0), -largest)
    drawn = jax.random.uniform(factors, (4,), minval=low, maxval=middle + largest)
    return drawn[:3], drawn[3], jax.random.permutation(order, 4)


def of_view(shares, view: int) -> float:
    """Value for a view in a list by views; the last one holds for all further views."""
    return shares[min(view, len(shares) - 1)]


def blur_radius(shape, size: float) -> int:
    """Radius of a kernel about ``size`` times as wide as the smaller side; at least 1."""
    return max(1, round(size * min(shape[:2]) / 2))


def _with_probability(key, probability, change, image):
    return colour.if_due(jax.random.bernoulli(key, probability), change, image)
