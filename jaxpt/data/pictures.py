"""Images that stay encoded until they are looked at, in place of an array that holds them all."""

import pathlib

import numpy as np

from jaxpt.data.decode import Framing, read_square
from jaxpt.data.parallel import in_parallel


class Pictures:
    """Image files that stand where an array uint8 [n, side, side, channels] would.

    A whole number as index decodes one image; a slice, an array or a mask gives the ``Pictures``
    of these and decodes nothing; ``np.asarray`` decodes all of them, on all cores.

    Attributes:
      files: str [n], paths.
      framing: how each becomes a square.
      shape: (n, side, side, channels).
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, files, framing: Framing, channels: int):
        """``channels``: 3, or 1 for grey."""
        self.files = np.asarray(files, object)
        self.framing = framing
        self.shape = (len(self.files), framing.side, framing.side, channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            return self._decode(self.files[index])
        return Pictures(self.files[index], self.framing, self.shape[-1])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        images = np.empty(self.shape, np.uint8)
        for position, image in enumerate(in_parallel(self._decode, self.files)):
            images[position] = image
        return images.astype(dtype or np.uint8, copy=False)

    def _decode(self, file: str) -> np.ndarray:
        return read_square(pathlib.Path(file), file, self.framing, self.shape[-1])
