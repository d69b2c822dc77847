"""Features of one run, stored next to its record for the feature map."""

import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from jaxpt.files import replacing


class FeatureSet(NamedTuple):
    """Features of the measured part under one run's encoder.

    Attributes:
      key: the key of the run's record.
      features: float [n, dim].
      fine, coarse: int [n], the labels.
      fine_names, coarse_names: a name for every class.
    """

    key: str
    features: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]


def path_of(folder: str | os.PathLike, label: str) -> pathlib.Path:
    """Path of a method's stored features."""
    return pathlib.Path(folder) / f"features_{label}.npz"


def save(folder: str | os.PathLike, label: str, features: FeatureSet) -> None:
    """Stores the features of a method."""
    with replacing(path_of(folder, label), "wb") as file:
        np.savez_compressed(file, **features._asdict())


def load(folder: str | os.PathLike, label: str) -> FeatureSet | None:
    """Loads a method's stored features; None if they are missing or unreadable."""
    try:
        with np.load(path_of(folder, label), allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in FeatureSet._fields}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    names = {name: tuple(values[name].tolist()) for name in ("fine_names", "coarse_names")}
    return FeatureSet(**{**values, **names, "key": str(values["key"])})
