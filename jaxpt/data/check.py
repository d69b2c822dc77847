"""Checks of a set of images: reports every problem found, and continues after each."""

import contextlib
import hashlib
import io
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from jaxpt.data import listing, near, objects, sources
from jaxpt.data.dataset import make_split
from jaxpt.data.decode import formats, in_parallel, open_image, suffixes
from jaxpt.errors import InputError, shown
from jaxpt.files import is_remote

PNG_DEPTH = 24  # position of the byte of a PNG that holds the bits per channel
TIFF_BITS = 258  # TIFF tag BitsPerSample


class Finding(NamedTuple):
    """A finding about one file, a class, or the whole dataset.

    Attributes:
      kind: "layout" (parts cannot be told from classes), "empty" (a class folder without a readable
        image), "class" (classes that the training part lacks: no run can read the dataset),
        "ignored" (files that are skipped), "alike" (classes with nearly the same name), "unusable"
        (no run can read the file), "conflict" (the same image in another class), "leak" (the same
        image in another part), "duplicate" (the same image again), "link" (the same file again, by
        a link), "near" (nearly the same image, see ``near``), "constant" (a single color),
        "warning" (what Pillow warns of, with the number of files),
        "frames" (only the first of several is read), "extension" (another format than the file
        ending says), "cmyk" (converted to RGB), "depth" (16 bits per channel are cut to 8).
      text: a sentence that names the file or the class.
    """

    kind: str
    text: str


def findings(root: pathlib.Path | str) -> Iterator[Finding]:
    """Checks the layout and the classes, then every image of every part, in order.

    Args:
      root: see ``listing.contents``, or an .npz file, see ``sources.read_npz``.

    Raises:
      InputError: if it cannot be read as an image dataset at all, see ``listing.contents`` and
        ``sources.read_npz``.
    """
    if os.fspath(root).endswith(".npz"):
        look, parts, remarks = _look_at_array, _of_arrays(root), []
    else:
        look, (parts, remarks) = _look, listing.contents(root)
    for remark in remarks:
        yield Finding(remark.kind, remark.text)
    first: dict[bytes, tuple[str, str, str]] = {}
    inodes: dict[tuple[int, int], tuple[str, str, str]] = {}
    seen: list[tuple[str, near.Print | None]] = []
    with _pillow_warnings() as said:
        for part, (files, labels) in parts.items():
            for label, (found, image) in zip(labels, in_parallel(look, files)):
                yield from found
                if image is None:
                    continue
                here = (image.name, part, label)
                if image.inode in inodes and inodes[image.inode][0] != here[0]:
                    yield _linked(*here, *inodes[image.inode])
                elif image.digest in first:
                    yield from _again(*here, *first[image.digest])
                else:
                    first[image.digest] = here
                    seen.append((f"{here[0]} ({part}, {label})", image.print))
                inodes.setdefault(image.inode, here)
    for later, earlier, differ in near.pairs(print for _, print in seen):
        yield Finding(
            "near",
            f"{seen[later][0]} looks like {seen[earlier][0]}: {differ} of 64 bits of their "
            "perceptual hashes differ.",
        )
    for text, files in said.items():
        yield Finding(
            "warning", f"Pillow warns of {len(files):,} files, such as {min(files)}: {text}"
        )


class _Seen(NamedTuple):
    """What is remembered of a readable image: name, device and inode, SHA-256 and fingerprint.

    A file of an object store has its address in place of device and inode, an array its name.
    """

    name: str
    inode: tuple[int, int] | str
    digest: bytes
    print: near.Print | None


_LOOKING = threading.local()  # ``name`` is the file that a thread looks at


@contextlib.contextmanager
def _pillow_warnings() -> Iterator[dict[str, set[str]]]:
    """Collects Pillow's warnings instead of printing them: text → names of files."""
    said: dict[str, set[str]] = {}

    def note(message, category, filename, *args, **kwargs):
        name = getattr(_LOOKING, "name", "")
        if name and pathlib.Path(filename).is_relative_to(pathlib.Path(PIL.__file__).parent):
            said.setdefault(str(message), set()).add(name)
        else:
            usual(message, category, filename, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        usual, warnings.showwarning = warnings.showwarning, note
        yield said


def _linked(file, part, label, first, first_part, first_label) -> Finding:
    """The finding about a file that was seen before under another name."""
    same = f"{file} is the same file as {first}, by a link"
    if part != first_part:
        return Finding("leak", f"{same}: it is in the {part} part and in the {first_part} part.")
    if label != first_label:
        classes = f"it is of class {label} and of class {first_label}"
        return Finding("link", f"{same}: {classes}, but an image can have only one.")
    return Finding("link", f"{same}.")


def _again(file, part, label, first, first_part, first_label) -> Iterator[Finding]:
    """Findings about an image whose content was seen before."""
    same = "is listed again" if file == first else f"is a duplicate of {first}"
    if part != first_part:
        yield Finding("leak", f"{file} of the {part} part {same} of the {first_part} part.")
    if label != first_label:
        yield Finding("conflict", f"{file} of class {label} {same} of class {first_label}.")
    if (part, label) == (first_part, first_label):
        yield Finding("duplicate", f"{file} {same}.")


def _look(file: str) -> tuple[list[Finding], _Seen | None]:
    """Findings about one file, and what is remembered of it if it can be read."""
    name = shown(file)
    _LOOKING.name = name
    try:
        about = None if is_remote(file) else os.stat(file)
        inode = file if about is None else (about.st_dev, about.st_ino)
        content = objects.read(objects.place(file))
        if not content:
            return [Finding("unusable", f"{name} is empty.")], None
        picture = open_image(content, name)
        extrema = picture.getextrema()
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
    return found + _constant(name, extrema), _Seen(name, inode, digest, near.print_of(picture))


def _constant(name: str, extrema) -> list[Finding]:
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if any(low != high for low, high in bands):
        return []
    return [Finding("constant", f"{name} has a single color.")]


def _of_arrays(path) -> dict[str, tuple[list[tuple[str, np.ndarray]], list[str]]]:
    """Images, with their names, and class names of each part of an .npz file."""
    parts, names = sources.read_npz(pathlib.Path(path))
    splits = {part: make_split(part, *arrays, names) for part, arrays in parts.items()}
    return {
        part: (
            [(f"{part} image {i}", image) for i, image in enumerate(split.images)],
            [names[label] for label in split.labels],
        )
        for part, split in splits.items()
    }


def _look_at_array(named: tuple[str, np.ndarray]) -> tuple[list[Finding], _Seen]:
    """As ``_look``, for an image of an array with its name."""
    name, pixels = named
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    seen = _Seen(name, name, digest, near.print_of(picture))
    return _constant(name, picture.getextrema()), seen
