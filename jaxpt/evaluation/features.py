"""Extraction of frozen features of whole sets, each image exactly once."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.data.augment import to_float
from jaxpt.errors import InputError, require
from jaxpt.models.encoder import encode
from jaxpt.models.inputs import prepare
from jaxpt.train.parallel import Devices

BATCH_SIZE = 128  # images per device; results of different batch sizes differ by rounding


def extract(
    encoder,
    params,
    batch_stats,
    images: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
    what: str = "features",
    devices: Devices | None = None,
) -> np.ndarray:
    """Computes backbone features, or the head's output, in evaluation mode.

    Args:
      encoder: an ``Encoder``.
      params, batch_stats: its variables.
      images: uint8 [n, height, width, channels].
      batch_size: images per device and batch; the last batch is padded and the padding removed.
        The number of devices does not change a bit of the result.
      what: "features" of the backbone, or "output" of the head.
      devices: devices that share the images; None for the first device of this process.

    Returns:
      float32 [n, dim].

    Raises:
      InputError: if there are no images, or the network does not accept them.
    """
    program = _program(encoder, _outputs, devices)
    return _over_batches(program, (params, batch_stats), images, batch_size, devices)[what]


def lower(encoder, params, batch_stats, image: tuple[int, ...]):
    """Lowers the program of ``extract`` on one device, so that it can be compiled ahead.

    Args:
      encoder, params, batch_stats: as in ``extract``; the variables may be shapes.
      image: (height, width, channels).
    """
    params, batch_stats = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (params, batch_stats)
    )
    images = jax.ShapeDtypeStruct((BATCH_SIZE, *image), np.uint8)
    return _program(encoder, _outputs, None).lower((params, batch_stats), images)


def extract_layers(
    encoder,
    params,
    batch_stats,
    images: np.ndarray,
    *,
    batch_size: int = BATCH_SIZE,
    devices: Devices | None = None,
) -> dict[str, np.ndarray]:
    """Computes the backbone's intermediates by layer, each averaged over its positions.

    Args:
      encoder, params, batch_stats, images, batch_size, devices: as in ``extract``.

    Returns:
      name of the layer → float32 [n, channels], the first layer first.

    Raises:
      InputError: as in ``extract``.
    """
    program = _program(encoder, _layers, devices)
    layers = _over_batches(program, (params, batch_stats), images, batch_size, devices)
    return {name: layers[name] for name in _order(encoder, params, batch_stats, images)}


def _over_batches(program, variables, images, batch_size, devices) -> dict[str, np.ndarray]:
    check_images(images)
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}.")
    at_a_time = batch_size * (devices.count if devices else 1)
    own = devices.own_rows(at_a_time) if devices else np.arange(at_a_time)
    if devices:
        variables = devices.replicate(variables)

    def read(start):
        """Rows of this process, padded so that all batches have one shape and compile once."""
        rows = own[own < len(images) - start]
        batch = np.asarray(images[start + rows])
        return np.pad(batch, [(0, len(own) - len(rows))] + [(0, 0)] * 3)

    parts = []
    starts = range(0, len(images), at_a_time)
    with ThreadPoolExecutor(1) as reader:  # decodes the next batch meanwhile
        reading = reader.submit(read, 0)
        for start, following in itertools.zip_longest(starts, starts[1:]):
            batch = reading.result()
            if following is not None:
                reading = reader.submit(read, following)
            found = program(variables, devices.split_own(batch, at_a_time) if devices else batch)
            n = min(at_a_time, len(images) - start)
            parts.append(jax.tree.map(lambda x, n=n: np.asarray(x)[:n], found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def check_images(images: np.ndarray) -> None:
    """Raises InputError unless images are uint8 [n, height, width, 1 or 3], n at least 1."""
    require(
        hasattr(images, "dtype") and hasattr(images, "shape"),
        f"images must be an array, uint8 [n, height, width, channels], got a "
        f"{type(images).__name__}: pass np.stack(images).",
    )
    shape = list(images.shape)
    missing = "images[..., None]" if shape[-1:] not in ([1], [3]) else "images[None]"
    fix = f": pass {missing}" if len(shape) == 3 else ""
    if len(shape) == 4 and shape[1] in (1, 3):
        fix = ": pass images.transpose(0, 2, 3, 1)"
    require(
        len(shape) == 4 and shape[-1] in (1, 3),
        f"images must be [n, height, width, channels] with 1 or 3 channels, got {shape}{fix}.",
    )
    require(shape[0] > 0, "there are no images to compute features of.")
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        scaled = {(True, True): "images * 255", (False, True): "(images + 1) * 127.5"}
        fix = scaled.get((low >= 0, high <= 1), "images")
        raise InputError(
            f"images must be uint8 from 0 to 255, got {images.dtype} from {low:g} to {high:g}: "
            f"pass np.round({fix}).astype(np.uint8)."
        )


@functools.lru_cache(maxsize=16)
def _program(encoder, function, devices):
    """The compiled function, cached per encoder and line of devices."""
    function = functools.partial(function, encoder)
    return devices.map_rows(function) if devices else jax.jit(function)


def _outputs(encoder, variables, images):
    encoded = encode(encoder, *variables, to_float(images), train=False)
    return {"output": encoded.output, "features": encoded.features}


def _layers(encoder, variables, images) -> dict[str, Any]:
    params, batch_stats = variables

    def intermediates(encoder, images):
        images = prepare(images, encoder.normalisation, encoder.channels)
        return encoder.backbone(images, False)[1]

    found = encoder.apply(
        {"params": params, "batch_stats": batch_stats}, to_float(images), method=intermediates
    )
    return {
        # float32 also for networks that compute in bfloat16.
        name: jnp.mean(x, axis=tuple(range(1, x.ndim - 1))).astype(jnp.float32)
        for name, x in found.items()
    }


def _order(encoder, params, batch_stats, images) -> list[str]:
    """Names of the layers from first to last, since a compiled program sorts its dicts."""
    names = []

    def note(variables, images):
        names.extend(_layers(encoder, variables, images))

    jax.eval_shape(note, (params, batch_stats), images[:1])
    return names
