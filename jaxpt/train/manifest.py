"""Manifest of a checkpoint: sizes and SHA-256 sums of its files when it was complete.

It is written as ``manifest.json`` into the checkpoint's folder once all files are in place. A
folder without a manifest does not count as a checkpoint.
"""

import hashlib
import json
from typing import Any

from etils import epath

from jaxpt.errors import InputError
from jaxpt.files import replacing

FILE = "manifest.json"
FORMAT = 1  # of checkpoints; to be increased when old code cannot read a new one
CHUNK = 1 << 20


def write(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes the manifest atomically, so that a kill leaves a whole one or none.

    Args:
      folder: folder of the checkpoint, with all its files.
      about: JSON-serializable metadata: step, config, versions.
    """
    content = {"format": FORMAT, **about, "files": _sums(folder)}
    with replacing(folder / FILE) as file:
        json.dump(content | {"sha256": _own_sum(content)}, file, indent=1, default=list)


def fault(folder: epath.Path) -> str:
    """Verifies a checkpoint; returns the fault in a few words, empty if there is none.

    Raises:
      InputError: if it is of another format, so that it cannot be verified.
    """
    try:
        expected = read(folder)["files"]
        found = _sums(folder)
    except FileNotFoundError:
        return f"it has no {FILE}: it was not finished"
    except InputError:
        raise
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"the file {name} is missing"
        if name not in expected:
            return f"the file {name} does not belong to it"
        if expected[name] != found[name]:
            return (
                f"the file {name} has changed: {found[name]['bytes']:,} bytes, written as "
                f"{expected[name]['bytes']:,}"
            )
    return ""


def read(folder: epath.Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not as it was written.
      InputError: if it is of another format.
    """
    manifest = json.loads((folder / FILE).read_text())
    if not isinstance(manifest, dict) or manifest.pop("sha256", "") != _own_sum(manifest):
        raise ValueError(f"{FILE} is not as it was written")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{str(folder)!r} is a checkpoint of format {manifest.get('format')}, but "
            f"this version of jaxpt reads format {FORMAT}: use the version that "
            "wrote it, or another workdir."
        )
    return manifest


def _own_sum(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its layout; the same rule for all formats."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def _sums(folder: epath.Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Maps the name of every file below a folder, except the manifest, to its size and SHA-256."""
    sums = {}
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            # Empty folders are listed too, as orbax may need them.
            sums |= _sums(path, f"{name}/") or {f"{name}/": {"bytes": 0, "sha256": ""}}
        elif prefix or FILE not in path.name:  # nor an unfinished one that a kill left
            sums[name] = _sum(path)
    return sums


def _sum(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
