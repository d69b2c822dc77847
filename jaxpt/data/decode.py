"""Decodes images to uint8 squares on the host with Pillow, in the same way for every source."""

import contextlib
import functools
import io
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from jaxpt.errors import InputError, require

TOGETHER = 1024  # items submitted to the pool at a time
MOST_PIXELS = 100_000_000  # per image, as a small file may unpack to any number of pixels
LARGE = 2**30  # bytes; the memory needed is reported from this size on
# Formats that Pillow decodes by itself. For others it calls programs (Ghostscript for EPS) or needs
# a plugin (HEIC).
FORMATS = frozenset("AVIF BMP DIB GIF JPEG JPEG2000 PNG PPM TGA TIFF WEBP".split())
# Entries of ``Image.info`` in which Pillow looks for EXIF data.
EXIF = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
ORIENTATION = 0x0112  # the EXIF tag; UPRIGHT has the operation that undoes each of its values
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


class Reading(NamedTuple):
    """Options for reading a file as an opaque, upright image.

    Attributes:
      background: color behind transparent pixels, as (red, green, blue).
      exif_orientation: whether to apply the EXIF orientation, as image viewers do. Pillow always
        applies it to TIFF files, regardless of this option.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    exif_orientation: bool = True

    @classmethod
    def of(cls, config) -> "Reading":
        """Reads ``background`` and ``exif_orientation`` from a data config, if present.

        Raises:
          InputError: if the background is not a color.
        """
        name = config.get("background", "white")
        try:
            colour = ImageColor.getrgb(name)
        except ValueError:
            colour = ()
        require(len(colour) == 3, f"data.background must be white, black or #rrggbb, got {name!r}.")
        return cls(colour, config.get("exif_orientation", True))


class Framing(NamedTuple):
    """Options for turning an image of any shape into a square.

    Images are interpolated by Pillow's filters, which antialias when they shrink them.

    Attributes:
      resize: length of the shorter side in pixels; without a crop, of both sides, regardless of
        the aspect ratio.
      crop: side of the center crop in pixels; 0 for none.
      reading: how the image is opened.
      interpolation: a key of ``INTERPOLATIONS``.
    """

    resize: int
    crop: int
    reading: Reading = Reading()
    interpolation: str = "bicubic"

    @property
    def side(self) -> int:
        return self.crop or self.resize

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of an image that becomes the square, as (left, top, right, bottom)."""
        if not self.crop:
            return 0, 0, width, height
        size = np.array([width, height])
        resized = np.maximum(self.resize, np.round(size * (self.resize / min(width, height))))
        corner = (resized - self.crop) // 2
        left_top, right_bottom = (edge * size / resized for edge in (corner, corner + self.crop))
        return *left_top.tolist(), *right_bottom.tolist()

    @classmethod
    def of(cls, config, size: int | None = None) -> "Framing":
        """Reads ``image_size``, ``crop_pct`` and ``interpolation`` from a data config.

        Args:
          config: the data config.
          size: side of the square, in place of ``image_size``.

        Raises:
          InputError: for values out of range, or an unknown filter.
        """
        size = config.image_size if size is None else size
        share, filter = config.get("crop_pct", 0.0), config.get("interpolation", "")
        require(size >= 1, f"data.image_size must be at least 1, got {size}.")
        require(
            share == 0 or 0.1 <= share <= 1,
            f"data.crop_pct must be 0 or lie between 0.1 and 1, got {share}.",
        )
        require(
            filter in ("", *INTERPOLATIONS),
            f"data.interpolation must be one of {', '.join(INTERPOLATIONS)}, got {filter!r}.",
        )
        # As in timm; the small number undoes rounding.
        resize = math.floor(size / (share or 1) + 1e-6)
        return cls(resize, size, Reading.of(config), filter or "bicubic")

    @classmethod
    def centre(cls, size: int, reading: Reading = Reading()) -> "Framing":
        """Resizes the shorter side to ``size`` and crops the center square."""
        return cls(size, size, reading)


@functools.cache
def formats() -> tuple[str, ...]:
    """Formats in ``FORMATS`` that the installed Pillow supports, in the order they are tried."""
    Image.init()
    return tuple(form for form in Image.ID if form in FORMATS)


@functools.cache
def suffixes() -> dict[str, str]:
    """Maps each supported file ending to its format, such as ".jpg" to "JPEG"."""
    known = (*formats(), "MPO")  # several JPEGs in one file; the first is read
    return {end: form for end, form in Image.registered_extensions().items() if form in known}


def open_image(
    encoded: pathlib.Path | bytes, name: str, reading: Reading = Reading()
) -> Image.Image:
    """Decodes an image from a file or bytes to mode "L" (grayscale) or "RGB"; first frame only.

    Args:
      encoded: a path, or the bytes of a file.
      name: what error messages call the image.
      reading: background and orientation.

    Raises:
      InputError: if it cannot be read, is grayscale with more than 8 bits per channel, or has more
        than ``MOST_PIXELS`` pixels.
    """
    with opened(encoded, name) as image:
        return upright(opaque(image, name, reading), orientation(image, reading))


@contextlib.contextmanager
def opened(encoded: pathlib.Path | bytes | np.ndarray, name: str) -> Iterator[Image.Image]:
    """Context manager that opens an image without decoding it, and names it in errors.

    An image may also be given decoded, uint8 [height, width] or [height, width, 3].

    Raises:
      InputError: for an error of Pillow's inside the context, or more than ``MOST_PIXELS`` pixels.
    """
    if isinstance(encoded, np.ndarray):
        yield Image.fromarray(encoded)
        return
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with Image.open(source, formats=formats()) as image:
            require(image.width * image.height <= MOST_PIXELS, _too_large(name))
            yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be read as an image (it has no known format).") from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(name)) from error
    # These are what Pillow's readers raise for broken files.
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{name} cannot be read as an image ({error}).") from error


def opaque(image: Image.Image, name: str, reading: Reading) -> Image.Image:
    """Decodes to "L" if grayscale, else "RGB"; puts transparent images on the background.

    Raises:
      InputError: if the image is grayscale with more than 8 bits per channel.
    """
    image.load()
    # Pillow clips when it converts to 8 bits, so nearly every pixel would become white.
    require(
        not image.mode.startswith(("I", "F")),
        f"{name} has more than 8 bits per channel (mode {image.mode}): convert it first.",
    )
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (*reading.background, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    # The pixels outlive the closed file, so an image in one of these modes is not copied.
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def orientation(image: Image.Image, reading: Reading) -> int:
    """EXIF orientation of an image, 1 … 8; 1 is upright."""
    # Looking for EXIF data where there are none takes a fifth of the time of decoding.
    if not reading.exif_orientation or not EXIF & image.info.keys():
        return 1
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data may raise anything; the pixels are fine
        return 1
    return found if found in UPRIGHT else 1  # it may be any number, or text


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turns an image, stored with this EXIF orientation, upright."""
    turn = UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _too_large(name: str) -> str:
    return f"{name} has more than {MOST_PIXELS:,} pixels: make it smaller first."


def to_square(image: Image.Image, framing: Framing) -> Image.Image:
    """Resizes and crops an image to a square of ``framing.side`` pixels."""
    method = INTERPOLATIONS[framing.interpolation]
    # Only the pixels inside the crop are computed, from their box in the original image.
    return image.resize((framing.side, framing.side), method, framing.box(*image.size))


def squares(
    encoded: Iterable[tuple[pathlib.Path | bytes, str]],
    n: int,
    framing: Framing,
    channels: int = 3,
    white: int = 255,
) -> np.ndarray:
    """Decodes n (image, name) pairs in order, on all cores.

    Args:
      encoded: files or bytes, each with a name for messages; consumed lazily.
      n: number of images.
      framing: how each becomes a square.
      channels: 3, or 1 for grayscale.
      white: stored value of white; it is scaled to 255 before an image is resized.

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
    """Decodes one image to uint8 [side, side, channels]; arguments and errors as in ``squares``."""
    image = open_image(source, name, framing.reading).convert("RGB" if channels == 3 else "L")
    if white != 255:
        image = image.point(lambda value: min(255, value * 255 // white))
    return np.asarray(to_square(image, framing)).reshape(framing.side, framing.side, channels)


def reframe(images: np.ndarray, framing: Framing) -> np.ndarray:
    """Resizes decoded images, uint8 [n, height, width, 1 or 3], to squares."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    framed = [np.asarray(to_square(Image.fromarray(image), framing)) for image in squeezed]
    return np.stack(framed).reshape(len(images), framing.side, framing.side, images.shape[-1])


def check_memory(n: int, side: int, channels: int) -> None:
    """Logs the memory that n squares take if it is large; raises InputError if it cannot fit."""
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
    """Thread pool with ``workers`` threads; 0 for one per core."""
    return ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode")


def in_parallel(function: Callable, items: Iterable, workers: int = 0) -> Iterator[Any]:
    """``map`` on a thread pool: yields results in order, with a bounded number in progress."""
    with make_pool(workers) as pool:
        items = iter(items)
        while some := list(islice(items, TOGETHER)):
            yield from pool.map(function, some)
