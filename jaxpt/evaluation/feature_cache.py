"""Features on disk: taken once for each network and set of images, read back memory-mapped.

An entry is ``KEY.NAME.npy`` for every array and ``KEY.json``, which says what the entry is of and
holds a checksum of each array. It is renamed into place last of all, so that an entry is whole or
not there. One whose arrays are missing, shortened or changed is made anew.
"""

import hashlib
import json
import os
import pathlib
import zlib
from typing import Any, Callable

import numpy as np

from jaxpt.data.pictures import Pictures
from jaxpt.errors import require
from jaxpt.files import replacing, unwritable

FORMAT = 1  # of the folder; another one makes all entries anew
CHUNK = 1 << 24  # bytes of a checksum's step
ROWS = 1024  # images of a fingerprint's step


class FeatureCache:
    """A folder of features, or nothing that is kept at all."""

    def __init__(self, folder: str | os.PathLike | None):
        """``folder``: where entries are kept; made with the first of them. None keeps nothing.

        Raises:
          InputError: where the folder cannot be made.
        """
        self._folder = None if folder is None else pathlib.Path(folder)
        if self._folder is not None:
            require(str(folder) != "", "the cache's folder must have a name; None keeps nothing.")
            there = next(
                path for path in (self._folder, *self._folder.absolute().parents) if path.exists()
            )
            require(
                there.is_dir() and os.access(there, os.W_OK),
                f"the cache {str(folder)!r} cannot be made ({there} is no folder that can be "
                "written): choose another folder.",
            )

    def get(
        self, what: dict[str, Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """The arrays of an entry, from disk (read-only) where they are, else made and kept.

        Args:
          what: everything that the arrays depend on, as plain values.
          make: function that makes them: name → array, in an order that is kept.

        Raises:
          InputError: where the folder cannot be written.
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
    """The name of an entry: the start of a SHA-256 over what it depends on."""
    text = json.dumps({"format": FORMAT, **what}, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def fingerprint(images: np.ndarray | Pictures) -> str:
    """Start of a SHA-256 over type, shape and bytes of an array, by which a changed set shows."""
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    for start in range(0, len(images), ROWS):  # ``Pictures`` need not fit into memory
        digest.update(np.ascontiguousarray(images[start : start + ROWS]).data)
    return digest.hexdigest()[:24]


def _checksum(array: np.ndarray) -> str:
    """Type, shape and CRC-32 of an array, whatever part of it is in memory."""
    crc = 0
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, CHUNK):
        crc = zlib.crc32(flat[start : start + CHUNK], crc)
    return f"{array.dtype} {list(array.shape)} {crc:08x}"
