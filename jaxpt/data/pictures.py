"""Images that stay encoded until they are looked at, in place of an array that holds them all."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpt.data.decode import Framing, in_parallel, read_square
from jaxpt.errors import shown


def of_file(path: str) -> tuple[pathlib.Path, str]:
    """An image file, and what messages call it."""
    return pathlib.Path(path), shown(path)


class Pictures:
    """Encoded images that stand where an array uint8 [n, side, side, channels] would.

    A whole number as index decodes one image; a slice, an array or a mask gives the ``Pictures``
    of these and decodes nothing; ``np.asarray`` decodes all of them, on all cores.

    Attributes:
      places: [n], where each is: a path, or what else ``encoded`` knows it by.
      framing: how each becomes a square.
      shape: (n, side, side, channels).
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
        """``channels``: 3, or 1 for grey; ``encoded``: from a place to the file, or its bytes, and
        a name, called by several threads; ``white``: see ``read_square``."""
        self.places = places if isinstance(places, np.ndarray) else np.asarray(places, object)
        self.framing = framing
        self.shape = (len(self.places), framing.side, framing.side, channels)
        self._encoded, self._white = encoded, white

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def files(self) -> list[str] | None:
        """The path of each, if each is a file of its own."""
        return list(self.places) if self._encoded is of_file else None

    def encoded(self, position: int) -> tuple[pathlib.Path | bytes, str]:
        """The file of one image, or its bytes, and what messages call it."""
        return self._encoded(self.places[position])

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self._decode(self.places[index])
        return Pictures(
            self.places[index], self.framing, self.shape[-1], self._encoded, self._white
        )

    def joined(self, other: "Pictures") -> "Pictures":
        """These and then the others, which must be of the same kind."""
        places = np.concatenate((self.places, other.places))
        return Pictures(places, self.framing, self.shape[-1], self._encoded, self._white)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        for position, image in enumerate(in_parallel(self._decode, self.places)):
            images[position] = image
        return images.astype(dtype or np.uint8, copy=False)

    def _decode(self, place) -> np.ndarray:
        return read_square(*self._encoded(place), self.framing, self.shape[-1], self._white)
