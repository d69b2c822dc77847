"""The images of a dataset and their classes, as class folders or list files name them.

No image is opened here. A list file is a text table with one row per image, giving its path and
labels.
"""

import codecs
import contextlib
import csv
import hashlib
import io
import itertools
import json
import logging
import os
import pathlib
import re
import time
import unicodedata
from collections import Counter
from typing import NamedTuple

from jaxpt import __version__
from jaxpt.cache import cache_home
from jaxpt.data import objects
from jaxpt.data.decode import suffixes
from jaxpt.errors import InputError, require, shown
from jaxpt.files import is_remote, replacing

# Names of each part, in any letter case: of folders, of list files, and in a list's split column.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
LISTS = (".csv", ".tsv")
SETTLED = 2.0  # seconds after which a change of a folder shows in its times
# Words in longer names, such as train2017 or seg_test, and words that name a part only in use.
WORDS = PART_OF | {"dev": "validation", "eval": "test", "holdout": "test", "heldout": "test"}
LIKE_A_PART = re.compile(rf"(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])")
# Left behind by file managers, archivers and file systems, in addition to names with a leading dot.
LEFTOVERS = {
    "thumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "lost+found",
    "system volume information",
    "$recycle.bin",
}
# Names of a list's columns, compared in lower case without spaces and punctuation.
_PATH_COLUMNS = {"path", "image", "img", "file", "filename", "filepath", "fname"} | {
    f"{thing}{end}" for thing in ("image", "img") for end in ("path", "name", "file", "id")
}
_SPLIT_COLUMNS = {"split", "part", "subset", "partition", "fold", "set"}
_INDEX_COLUMNS = {"", "index", "unnamed0", "level0"}  # written by pandas before the first column
_LABEL_COLUMN = re.compile(r".*(label|class|target|category|coarse|fine|level).*|y")
_INDICATORS = {"0", "1", "-1", "0.0", "1.0", "true", "false"}


class Part(NamedTuple):
    """The images of one part of a dataset, in a fixed order.

    Attributes:
      files: path of each image.
      classes: class of each image; labels of several levels are joined by "/", from the coarsest to
        the finest, such as "animal/cat".
    """

    files: list[str]
    classes: list[str]


class Remark(NamedTuple):
    """A remark on a dataset as a whole.

    Attributes:
      kind: one of the kinds of ``check.Finding``.
      text: a sentence.
      stops: whether a run refuses the dataset.
    """

    kind: str
    text: str
    stops: bool = False


class Contents(NamedTuple):
    """The images of a dataset, and remarks on it.

    Attributes:
      parts: "train" and, if present, "validation" and "test".
      remarks: in the order in which they were found.
    """

    parts: dict[str, Part]
    remarks: list[Remark]


def parts(root: pathlib.Path | str) -> dict[str, Part]:
    """Lists the images of a folder or a list file for a run; see ``contents``.

    Logs the remarks as warnings, and the number of images that are in more than one part. The list
    of a folder without remarks is cached, and valid as long as no folder in it changes.

    Raises:
      InputError: in addition to ``contents``, for a remark that stops a run, and for a file with
        two classes.
    """
    known = _remembered(root)
    if known is not None:
        return known
    found = contents(root)
    stopping = [remark.text for remark in found.remarks if remark.stops]
    require(not stopping, " ".join(stopping[:3]))
    leaks = _shared(found.parts)
    said = [remark.text for remark in found.remarks]
    if leaks:
        said.append(
            f"{len(leaks):,} images are in more than one part, such as {shown(leaks[0])}: results "
            f"on them are not held out. jaxpt data check {root} lists all."
        )
    for text in said:
        logging.getLogger(__name__).warning("%s", text)
    if not said and objects.is_folder(root):
        _remember(root, found.parts)
    return found.parts


def _cache(root: pathlib.Path) -> pathlib.Path:
    about = json.dumps([__version__, os.path.abspath(root), sorted(suffixes())])
    return cache_home() / "listings" / f"{hashlib.sha256(os.fsencode(about)).hexdigest()[:24]}.json"


def _remembered(root: pathlib.Path | str) -> dict[str, Part] | None:
    """The cached list of a folder; None if there is none, or if a folder changed since."""
    if is_remote(root):
        return None
    try:
        known = json.loads(_cache(root).read_text())
        if any(objects.stamp(folder) != stamp for folder, stamp in known["folders"].items()):
            return None
        return {part: _unpacked(runs) for part, runs in known["parts"].items()}
    except (OSError, ValueError, TypeError, KeyError):
        return None  # missing or damaged


def _remember(root: pathlib.Path | str, found: dict[str, Part]) -> None:
    """Caches the list of a folder, unless a folder in it has just changed or a list names files."""
    if is_remote(root):
        return
    folders, above = (
        {os.fspath(root)},
        {os.path.dirname(f) for p in found.values() for f in p.files},
    )
    while above:
        folders |= above
        above = {os.path.dirname(folder) for folder in above} - folders
    if any(entry.name.lower().endswith(LISTS) for entry in _entries(root)):
        return
    try:
        newest = max(os.stat(folder).st_ctime for folder in folders)
        if newest > time.time() - SETTLED:  # a change within the same tick would not show
            return
        stamps = {folder: objects.stamp(folder) for folder in sorted(folders)}
        packed = {name: _packed(part) for name, part in found.items()}
        _cache(root).parent.mkdir(parents=True, exist_ok=True)
        with replacing(_cache(root)) as kept:
            json.dump({"folders": stamps, "parts": packed}, kept)
    except (OSError, UnicodeError):
        pass  # files are listed again next time


def _packed(part: Part) -> list[tuple[str, str, list[str]]]:
    """Files as (folder, class, names), in order."""
    split = ((*os.path.split(file), label) for file, label in zip(*part))
    runs = itertools.groupby(split, key=lambda file: (file[0], file[2]))
    return [(folder, label, [name for _, name, _ in files]) for (folder, label), files in runs]


def _unpacked(runs) -> Part:
    return Part(
        [os.path.join(folder, name) for folder, _, names in runs for name in names],
        [label for _, label, names in runs for _ in names],
    )


def contents(root: pathlib.Path | str) -> Contents:
    """Lists the images of a folder or a list file without opening them.

    A part is a folder of class folders, or a list file such as ``train.csv``, whose name is in
    ``PARTS`` in any letter case. Nested class folders are levels of labels, from coarse to fine.
    Names with a leading dot and ``LEFTOVERS`` are ignored without a remark.

    Args:
      root: a folder with a training part and optionally other parts; a folder of class folders,
        which is then the training part; or a list file, see ``_read_list``. A URL if it is on an
        object store.

    Raises:
      InputError: if a part is missing or empty or exists twice, a link or a path leads out of the
        folder, or a list cannot be read.
    """
    remarks: list[Remark] = []
    if objects.is_file(root):
        found = _of_list(root, remarks)
    else:
        require(
            objects.is_folder(root), f"data.path {str(root)!r} is neither a folder nor a list file."
        )
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
                    f"{root}: {part} has classes that train lacks: {sorted(unknown)}.",
                    stops=True,
                )
            )
    remarks += _alike(sorted(set(found["train"].classes)))
    return Contents(found, remarks)


def pictures(folder: pathlib.Path | str) -> list[str]:
    """Lists all image files below a folder, sorted, regardless of classes and parts.

    Raises:
      InputError: if there are none, or for a link that leads to itself.
    """
    found: list[str] = []

    def walk(folder, above):
        for entry in _entries(folder):
            if entry.is_dir():
                real = objects.real(entry.path)
                if real not in above:
                    walk(entry.path, (*above, real))
            elif _is_image(entry.name):
                found.append(entry.path)

    walk(folder, (objects.real(folder),))
    require(
        bool(found),
        f"{folder} has no images with one of the endings {', '.join(sorted(suffixes()))}.",
    )
    return found


def is_plain(folder: pathlib.Path | str) -> bool:
    """Whether a folder holds images, but no folders of images."""
    entries = _entries(folder)
    return any(_is_image(e.name) for e in entries if not e.is_dir()) and not any(
        e.is_dir() and _has_images(e) for e in entries
    )


def read_rows(file: pathlib.Path | str) -> list[tuple[int, list[str]]]:
    """Reads the non-empty lines of a table as (line number, stripped cells).

    Cells are separated by commas, or by semicolons or tabs if the first line has no comma; text is
    UTF-8, or UTF-16 as Excel writes it.

    Raises:
      InputError: if the file cannot be read as such a table.
    """
    try:
        data = objects.read(file)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
        for delimiter in ",;\t":
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
            rows = [(line, row) for line, row in rows if any(row)]
            if rows and len(rows[0][1]) > 1:
                return rows
        return rows
    except (InputError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{file} cannot be read as a list of comma-separated text in UTF-8 ({error})."
        ) from error


def _of_folder(root: pathlib.Path | str, remarks) -> dict[str, Part]:
    there: dict[str, os.DirEntry] = {}
    others, lists_beside = [], []
    for entry in _entries(root):  # a part itself may be a link to any place
        stem, ending = os.path.splitext(entry.name.lower())
        part = PART_OF.get(entry.name.lower() if entry.is_dir() else stem)
        if part and (entry.is_dir() or ending in LISTS):
            require(
                part not in there,
                f"{root} has both {part in there and there[part].name} and {entry.name}: set "
                "data.path to the right one, or move the other away.",
            )
            there[part] = entry
        elif entry.is_dir():
            others.append(entry)
        elif ending in LISTS:
            lists_beside.append(entry.name)
    if len(there) == 1 and others and _is_class(*there.values()):
        others, there = [], {}  # "train" is a class (pictures of trains) among others
    if not there:
        like = {match[1] for entry in others if (match := LIKE_A_PART.search(entry.name.lower()))}
        if len({WORDS[name] for name in like}) > 1:
            remarks.append(_question(root, [entry.name for entry in others]))
        found = _in_folders(root, root, remarks)
        if lists_beside and len(set(found.classes)) == 1:
            text = (
                f"{root} has one class folder, {found.classes[0]!r}, and "
                f"{', '.join(lists_beside)}: set data.path to the list, or move the list away."
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
            Remark("ignored", f"{root} has folders next to its parts: {besides} are ignored.")
        )
    return {
        part: _in_folders(objects.place(there[part].path), root, remarks)
        if there[part].is_dir()
        else _of_part_list(objects.place(there[part].path), part, remarks)
        for part in PARTS
        if part in there
    }


def _question(folder, names: list[str]) -> Remark:
    return Remark(
        "layout",
        f"{folder} holds {', '.join(map(repr, names))}: which of these are parts of the dataset, "
        "and which are classes? Name the parts train, validation and test, with class folders in "
        "them and no other folders next to them; or set data.path to the part itself, or to a list "
        "file.",
        stops=True,
    )


def _is_class(entry) -> bool:
    """Whether a folder that is named like a part holds only images, and so is a class."""
    if not entry.is_dir():
        return False
    below = _entries(entry.path)
    some = any(_is_image(e.name) for e in below)
    return some and not any(e.is_dir() for e in below)


def _has_list(there) -> bool:
    return any(not entry.is_dir() for entry in there.values())


def _has_images(entry) -> bool:
    if not is_remote(entry.path):
        folders = (names for *_, names in os.walk(entry.path))
        return any(_is_image(name) for names in folders for name in names)
    below = objects.entries(entry.path)
    return any(_has_images(e) if e.is_dir() else _is_image(e.name) for e in below)


def _in_folders(part: pathlib.Path | str, root: pathlib.Path | str, remarks) -> Part:
    walk = _Walk(root.resolve() if isinstance(root, pathlib.Path) else None)
    walk.into(part, (), (objects.real(part),))
    endings = f"{part}/CLASS/IMAGE with one of the endings {', '.join(sorted(suffixes()))}"
    ignored = "; ".join(
        f"{n:,} {ending or 'without an ending'}" for ending, n in walk.ignored.most_common()
    )
    require(
        bool(walk.files),
        f"{part} has no images: expected {endings}."
        + (f" It has {walk.beside:,} images outside class folders." if walk.beside else "")
        + (f" It has other files: {ignored}." if ignored else "")
        + (f" To go without this part, set data.path to {root}/train." if part != root else ""),
    )
    for folder in walk.empty:
        remarks.append(
            Remark(
                "empty",
                f"{shown(folder)} has no image that can be read"
                + (f" (other files in {part}: {ignored})" if ignored else "")
                + ": convert its files, or remove the folder.",
                stops=True,
            )
        )
    if ignored:
        remarks.append(
            Remark("ignored", f"{part} has files that are not read as images: {ignored}.")
        )
    if walk.beside:
        remarks.append(
            Remark("ignored", f"{part} has {walk.beside:,} images outside class folders: ignored.")
        )
    if walk.parts_inside and not any(remark.kind == "layout" for remark in remarks):
        folder, names = next(iter(walk.parts_inside.items()))
        more = len(walk.parts_inside) - 1
        remarks.append(_question(shown(folder) + (f" (and {more:,} more)" * bool(more)), names))
    for folder in walk.mixed:
        remarks.append(
            Remark(
                "layout",
                f"{shown(folder)} holds both images and folders of images: the folder and each "
                "folder in it are separate classes.",
            )
        )
    return Part(walk.files, walk.classes)


class _Walk:
    """A recursive walk through class folders, sorted by name.

    Every link on the way is checked, so nothing outside ``root`` is reached; a link to a folder
    that contains the link is not followed.

    Attributes:
      files, classes: see ``Part``.
      ignored: number of files in class folders that are not read, by file ending.
      beside: number of images outside class folders.
      empty: folders without an image; of nested ones, only the topmost.
      mixed: folders that hold both images and folders of images.
      parts_inside: by folder, names in it that look like parts although they are inside classes.
    """

    def __init__(self, root: pathlib.Path | None):
        self._root = root
        self.files: list[str] = []
        self.classes: list[str] = []
        self.ignored: Counter[str] = Counter()
        self.beside = 0
        self.empty: list[str] = []
        self.mixed: list[str] = []
        self.parts_inside: dict[str, list[str]] = {}

    def into(self, folder, names: tuple[str, ...], above: tuple[str, ...]) -> bool:
        """Adds the images of a folder and of those below it; returns whether there are any.

        Args:
          folder: to walk through.
          names: of the class folders that lead from the part to this one.
          above: real paths of this folder and of those that contain it.
        """
        own, below, empty, label = 0, [], [], "/".join(names)
        for entry in _entries(folder, self._root):
            if entry.is_dir():
                real = objects.real(entry.path)
                if real not in above:
                    down = (*names, _class_name(shown(entry.name)))
                    some = self.into(entry.path, down, (*above, real))
                    (below if some else empty).append(entry.name)
            elif not _is_image(entry.name):
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
    """Entries of a folder, sorted by name, without hidden files and ``LEFTOVERS``.

    Raises:
      InputError: for a link that leads to itself or, if ``root`` is given, out of it.
    """
    with contextlib.ExitStack() as stack:
        if is_remote(folder):
            entries = objects.entries(folder)
        else:
            entries = stack.enter_context(os.scandir(folder))
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


def _is_image(name: str) -> bool:
    return _suffix(name) in suffixes()


def _class_name(name: str) -> str:
    """Normalizes a name, as macOS may store "é" as "e" and an accent."""
    return unicodedata.normalize("NFC", name)


def _stays_within(path: pathlib.Path, root: pathlib.Path | None) -> None:
    target = os.path.realpath(path)
    require(
        not os.path.islink(target),  # realpath returns a link only if links form a cycle
        f"{shown(path)} is a symbolic link that leads back to itself: remove it.",
    )
    require(
        root is None or pathlib.Path(target).is_relative_to(root),
        f"{shown(path)} leads out of {root}, to {shown(target)}: copy the file, or set data.path "
        "to a folder that contains it.",
    )


def _of_part_list(file: pathlib.Path | str, part: str, remarks) -> Part:
    found = _of_list(file, remarks, part)
    require(
        list(found) == [part],
        f"{file} names the parts {sorted(found)} in a column: set data.path to the list itself.",
    )
    return found[part]


def _of_list(file: pathlib.Path | str, remarks, part: str = "train") -> dict[str, Part]:
    """Images of a list by part; paths are relative to the folder of the list."""
    local, within = isinstance(file, pathlib.Path), set()
    root = file.parent.resolve() if local else file.rpartition("/")[0]
    found: dict[str, Part] = {}
    for row in _read_list(file):
        path = _path_of(file, row)
        # Folders are checked once, files only if they are links: a list may have a million lines.
        if not local:
            require(".." not in path.split("/"), f"{shown(path)} leads out of {root}.")
        elif path.parent not in within or path.is_symlink():
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


class _Row(NamedTuple):
    """One image of a list.

    Attributes:
      line: number of the line on which the row ends.
      path: as written in the list.
      labels: from the coarsest to the finest.
      part: value of the split column; "" if there is none.
    """

    line: int
    path: str
    labels: list[str]
    part: str


class _Columns(NamedTuple):
    """Positions of the columns, and the names of all columns ([] without a header)."""

    path: int
    labels: list[int]
    part: int | None
    names: list[str]


def _read_list(file: pathlib.Path | str) -> list[_Row]:
    """Reads the rows of a list of images.

    With a header, columns are found by name: the path (or image, file, …), optionally a split (or
    part, subset, partition, fold), and labels, which are all other columns, from the coarsest to
    the finest. Without a header, the first column is the path and the others are labels.

    Raises:
      InputError: for a file that cannot be read as a list, a row whose number of cells differs
        from that of the first, or a column that cannot hold labels.
    """
    rows = read_rows(file)
    columns = _columns(file, [cells for _, cells in rows[:2]])
    width, expected = (
        len(rows[0][1]) if rows else 0,
        ",".join(columns.names) or "path,label[,label…]",
    )
    rows = rows[bool(columns.names) :]
    require(
        bool(rows),
        f"{file} lists no images: expected lines path,label or path,coarse label,fine label.",
    )
    found = []
    for line, cells in rows:
        row = len(cells) == width and _Row(
            line,
            cells[columns.path],
            [cells[i] for i in columns.labels],
            "" if columns.part is None else cells[columns.part],
        )
        require(
            row and row.path and all(row.labels or [""]) and (columns.part is None or row.part),
            f"{file}, line {line}: expected {expected}, with no empty cell and as many cells as "
            f"the first line (text with commas in quotes), got {','.join(cells)!r}.",
        )
        found.append(row)
    _check_labels(file, columns, [row.labels for row in found])
    return found


def _path_of(file: pathlib.Path | str, row: _Row) -> pathlib.Path | str:
    """Path of a row's image.

    Raises:
      InputError: for an absolute path.
    """
    path = pathlib.PurePath(row.path)
    folder = file.parent if isinstance(file, pathlib.Path) else file.rpartition("/")[0]
    local = isinstance(folder, pathlib.Path)
    if "\\" in row.path and not (local and (folder / path).exists()):  # written on Windows
        path = pathlib.PureWindowsPath(row.path)
    require(
        not path.anchor and not path.drive,
        f"{file}, line {row.line}: {row.path!r} is not relative to the folder of the list.",
    )
    return folder / path.as_posix() if local else f"{folder}/{path.as_posix()}"


def _columns(file, first: list[list[str]]) -> _Columns:
    """Finds the columns of a list from its first lines."""
    names = first[0] if first else []
    plain = [_plain_name(name) for name in names]
    paths = [i for i, name in enumerate(plain) if name in _PATH_COLUMNS]
    if not paths:
        images = [any(map(_is_image, column)) for column in zip(*first)]
        require(
            not any(images) or _is_image(first[0][0]),
            f"{file}, line 1: {','.join(names)!r} does not begin with the path of an image: write "
            "lines path,label, or name the columns in the first line, such as path,label.",
        )
        return _Columns(0, list(range(1, len(names))), None, [])
    splits = [i for i, name in enumerate(plain) if name in _SPLIT_COLUMNS]
    require(
        len(paths) == 1 and len(splits) <= 1,
        f"{file}: which of the columns {[names[i] for i in (paths + splits)]} is the path, and "
        "which is the split? Remove the others.",
    )
    others = [
        i for i, name in enumerate(plain) if i not in paths + splits and name not in _INDEX_COLUMNS
    ]
    unknown = [i for i in others if not _LABEL_COLUMN.fullmatch(plain[i])]
    require(
        len(unknown) in (0, len(others)),
        f"{file}: the columns {[names[i] for i in unknown]} are neither path, label nor split: "
        "remove them, or name them label_1, label_2, … from the coarsest to the finest.",
    )
    require(bool(others), f"{file} has no label column, only {', '.join(names)}.")
    return _Columns(paths[0], others, next(iter(splits), None), names)


def _plain_name(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _check_labels(file, columns: _Columns, labels: list[list[str]]) -> None:
    """Raises InputError for columns whose values cannot be classes."""
    names = [columns.names[i] if columns.names else str(i + 1) for i in columns.labels]
    values = dict(zip(names, map(set, zip(*labels))))
    for name, found in values.items():
        fractions = sorted(value for value in found if not re.fullmatch(r"[+-]?\d+", value))
        require(
            not fractions or not all(map(_is_number, found)),
            f"{file}: the column {name} cannot be a label, as it holds numbers such as "
            f"{fractions[:1]}: remove it, or give every class a name.",
        )
    flags = [name for name, found in values.items() if {v.lower() for v in found} <= _INDICATORS]
    named = all(_LABEL_COLUMN.fullmatch(_plain_name(name)) for name in names)
    if len(values) > 1:
        _check_order(file, names, labels)
    if len(values) == 1 or (named and len(flags) < len(values)):
        return
    require(
        not flags or (not columns.names and len(flags) < len(values)),
        f"{file}: the columns {', '.join(flags)} cannot be labels, as they hold only 0 and 1: "
        "write the name of each image's class in a single column, label.",
    )
    same = [name for name, found in values.items() if columns.names and len(found) == 1]
    require(
        not same or len(labels) == 1,
        f"{file}: the columns {', '.join(same)} cannot be labels, as they hold only one value: "
        "remove them.",
    )


def _check_order(file, names: list[str], labels: list[list[str]]) -> None:
    """Raises InputError if a column of labels is finer than the next one."""
    for i, (first, second) in enumerate(zip(names, names[1:])):
        pairs = {(row[i], row[i + 1]) for row in labels}
        firsts, seconds = (len({pair[side] for pair in pairs}) for side in (0, 1))
        require(
            not len(pairs) == firsts > seconds > 1,
            f"{file}: the column {first} is finer than {second}, since each of its values has only "
            "one there: write the columns from the coarsest to the finest.",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shared(found: dict[str, Part]) -> list[str]:
    """Files that are in more than one part.

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
                folders[folder] = objects.real(folder)
            linked = not is_remote(file) and os.path.islink(file)
            real = os.path.realpath(file) if linked else f"{folders[folder]}/{name}"
            other, other_part = first.setdefault(real, (label, part))
            if other != label:  # the sentence takes longer than the comparison
                raise InputError(
                    f"{shown(file)} has two classes, {other!r} and {label!r}: an image can have "
                    "only one. jaxpt data check lists all such files."
                )
            if other_part != part:
                shared.append(file)
    return shared


def _alike(names: list[str]) -> list[Remark]:
    """Remarks on class names that differ only in letter case, leading zeros or separators."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key = re.sub(r"[\s_-]+", " ", re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold()))
        groups.setdefault(key, []).append(name)
    return [
        Remark("alike", f"Classes with nearly the same name are different classes: {group}.")
        for group in groups.values()
        if len(group) > 1
    ]
