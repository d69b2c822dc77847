"""Files of images, on local disks or on object stores such as ``gs://bucket/photos``.

Object stores are read through fsspec, which needs a package of its own for each of them, such as
gcsfs or s3fs. Folders are listed by a request per folder and thousand names.
"""

import errno
import os
import pathlib
from typing import NamedTuple

from jaxpt.errors import InputError, shown
from jaxpt.files import is_remote

# What stores call that which changes with the content of an object.
CHANGES = ("etag", "ETag", "md5Hash", "crc32c", "generation", "mtime", "LastModified", "created")


class Entry(NamedTuple):
    """An object or a folder of objects, with the interface of ``os.DirEntry``."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder

    def is_symlink(self) -> bool:
        return False


def place(path: str) -> pathlib.Path | str:
    """The path of a folder or file; a URL stays text."""
    return path if is_remote(path) else pathlib.Path(path)


def real(path: str | os.PathLike) -> str:
    """The path of a folder or file without links; a URL as it is."""
    return os.fspath(path) if is_remote(path) else os.path.realpath(path)


def entries(folder: str) -> list[Entry]:
    """Entries of a folder of an object store, unsorted.

    Raises:
      InputError: if it cannot be listed.
    """
    store, inside = _store(folder)
    found = _asked(folder, lambda: store.ls(inside, detail=True))
    own = inside.strip("/")  # some stores list an empty object that stands for the folder itself
    below = [about for about in found if about["name"].strip("/") != own]
    names = [about["name"].rstrip("/").rpartition("/")[2] for about in below]
    return [
        Entry(name, f"{folder.rstrip('/')}/{name}", about["type"] == "directory")
        for name, about in zip(names, below)
    ]


def is_file(path: pathlib.Path | str) -> bool:
    if isinstance(path, pathlib.Path):
        return path.is_file()
    store, inside = _store(path)
    return _asked(path, lambda: store.isfile(inside))


def is_folder(path: pathlib.Path | str) -> bool:
    if isinstance(path, pathlib.Path):
        return path.is_dir()
    store, inside = _store(path)
    return _asked(path, lambda: store.isdir(inside))


def read(path: pathlib.Path | str) -> bytes:
    """Content of a file.

    Raises:
      InputError: if it cannot be read; caused by an ``OSError`` whose number says why.
    """
    if isinstance(path, pathlib.Path):
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{shown(path)} cannot be read ({error.strerror}).") from error
    store, inside = _store(path)
    return _asked(path, lambda: store.cat_file(inside))


def stamp(path: str | os.PathLike) -> str:
    """What changes with the content of a file, from its metadata; "missing" if there is none.

    On disks it includes the inode's change time: unlike the modification time, tools do not set it
    back when they replace a file with another of the same size.
    """
    try:
        if is_remote(path):
            store, inside = _store(os.fspath(path))
            about = store.info(inside)  # known since the folder was listed
            return " ".join(str(about.get(name, "")) for name in ("size", *CHANGES))
        there = os.stat(path)
        return f"{there.st_size} {there.st_mtime_ns} {there.st_ctime_ns} {there.st_ino}"
    except OSError:
        return "missing"


def _store(url: str):
    """The file system of a URL, and the path in it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url} cannot be opened ({error}): install fsspec's package for this kind of store."
        ) from error


def _asked(path: str, ask):
    """Asks a store; what fails, except for what is not there, may succeed another time."""
    try:
        return ask()
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)} cannot be read (there is no such object).") from error
    except Exception as error:  # each store has exceptions of its own
        cause = OSError(errno.EIO, str(error))
        raise InputError(f"{shown(path)} cannot be read ({error}).") from cause
