"""What is wrong, or odd, with the files of an image folder: looks at all and goes on after each."""

import hashlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from jaxpt.data import listing
from jaxpt.data.decode import open_image
from jaxpt.data.parallel import in_parallel
from jaxpt.errors import InputError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
PNG_DEPTH = 24  # which byte of a PNG says how many bits a channel has


class Finding(NamedTuple):
    """One thing about one file, or a class.

    Attributes:
      kind: "unusable" (no run can read it), "extension" (it is of another format than its name
        says), "cmyk" (it is converted to RGB), "depth" (16 bits a channel are cut to 8),
        "duplicate" (the same bytes as another file), "class" (of the test part alone: no run can
        read the set).
      text: a sentence that names the file, or the class.
    """

    kind: str
    text: str


def findings(root: pathlib.Path) -> Iterator[Finding]:
    """Looks at the classes, and at every file of the training and the test part, in their order.

    Args:
      root: as of ``listing.every_part``.

    Raises:
      InputError: where the folder as a whole is none of images, see ``listing.every_part``.
    """
    parts = listing.every_part(root)
    for name in listing.only_in_test(parts):
        yield Finding(
            "class", f"{name} has images in the test part of {root} alone, none to train on."
        )
    first: dict[bytes, tuple[str, str, str]] = {}
    for name, part in parts.items():
        for file, label, (found, digest) in zip(*part, in_parallel(_look, part.files)):
            yield from found
            if digest is None:
                continue
            where = first.setdefault(digest, (file, name, label))
            if where[0] != file:
                other = "" if where[1] == name else f" of the {where[1]} part"
                other += "" if where[2] == label else f" and of another class, {where[2]}"
                yield Finding("duplicate", f"{file} is a duplicate of {where[0]}{other}.")


def _look(file: str) -> tuple[list[Finding], bytes | None]:
    """What there is about one file, and a hash of its bytes where it can be read."""
    path = pathlib.Path(file)
    try:
        if path.stat().st_size == 0:
            return [Finding("unusable", f"{file} is empty.")], None
        open_image(path, file)
        with open(path, "rb") as content:
            header = content.read(PNG_DEPTH + 1)
            content.seek(0)
            digest = hashlib.file_digest(content, "sha256").digest()
        with Image.open(path) as image:
            form, mode = image.format, image.mode
    except InputError as error:
        return [Finding("unusable", str(error))], None
    except OSError as error:
        return [Finding("unusable", f"{file} cannot be read ({error.strerror or error}).")], None
    found = []
    if form != FORMATS.get(path.suffix.lower(), form):
        found.append(Finding("extension", f"{file} is {form}, whatever its name says."))
    if form == "PNG" and header[PNG_DEPTH] == 16:  # Pillow does not tell, where it has colours
        found.append(Finding("depth", f"{file} has 16 bits a channel: the lower 8 are lost."))
    if mode == "CMYK":
        found.append(Finding("cmyk", f"{file} is CMYK: it is converted to RGB."))
    return found, digest
