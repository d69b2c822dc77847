"""Coarse labels from fine ones: what pre-training sees when transfer asks for more."""

from typing import NamedTuple

import numpy as np

from jaxpt.errors import require


class LabelMap(NamedTuple):
    """Coarse class of every fine class, and the coarse names."""

    coarse_of: tuple[int, ...]
    names: tuple[str, ...]

    def __call__(self, fine: np.ndarray) -> np.ndarray:
        """int32 fine labels → int32 coarse labels."""
        return np.asarray(self.coarse_of, np.int32)[fine]


def label_map(name: str, class_names: tuple[str, ...]) -> LabelMap:
    """The label map of that name for a set of classes.

    Args:
      name: "fine" (as they are), "halves" (y // 5 of ten classes), "parity" (y mod 2) or
        "fashion5" (tops, trouser, dress, shoes, bag).
      class_names: the fine classes.

    Raises:
      InputError: for another name, or a map that does not fit the number of classes.
    """
    n = len(class_names)
    maps = {
        "fine": LabelMap(tuple(range(n)), tuple(class_names)),
        "halves": LabelMap(tuple(y // 5 for y in range(n)), ("first five", "last five")),
        "parity": LabelMap(tuple(y % 2 for y in range(n)), ("even", "odd")),
        "fashion5": LabelMap((0, 1, 0, 2, 0, 3, 0, 3, 4, 3),
                             ("tops", "trouser", "dress", "shoes", "bag")),
    }
    require(name in maps, f"data.label_map must be one of {sorted(maps)}, got {name!r}.")
    require(name in ("fine", "parity") or n == 10,
            f"data.label_map {name!r} is for 10 classes, but the data has {n}.")
    return maps[name]
