"""Names of sets and classes as a person would say them."""

import pathlib
import re
from typing import Any, Mapping, Sequence

DATA_NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
OF_FILES = ("folder", "npz", "grain")  # sources whose name says nothing about the images
PLAIN = ("train", "training", "data", "images", "list", "labels", "dataset")  # files, as are these


def set_name(record: Mapping[str, Any]) -> str:
    """Display name of a record's set: for own images, the name of their folder or file."""
    named, suffix = re.fullmatch(r"(.*?)((?: \([^()]*\))*)", record["data"], re.DOTALL).groups()
    if named in OF_FILES:
        data = record.get("data_config") or (record.get("config") or {}).get("data") or {}
        named = _of_path(data.get("path", "")) or "own images"
    return DATA_NAMES.get(named, named) + suffix


def _of_path(path: str) -> str:
    parts = [pathlib.Path(part).stem for part in pathlib.PurePath(path.rstrip("/")).parts[-2:]]
    if not parts:
        return ""
    return parts[0] if parts[-1].lower() in PLAIN else parts[-1]


def without_needless_suffixes(names: Sequence[str]) -> list[str]:
    """Drops the beginning of the identity, as in "photos (1f2e3d4c)", where names differ anyway."""
    bare = [re.sub(r" \([0-9a-f]{8}\)$", "", name) for name in names]
    return [b if bare.count(b) == 1 else name for b, name in zip(bare, names)]


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Display names of classes: the last level of "animals/sea_birds", unless two share it."""
    names = [str(name) for name in names]
    if names and all("/" in name for name in names):
        last = [name.rpartition("/")[2] for name in names]
        names = [
            end if last.count(end) == 1 else name.replace("/", " / ")
            for end, name in zip(last, names)
        ]
    return tuple(name.replace("_", " ") for name in names)


def with_class_names(details: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluator's details with display names of classes."""
    named = {k: list(class_names(v)) for k, v in details.items() if k in _CLASS_LISTS}
    return dict(details) | named


_CLASS_LISTS = ("class_names", "coarse_names")
