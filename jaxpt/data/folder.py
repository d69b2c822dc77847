"""Your own images: one folder a class, below ``train`` and ``test``."""

import pathlib

import numpy as np
from PIL import Image

from jaxpt.data.decode import Framing, open_image, to_square
from jaxpt.errors import require

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read(root: pathlib.Path, size: int):
    """Reads ``root/train/CLASS/IMAGE`` and ``root/test/CLASS/IMAGE`` into memory.

    The shorter side is scaled to ``size`` and the centre is cut out; colour images become RGB,
    and a set of grey images alone stays grey.

    Args:
      root: the folder.
      size: side of the square images, pixels.

    Returns:
      (name, (train images, train labels), (test images, test labels), class names), images uint8
      [n, size, size, 1 or 3].

    Raises:
      InputError: for a missing or empty folder, classes that appear in test alone, or an image
        that cannot be read, by its name.
    """
    require(root.is_dir(), f"data.path {str(root)!r} is no folder.")
    require(size >= 1, f"data.image_size must be at least 1, got {size}.")
    files = {part: _files(root / part) for part in ("train", "test")}
    names = sorted({file.parent.name for file in files["train"]})
    unknown = sorted({file.parent.name for file in files["test"]} - set(names))
    require(not unknown, f"{root}/test has classes that {root}/train has not: {unknown}.")
    pictures = {part: [_open(file, size) for file in files[part]] for part in files}
    mode = "L" if all(p.mode == "L" for part in pictures.values() for p in part) else "RGB"
    parts = [(_stack(pictures[part], mode),
              np.array([names.index(file.parent.name) for file in files[part]], np.int32))
             for part in ("train", "test")]
    return root.name, parts[0], parts[1], names


def _files(part: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(file for file in part.glob("*/*") if file.suffix.lower() in SUFFIXES)
    require(bool(files), f"{part} has no images: expected {part}/CLASS/IMAGE with one of the "
            f"endings {', '.join(SUFFIXES)}.")
    return files


def _open(file: pathlib.Path, size: int) -> Image.Image:
    return to_square(open_image(file, str(file)), Framing.centre(size))


def _stack(images: list[Image.Image], mode: str) -> np.ndarray:
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images])
    return arrays[..., None] if mode == "L" else arrays
