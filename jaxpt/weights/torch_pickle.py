"""Reads files of ``torch.save`` (.pth and others) without PyTorch and without running code in them.

Such a file is a pickle, a small program that may call any function. Here it may name only functions
that build tensors (``_ALLOWED``); everything else is refused before it is looked up. There are two
layouts: a zip archive with ``data.pkl`` and one member per storage (PyTorch 1.6 and later), and a
sequence of pickles followed by the storages (earlier versions, and
``_use_new_zipfile_serialization=False``). Source: the documentation of ``torch.save`` and
``torch/serialization.py`` of PyTorch 2.
"""

import collections
import pathlib
import pickle
import struct
import types
import zipfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxpt.errors import InputError, require

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # constants of the older layout
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


def load(path: pathlib.Path) -> Any:
    """Loads a file of ``torch.save``, with tensors as arrays of the file's dtype.

    Raises:
      InputError: for a file that names anything but tensors, or is damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _load_zip(archive)
            file.seek(0)
            return _load_legacy(file, path.stat().st_size)
    except InputError as error:
        raise InputError(f"{str(path)!r} is refused: {error}") from None
    except _BROKEN as error:
        raise InputError(
            f"{str(path)!r} is not a complete PyTorch file ({type(error).__name__}: "
            f"{error}): download it again."
        ) from error


def _load_zip(archive):
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


def _load_legacy(file, file_size):
    magic, protocol, system = (_Unpickler(file, encoding="utf-8").load() for _ in range(3))
    require((magic, protocol) == (_MAGIC, _PROTOCOL), "it does not begin like a PyTorch file.")
    require(system["little_endian"] is True, "its numbers are big-endian.")
    tree = _Unpickler(file, encoding="utf-8").load()
    keys = _Unpickler(file, encoding="utf-8").load()
    wanted = {tensor.storage.key: tensor.storage for tensor in _tensors(tree)}
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


def _tensors(tree):
    if isinstance(tree, _Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(part)


def _with_arrays(tree, read):
    if isinstance(tree, _Tensor):
        return _array(tree, read(tree.storage))
    if isinstance(tree, dict):
        return {name: _with_arrays(part, read) for name, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_with_arrays(part, read) for part in tree]
    return tree


def _array(tensor, storage):
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
