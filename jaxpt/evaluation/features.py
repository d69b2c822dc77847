"""Frozen features of whole sets: extraction, each image exactly once, and a cache on disk."""

import functools
import hashlib
import itertools
import json
import os
import pathlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np
import PIL

from jaxpt.data.augment import to_float
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require
from jaxpt.files import replacing, unwritable
from jaxpt.models.encoder import encode
from jaxpt.models.inputs import prepare
from jaxpt.train.parallel import Devices

BATCH_SIZE = 128  # images per device; results of different batch sizes differ by rounding
CACHE_FORMAT = 1  # version of the cache's folder; changing it invalidates all entries
CHUNK = 1 << 24  # bytes per step of a checksum


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


class FeatureCache:
    """Cache of features in a folder: computed once per network and set, read memory-mapped.

    Without a folder, nothing is kept. An entry consists of one ``KEY.NAME.npy`` per array and of
    ``KEY.json``, which describes what the entry depends on and holds a checksum of each array.
    ``KEY.json`` is renamed into place last, so an entry is complete or absent. An entry with
    missing, truncated or changed arrays is recomputed.
    """

    def __init__(self, folder: str | os.PathLike | None):
        """Opens the cache.

        Args:
          folder: folder of the entries, created with the first entry; None keeps nothing.

        Raises:
          InputError: if the folder cannot be created.
        """
        self._folder = None if folder is None else pathlib.Path(folder)
        if self._folder is not None:
            require(str(folder) != "", "the cache's folder must not be empty; None keeps nothing.")
            there = next(
                path for path in (self._folder, *self._folder.absolute().parents) if path.exists()
            )
            require(
                there.is_dir() and os.access(there, os.W_OK),
                f"the cache {str(folder)!r} cannot be created ({there} is not a writable folder): "
                "choose another folder.",
            )

    def get(
        self, what: dict[str, Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of an entry, read-only from disk or else computed and stored.

        Args:
          what: everything that the arrays depend on, as plain values.
          make: function that computes them: name → array, in an order that is kept.

        Raises:
          InputError: if the folder is not writable.
        """
        if self._folder is None:
            return make()
        key = _key_of(what)
        found = self._read(key)
        if found is None:
            arrays = make()
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._write(key, what, arrays)
            except OSError as error:
                raise unwritable(self._folder, error, option="cache") from error
            found = self._read(key)
        return arrays if found is None else found

    def _read(self, key) -> dict[str, np.ndarray] | None:
        try:
            described = json.loads((self._folder / f"{key}.json").read_text())["arrays"]
            arrays = {
                name: np.load(self._folder / f"{key}.{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in described
            }
            sound = all(_checksum(arrays[name]) == there for name, there in described.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
            return None
        return arrays if sound else None

    def _write(self, key, what, arrays) -> None:
        for name, array in arrays.items():
            with replacing(self._folder / f"{key}.{name}.npy", "wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        described = {"what": what, "arrays": {name: _checksum(x) for name, x in arrays.items()}}
        with replacing(self._folder / f"{key}.json") as file:
            json.dump(described, file, indent=1, default=list)


def fingerprint(images: np.ndarray | Pictures) -> str:
    """First 24 hex digits of a SHA-256 of an array's dtype, shape and bytes.

    Of ``Pictures`` it is one of the encoded images, of how they become squares, and of Pillow's
    version, so that they need not be decoded.
    """
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    if isinstance(images, Pictures):
        digest.update(f"{images.framing} {PIL.__version__}".encode())
        for each in images.digests():
            digest.update(each)
    else:
        digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()[:24]


def _key_of(what: dict[str, Any]) -> str:
    """Name of an entry: the first 24 hex digits of a SHA-256 of all that it depends on."""
    text = json.dumps({"format": CACHE_FORMAT, **what}, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _checksum(array: np.ndarray) -> str:
    """Dtype, shape and CRC-32 of an array, which may be memory-mapped."""
    crc = 0
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, CHUNK):
        crc = zlib.crc32(flat[start : start + CHUNK], crc)
    return f"{array.dtype} {list(array.shape)} {crc:08x}"
