"""Records: what was measured, with everything needed to measure it again."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from jaxpt.errors import InputError

PACKAGES = ("jaxpt", "jax", "flax", "optax", "numpy", "scikit-learn")


def key_of(what: dict[str, Any]) -> str:
    """A short name that is the same for the same config and measurement, whatever the order."""
    text = json.dumps(what, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def surroundings() -> dict[str, Any]:
    """Device, package versions, date and source revision of a measurement made here and now."""
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind} ({platform.machine()}, {os.cpu_count()} CPU cores)",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "revision": _revision(),
    }


def writable_folder(path: str | os.PathLike) -> pathlib.Path:
    """Makes a folder and proves that files can be written into it.

    Raises:
      InputError: where they cannot.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be written ({error.strerror}): choose another "
                         "folder.") from error
    return folder


def append(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Adds one record as one line, in one write, so that a kill leaves no half of it behind."""
    line = json.dumps(record, default=list) + "\n"
    with open(path, "a") as file:
        file.write(line)


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """All records of a file, oldest first; [] where there is no file.

    Raises:
      InputError: for a line that is no record.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no record ({error}): remove it.") from error
    return records


def _revision() -> str:
    """The git commit of the package's source, or "installed" outside of a checkout."""
    root = pathlib.Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "installed"
    result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root,
                            capture_output=True, text=True, check=False)
    return result.stdout.strip() or "uncommitted"
