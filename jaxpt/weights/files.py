"""Reads weight files: safetensors, and PyTorch's own without PyTorch and without running code.

The format is recognised from the content, not from the file name.
"""

import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpt.errors import InputError, require
from jaxpt.weights import torch_pickle

# Suffixes of weight files, used to tell a missing weight file from a missing workdir.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# Weight files in a folder of the Hugging Face hub; the first that exists is used, before any other.
IN_FOLDER = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")
# Order of precedence of states and prefixes: averaged weights first, as in timm, and a teacher
# before its student, as in DINO's evaluation.
PREFERRED = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "teacher",
    "encoder_q",
    "base_encoder",
    "online_encoder",
    "online_network",
)
_HEAD = 512  # bytes from which the format is recognised
_FOREIGN = (
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself: run git lfs pull"),
    (b"<!doctype", "a web page: download the file itself"),
    (b"<html", "a web page: download the file itself"),
    (b"{", "JSON (an index of shards, or a configuration): merge the shards into one file"),
    (b"\x1f\x8b", "compressed (gzip): unpack it"),
    (b"\x89hdf", "HDF5, as Keras writes it: save a state_dict, or .safetensors"),
)


class Read(NamedTuple):
    """Content of a weight file.

    Attributes:
      states: state dicts by name, each with arrays by name. The name of a state is its path in the
        file, such as "teacher" or "ema/shadow"; that of a plain state dict is "".
      metadata: metadata in the header of a safetensors file.
    """

    states: dict[str, dict[str, np.ndarray]]
    metadata: dict[str, str]


def read(path: str | os.PathLike) -> Read:
    """Reads a weight file, whose format is recognised from its content.

    Args:
      path: a file, or a folder of the Hugging Face hub.

    Raises:
      InputError: for a missing or damaged file, or one without a state dict.
    """
    path = find(path)
    require(path.is_file(), f"no file {str(path)!r} with weights.")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _read_safetensors(path)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(f"{str(path)!r} is not a weight file: it is {_foreign(head)}.")
    tree = torch_pickle.load(path)
    states = _states(tree)
    if not states:
        names = listed(map(str, tree)) if isinstance(tree, dict) else ""
        raise InputError(
            f"{str(path)!r} holds no state dict of named tensors"
            + (" except that of an optimizer" if names and "param_groups" in tree else "")
            + (f"; it has {names}" if names else "")
            + ": save the network's state_dict."
        )
    return Read(states, {})


def find(path: str | os.PathLike) -> pathlib.Path:
    """Path of the weight file in a folder; ``path`` itself if it is not a folder with one.

    Raises:
      InputError: for a folder with several weight files, none of which has a standard name.
    """
    path = pathlib.Path(path)
    for file in (path / name for name in IN_FOLDER):
        if file.is_file():
            return file
    there = (file for file in path.iterdir() if file.is_file()) if path.is_dir() else ()
    found = sorted(file for file in there if file.suffix in SUFFIXES)
    require(
        len(found) < 2,
        f"{str(path)!r} holds several weight files: name one of "
        f"{listed(str(file) for file in found)}.",
    )
    return found[0] if found else path


def listed(names, shown: int = 5) -> str:
    """The first names, and how many follow."""
    first, rest = (names := [*names])[:shown], len(names) - shown
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def digest(path: str | os.PathLike) -> str:
    """Start of a SHA-256 over the bytes of a weight file.

    Raises:
      InputError: if it cannot be read.
    """
    try:
        with open(find(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror or error}).") from error


def load_torch(path: str | os.PathLike, state: str = "") -> dict[str, np.ndarray]:
    """Loads one state dict of a weight file, without PyTorch and without running code in it.

    Args:
      path: see ``read``.
      state: name of the state if the file has several; "" uses the first in ``PREFERRED``.

    Returns:
      arrays by name; floating-point arrays as float32, integers unchanged.

    Raises:
      InputError: as in ``read``, for a state that is not in the file, or values that are not
        finite.
    """
    states = read(path).states
    chosen = cast(states[choose(states, state, path)])
    require_finite(chosen, repr(str(path)))
    return chosen


def choose(states: dict[str, Any], wanted: str, path: str | os.PathLike) -> str:
    """Chooses the state ``wanted``, or the preferred one if it is "".

    Raises:
      InputError: if the state is not in the file, or if several are equally preferred.
    """
    found = [name for name in states if name == wanted] if wanted else preferred(states)
    there = ", ".join(states)
    require(bool(found), f"{str(path)!r} has no state {wanted!r}: choose one of {there}.")
    require(
        len(found) == 1, f"{str(path)!r} has several states: choose one of {there} with --state."
    )
    return found[0]


def preferred(names) -> list[str]:
    """The dotted or slashed names that rank first in ``PREFERRED``; all if none is in it."""

    def rank(name):
        parts = name.replace("/", ".").split(".")
        return min((PREFERRED.index(part) for part in parts if part in PREFERRED), default=99)

    first = min(map(rank, names), default=99)
    return [name for name in names if rank(name) == first]


def cast(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Casts the floating-point arrays of a state to float32; values beyond it become infinite."""
    with np.errstate(over="ignore"):
        return {
            name: value if value.dtype.kind in "biu" else value.astype(np.float32)
            for name, value in state.items()
        }


def require_finite(arrays: dict[str, np.ndarray], where: str) -> None:
    """Raises InputError, naming the first array, if arrays hold NaN or infinity."""
    bad = {
        name: count
        for name, value in arrays.items()
        if value.dtype.kind not in "biu" and (count := value.size - np.isfinite(value).sum())
    }
    if bad:
        name, count = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more tensors hold some" if bad.keys() - {name} else ""
        raise InputError(
            f"{where} is refused: {name} holds {count:,} values of {arrays[name].size:,} that are "
            f"NaN or infinite{more}: use an earlier checkpoint, or download it again."
        )


def _states(tree: Any, place: tuple[str, ...] = ()) -> dict[str, dict[str, np.ndarray]]:
    """State dicts at most two levels deep, without entries that are no tensors.

    Those of optimizers, keyed by numbers, are skipped, and so are tensors next to state dicts.
    """
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        return {}
    below = (_states(value, (*place, name)) for name, value in tree.items() if len(place) < 2)
    states = {name: state for found in below for name, state in found.items()}
    tensors = {name: value for name, value in tree.items() if isinstance(value, np.ndarray)}
    return states or ({"/".join(place): tensors} if tensors else {})


def _foreign(head: bytes) -> str:
    if not head.strip():
        return "empty: download it again"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    start = head.lstrip().lower()
    return next(
        (what for beginning, what in _FOREIGN if start.startswith(beginning)),
        "neither safetensors nor PyTorch's",
    )


def _read_safetensors(path) -> Read:
    try:
        with safe_open(path, framework="flax") as file:  # unlike "numpy", it supports bfloat16
            state = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is not a complete safetensors file ({error}): download it again."
        ) from error
    require(len(state) > 0, f"{str(path)!r} holds no tensors.")
    return Read({"": state}, metadata)
