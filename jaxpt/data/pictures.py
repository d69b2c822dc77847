"""Lazily decoded images with the interface of an array."""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxpt.data import objects
from jaxpt.data.decode import Framing, in_parallel, read_square
from jaxpt.errors import InputError, require, shown


def of_file(path: str) -> tuple[pathlib.Path | bytes, str]:
    """Returns the path of an image file, and its name for messages; on object stores its bytes."""
    where = objects.place(path)
    return (where if isinstance(where, pathlib.Path) else objects.read(where)), shown(path)


def _decoded(image: np.ndarray) -> tuple[np.ndarray, str]:
    return image, "an image of an array"


def _of_several(place) -> tuple[pathlib.Path | bytes, str]:
    encoded, own = place
    return encoded(own)


def _sha256(stored: pathlib.Path | bytes | np.ndarray) -> bytes:
    if isinstance(stored, np.ndarray):
        shape = str(stored.shape).encode()
        return hashlib.sha256(shape + np.ascontiguousarray(stored).tobytes()).digest()
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).digest()
    try:
        with open(stored, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{stored} cannot be read ({error.strerror or error}).") from error


class Pictures:
    """Encoded images in place of an array uint8 [n, side, side, channels].

    Indexing with an integer decodes one image. Indexing with a slice, an array or a mask selects
    ``Pictures`` and decodes nothing. ``np.asarray`` decodes all images, on all cores.

    Attributes:
      places: [n], the location of each image: a path, or another argument of ``encoded``.
      framing: how each image becomes a square.
      shape: (n, side, side, channels).
      white: see ``decode.squares``.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        places,
        framing: Framing,
        channels: int,
        encoded: Callable[[Any], tuple[pathlib.Path | bytes, str]] = of_file,
        white: int = 255,
    ):
        """Initializes the images.

        Args:
          places: see above.
          framing: see above.
          channels: 3, or 1 for grayscale.
          encoded: maps a place to (file or bytes, name for messages); called by several threads.
          white: see ``decode.squares``.
        """
        self.places = places if isinstance(places, np.ndarray) else np.asarray(places, object)
        self.framing = framing
        self.shape = (len(self.places), framing.side, framing.side, channels)
        self._encoded, self.white = encoded, white

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def files(self) -> list[str] | None:
        """Path of each image, or None if they are not separate files."""
        return list(self.places) if self._encoded is of_file else None

    def encoded(self, position: int) -> tuple[pathlib.Path | bytes, str]:
        """Returns the file or the bytes of one image, and its name for messages."""
        return self._encoded(self.places[position])

    def digests(self) -> Iterator[bytes]:
        """SHA-256 of each image's file or bytes, in order, on all cores.

        Raises:
          InputError: for a file that cannot be read.
        """
        return in_parallel(lambda place: _sha256(self._encoded(place)[0]), self.places)

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self._decode(self.places[index])
        return Pictures(self.places[index], self.framing, self.shape[-1], self._encoded, self.white)

    def joined(self, other: "Pictures") -> "Pictures":
        """Concatenates two ``Pictures`` of the same kind."""
        places = np.concatenate((self.places, other.places))
        return Pictures(places, self.framing, self.shape[-1], self._encoded, self.white)

    @classmethod
    def of_several(cls, images: Sequence["Pictures | np.ndarray"], channels: int) -> "Pictures":
        """Concatenates ``Pictures`` of several kinds, and arrays of the same size.

        Raises:
          InputError: if the ``Pictures`` become squares in different ways.
        """
        pictures = [x for x in images if isinstance(x, Pictures)]
        ways = {(x.framing, x.white) for x in pictures}
        require(
            len(ways) == 1,
            "streamed images of several sources must become squares in the same way: give the "
            "sources the same crop_pct, interpolation and background, or set data.resident to yes.",
        )
        places = [
            (x._encoded, place) if isinstance(x, Pictures) else (_decoded, np.squeeze(place))
            for x in images
            for place in (x.places if isinstance(x, Pictures) else x)
        ]
        if all(encoded is of_file for encoded, _ in places):
            joined, encoded = [place for _, place in places], of_file
        else:
            joined, encoded = np.empty(len(places), object), _of_several
            for i, place in enumerate(places):  # a list of pairs would become two columns
                joined[i] = place
        return cls(joined, pictures[0].framing, channels, encoded, pictures[0].white)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        for position, image in enumerate(in_parallel(self._decode, self.places)):
            images[position] = image
        return images.astype(dtype or np.uint8, copy=False)

    def _decode(self, place) -> np.ndarray:
        return read_square(*self._encoded(place), self.framing, self.shape[-1], self.white)
