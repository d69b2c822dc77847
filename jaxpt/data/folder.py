"""Your own images: class folders or list files, with or without ``train`` and ``test`` parts.

A small set is decoded at once, so a broken file is found before a run starts. A large one is only
listed, and decoded when it is needed, unless broken files are to be skipped.
"""

import contextlib
import json
import logging
import pathlib
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from rich.console import Console
from rich.progress import track

from jaxpt.data import listing
from jaxpt.data.decode import Framing, check_memory, in_parallel, open_image, opened, to_square
from jaxpt.data.identity import stamp
from jaxpt.data.pictures import Pictures, of_file
from jaxpt.errors import InputError, require
from jaxpt.files import replacing

CONSTANT = 0.01  # a larger share of single-color images is reported
FEW = 64  # files that are opened to see whether a large set is grayscale
SHOWN = 5  # at most this many broken files are named in a message


class Folder(NamedTuple):
    """Images and labels read from a folder or a list.

    Attributes:
      name: of the folder.
      parts: (images, labels) of "train" and, if present, "validation" and "test"; images are uint8
        [n, size, size, 1 or 3] or ``Pictures`` of that shape, labels int32 [n].
      files: path of each image, by part.
      class_names: in the order of the labels.
      broken: a sentence for each file that was left out.
    """

    name: str
    parts: dict[str, tuple[np.ndarray | Pictures, np.ndarray]]
    files: dict[str, list[str]]
    class_names: list[str]
    broken: tuple[str, ...]


def read(
    root: pathlib.Path | str,
    framing: Framing,
    *,
    broken: str = "stop",
    keep: int | None = None,
    cache: pathlib.Path | None = None,
) -> Folder:
    """Reads class folders or lists of images; see ``listing.parts`` for the layouts.

    Color images become RGB; images stay grayscale if all of them are.

    Args:
      root: the folder, or a list file; a URL if it is on an object store.
      framing: how each image becomes a square.
      broken: "stop" raises for files that cannot be used, "skip" leaves them out and logs them. If
        the set stays encoded, "stop" decodes nothing: a file is named when it is read.
      keep: a dataset of more bytes than this stays encoded (``Pictures``); None decodes any.
      cache: folder that stores which files of an encoded dataset can be decoded, valid as long as
        names, sizes and modification times stay the same; None stores nothing.

    Raises:
      InputError: if ``listing.parts`` raises it, for files that cannot be used (by name), or if
        "skip" would leave a class without training images.
    """
    require(broken in ("stop", "skip"), f"data.broken must be stop or skip, got {broken!r}.")
    parts = listing.parts(root)
    files = [file for part in parts.values() for file in part.files]
    size = framing.side
    whole = keep is None or len(files) * size * size * 3 <= keep
    if whole:
        check_memory(len(files), size, 3)
        seen = dict(zip(files, in_parallel(lambda file: _square(file, framing), files)))
        errors = {file: found for file, found in seen.items() if isinstance(found, str)}
        grey = all(square.ndim == 2 for file, square in seen.items() if file not in errors)
    else:
        errors, grey = _checked(files, cache) if broken == "skip" else ({}, _all_grey(files))
    if errors:
        _report(root, errors, len(files), broken)
        before, parts = parts, {name: _without(part, errors) for name, part in parts.items()}
        lost = sorted(set(before["train"].classes) - set(parts["train"].classes))
        require(
            not (lost and parts["train"].files),
            f"{root}: no training image of {lost} can be used, so data.broken=skip would leave out "
            "whole classes: remove these classes or fix their files.",
        )
    names = _class_names(root, parts)
    if whole:
        _log_constant(parts, seen)
    channels = 1 if grey else 3
    images = {
        name: _stack([seen[file] for file in part.files], size, channels)
        if whole
        else Pictures(part.files, framing, channels)
        for name, part in parts.items()
    }
    return _folder(root, parts, images, names, tuple(errors.values()))


def listed(
    root: pathlib.Path | str,
    framing: Framing,
    *,
    broken: str = "stop",
    keep: int | None = None,
    cache: pathlib.Path | None = None,
) -> Folder:
    """Lists the images that ``read`` would read, as ``Pictures``; arguments and errors as there.

    Nothing is decoded, unless broken files are to be skipped and the cache does not know them yet.
    """
    del keep
    parts = listing.parts(root)
    if broken == "skip":
        errors, _ = _checked([file for part in parts.values() for file in part.files], cache)
        parts = {name: _without(part, errors) for name, part in parts.items()}
    names = _class_names(root, parts)
    images = {name: Pictures(part.files, framing, 3) for name, part in parts.items()}
    return _folder(root, parts, images, names, ())


def _folder(root, parts: dict[str, listing.Part], images: dict, names, broken) -> Folder:
    """The folder of these images, with the classes of the parts as numbers."""
    position = {name: i for i, name in enumerate(names)}
    labels = {
        name: np.array([position[c] for c in part.classes], np.int32)
        for name, part in parts.items()
    }
    return Folder(
        pathlib.PurePath(root).stem,
        {name: (images[name], labels[name]) for name in parts},
        {name: part.files for name, part in parts.items()},
        names,
        broken,
    )


def _class_names(root: pathlib.Path, parts: dict[str, listing.Part]) -> list[str]:
    require(bool(parts["train"].files), f"{root} has no training image that can be used.")
    names = sorted(set(parts["train"].classes))
    extra = sorted({c for part in parts.values() for c in part.classes} - set(names))
    require(not extra, f"{root}: no training image of {extra} can be used.")
    return names


def _square(file: str, framing: Framing) -> np.ndarray | str:
    """Decodes a file to uint8 [size, size] or [size, size, 3]; returns the error if it fails."""
    try:
        image = open_image(*of_file(file), framing.reading)
        return np.asarray(to_square(image, framing))
    except InputError as error:
        return str(error)


def _mode(file: str) -> str:
    """Mode of a decoded file, "L" or "RGB"; returns the error if it cannot be decoded."""
    try:
        return open_image(*of_file(file)).mode
    except InputError as error:
        return str(error)


def _all_grey(files: list[str]) -> bool:
    """Whether all files are grayscale; opens a few, and all only if those few are."""

    def is_grey(file):
        with opened(*of_file(file)) as image:
            return image.mode == "L" and "transparency" not in image.info

    few = files[:: max(1, len(files) // FEW)]
    return all(in_parallel(is_grey, few)) and all(in_parallel(is_grey, files))


def _checked(files: list[str], cache: pathlib.Path | None) -> tuple[dict[str, str], bool]:
    """Decodes all files; returns (error of each broken file, whether all others are grayscale)."""
    remembered = None if cache is None else cache / f"{stamp(files, PIL.__version__)}.json"
    try:
        if remembered:
            found = json.loads(remembered.read_text())
            return dict(found["errors"]), bool(found["grey"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # missing or damaged: decode again
    logging.getLogger(__name__).warning(
        "Decoding %s images once to find broken files.", f"{len(files):,}"
    )
    errors, grey = {}, True
    modes = in_parallel(_mode, files)
    console = Console(stderr=True)
    shown_modes = track(
        modes, "checking images", len(files), console=console, disable=not console.is_terminal
    )
    for file, mode in zip(files, shown_modes):
        if mode not in ("L", "RGB"):
            errors[file] = mode
        grey = grey and mode != "RGB"
    if remembered:
        _remember(remembered, {"errors": errors, "grey": grey})
    return errors, grey


def _remember(file: pathlib.Path, found: dict) -> None:
    with contextlib.suppress(OSError):  # without it files are decoded again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as kept:
            json.dump(found, kept)


def _report(root, errors: dict[str, str], n: int, broken: str) -> None:
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    named = "; ".join(text.removesuffix(".") for text in list(errors.values())[:SHOWN]) + more
    said = f"{len(errors):,} of {n:,} images cannot be used: {named}."
    require(
        broken == "skip",
        f"{said.removesuffix('.')}. Fix or remove them, or set data.broken "
        f"to skip; jaxpt data check {root} lists all.",
    )
    logging.getLogger(__name__).warning("%s They are skipped.", said)


def _log_constant(parts: dict[str, listing.Part], seen: dict[str, np.ndarray | str]) -> None:
    """Logs the number of single-color images if they are many, or all images of a class."""
    for name, part in parts.items():
        constant = [(seen[file] == seen[file][0, 0]).all() for file in part.files]
        classes = set(part.classes) - {c for c, same in zip(part.classes, constant) if not same}
        if classes or sum(constant) > CONSTANT * len(constant):
            logging.getLogger(__name__).warning(
                "%s of %s %s images have a single color%s.",
                f"{sum(constant):,}",
                f"{len(constant):,}",
                name,
                f", including all images of {sorted(classes)[:SHOWN]}" if classes else "",
            )


def _without(part: listing.Part, errors: dict[str, str]) -> listing.Part:
    kept = [(file, c) for file, c in zip(*part) if file not in errors]
    return listing.Part([file for file, _ in kept], [c for _, c in kept])


def _stack(squares: list[np.ndarray], size: int, channels: int) -> np.ndarray:
    images = np.empty((len(squares), size, size, channels), np.uint8)
    for position, square in enumerate(squares):
        if channels == 3 and square.ndim == 2:
            square = np.asarray(Image.fromarray(square).convert("RGB"))
        images[position] = square.reshape(size, size, channels)
    return images
