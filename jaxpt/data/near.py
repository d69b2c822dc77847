"""Near-duplicates of pictures by a perceptual hash, independent of any network.

The hash is the signs of the lowest frequencies of the grayscale picture, as in pHash: scaling,
compression and small changes of colour flip few of its bits. As pictures with little in them have
similar frequencies, a small colour version must be similar, too.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.fft
from PIL import Image

SIDE, SMALL, FREQUENCIES = 32, 8, 8  # pixels of the transformed and the colour picture; per axis
LEAST = 16  # pixels: smaller pictures look alike without being the same
BITS = 4  # most bits of 64 in which near-duplicates differ
COLOUR = 10.0  # largest mean difference of their colours, of 255
FLAT = 4.0  # standard deviation of a picture's gray values below which it is called flat


class Print(NamedTuple):
    """Fingerprint of a picture: a hash of 64 bits, and its colours, uint8 [8, 8, 3]."""

    bits: int
    colours: np.ndarray


def print_of(image: Image.Image) -> Print | None:
    """Fingerprint of a decoded picture; None if it is too small or too flat to have one."""
    if min(image.size) < LEAST:
        return None
    # The filter's support is proportional to the scale, so every pixel counts.
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(grey, np.float32)
    if pixels.std() < FLAT:
        return None
    low = scipy.fft.dctn(pixels, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()
    bits = low > np.median(low[1:])  # without the mean, which is far larger
    colours = image.convert("RGB").resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    return Print(int.from_bytes(np.packbits(bits).tobytes(), "big"), np.asarray(colours))


def pairs(prints: Iterable[Print | None], most: int = BITS) -> Iterator[tuple[int, int, int]]:
    """Yields (position, earlier position, bits that differ) of near-duplicates, in order.

    Only pictures that share one of ``most`` + 1 parts of the hash are compared: if at most
    ``most`` bits differ, one part is equal. So a set of n pictures takes far fewer than n² steps.

    Args:
      prints: of the pictures; None is like no other.
      most: most bits of 64 in which two hashes may differ.
    """
    edges = [round(64 * part / (most + 1)) for part in range(most + 2)]
    parts = [(64 - high, (1 << (high - low)) - 1) for low, high in itertools.pairwise(edges)]
    seen: list[dict[int, list[int]]] = [{} for _ in parts]
    known: list[Print | None] = []
    for position, mine in enumerate(prints):
        known.append(mine)
        if mine is None:
            continue
        alike = set()
        for (shift, mask), groups in zip(parts, seen, strict=True):
            group = groups.setdefault(mine.bits >> shift & mask, [])
            alike.update(group)
            group.append(position)
        for earlier in sorted(alike):
            differ = (mine.bits ^ known[earlier].bits).bit_count()
            if differ <= most and _difference(mine, known[earlier]) <= COLOUR:
                yield position, earlier, differ


def _difference(a: Print, b: Print) -> float:
    """Mean absolute difference of the colours."""
    return float(np.abs(a.colours.astype(np.int16) - b.colours).mean())
