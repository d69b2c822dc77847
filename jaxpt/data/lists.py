"""List files: text tables with one row per image, giving its path and labels."""

import codecs
import csv
import io
import os
import pathlib
import re
from typing import NamedTuple

from jaxpt.data import objects
from jaxpt.data.decode import suffixes
from jaxpt.errors import InputError, require

# Names of columns, compared in lower case without spaces and punctuation.
PATH = {"path", "image", "img", "file", "filename", "filepath", "fname"} | {
    f"{thing}{end}" for thing in ("image", "img") for end in ("path", "name", "file", "id")
}
SPLIT = {"split", "part", "subset", "partition", "fold", "set"}
INDEX = {"", "index", "unnamed0", "level0"}  # written by pandas before the first column
LABEL = re.compile(r".*(label|class|target|category|coarse|fine|level).*|y")
INDICATORS = {"0", "1", "-1", "0.0", "1.0", "true", "false"}


class Row(NamedTuple):
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


def read(file: pathlib.Path | str) -> list[Row]:
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
        row = len(cells) == width and Row(
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


def place(file: pathlib.Path | str, row: Row) -> pathlib.Path | str:
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


def _columns(file, first: list[list[str]]) -> _Columns:
    """Finds the columns of a list from its first lines."""
    names = first[0] if first else []
    plain = [_plain(name) for name in names]
    paths = [i for i, name in enumerate(plain) if name in PATH]
    if not paths:
        images = [any(map(_is_image, column)) for column in zip(*first)]
        require(
            not any(images) or _is_image(first[0][0]),
            f"{file}, line 1: {','.join(names)!r} does not begin with the path of an image: write "
            "lines path,label, or name the columns in the first line, such as path,label.",
        )
        return _Columns(0, list(range(1, len(names))), None, [])
    parts = [i for i, name in enumerate(plain) if name in SPLIT]
    require(
        len(paths) == 1 and len(parts) <= 1,
        f"{file}: which of the columns {[names[i] for i in (paths + parts)]} is the path, and "
        "which is the split? Remove the others.",
    )
    others = [i for i, name in enumerate(plain) if i not in paths + parts and name not in INDEX]
    unknown = [i for i in others if not LABEL.fullmatch(plain[i])]
    require(
        len(unknown) in (0, len(others)),
        f"{file}: the columns {[names[i] for i in unknown]} are neither path, label nor split: "
        "remove them, or name them label_1, label_2, … from the coarsest to the finest.",
    )
    require(bool(others), f"{file} has no label column, only {', '.join(names)}.")
    return _Columns(paths[0], others, next(iter(parts), None), names)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _is_image(cell: str) -> bool:
    return os.path.splitext(cell)[1].lower() in suffixes()


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
    flags = [name for name, found in values.items() if {v.lower() for v in found} <= INDICATORS]
    named = all(LABEL.fullmatch(_plain(name)) for name in names)
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
