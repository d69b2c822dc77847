"""Augmentation inside the jitted step: each example's randomness comes from (seed, epoch, id).

The same example gets the same views whatever the batch, the device or a resume.
"""

import jax
import jax.numpy as jnp

from jaxpt.data.batch import Batch
from jaxpt.errors import require

MOST_PIXELS = 4096  # of a crop's side or a shift


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images → float32 in −1 … 1, as every network here takes them."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def draw_view(config, batch: Batch, *, view: int) -> jax.Array:
    """One augmented view of every image of a batch.

    Args:
      config: ConfigDict with ``crop_area`` (smallest and largest share of the image that a random
        resized crop keeps; (1, 1): no crop), ``crop_size`` (pixels of its side; 0: as many as the
        image has), ``shift`` (largest translation, pixels), ``flip`` (bool),
        ``contrast`` and ``brightness`` (largest relative change), ``noise`` (standard deviation,
        in units of the full range), ``erase`` (side of an erased square as a share of the image).
      batch: uint8 images with their ids and epochs, and the run's seed.
      view: which view of the example; another number gives an independent one.

    Returns:
      float32 [batch, height, width, channels], roughly in −1 … 1; height and width are
      ``crop_size`` where it is set.
    """
    root = jax.random.fold_in(jax.random.key(batch.seed), view)

    def one(image, example, epoch):
        key = jax.random.fold_in(jax.random.fold_in(root, epoch), example)
        return _augment(config, key, image)

    return jax.vmap(one)(to_float(batch.image), batch.id, batch.epoch)


def check(config) -> None:
    """Raises InputError where an augmentation config makes no sense."""
    for name in ("contrast", "brightness", "noise", "erase"):
        require(0 <= config[name] <= 1,
                f"augment.{name} must lie between 0 and 1, got {config[name]}.")
    require(config.erase < 1, f"augment.erase must be below 1, got {config.erase}.")
    for name in "shift", "crop_size":
        require(0 <= config[name] <= MOST_PIXELS, f"augment.{name} must lie between 0 and "
                f"{MOST_PIXELS} pixels, got {config[name]}.")
    require(len(config.crop_area) == 2 and 0 < config.crop_area[0] <= config.crop_area[1] <= 1,
            "augment.crop_area must be two shares above 0 and at most 1, the smaller first, got "
            f"{tuple(config.crop_area)}.")


def _augment(config, key, image):
    keys = jax.random.split(key, 5)
    if config.crop_size or tuple(config.crop_area) != (1, 1):
        image = _crop(jax.random.fold_in(key, len(keys)), image, config.crop_area,
                      config.crop_size)
    if config.shift:
        image = _shift(keys[0], image, config.shift)
    if config.flip:
        image = jnp.where(jax.random.bernoulli(keys[1]), image[:, ::-1], image)
    if config.contrast or config.brightness:
        contrast, brightness = jax.random.uniform(keys[2], (2,), minval=-1.0, maxval=1.0)
        image = (image * (1 + config.contrast * contrast) + 2 * config.brightness * brightness)
    if config.noise:
        image = image + 2 * config.noise * jax.random.normal(keys[3], image.shape)
    if config.erase:
        image = _erase(keys[4], image, config.erase)
    return image


def _crop(key, image, area, size):
    """A random resized crop: a share of the area, sides 3:4 to 4:3 as far as the image allows,
    resized by anti-aliased linear interpolation."""
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
    return jax.image.scale_and_translate(image, (*out, channels), (0, 1), scale, shift, "linear")


def _shift(key, image, pixels):
    """Translates by up to ``pixels`` in each direction; the border is repeated outwards."""
    padded = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def _erase(key, image, share):
    """Sets one square to mid-grey."""
    height, width = image.shape[:2]
    side = max(1, round(share * min(height, width)))
    top, left = jax.random.randint(key, (2,), 0, jnp.array([height - side + 1, width - side + 1]))
    rows, columns = jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left
    square = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return jnp.where(square[:, :, None], 0.0, image)
