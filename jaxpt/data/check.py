"""Checks of a set of images: every problem is reported, and none ends the check.

Near-duplicates are found by a perceptual hash, independent of any network. The hash is the signs of
the lowest frequencies of the grayscale picture, as in pHash: scaling, compression and small changes
of colour flip few of its bits. As pictures with little in them have similar frequencies, a small
colour version must be similar, too.
"""

import contextlib
import hashlib
import io
import itertools
import os
import pathlib
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import PIL
import scipy.fft
from PIL import Image

from jaxpt.data import listing, objects, sources
from jaxpt.data.dataset import make_split
from jaxpt.data.decode import formats, in_parallel, open_image, suffixes
from jaxpt.errors import InputError, shown
from jaxpt.files import is_remote

PNG_DEPTH = 24  # position of the byte of a PNG that holds the bits per channel
TIFF_BITS = 258  # TIFF tag BitsPerSample
HASH_SIDE, COLOUR_SIDE = 32, 8  # pixels of the transformed and of the colour picture
FREQUENCIES = 8  # per axis
LEAST_SIDE = 16  # pixels: smaller pictures look alike without being the same
NEAR_BITS = 4  # most bits of 64 in which near-duplicates differ
NEAR_COLOUR = 10.0  # largest mean difference of their colours, of 255
FLAT = 4.0  # standard deviation of a picture's gray values below which it is called flat


class Finding(NamedTuple):
    """A finding about one file, a class, or the whole dataset.

    Attributes:
      kind: "layout" (parts cannot be told from classes), "empty" (a class folder without a readable
        image), "class" (classes that the training part lacks: no run can read the dataset),
        "ignored" (files that are skipped), "alike" (classes with nearly the same name), "unusable"
        (no run can read the file), "conflict" (the same image in another class), "leak" (the same
        image in another part), "duplicate" (the same image again), "link" (the same file again, by
        a link), "near" (nearly the same image, see ``near_pairs``), "constant" (a single color),
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
    seen: list[tuple[str, Print | None]] = []
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
    for later, earlier, differ in near_pairs(print for _, print in seen):
        yield Finding(
            "near",
            f"{seen[later][0]} looks like {seen[earlier][0]}: {differ} of 64 bits of their "
            "perceptual hashes differ.",
        )
    for text, files in said.items():
        yield Finding(
            "warning", f"Pillow warns of {len(files):,} files, such as {min(files)}: {text}"
        )


class Print(NamedTuple):
    """Fingerprint of a picture: a hash of 64 bits, and its colours, uint8 [8, 8, 3]."""

    bits: int
    colours: np.ndarray


def print_of(image: Image.Image) -> Print | None:
    """Fingerprint of a decoded picture; None if it is too small or too flat to have one."""
    if min(image.size) < LEAST_SIDE:
        return None
    # The filter's support is proportional to the scale, so every pixel counts.
    grey = image.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(grey, np.float32)
    if pixels.std() < FLAT:
        return None
    low = scipy.fft.dctn(pixels, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()
    bits = low > np.median(low[1:])  # without the mean, which is far larger
    colours = image.convert("RGB").resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BILINEAR)
    return Print(int.from_bytes(np.packbits(bits).tobytes(), "big"), np.asarray(colours))


def near_pairs(
    prints: Iterable[Print | None], most: int = NEAR_BITS
) -> Iterator[tuple[int, int, int]]:
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
            if differ <= most and _difference(mine, known[earlier]) <= NEAR_COLOUR:
                yield position, earlier, differ


def _difference(a: Print, b: Print) -> float:
    """Mean absolute difference of the colours."""
    return float(np.abs(a.colours.astype(np.int16) - b.colours).mean())


class _Seen(NamedTuple):
    """What is remembered of a readable image: name, device and inode, SHA-256 and fingerprint.

    A file of an object store has its address in place of device and inode, an array its name.
    """

    name: str
    inode: tuple[int, int] | str
    digest: bytes
    print: Print | None


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
    return found + _constant(name, extrema), _Seen(name, inode, digest, print_of(picture))


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
    seen = _Seen(name, name, digest, print_of(picture))
    return _constant(name, picture.getextrema()), seen
