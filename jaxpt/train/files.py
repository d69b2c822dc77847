"""Paths of a run, on disks and object stores, and small files that a kill leaves no half of."""

import os

from etils import epath


def write_anew(path: epath.Path, text: str) -> None:
    """In one move, so that a kill or a full disk leaves the old file or the new one."""
    temporary = path.parent / f".{path.name}.tmp"
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_remote(path: str | os.PathLike) -> bool:
    """Whether it is on an object store, such as gs://bucket/runs."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> epath.Path:
    """The path, independent of the working directory: orbax asks for that."""
    path = epath.Path(path)
    return path if is_remote(path) else path.resolve()
