"""Weight files: safetensors, and PyTorch's own without PyTorch and without running code in them.

The format is recognised from the content, not from the file name.

A file of ``torch.save`` (.pth and others) is a pickle, a small program that may call any function.
Here it may name only functions that build tensors (``_ALLOWED``); everything else is refused before
it is looked up. There are two layouts: a zip archive with ``data.pkl`` and one member per storage
(PyTorch 1.6 and later), and a sequence of pickles followed by the storages (earlier versions, and
``_use_new_zipfile_serialization=False``). Source: the documentation of ``torch.save`` and
``torch/serialization.py`` of PyTorch 2.
"""

import collections
import hashlib
import os
import pathlib
import pickle
import struct
import types
import zipfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpt.errors import InputError, require

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
    tree = _read_pickle(path)
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


_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # constants of the older layout of torch.save
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16.dtype.name,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Exceptions that a damaged or hostile pickle may raise in the unpickler.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
    ImportError,
    OSError,
)


class _Tensor(NamedTuple):
    """A strided view of a storage, before the storage is read."""

    storage: "_Storage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int  # elements


def _rebuild_tensor(storage, offset, shape, strides, *_):
    """Replaces PyTorch's function of that name; gradients and hooks are ignored."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


def _counter(counts=(), *_):
    """Replaces ``collections.Counter``, in which schedules keep their milestones."""
    return dict(counts)


# Options of a training script, which many checkpoints contain; their values are not read.
_NAMESPACE = "argparse", "Namespace"
_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "Counter"): _counter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == _NAMESPACE:
            return type(name, (), {})  # a new class, since a pickle may set attributes of it
        require(
            (module, name) in _ALLOWED,
            f"it uses {module}.{name}, which tensors do not need: save a plain state_dict, or "
            "save as .safetensors.",
        )
        found = _ALLOWED[module, name]
        # A new function, since a pickle may set attributes of the objects that it receives.
        return (lambda *args: found(*args)) if isinstance(found, types.FunctionType) else found

    def persistent_load(self, pid):
        kind, dtype, key, _, size, *view = pid
        require(
            kind == "storage" and dtype in _DTYPES.values() and view in ([], [None]),
            "it contains something other than plain storages: save it with a newer PyTorch.",
        )
        return _Storage(np.dtype(dtype), str(key), int(size))


def _read_pickle(path: pathlib.Path) -> Any:
    """Loads a file of ``torch.save``, with tensors as arrays of the file's dtype.

    Raises:
      InputError: for a file that names anything but tensors, or is damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _read_zip(archive)
            file.seek(0)
            return _read_legacy(file, path.stat().st_size)
    except InputError as error:
        raise InputError(f"{str(path)!r} is refused: {error}") from None
    except _BROKEN as error:
        raise InputError(
            f"{str(path)!r} is not a complete PyTorch file ({type(error).__name__}: "
            f"{error}): download it again."
        ) from error


def _read_zip(archive):
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    require(
        len(pickles) == 1,
        f"the archive has {len(pickles)} members data.pkl instead of one: it was not written by "
        "torch.save.",
    )
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.namelist():
        require(archive.read(root + "byteorder") == b"little", "its numbers are big-endian.")
    with archive.open(pickles[0]) as file:
        tree = _Unpickler(file, encoding="utf-8").load()

    def read(storage):
        member = archive.getinfo(f"{root}data/{storage.key}")
        require(member.compress_type == zipfile.ZIP_STORED, f"{member.filename} is compressed.")
        _check_size(storage, member.file_size)
        return np.frombuffer(archive.read(member), storage.dtype)

    return _with_arrays(tree, read)


def _read_legacy(file, file_size):
    magic, protocol, system = (_Unpickler(file, encoding="utf-8").load() for _ in range(3))
    require((magic, protocol) == (_MAGIC, _PROTOCOL), "it does not begin like a PyTorch file.")
    require(system["little_endian"] is True, "its numbers are big-endian.")
    tree = _Unpickler(file, encoding="utf-8").load()
    keys = _Unpickler(file, encoding="utf-8").load()
    wanted = {tensor.storage.key: tensor.storage for tensor in _tensors_in(tree)}
    arrays = {}
    for key in keys:
        (size,) = struct.unpack("<q", file.read(8))
        require(
            key in wanted and wanted[key].size == size,
            f"storage {key} has {size} numbers, but no tensor of that size uses it.",
        )
        n_bytes = size * wanted[key].dtype.itemsize
        require(
            0 <= n_bytes <= file_size - file.tell(),
            f"it ends within storage {key} of {n_bytes} bytes: download it again.",
        )
        arrays[key] = np.frombuffer(file.read(n_bytes), wanted[key].dtype)
    return _with_arrays(tree, lambda storage: arrays[storage.key])


def _check_size(storage, n_bytes):
    wanted = storage.size * storage.dtype.itemsize
    require(n_bytes == wanted, f"storage {storage.key} has {n_bytes} bytes instead of {wanted}.")


def _tensors_in(tree):
    if isinstance(tree, _Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors_in(part)


def _with_arrays(tree, read):
    if isinstance(tree, _Tensor):
        return _view(tree, read(tree.storage))
    if isinstance(tree, dict):
        return {name: _with_arrays(part, read) for name, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_with_arrays(part, read) for part in tree]
    return tree


def _view(tensor, storage):
    """Copies the view, which must lie within the storage and have no more elements than it."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    whole = all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides))
    count = int(np.prod(shape, dtype=object)) if whole else 0
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides)) if count else 0
    require(
        whole
        and len(shape) == len(strides)
        and count <= storage.size
        and last < max(storage.size, 1),
        f"a tensor of shape {list(shape)} does not lie within its {storage.size} numbers.",
    )
    if not count:
        return np.zeros(shape, storage.dtype)
    itemsize = storage.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [step * itemsize for step in strides]
    ).copy()
