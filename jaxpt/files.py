"""Files and folders on disks and object stores, of which a kill or a full disk leaves no half."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from etils import epath

from jaxpt.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """A file to write to, which replaces ``path`` in one move at the end of the block.

    After an exception, a kill or a full disk the old file is still there, whole.

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
    """A folder, made if it is missing, into which a file could be written just now.

    Args:
      path: of the folder.
      option: the flag that names it, for the message.

    Raises:
      InputError: if it cannot be made, or no file can be written there.
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
    """The error to raise for a path that cannot be written.

    Args:
      path: that could not be written.
      error: what the system said.
      option: the flag that names the path, if any.
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
    """The path, independent of the working directory, as orbax requires."""
    path = epath.Path(path)
    return path if is_remote(path) else path.resolve()
