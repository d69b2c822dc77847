"""What a checkpoint's files were when it was whole: their sizes and SHA-256 sums.

Written as ``manifest.json`` into the folder of a checkpoint once all its files are in place. A
folder without one is no checkpoint, whatever lies in it.
"""

import hashlib
import json
from typing import Any

from etils import epath

FILE = "manifest.json"
FORMAT = 1  # of checkpoints: the next one that old code cannot read gets the next number
CHUNK = 1 << 20


def write(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes the manifest in one move, so that a kill leaves a whole one or none.

    Args:
      folder: of the checkpoint, with all its files.
      about: what else it says, as JSON: step, config, versions.
    """
    text = json.dumps({"format": FORMAT, **about, "files": _sums(folder)}, indent=1, default=list)
    temporary = folder / f".{FILE}.tmp"
    temporary.write_text(text)
    temporary.replace(folder / FILE)


def fault(folder: epath.Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where nothing is."""
    try:
        manifest = read(folder)
    except FileNotFoundError:
        return f"it has no {FILE}: it was not finished"
    except (OSError, ValueError) as error:
        return f"its {FILE} cannot be read ({error})"
    try:
        found = _sums(folder)
    except OSError as error:
        return f"its files cannot be read ({error})"
    expected = manifest["files"]
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"the file {name} is missing"
        if name not in expected:
            return f"the file {name} does not belong to it"
        if expected[name] != found[name]:
            return (f"the file {name} has changed: {found[name]['bytes']:,} bytes, written as "
                    f"{expected[name]['bytes']:,}")
    return ""


def read(folder: epath.Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: where it is no manifest.
    """
    manifest = json.loads((folder / FILE).read_text())
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ValueError("it lists no files")
    return manifest


def _sums(folder: epath.Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Name → size and SHA-256 of every file below a folder but the manifest."""
    sums = {}
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            # An empty folder is listed too: orbax may have meant it to be there.
            sums |= _sums(path, f"{name}/") or {f"{name}/": {"bytes": 0, "sha256": ""}}
        elif prefix or path.name not in (FILE, f".{FILE}.tmp"):
            sums[name] = _sum(path)
    return sums


def _sum(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
