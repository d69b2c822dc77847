"""Random crops from whole pictures, taken by the host when it decodes them.

The box of a view is a function of (seed, view, epoch, example id) and the size of the picture. So a
view is the same in any batch, on any number of hosts, and after any resume.
"""

import functools
import hashlib
import importlib
import importlib.util
import math
import pathlib
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxpt.data.decode import INTERPOLATIONS, Framing, opaque, opened, orientation, upright
from jaxpt.data.pictures import Pictures
from jaxpt.errors import require

CROPS = ("auto", "whole", "square")
RATIOS = (3 / 4, 4 / 3)  # smallest and largest ratio of width to height
TRIES = 10
DRAWS = 2 * TRIES + 2
SCALES = (8, 4, 2)  # by which a JPEG decoder can divide the side lengths, besides 1
FAST = "cykooz_resizer"
KEPT = 2**24  # bytes of memory for a decoded JPEG that each thread keeps, as far as it is used
GAP = 3.0  # Pillow's resize first averages whole pixels, down to this many times the target


class View(NamedTuple):
    """A view that the host takes from the whole picture.

    Attributes:
      area: smallest and largest share of the picture's area; (1, 1) for the central square, which
        evaluation sees.
      size: side of the result in pixels.
      window: share of both sides of the picture in a window at a random place, in place of
        ``area``; 0 for none.
      interpolation: a key of ``INTERPOLATIONS``.
    """

    area: tuple[float, float]
    size: int
    window: float = 0.0
    interpolation: str = "bilinear"

    def box(self, framing: Framing, width: int, height: int, draws: Callable[[], list[float]]):
        """Box of the view in a picture, as (left, top, right, bottom), from ``draw``'s numbers."""
        if self.window:
            w, h = width * self.window, height * self.window
            across, down = draws()[-2:]
            left, top = (width - w) * across, (height - h) * down
            return left, top, left + w, top + h
        if tuple(self.area) == (1, 1):
            return framing.box(width, height)
        return random_box(width, height, self.area, draws())


class Cropping(NamedTuple):
    """The views of a run that the host takes from whole pictures.

    Attributes:
      views: by the number of the view, see ``augment.draw_view``.
      seed: the run's seed.
      resampler: a key of ``RESAMPLERS``.
    """

    views: Mapping[int, View]
    seed: int
    resampler: str = "pillow"

    def empty(self, n: int, channels: int) -> dict[int, np.ndarray]:
        """Uninitialized crops of n pictures: view → uint8 [n, size, size, channels]."""
        return {
            number: np.empty((n, view.size, view.size, channels), np.uint8)
            for number, view in self.views.items()
        }

    def take(
        self, pictures: Pictures, position: int, *, epoch: int, example: int
    ) -> dict[int, np.ndarray]:
        """Takes all views from one of the pictures, see ``read``."""
        return self.read(
            *pictures.encoded(position),
            epoch=epoch,
            example=example,
            framing=pictures.framing,
            channels=pictures.shape[-1],
            white=pictures.white,
        )

    def read(
        self,
        source: pathlib.Path | bytes,
        name: str,
        *,
        epoch: int,
        example: int,
        framing: Framing,
        channels: int,
        white: int = 255,
    ) -> dict[int, np.ndarray]:
        """Decodes a picture once and takes all views from it.

        Args:
          source: a file, or its bytes.
          name: what error messages call the picture.
          epoch, example: of the example, see ``Batch``.
          framing: how the picture is opened, and its central square.
          channels: 3, or 1 for grayscale.
          white: see ``decode.squares``.

        Returns:
          view → uint8 [size, size, channels].

        Raises:
          InputError: if the picture cannot be read.
        """

        def boxes(width, height):
            found = []
            for number, view in self.views.items():
                draws = functools.partial(draw, self.seed, number, epoch, example)
                found.append(view.box(framing, width, height, draws))
            return found

        views = list(self.views.values())
        found = read(source, name, boxes, views, framing, channels, white, self.resampler)
        return dict(zip(self.views, found))


def draw(seed: int, view: int, epoch: int, example: int) -> list[float]:
    """Draws the numbers in 0 … 1 from which ``random_box`` makes a box."""
    # A hash takes a fifth of the time of a NumPy generator, and no version changes it.
    key = struct.pack("<4q", seed, view, epoch, example)
    words = struct.unpack(f"<{DRAWS}Q", hashlib.shake_128(key).digest(8 * DRAWS))
    return [(word >> 11) * 2.0**-53 for word in words]


def random_box(
    width: int, height: int, area: tuple[float, float], draws: Sequence[float]
) -> tuple[int, int, int, int]:
    """Box of a random resized crop, in whole pixels, distributed as in torchvision.

    Area and ratio are drawn until a box fits into the picture, at most ``TRIES`` times. After that
    it is the largest central box with an allowed ratio.

    Args:
      width, height: of the picture, in pixels.
      area: smallest and largest share of the picture's area.
      draws: ``DRAWS`` numbers in 0 … 1: of areas, of ratios, of the left and the top edge.

    Returns:
      (left, top, right, bottom).
    """
    low, high = area
    least, largest = map(math.log, RATIOS)
    for share, ratio in zip(draws[:TRIES], draws[TRIES : 2 * TRIES]):
        pixels = width * height * (low + (high - low) * share)
        ratio = math.exp(least + (largest - least) * ratio)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[-2] * (width - w + 1)), int(draws[-1] * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * RATIOS[1])))
    h = min(height, max(1, round(width / RATIOS[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def read(
    source: pathlib.Path | bytes,
    name: str,
    boxes: Callable[[int, int], list[tuple[float, float, float, float]]],
    views: Sequence[View],
    framing: Framing,
    channels: int = 3,
    white: int = 255,
    resampler: str = "pillow",
) -> list[np.ndarray]:
    """Decodes an image once and resizes several boxes of it to squares.

    A JPEG is decoded at a half, a fourth or an eighth of its side lengths if every box still has at
    least as many pixels there as its square. Interpolation is antialiased.

    Args:
      source: a file, or its bytes.
      name: what error messages call the image.
      boxes: maps (width, height) of the upright image to boxes (left, top, right, bottom).
      views: size and interpolation of the square of each box.
      framing: how the image is opened.
      channels: 3, or 1 for grayscale.
      white: see ``decode.squares``.
      resampler: a key of ``RESAMPLERS``.

    Returns:
      uint8 [size, size, channels] for each box.

    Raises:
      InputError: as in ``decode.open_image``.
    """
    resize, mode = RESAMPLERS[resampler], "RGB" if channels == 3 else "L"
    with opened(source, name) as image:
        jpeg = image.format in ("JPEG", "MPO")  # their EXIF data precede the pixels
        decoded = None if jpeg else opaque(image, name, framing.reading)
        turn = orientation(image, framing.reading)
        width, height = image.size
        found = boxes(*((height, width) if turn >= 5 else (width, height)))
        scale = _reduced(image, found, views) if jpeg else 1
        found = [[edge / scale for edge in _stored(box, width, height, turn)] for box in found]
        pixels = _jpeg_pixels(image, scale) if jpeg and resampler == FAST and white == 255 else None
        if pixels is not None:
            decoded = _rows(pixels, found, views)
        elif decoded is None:
            decoded = opaque(image, name, framing.reading)
        if white != 255:
            decoded = decoded.point(lambda value: min(255, value * 255 // white))
        crops = []
        for box, view in zip(found, views):
            crop = resize(decoded, view, box)
            # Turned and converted only now, when it is small.
            if turn > 1 or crop.shape[2] != channels:
                squeezed = crop[..., 0] if crop.shape[2] == 1 else crop
                crop = np.asarray(upright(Image.fromarray(squeezed), turn).convert(mode))
            crops.append(crop.reshape(view.size, view.size, channels))
    return crops


def _reduced(image: Image.Image, boxes, views) -> int:
    """Sets the scale at which a JPEG is decoded; returns by how much it is divided."""
    room = min(
        min(right - left, bottom - top) / view.size
        for (left, top, right, bottom), view in zip(boxes, views)
    )
    for scale in SCALES:
        # Of a very small image Pillow would choose another scale than the one asked for.
        if room >= scale and min(image.size) >= scale * scale:
            image.draft(image.mode, (image.width // scale, image.height // scale))
            return scale
    return 1


def _stored(box, width: int, height: int, turn: int) -> tuple[float, float, float, float]:
    """A box of the upright image in the image as stored, with this EXIF orientation."""
    left, top, right, bottom = box
    if turn >= 5:
        left, top, right, bottom = top, left, bottom, right
    if turn in (2, 3, 7, 8):
        left, right = width - right, width - left
    if turn in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _pillow(image: Image.Image, view: View, box) -> np.ndarray:
    filter = INTERPOLATIONS[view.interpolation]
    resized = image.resize((view.size, view.size), filter, box, reducing_gap=GAP)
    return np.asarray(resized).reshape(view.size, view.size, -1)


_local = threading.local()


def _kept(name, make: Callable[[], Any]) -> Any:
    """A thing that each thread makes once: fresh memory would cost as much as the resizing."""
    if name not in _local.__dict__:
        _local.__dict__[name] = make()
    return _local.__dict__[name]


class Rows(NamedTuple):
    """Rows of a decoded JPEG from ``first`` on: cykooz_resizer's image, and its kind of pixels."""

    pixels: Any
    kind: Any
    first: int


def _rows(image: np.ndarray, boxes, views) -> Rows:
    """Copies the rows on which the crops depend."""
    import cykooz_resizer as fast

    def reach(box, view):
        return 3 + 2 * max(1, (box[3] - box[1]) / view.size)

    first = max(0, min(int(box[1] - reach(box, view)) for box, view in zip(boxes, views)))
    end = max(math.ceil(box[3] + reach(box, view)) for box, view in zip(boxes, views))
    height, width, bands = image[first:end].shape
    kind = fast.PixelType.U8 if bands == 1 else fast.PixelType.U8x3
    return Rows(fast.ImageData(width, height, kind, image[first:end].tobytes()), kind, first)


def _simd(image: Image.Image | Rows, view: View, box) -> np.ndarray:
    import cykooz_resizer as fast

    (left, top, right, bottom), size = box, view.size
    first = image.first if isinstance(image, Rows) else 0
    # Catmull and Rom's filter is Pillow's bicubic one.
    filters = {"bilinear": fast.FilterType.bilinear, "bicubic": fast.FilterType.catmull_rom}
    options = fast.ResizeOptions(
        fast.ResizeAlg.convolution(filters[view.interpolation]),
        crop_box=fast.CropBox(left, top - first, right - left, bottom - top),
        use_alpha=False,
    )
    resizer = _kept("resizer", fast.Resizer)
    if isinstance(image, Rows):
        resized = _kept((image.kind, size), lambda: fast.ImageData(size, size, image.kind))
        resizer.resize(image.pixels, resized, options)
        pixels = resized.get_buffer()
    else:
        resized = _kept((image.mode, size), lambda: Image.new(image.mode, (size, size)))
        resizer.resize_pil(image, resized, options)
        pixels = resized.tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(size, size, -1)


@functools.cache
def _simplejpeg():
    """The package simplejpeg, or None if it is not installed."""
    found = importlib.util.find_spec("simplejpeg") is not None
    return importlib.import_module("simplejpeg") if found else None


def _jpeg_pixels(image: Image.Image, scale: int) -> np.ndarray | None:
    """Decodes a JPEG into memory that the thread keeps: uint8 [height, width, 1 or 3].

    The pixels are Pillow's, as both packages contain libjpeg-turbo. What simplejpeg does not decode
    without a warning is left to Pillow, which decides what is broken: then the result is None.
    """
    decoder = _simplejpeg()
    if decoder is None or image.mode not in ("L", "RGB"):
        return None
    width, height = image.size
    bands, space = (1, "GRAY") if image.mode == "L" else (3, "RGB")
    memory = _kept("memory", lambda: np.empty(KEPT, np.uint8))
    if memory.size < width * height * bands:
        memory = None
    image.fp.seek(0)
    try:
        pixels = decoder.decode_jpeg(
            image.fp.read(),
            space,
            min_height=height,
            min_width=width,
            min_factor=scale,
            buffer=memory,
        )
    except ValueError:
        return None
    return pixels.reshape(height, width, bands)


# Functions (image, view, box) → uint8 [size, size, 1 or 3].
RESAMPLERS = {"pillow": _pillow, FAST: _simd}


def choose(data, images, views: Mapping[int, View], *, seed: int) -> Cropping | None:
    """Decides whether views are taken from whole pictures; None for square images.

    By default they are if the images are encoded files, which are streamed, and some view is
    random. Otherwise the devices crop square images.

    Args:
      data: a data config, with ``crops`` and ``resampler``.
      images: an array or ``Pictures``.
      views: that the host would take.
      seed: the run's seed.

    Raises:
      InputError: for unknown values, or whole pictures of a set that is held as arrays.
    """
    asked, encoded = data.crops, isinstance(images, Pictures)
    require(asked in CROPS, f"data.crops must be one of {', '.join(CROPS)}, got {asked!r}.")
    require(
        asked != "whole" or encoded,
        f"data.crops whole needs encoded pictures, but {data.source} is held as square arrays: "
        "set data.crops to square.",
    )
    if asked == "whole" or (asked == "auto" and encoded and any_random(views)):
        return Cropping(views, seed, choose_resampler(data.resampler))
    return None


def settle(data, cropping: Cropping | None) -> None:
    """Writes the choice that ``choose`` made into a data config."""
    data.crops = "whole" if cropping else "square"
    data.resampler = cropping.resampler if cropping else "auto"


def any_random(views: Mapping[int, View]) -> bool:
    """Whether the box of some view is random."""
    return any(view.window or tuple(view.area) != (1, 1) for view in views.values())


def choose_resampler(asked: str) -> str:
    """Resolves ``data.resampler``: "auto" is the fast one, if it is installed.

    Raises:
      InputError: for an unknown name, or a package that is not installed.
    """
    installed = importlib.util.find_spec(FAST) is not None
    if asked == "auto":
        return FAST if installed else "pillow"
    require(
        asked in RESAMPLERS,
        f"data.resampler must be auto or one of {', '.join(RESAMPLERS)}, got {asked!r}.",
    )
    require(
        asked == "pillow" or installed,
        f"data.resampler {asked} is not installed: pip install 'jaxpt[pictures]', or set "
        "data.resampler to pillow in a new run.",
    )
    return asked
