"""Maps from fine to coarse labels, for pre-training with coarser labels than evaluation."""

import pathlib
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxpt.data.listing import read_rows
from jaxpt.data.small_sets import FASHION_CLASSES
from jaxpt.errors import require


class LabelMap(NamedTuple):
    """Coarse class of every fine class, and the coarse names."""

    coarse_of: tuple[int, ...]
    names: tuple[str, ...]

    def __call__(self, fine: np.ndarray) -> np.ndarray:
        """int32 fine labels → int32 coarse labels."""
        return np.asarray(self.coarse_of, np.int32)[fine]


def joined(maps: Mapping[str, LabelMap]) -> LabelMap:
    """Joins the maps of several sources, which share no class; names become "source/name"."""
    coarse_of, names = [], []
    for source, one in maps.items():
        coarse_of += [len(names) + coarse for coarse in one.coarse_of]
        names += [f"{source}/{name}" for name in one.names]
    return LabelMap(tuple(coarse_of), tuple(names))


def label_map(name: str, class_names: tuple[str, ...]) -> LabelMap:
    """Builds the label map of a given name for a list of classes.

    Args:
      name: "fine" (unchanged), "halves" (y // 5 of ten classes), "parity" (y mod 2),
        "fashion5" (tops, trouser, dress, shoes, bag), "level:K" (the first K levels of class names
        such as "animal/cat"; 1 is the coarsest), or a file FILE.csv with one line "fine,coarse"
        per class, by name, and optionally the header "fine,coarse". "halves" and "parity" need
        classes named 0 to n − 1 in this order; "fashion5" also accepts Fashion-MNIST's names.
      class_names: the fine classes.

    Raises:
      InputError: for an unknown name, or a map that does not fit the classes.
    """
    if name.startswith("level:"):
        return _of_level(name, class_names)
    if name.endswith(".csv"):
        return _of_file(pathlib.Path(name), class_names)
    n = len(class_names)
    maps = {
        "fine": LabelMap(tuple(range(n)), tuple(class_names)),
        "halves": LabelMap(tuple(y // 5 for y in range(n)), ("first five", "last five")),
        "parity": LabelMap(tuple(y % 2 for y in range(n)), ("even", "odd")),
        "fashion5": LabelMap(
            (0, 1, 0, 2, 0, 3, 0, 3, 4, 3), ("tops", "trouser", "dress", "shoes", "bag")
        ),
    }
    require(
        name in maps,
        f"data.label_map must be one of {sorted(maps)}, level:K or a .csv file, got {name!r}.",
    )
    require(
        name in ("fine", "parity") or n == 10,
        f"data.label_map {name!r} needs 10 classes, but the data has {n}.",
    )
    numbers, found = tuple(map(str, range(n))), tuple(map(str, class_names))
    fashion = name == "fashion5" and [c.lower().split("/")[0] for c in found] == [
        c.lower() for c in FASHION_CLASSES
    ]
    wrong = next((i for i in range(n) if found[i] != numbers[i]), None)
    require(
        name == "fine" or fashion or wrong is None,
        f"data.label_map {name!r} needs classes named 0 to {n - 1} in this order, but class "
        f"{wrong} is {found[wrong or 0]!r}: write a file FILE.csv with one line fine,coarse per "
        "class.",
    )
    return maps[name]


def with_wrong_labels(fine: np.ndarray, share: float, coarse: LabelMap, seed: int) -> np.ndarray:
    """Replaces a share of the labels by labels of other coarse classes (symmetric label noise).

    Which labels are replaced depends only on the seed; a larger share replaces these and more. The
    other coarse class is drawn uniformly, and so is a fine class in it.

    Args:
      fine: int32 [n].
      share: of the labels to replace, rounded to whole labels.
      coarse: map from fine to coarse labels.
      seed: any integer.

    Returns:
      The labels, int32 [n].

    Raises:
      InputError: for a share outside 0 … 1, or a single coarse class.
    """
    require(0 <= share <= 1, f"data.wrong_labels must lie between 0 and 1, got {share}.")
    if not share:
        return fine
    classes = len(coarse.names)
    require(
        classes > 1,
        f"data.wrong_labels {share} needs at least 2 coarse classes, but there is {classes}.",
    )
    rng = np.random.default_rng(seed)
    n = len(fine)
    order, shift, within = rng.permutation(n), rng.integers(1, classes, n), rng.random(n)
    replaced = order[: round(share * n)]
    members = [np.flatnonzero(np.asarray(coarse.coarse_of) == c) for c in range(classes)]
    sizes = np.array([len(m) for m in members])
    other = (coarse(fine) + shift) % classes
    wrong = np.concatenate(members)[
        np.cumsum(sizes)[other] - 1 - (within * sizes[other]).astype(int)
    ]
    labels = fine.copy()
    labels[replaced] = wrong[replaced]
    return labels


def _of_level(name: str, class_names) -> LabelMap:
    level = name.removeprefix("level:")
    levels = max(len(c.split("/")) for c in class_names)
    require(
        level.isdecimal() and 1 <= int(level) <= levels,
        f"data.label_map {name!r}: the classes have the levels 1 to {levels}, as in "
        f"{class_names[0]!r}.",
    )
    return _named(["/".join(c.split("/")[: int(level)]) for c in class_names])


def _of_file(file: pathlib.Path, class_names) -> LabelMap:
    rows = read_rows(file)
    if rows and [cell.lower() for cell in rows[0][1]] == ["fine", "coarse"]:
        rows = rows[1:]
    coarse: dict[str, str] = {}
    for line, row in rows:
        row = [unicodedata.normalize("NFC", cell) for cell in row]
        require(
            len(row) == 2 and all(row),
            f"{file}, line {line}: expected fine,coarse, got {','.join(row)!r}.",
        )
        require(
            coarse.setdefault(row[0], row[1]) == row[1],
            f"{file}, line {line}: {row[0]!r} has two coarse classes.",
        )
    missing, unknown = set(class_names) - set(coarse), set(coarse) - set(class_names)
    require(not missing, f"{file} lacks the classes {sorted(missing)}.")
    require(not unknown, f"{file} has classes that the data lacks: {sorted(unknown)}.")
    return _named([coarse[c] for c in class_names])


def _named(coarse: list[str]) -> LabelMap:
    names = sorted(set(coarse))
    return LabelMap(tuple(names.index(c) for c in coarse), tuple(names))
