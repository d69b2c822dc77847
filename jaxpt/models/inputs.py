"""What a network wants its images to be: one value range, and a number of channels."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require

# Mean and standard deviation of each normalisation, on images in 0 … 1. "unit" is −1 … 1, what
# every network that jaxpt trains takes; "imagenet" are the channel statistics of ImageNet-1k that
# torchvision's and timm's ResNets were trained with.
NORMALISATIONS = {
    "unit": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def resize(images: jax.Array, size: int) -> jax.Array:
    """Square images [batch, size, size, channels]: bilinear, anti-aliased, whatever their shape."""
    batch, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    return jax.image.resize(images, (batch, size, size, channels), "linear", antialias=True)


def prepare(
    images: jax.Array, normalisation: str, channels: int | None, size: int = 0
) -> jax.Array:
    """Images in −1 … 1 as a network wants them.

    Args:
      images: float [batch, height, width, 1 or 3] in −1 … 1.
      normalisation: a key of ``NORMALISATIONS``.
      channels: that the network takes; grey images are repeated where it is 3. None: as they are.
      size: of the side that they are resized to; 0: as they are.

    Returns:
      float [batch, height, width, channels].

    Raises:
      InputError: for an unknown normalisation, or colour images for a network of grey ones.
    """
    require(
        normalisation in NORMALISATIONS,
        f"model.normalisation must be one of {sorted(NORMALISATIONS)}, got {normalisation!r}.",
    )
    images = resize(images, size) if size else images
    if channels is not None:
        require(
            images.shape[-1] in (1, channels),
            f"the network takes images of {channels} "
            f"channel{'s'[: channels > 1]}, but these have {images.shape[-1]}.",
        )
        images = jnp.broadcast_to(images, (*images.shape[:-1], channels))
    if normalisation == "unit":
        return images
    mean, std = (np.asarray(values, np.float32) for values in NORMALISATIONS[normalisation])
    return ((images + 1) / 2 - mean) / std
