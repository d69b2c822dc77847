"""Your own images: class folders or list files, below ``train`` and ``test`` or all for training.

Every file is decoded once before anything else happens, so that no run meets a broken one later.
"""

import hashlib
import json
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from jaxpt.data import listing
from jaxpt.data.decode import Framing, Reading, check_memory, in_parallel, open_image, to_square
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require, shown

CONSTANT = 0.01  # share of images of one colour from which on a run says so
SHOWN = 5  # broken files that a message names


class Folder(NamedTuple):
    """What a folder gives.

    Attributes:
      name: of the folder.
      parts: "train" and, if there are any, "validation" and "test": (images, labels), images uint8
        [n, size, size, 1 or 3] or as many ``Pictures``, labels int32 [n].
      class_names: in the order of the labels.
      broken: a sentence for every file that was left out.
    """

    name: str
    parts: dict[str, tuple[np.ndarray | Pictures, np.ndarray]]
    class_names: list[str]
    broken: tuple[str, ...]


def read(
    root: pathlib.Path,
    size: int,
    *,
    broken: str = "stop",
    keep: int | None = None,
    cache: pathlib.Path | None = None,
    reading: Reading = Reading(),
) -> Folder:
    """Reads class folders or lists of images; see ``listing.parts`` for how they may lie.

    The shorter side is scaled to ``size`` and the centre is cut out; colour images become RGB,
    and a set of grey images alone stays grey.

    Args:
      root: the folder, or a list file.
      size: side of the square images, pixels.
      broken: "stop" raises for files that cannot be used, "skip" leaves them out and says which.
      keep: a set of more bytes than this stays encoded (``Pictures``); None: none does.
      cache: folder that remembers which files of such a set could be decoded, for as long as
        names, sizes and times of change stay the same; None: nothing is remembered.
      reading: how the files are opened.

    Raises:
      InputError: for a missing or empty folder, whatever else ``listing.parts`` refuses, files that
        cannot be used, by their names, or classes that have no others.
    """
    require(size >= 1, f"data.image_size must be at least 1, got {size}.")
    require(broken in ("stop", "skip"), f"data.broken must be stop or skip, got {broken!r}.")
    parts = listing.parts(root)
    files = [file for part in parts.values() for file in part.files]
    framing = Framing.centre(size, reading)
    whole = keep is None or len(files) * size * size * 3 <= keep
    if whole:
        check_memory(len(files), size, 3)
        seen = dict(zip(files, in_parallel(lambda file: _square(file, framing), files)))
        errors = {file: found for file, found in seen.items() if isinstance(found, str)}
        grey = all(square.ndim == 2 for file, square in seen.items() if file not in errors)
    else:
        errors, grey = _checked(files, cache)
    if errors:
        _tell(root, errors, len(files), broken)
        before, parts = parts, {name: _without(part, errors) for name, part in parts.items()}
        lost = sorted(set(before["train"].classes) - set(parts["train"].classes))
        require(
            not (lost and parts["train"].files),
            f"{root}: no training image of {lost} can be used, so data.broken=skip would leave out "
            "whole classes: remove them or fix their files.",
        )
    names = _class_names(root, parts)
    if whole:
        _tell_constant(parts, seen)
    channels = 1 if grey else 3
    images = {
        name: _stack([seen[file] for file in part.files], size, channels)
        if whole
        else Pictures(part.files, framing, channels)
        for name, part in parts.items()
    }
    position = {name: i for i, name in enumerate(names)}
    return Folder(
        root.stem,
        {
            name: (images[name], np.array([position[c] for c in part.classes], np.int32))
            for name, part in parts.items()
        },
        names,
        tuple(errors.values()),
    )


def listed(
    root: pathlib.Path,
    size: int,
    *,
    broken: str = "stop",
    keep: int | None = None,
    cache: pathlib.Path | None = None,
    reading: Reading = Reading(),
) -> Folder:
    """Lists what ``read`` would read, as ``Pictures``; arguments and errors as of ``read``.

    Nothing is decoded, unless broken files are to be left out and were not looked for before.
    """
    del keep
    parts = listing.parts(root)
    if broken == "skip":
        errors, _ = _checked([file for part in parts.values() for file in part.files], cache)
        parts = {name: _without(part, errors) for name, part in parts.items()}
    names = _class_names(root, parts)
    position = {name: i for i, name in enumerate(names)}
    return Folder(
        root.stem,
        {
            name: (
                Pictures(part.files, Framing.centre(size, reading), 3),
                np.array([position[c] for c in part.classes], np.int32),
            )
            for name, part in parts.items()
        },
        names,
        (),
    )


def _class_names(root: pathlib.Path, parts: dict[str, listing.Part]) -> list[str]:
    require(bool(parts["train"].files), f"{root} has no training image that can be used.")
    names = sorted(set(parts["train"].classes))
    extra = sorted({c for part in parts.values() for c in part.classes} - set(names))
    require(not extra, f"{root}: no training image of {extra} can be used.")
    return names


def _square(file: str, framing: Framing) -> np.ndarray | str:
    """uint8 [size, size] or [size, size, 3], or why there is none."""
    try:
        image = open_image(pathlib.Path(file), shown(file), framing.reading)
        return np.asarray(to_square(image, framing))
    except InputError as error:
        return str(error)


def _mode(file: str) -> str:
    """ "L" or "RGB" of a file that can be decoded, else why it cannot."""
    try:
        return open_image(pathlib.Path(file), shown(file)).mode
    except InputError as error:
        return str(error)


def _checked(files: list[str], cache: pathlib.Path | None) -> tuple[dict[str, str], bool]:
    """(files that cannot be decoded with why, whether all the others are grey)."""
    remembered = None if cache is None else cache / f"{_digest(files)}.json"
    try:
        if remembered:
            found = json.loads(remembered.read_text())
            return dict(found["errors"]), bool(found["grey"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # not there, or broken: look again
    logging.getLogger(__name__).warning(
        "Decoding %s images once, to find broken ones.", f"{len(files):,}"
    )
    errors, grey = {}, True
    for file, mode in zip(files, in_parallel(_mode, files)):
        if mode not in ("L", "RGB"):
            errors[file] = mode
        grey = grey and mode != "RGB"
    if remembered:
        _remember(remembered, {"errors": errors, "grey": grey})
    return errors, grey


def _remember(file: pathlib.Path, found: dict) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found))
        partial.replace(file)
    except OSError:
        pass  # then they are looked at again next time


def _digest(files: list[str]) -> str:
    """Of names, sizes and times of change, and of what decodes."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for file in files:
        try:
            about = os.stat(file)
            digest.update(
                f"{os.path.abspath(file)}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
        except OSError:
            digest.update(f"{file}\0missing\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]


def _tell(root, errors: dict[str, str], n: int, broken: str) -> None:
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    named = "; ".join(text.removesuffix(".") for text in list(errors.values())[:SHOWN]) + more
    said = f"{len(errors):,} of {n:,} images cannot be used: {named}."
    require(
        broken == "skip",
        f"{said.removesuffix('.')}. Mend or remove them, or set data.broken "
        f"to skip; jaxpt data check {root} lists all.",
    )
    logging.getLogger(__name__).warning("%s They are left out.", said)


def _tell_constant(parts: dict[str, listing.Part], seen: dict[str, np.ndarray | str]) -> None:
    """Says how many images are of one colour, if that are many or all of a class."""
    for name, part in parts.items():
        constant = [(seen[file] == seen[file][0, 0]).all() for file in part.files]
        classes = set(part.classes) - {c for c, same in zip(part.classes, constant) if not same}
        if classes or sum(constant) > CONSTANT * len(constant):
            logging.getLogger(__name__).warning(
                "%s of %s %s images are of one colour everywhere%s.",
                f"{sum(constant):,}",
                f"{len(constant):,}",
                name,
                f", among them all of {sorted(classes)[:SHOWN]}" if classes else "",
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
