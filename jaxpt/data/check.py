"""Checks of an image folder: reports every problem found, and continues after each."""

import hashlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from jaxpt.data import listing, objects
from jaxpt.data.decode import formats, in_parallel, open_image, suffixes
from jaxpt.errors import InputError, shown

PNG_DEPTH = 24  # position of the byte of a PNG that holds the bits per channel
TIFF_BITS = 258  # TIFF tag BitsPerSample


class Finding(NamedTuple):
    """A finding about one file, a class, or the whole dataset.

    Attributes:
      kind: "layout" (parts cannot be told from classes), "empty" (a class folder without a readable
        image), "class" (classes that the training part lacks: no run can read the dataset),
        "ignored" (files that are skipped), "alike" (classes with nearly the same name), "unusable"
        (no run can read the file), "conflict" (the same image in another class), "leak" (the same
        image in another part), "duplicate" (the same image again), "constant" (a single color),
        "frames" (only the first of several is read), "extension" (another format than the file
        ending says), "cmyk" (converted to RGB), "depth" (16 bits per channel are cut to 8).
      text: a sentence that names the file or the class.
    """

    kind: str
    text: str


def findings(root: pathlib.Path | str) -> Iterator[Finding]:
    """Checks the layout and the classes, then every file of every part, in order.

    Args:
      root: see ``listing.contents``.

    Raises:
      InputError: if the folder cannot be read as an image dataset at all, see
        ``listing.contents``.
    """
    parts, remarks = listing.contents(root)
    for remark in remarks:
        yield Finding(remark.kind, remark.text)
    first: dict[bytes, tuple[str, str, str]] = {}
    for part, (files, labels) in parts.items():
        for file, label, (found, digest) in zip(files, labels, in_parallel(_look, files)):
            yield from found
            if digest is None:
                continue
            here = (shown(file), part, label)
            if digest in first:
                yield from _again(*here, *first[digest])
            else:
                first[digest] = here


def _again(file, part, label, first, first_part, first_label) -> Iterator[Finding]:
    """Findings about an image whose content was seen before."""
    same = "is listed again" if file == first else f"is a duplicate of {first}"
    if part != first_part:
        yield Finding("leak", f"{file} of the {part} part {same} of the {first_part} part.")
    if label != first_label:
        yield Finding("conflict", f"{file} of class {label} {same} of class {first_label}.")
    if (part, label) == (first_part, first_label):
        yield Finding("duplicate", f"{file} {same}.")


def _look(file: str) -> tuple[list[Finding], bytes | None]:
    """Findings about one file, and the SHA-256 of its bytes if it can be read."""
    name = shown(file)
    try:
        content = objects.read(objects.place(file))
        if not content:
            return [Finding("unusable", f"{name} is empty.")], None
        extrema = open_image(content, name).getextrema()
        header, digest = content[: PNG_DEPTH + 1], hashlib.sha256(content).digest()
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            form, mode, frames = image.format or "", image.mode, getattr(image, "n_frames", 1)
            bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, (8,))
    except InputError as error:
        return [Finding("unusable", str(error))], None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # as in ``open_image``
        why = getattr(error, "strerror", None) or error
        return [Finding("unusable", f"{name} cannot be read ({why}).")], None
    found = []
    kind, named = (
        {"MPO": "JPEG"}.get(f, f) for f in (form, suffixes().get(os.path.splitext(file)[1].lower()))
    )
    if kind != (named or kind):
        found.append(Finding("extension", f"{name} is {form}, unlike its file ending."))
    # Pillow's mode does not show the depth of color images.
    if (form == "PNG" and header[PNG_DEPTH] == 16) or max(bits) > 8:
        found.append(Finding("depth", f"{name} has 16 bits per channel: the lower 8 are lost."))
    if mode == "CMYK":
        found.append(Finding("cmyk", f"{name} is CMYK: it is converted to RGB."))
    if frames > 1 and form != "MPO":  # cameras store a preview with the picture
        found.append(Finding("frames", f"{name} has {frames} frames: only the first is read."))
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if all(low == high for low, high in bands):
        found.append(Finding("constant", f"{name} has a single color."))
    return found, digest
