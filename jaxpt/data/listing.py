"""Which image files make a set, and of which class each is: class folders or lists."""

import csv
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from jaxpt.errors import InputError, require

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PARTS = ("train", "test")


class Part(NamedTuple):
    """The images of one part of a set, in a fixed order.

    Attributes:
      files: path of each.
      classes: class of each; where labels have levels, from the coarsest to the finest with "/"
        between them, as "animal/cat".
    """

    files: list[str]
    classes: list[str]


def parts(root: pathlib.Path) -> dict[str, Part]:
    """Lists a folder, or a list file, for a run; see ``every_part``.

    Raises:
      InputError: also for test classes that training has not.
    """
    found = every_part(root)
    unknown = only_in_test(found)
    require(
        not unknown,
        f"{_place(root, 'test')} has classes that {_place(root, 'train')} has not: {unknown}.",
    )
    return found


def every_part(root: pathlib.Path) -> dict[str, Part]:
    """Lists a folder, or a list file, without opening an image, whatever the classes.

    A part is a folder of class folders, or a list file ``train.csv``. Folders in class folders are
    levels of labels, the deeper the finer. Names that begin with a dot, files with other endings
    than ``SUFFIXES`` and files beside the class folders are left alone.

    Args:
      root: a folder with ``train`` and, if there is one, ``test``; a folder of class folders or a
        list file, which then is the training part.

    Returns:
      "train" and, where there is one, "test".

    Raises:
      InputError: for a missing or empty part, a link or a path that leads out of the folder, or a
        list that is none.
    """
    if root.is_file():
        return {"train": _listed(root)}
    require(root.is_dir(), f"data.path {str(root)!r} is no folder, and no list file.")
    there = {part: found for part in PARTS if (found := _place(root, part))}
    require(
        "test" not in there or "train" in there,
        f"{root} has a test part but no train part: expected {root}/train.",
    )
    if not there:
        return {"train": _in_folders(root)}
    return {
        part: _listed(place) if place.is_file() else _in_folders(place, root)
        for part, place in there.items()
    }


def only_in_test(found: dict[str, Part]) -> list[str]:
    """Classes of the test part that the training part has not."""
    return sorted(
        set(found["test"].classes if "test" in found else ()) - set(found["train"].classes)
    )


def _place(root: pathlib.Path, part: str) -> pathlib.Path | None:
    folder, listed = root / part, root / f"{part}.csv"
    require(
        not (folder.is_dir() and listed.is_file()),
        f"{root} has both {part} and {part}.csv: move one of them away.",
    )
    return folder if folder.is_dir() else listed if listed.is_file() else None


def _in_folders(part: pathlib.Path, root: pathlib.Path | None = None) -> Part:
    files, classes = [], []
    for names in _walk(part, (root or part).resolve(), (os.path.realpath(part),)):
        if len(names) > 1:
            files.append(os.path.join(part, *names))
            classes.append("/".join(names[:-1]))
    require(
        bool(files),
        f"{part} has no images: expected {part}/CLASS/IMAGE with one of the "
        f"endings {', '.join(SUFFIXES)}.",
    )
    return Part(files, classes)


def _walk(folder, root: pathlib.Path, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Names of the folders down to each image and of the image, in the order of their names.

    Every link on the way is looked at, so nothing outside of ``root`` is reached; one to a folder
    that it lies in is not followed.
    """
    with os.scandir(folder) as entries:
        listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in listed:
        if entry.is_symlink():
            _stays_within(pathlib.Path(entry.path), root)
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in above:
                yield from (
                    (entry.name, *names) for names in _walk(entry.path, root, (*above, real))
                )
        elif entry.name.lower().endswith(SUFFIXES):
            yield (entry.name,)


def _stays_within(path: pathlib.Path, root: pathlib.Path) -> None:
    require(
        path.resolve().is_relative_to(root),
        f"{path} leads out of {root}, to "
        f"{path.resolve()}: copy the file, or give the folder that holds it.",
    )


def _listed(file: pathlib.Path) -> Part:
    """The list file's lines ``path,label[,label…]``, coarse before fine; paths from its folder.

    A first line that begins with "path" names the columns.
    """
    rows = read_rows(file)
    if rows and rows[0][1][0].lower() == "path":
        rows = rows[1:]
    require(
        bool(rows),
        f"{file} lists no images: expected lines path,label or path,coarse label,fine label.",
    )
    root, within = file.parent.resolve(), set()
    files, classes = [], []
    for line, (name, *labels) in rows:
        require(
            name != "" and labels != [] and all(labels),
            f"{file}, line {line}: expected "
            f"path,label[,label…], got {','.join((name, *labels))!r}.",
        )
        path = file.parent / name
        # Folders once each, files where they are links: a list may have a million lines.
        if path.parent not in within or path.is_symlink():
            require(
                not os.path.isabs(name),
                f"{file}, line {line}: {name!r} is no path from the list's own folder.",
            )
            _stays_within(path, root)
            within.add(path.parent)
        files.append(str(path))
        classes.append("/".join(labels))
    return Part(files, classes)


def read_rows(file: pathlib.Path) -> list[tuple[int, list[str]]]:
    """(line number, its cells without spaces around them) of a CSV file's lines with any text.

    Raises:
      InputError: where it cannot be read as one.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read as a list, lines of comma-separated text ({error})."
        ) from error
    return [(line, row) for line, row in rows if any(row)]
