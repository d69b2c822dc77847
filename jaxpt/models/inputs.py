"""Preprocessing of a network's images: size, value range and number of channels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require

# Mean and standard deviation of each normalisation, for images in 0 … 1. "unit" gives −1 … 1, as
# used by timm's own ViTs and by every network that jaxpt trains from scratch. "imagenet" has the
# channel statistics of ImageNet-1k, with which torchvision's networks and timm's ResNets were
# trained.
NORMALISATIONS = {
    "unit": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def statistics(normalisation: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of a normalisation, one value or one per channel.

    Args:
      normalisation: a key of ``NORMALISATIONS``, or "MEAN/STD" of images in 0 … 1, such as
        "0.5/0.25" or "0.48,0.46,0.41/0.27,0.26,0.28".

    Raises:
      InputError: for anything else.
    """
    if normalisation in NORMALISATIONS:
        return NORMALISATIONS[normalisation]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in normalisation.split("/"))
    except ValueError:
        mean = std = ()
    require(
        len(mean) == len(std) in (1, 3)
        and all(0 <= value <= 1 for value in mean)
        and all(0 < value <= 1 for value in std),
        f"model.normalisation must be one of {sorted(NORMALISATIONS)}, or MEAN/STD of images in "
        f"0 … 1 such as 0.485,0.456,0.406/0.229,0.224,0.225, got {normalisation!r}.",
    )
    return mean, std


def normalisation_of(mean: Sequence[float], std: Sequence[float]) -> str:
    """Returns the name of a normalisation with these statistics, the inverse of ``statistics``."""
    for name, known in NORMALISATIONS.items():
        if all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(known, (mean, std))):
            return name
    return "/".join(",".join(map(str, values)) for values in (mean, std))


def resize(images: jax.Array, size: int) -> jax.Array:
    """Resizes images of any shape to [batch, size, size, channels], bilinear and anti-aliased."""
    batch, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    return jax.image.resize(images, (batch, size, size, channels), "linear", antialias=True)


def prepare(
    images: jax.Array, normalisation: str, channels: int | None, size: int = 0
) -> jax.Array:
    """Converts images in −1 … 1 to the input of a network.

    Args:
      images: float [batch, height, width, 1 or 3] in −1 … 1.
      normalisation: see ``statistics``.
      channels: number of channels of the network's input; if it is 3, grey images are repeated.
        None keeps the channels.
      size: side to which images are resized, pixels; 0 keeps their size.

    Returns:
      float [batch, height, width, channels].

    Raises:
      InputError: for an unknown normalisation, or colour images for a network with grey input.
    """
    mean, std = (np.asarray(values, np.float32) for values in statistics(normalisation))
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
    return ((images + 1) / 2 - mean) / std
