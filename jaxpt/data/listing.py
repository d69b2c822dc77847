"""Which image files make a set, and of which class each is: class folders or list files."""

import logging
import os
import pathlib
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from jaxpt.data import lists
from jaxpt.data.decode import suffixes
from jaxpt.errors import require, shown

# Names of folders, list files and values of a list's column, in any letter case, by part.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
LISTS = (".csv", ".tsv")
# Names such as train2017 or test_images.
LIKE_A_PART = re.compile(rf"({'|'.join(sorted(PART_OF, key=len, reverse=True))})(?![a-z])")
# What file managers, archivers and file systems leave behind, beside names that begin with a dot.
LEFTOVERS = {
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "lost+found",
    "system volume information",
    "$recycle.bin",
}


class Part(NamedTuple):
    """The images of one part of a set, in a fixed order.

    Attributes:
      files: path of each.
      classes: class of each; labels of several levels are joined by "/", from the coarsest to the
        finest, as "animal/cat".
    """

    files: list[str]
    classes: list[str]


class Remark(NamedTuple):
    """Something odd about a set as a whole.

    Attributes:
      kind: as of ``check.Finding``.
      text: a sentence.
      stops: whether a run refuses the set.
    """

    kind: str
    text: str
    stops: bool = False


class Contents(NamedTuple):
    """The images of a set, and what is odd about it.

    Attributes:
      parts: "train" and, if there are any, "validation" and "test".
      remarks: in the order in which they were found.
    """

    parts: dict[str, Part]
    remarks: list[Remark]


def parts(root: pathlib.Path) -> dict[str, Part]:
    """Lists a folder, or a list file, for a run; see ``contents``.

    Raises:
      InputError: also for a remark that stops a run, and for a file of two classes.
    """
    found = contents(root)
    stopping = [remark.text for remark in found.remarks if remark.stops]
    require(not stopping, " ".join(stopping[:3]))
    leaks = _shared(found.parts)
    said = [remark.text for remark in found.remarks]
    if leaks:
        said.append(
            f"{len(leaks):,} images are in more than one part, such as {shown(leaks[0])}: what is "
            f"measured on them is not held out. jaxpt data check {root} lists all."
        )
    for text in said:
        logging.getLogger(__name__).warning("%s", text)
    return found.parts


def contents(root: pathlib.Path) -> Contents:
    """Lists a folder, or a list file, without opening an image.

    A part is a folder of class folders, or a list file such as ``train.csv``, by the names in
    ``PARTS`` in any letter case. Folders in class folders are levels of labels, the deeper the
    finer. Names that begin with a dot and ``LEFTOVERS`` are ignored without a remark.

    Args:
      root: a folder with a training part and, if there are any, others; a folder of class folders,
        which is the training part; or a list file, see ``lists.read``.

    Raises:
      InputError: for a missing or empty part, a part that is there twice, a link or a path that
        leads out of the folder, or a list that cannot be read.
    """
    remarks: list[Remark] = []
    if root.is_file():
        found = _of_list(root, remarks)
    else:
        require(root.is_dir(), f"data.path {str(root)!r} is no folder, and no list file.")
        found = _of_folder(root, remarks)
    require(
        "train" in found,
        f"{root} has a {' and a '.join(found)} part but no train part: expected {root}/train.",
    )
    for part in ("validation", "test"):
        if part in found and (unknown := set(found[part].classes) - set(found["train"].classes)):
            remarks.append(
                Remark(
                    "class",
                    f"{root}: {part} has classes that train has not: {sorted(unknown)}.",
                    stops=True,
                )
            )
    remarks += _alike(sorted(set(found["train"].classes)))
    return Contents(found, remarks)


def _of_folder(root: pathlib.Path, remarks) -> dict[str, Part]:
    there: dict[str, os.DirEntry] = {}
    others, lists_beside = [], []
    for entry in _entries(root):  # a part itself may be a link to anywhere
        stem, ending = os.path.splitext(entry.name.lower())
        part = PART_OF.get(entry.name.lower() if entry.is_dir() else stem)
        if part and (entry.is_dir() or ending in LISTS):
            require(
                part not in there,
                f"{root} has both {part in there and there[part].name} and {entry.name}: give the "
                "one that is meant as data.path, or move one of them away.",
            )
            there[part] = entry
        elif entry.is_dir():
            others.append(entry)
        elif ending in LISTS:
            lists_beside.append(entry.name)
    if len(there) == 1 and others and _is_class(*there.values()):
        others, there = [], {}  # a class of trains, among others
    if not there:
        like = {match[1] for entry in others if (match := LIKE_A_PART.match(entry.name.lower()))}
        if len({PART_OF[name] for name in like}) > 1:
            remarks.append(_question(root, [entry.name for entry in others]))
        found = _in_folders(root, root, remarks)
        if lists_beside and len(set(found.classes)) == 1:
            text = (
                f"{root} has one class folder, {found.classes[0]!r}, and "
                f"{', '.join(lists_beside)}: give the list as data.path, or move it away."
            )
            remarks.append(Remark("layout", text, stops=True))
        return {"train": found}
    besides = [e.name for e in others if not _has_list(there) and _has_images(e)]
    if besides and len(there) == 1:
        remarks.append(_question(root, sorted([*(e.name for e in there.values()), *besides])))
        if "train" not in there:
            return {"train": _in_folders(root, root, remarks)}
    elif besides:
        remarks.append(
            Remark("ignored", f"{root} has folders beside its parts that are ignored: {besides}.")
        )
    return {
        part: _in_folders(pathlib.Path(there[part].path), root, remarks)
        if there[part].is_dir()
        else _of_part_list(pathlib.Path(there[part].path), part, remarks)
        for part in PARTS
        if part in there
    }


def _question(folder, names: list[str]) -> Remark:
    return Remark(
        "layout",
        f"{folder} holds {', '.join(map(repr, names))}: which of these are parts of the set, and "
        "which are classes? Name parts train, validation and test, with class folders in them and "
        "nothing else beside them; or give the part itself, or a list file, as data.path.",
        stops=True,
    )


def _is_class(entry) -> bool:
    """Whether a folder with the name of a part holds images itself, and no folders."""
    if not entry.is_dir():
        return False
    below = _entries(entry.path)
    some = any(_suffix(e.name) in suffixes() for e in below)
    return some and not any(e.is_dir() for e in below)


def _has_list(there) -> bool:
    return any(not entry.is_dir() for entry in there.values())


def _has_images(entry) -> bool:
    return any(_suffix(name) in suffixes() for *_, names in os.walk(entry.path) for name in names)


def _in_folders(part: pathlib.Path, root: pathlib.Path, remarks) -> Part:
    walk = _Walk(root.resolve())
    walk.into(part, (), (os.path.realpath(part),))
    endings = f"{part}/CLASS/IMAGE with one of the endings {', '.join(sorted(suffixes()))}"
    ignored = "; ".join(
        f"{n:,} {ending or 'without an ending'}" for ending, n in walk.ignored.most_common()
    )
    require(
        bool(walk.files),
        f"{part} has no images: expected {endings}."
        + (f" It has {walk.beside:,} images in no class folder." if walk.beside else "")
        + (f" It has files of other kinds: {ignored}." if ignored else "")
        + (f" To do without this part, give {root}/train as data.path." if part != root else ""),
    )
    for folder in walk.empty:
        remarks.append(
            Remark(
                "empty",
                f"{shown(folder)} holds no image that can be read"
                + (f" (files of other kinds in {part}: {ignored})" if ignored else "")
                + ": convert what it holds, or remove it.",
                stops=True,
            )
        )
    if ignored:
        remarks.append(
            Remark("ignored", f"{part} holds files that are not read as images: {ignored}.")
        )
    if walk.beside:
        remarks.append(
            Remark("ignored", f"{part} has {walk.beside:,} images in no class folder: ignored.")
        )
    if walk.parts_inside and not any(remark.kind == "layout" for remark in remarks):
        folder, names = next(iter(walk.parts_inside.items()))
        more = len(walk.parts_inside) - 1
        remarks.append(_question(shown(folder) + (f" (and {more:,} more)" * bool(more)), names))
    for folder in walk.mixed:
        remarks.append(
            Remark(
                "layout",
                f"{shown(folder)} holds images and folders of images: it and each of these is a "
                "class of its own.",
            )
        )
    return Part(walk.files, walk.classes)


class _Walk:
    """What class folders hold, in the order of the names.

    Every link on the way is looked at, so nothing outside of ``root`` is reached; one to a folder
    that it lies in is not followed.

    Attributes:
      files, classes: see ``Part``.
      ignored: number of the files in class folders that are not read, by ending.
      beside: number of the images that lie in no class folder.
      empty: folders without an image, the highest of each.
      mixed: folders of images that hold folders of images.
      parts_inside: names that look like those of parts within classes, by the folder.
    """

    def __init__(self, root: pathlib.Path):
        self._root = root
        self.files: list[str] = []
        self.classes: list[str] = []
        self.ignored: Counter[str] = Counter()
        self.beside = 0
        self.empty: list[str] = []
        self.mixed: list[str] = []
        self.parts_inside: dict[str, list[str]] = {}

    def into(self, folder, names: tuple[str, ...], above: tuple[str, ...]) -> bool:
        """Whether any image lies in the folder or below it; ``names`` lead to it, from the part."""
        own, below, empty, label = 0, [], [], "/".join(names)
        for entry in _entries(folder, self._root):
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    down = (*names, _class_name(shown(entry.name)))
                    some = self.into(entry.path, down, (*above, real))
                    (below if some else empty).append(entry.name)
            elif _suffix(entry.name) not in suffixes():
                if names:
                    self.ignored[_suffix(entry.name)] += 1
            elif names:
                own += 1
                self.files.append(entry.path)
                self.classes.append(label)
            else:
                self.beside += 1
        if own or below or not names:
            self.empty += [os.path.join(folder, name) for name in empty]
        if names:
            if own and below:
                self.mixed.append(os.fspath(folder))
            if len({PART_OF[name.lower()] for name in below if name.lower() in PART_OF}) > 1:
                self.parts_inside[os.fspath(folder)] = below
            elif below and names[-1].lower() in PART_OF:
                self.parts_inside.setdefault(os.path.dirname(folder), [names[-1]])
        return bool(own or below)


def _entries(folder, root: pathlib.Path | None = None) -> list[os.DirEntry]:
    """What a folder holds, by name, without hidden files and ``LEFTOVERS``.

    Raises:
      InputError: for a link that leads to itself or, with a ``root``, out of it.
    """
    with os.scandir(folder) as entries:
        found = sorted(
            (e for e in entries if e.name[0] != "." and e.name.lower() not in LEFTOVERS),
            key=lambda e: e.name,
        )
    for entry in found:
        if entry.is_symlink():
            _stays_within(pathlib.Path(entry.path), root)
    return found


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _class_name(name: str) -> str:
    """Names that look the same are the same: macOS may store "é" as "e" and an accent."""
    return unicodedata.normalize("NFC", name)


def _stays_within(path: pathlib.Path, root: pathlib.Path | None) -> None:
    target = os.path.realpath(path)
    require(
        not os.path.islink(target),  # where a link leads round in a circle, resolving it ends
        f"{shown(path)} is a symbolic link that leads back to itself: remove it.",
    )
    require(
        root is None or pathlib.Path(target).is_relative_to(root),
        f"{shown(path)} leads out of {root}, to "
        f"{shown(target)}: copy the file, or give the folder that holds it.",
    )


def _of_part_list(file: pathlib.Path, part: str, remarks) -> Part:
    found = _of_list(file, remarks, part)
    require(
        list(found) == [part],
        f"{file} names the parts {sorted(found)} in a column: give the list itself as data.path.",
    )
    return found[part]


def _of_list(file: pathlib.Path, remarks, part: str = "train") -> dict[str, Part]:
    """The list's images by part; paths are from its own folder."""
    root, within = file.parent.resolve(), set()
    found: dict[str, Part] = {}
    for row in lists.read(file):
        path = lists.place(file, row)
        # Folders once each, files where they are links: a list may have a million lines.
        if path.parent not in within or path.is_symlink():
            _stays_within(path, root)
            within.add(path.parent)
        name = PART_OF.get(row.part.lower(), "") if row.part else part
        require(
            name != "",
            f"{file}, line {row.line}: the part must be train, validation or test, got "
            f"{row.part!r}.",
        )
        files, classes = found.setdefault(name, Part([], []))
        files.append(str(path))
        classes.append("/".join(map(_class_name, row.labels)))
    return {name: found[name] for name in PARTS if name in found}


def _shared(found: dict[str, Part]) -> list[str]:
    """Files that are in several parts.

    Raises:
      InputError: for a file that is listed under two classes.
    """
    folders: dict[str, str] = {}
    first: dict[str, tuple[str, str]] = {}
    shared = []
    for part, (files, classes) in found.items():
        for file, label in zip(files, classes):
            folder, name = os.path.split(file)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.realpath(file) if os.path.islink(file) else f"{folders[folder]}/{name}"
            other, other_part = first.setdefault(real, (label, part))
            require(
                other == label,
                f"{shown(file)} is of two classes, {other!r} and {label!r}: an image can have one. "
                "jaxpt data check lists all such files.",
            )
            if other_part != part:
                shared.append(file)
    return shared


def _alike(names: list[str]) -> list[Remark]:
    """Class names that differ in letter case, leading zeros or separators alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = re.sub(r"[\s_-]+", " ", re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold()))
        groups.setdefault(key, []).append(name)
    return [
        Remark("alike", f"Classes with nearly the same name are different classes: {group}.")
        for group in groups.values()
        if len(group) > 1
    ]
