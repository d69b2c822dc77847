"""Atomic writing of files, and checks of folders, on disks and object stores."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from etils import epath

from jaxpt.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file that replaces ``path`` atomically at the end of the block.

    After an exception, a kill or a full disk, the old file is still there and complete.

    Args:
      path: of the file; its folder must exist.
      mode: "w" for text, "wb" for bytes.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open(mode) as file:
            yield file
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def writable_folder(path: str | os.PathLike, *, option: str = "") -> epath.Path:
    """Creates a folder if it is missing, and checks that files can be written to it.

    Args:
      path: of the folder.
      option: name of the flag that sets it, for the error message.

    Raises:
      InputError: if the folder cannot be created, or no file can be written to it.
    """
    folder = epath.Path(path)
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error, option=option) from error
    return folder


def unwritable(
    path: str | os.PathLike, error: OSError, *, option: str = "", kind: str = "folder"
) -> InputError:
    """Makes the error to raise for a path that cannot be written.

    Args:
      path: the path.
      error: the system's error.
      option: name of the flag that sets the path, if any.
      kind: "folder" or "file".
    """
    instead = f"another --{option}" if option else f"another {kind}"
    return InputError(
        f"{option + ' ' if option else ''}{os.fspath(path)!r} cannot be written "
        f"({error.strerror or error}): choose {instead}."
    )


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is on an object store, such as gs://bucket/runs."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike) -> epath.Path:
    """The absolute path, which orbax requires; paths on object stores are unchanged."""
    path = epath.Path(path)
    return path if is_remote(path) else path.resolve()
