"""Disk cache of features: computed once per network and set of images, read memory-mapped.

An entry consists of one ``KEY.NAME.npy`` per array and of ``KEY.json``, which describes what the
entry depends on and holds a checksum of each array. ``KEY.json`` is renamed into place last, so an
entry is complete or absent. An entry with missing, truncated or changed arrays is recomputed.
"""

import hashlib
import json
import os
import pathlib
import zlib
from typing import Any, Callable

import numpy as np
import PIL

from jaxpt.data.pictures import Pictures
from jaxpt.errors import require
from jaxpt.files import replacing, unwritable

FORMAT = 1  # version of the folder's format; changing it invalidates all entries
CHUNK = 1 << 24  # bytes per step of a checksum


class FeatureCache:
    """Cache of features in a folder; without a folder, nothing is kept."""

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
        key = key_of(what)
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


def key_of(what: dict[str, Any]) -> str:
    """Name of an entry: the first 24 hex digits of a SHA-256 of all that it depends on."""
    text = json.dumps({"format": FORMAT, **what}, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


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


def _checksum(array: np.ndarray) -> str:
    """Dtype, shape and CRC-32 of an array, which may be memory-mapped."""
    crc = 0
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, CHUNK):
        crc = zlib.crc32(flat[start : start + CHUNK], crc)
    return f"{array.dtype} {list(array.shape)} {crc:08x}"
