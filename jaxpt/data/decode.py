"""From encoded images to squares of uint8, by Pillow on the host: one way for every source."""

import functools
import io
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from jaxpt.errors import InputError, require

TOGETHER = 1024  # items that are begun together
MOST_PIXELS = 100_000_000  # of one image: a small file may unpack to any number of them
LARGE = 2**30  # bytes from which on reading says how much memory it takes
# Pillow decodes these by itself. It hands others to programs (EPS to Ghostscript) or has them only
# with a plugin (HEIC).
FORMATS = frozenset("AVIF BMP DIB GIF JPEG JPEG2000 PNG PPM TGA TIFF WEBP".split())
ORIENTATION = 0x0112  # the EXIF tag, and what undoes each of its values
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reading(NamedTuple):
    """How the pixels of a file become an opaque, upright image.

    Attributes:
      background: colour that shows through transparent pixels, red, green and blue.
      exif_orientation: whether images are turned as their EXIF orientation says, as viewers do.
        Pillow itself turns TIFF files, whatever this is.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    exif_orientation: bool = True

    @classmethod
    def of(cls, config) -> "Reading":
        """The fields ``background`` and ``exif_orientation`` of a data config, if it has them.

        Raises:
          InputError: for a background that is no colour.
        """
        name = config.get("background", "white")
        try:
            colour = ImageColor.getrgb(name)
        except ValueError:
            colour = ()
        require(len(colour) == 3, f"data.background must be white, black or #rrggbb, got {name!r}.")
        return cls(colour, config.get("exif_orientation", True))


class Framing(NamedTuple):
    """How an image of any shape becomes a square.

    Interpolation is Pillow's bicubic, which is antialiased where an image is reduced.

    Attributes:
      resize: pixels of the shorter side; without a crop, of both sides, whatever the proportions.
      crop: side of the square that is cut out of the centre, pixels; 0: none.
      reading: how the image is opened.
    """

    resize: int
    crop: int
    reading: Reading = Reading()

    @property
    def side(self) -> int:
        return self.crop or self.resize

    @classmethod
    def centre(cls, size: int, reading: Reading = Reading()) -> "Framing":
        """The shorter side is scaled to ``size`` and the centre cut out."""
        return cls(size, size, reading)


@functools.cache
def formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow has, in the order in which they are tried."""
    Image.init()
    return tuple(form for form in Image.ID if form in FORMATS)


@functools.cache
def suffixes() -> dict[str, str]:
    """The format of each file ending that is read, as ".jpg": "JPEG"."""
    known = (*formats(), "MPO")  # several JPEGs in one file: the first is read
    return {end: form for end, form in Image.registered_extensions().items() if form in known}


def open_image(
    encoded: pathlib.Path | bytes, name: str, reading: Reading = Reading()
) -> Image.Image:
    """An image from a file or from its bytes, grey ("L") or "RGB"; of several frames the first.

    Raises:
      InputError: if it cannot be read, or has more than 8 bits per channel or more than
        ``MOST_PIXELS`` pixels, by its name.
    """
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with Image.open(source, formats=formats()) as image:
            pixels = image.width * image.height
            require(pixels <= MOST_PIXELS, _too_large(name))
            image.load()
            # Conversion to 8 bits would turn nearly all of it white.
            require(
                not image.mode.startswith(("I", "F")),
                f"{name} has more than 8 bits a channel (mode {image.mode}): convert it first.",
            )
            return _upright(_opaque(image, reading), _orientation(image, reading))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(name)) from error
    # Whatever Pillow's readers say of broken files.
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{name} cannot be read as an image ({error}).") from error


def _opaque(image: Image.Image, reading: Reading) -> Image.Image:
    """ "L" of a grey image, "RGB" of any other, on the background if it has transparent pixels."""
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (*reading.background, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.copy() if image.mode == "L" else image.convert("RGB")


def _orientation(image: Image.Image, reading: Reading) -> int:
    if not reading.exif_orientation:
        return 1
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data: whatever its parsers raise; the pixels are sound
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _too_large(name: str) -> str:
    return f"{name} has more than {MOST_PIXELS:,} pixels: make it smaller first."


def to_square(image: Image.Image, framing: Framing) -> Image.Image:
    """The image as a square of ``framing.side`` pixels."""
    if not framing.crop:
        return image.resize((framing.resize, framing.resize), Image.Resampling.BICUBIC)
    scale = framing.resize / min(image.size)
    resized = np.array([max(framing.resize, round(side * scale)) for side in image.size])
    # Only what the crop keeps is computed, from where it lies in the image.
    corner = (resized - framing.crop) // 2
    box = np.stack([corner, corner + framing.crop]) * image.size / resized
    return image.resize((framing.crop, framing.crop), Image.Resampling.BICUBIC, tuple(box.ravel()))


def squares(
    encoded: Iterable[tuple[pathlib.Path | bytes, str]],
    n: int,
    framing: Framing,
    channels: int = 3,
    white: int = 255,
) -> np.ndarray:
    """Decodes n (image, name) pairs in their order, on all cores.

    Args:
      encoded: files or bytes, each with a name for messages; taken as they are decoded.
      n: how many there are.
      channels: 3, or 1 for grey.
      white: the stored value of white; before an image is resized it becomes 255.

    Returns:
      uint8 [n, side, side, channels].

    Raises:
      InputError: for an image that cannot be read, or more images than fit into memory.
    """
    check_memory(n, framing.side, channels)
    images = np.empty((n, framing.side, framing.side, channels), np.uint8)
    decoded = in_parallel(lambda pair: read_square(*pair, framing, channels, white), encoded)
    for position, image in enumerate(decoded):
        images[position] = image
    return images


def read_square(
    source: pathlib.Path | bytes, name: str, framing: Framing, channels: int, white: int = 255
) -> np.ndarray:
    """One image as uint8 [side, side, channels]; arguments and errors as of ``squares``."""
    image = open_image(source, name, framing.reading).convert("RGB" if channels == 3 else "L")
    if white != 255:
        image = image.point(lambda value: min(255, value * 255 // white))
    return np.asarray(to_square(image, framing)).reshape(framing.side, framing.side, channels)


def reframe(images: np.ndarray, framing: Framing) -> np.ndarray:
    """Decoded images, uint8 [n, height, width, 1 or 3], as squares of another size."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    framed = [np.asarray(to_square(Image.fromarray(image), framing)) for image in squeezed]
    return np.stack(framed).reshape(len(images), framing.side, framing.side, images.shape[-1])


def check_memory(n: int, side: int, channels: int) -> None:
    """Says how much memory n squares take where that is much, and refuses what cannot fit."""
    needed = n * side * side * channels
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require(
        needed < there,
        f"{n:,} images of {side} × {side} × {channels} take "
        f"{needed / 2**30:.1f} GiB, but this machine has {there / 2**30:.1f} GiB of "
        "memory: choose a smaller data.image_size or set data.limit.",
    )
    if needed >= LARGE:
        logging.getLogger(__name__).warning(
            "%s images of %d × %d × %d take %.1f GiB of memory.",
            f"{n:,}",
            side,
            side,
            channels,
            needed / 2**30,
        )


def make_pool(workers: int = 0) -> ThreadPoolExecutor:
    """A pool of so many threads; 0: as many as there are cores."""
    return ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode")


def in_parallel(function: Callable, items: Iterable, workers: int = 0) -> Iterator[Any]:
    """``map`` by a pool of threads: results in order, few of them waiting at any time."""
    with make_pool(workers) as pool:
        items = iter(items)
        while some := list(islice(items, TOGETHER)):
            yield from pool.map(function, some)
