"""What a checkpoint's files were when it was whole: their sizes and SHA-256 sums.

Written as ``manifest.json`` into the folder of a checkpoint once all its files are in place. A
folder without one is no checkpoint, whatever lies in it.
"""

import hashlib
import json
from typing import Any

from etils import epath

from jaxpt.errors import InputError
from jaxpt.files import replacing

FILE = "manifest.json"
FORMAT = 1  # of checkpoints: the next one that old code cannot read gets the next number
CHUNK = 1 << 20


def write(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes the manifest in one move, so that a kill leaves a whole one or none.

    Args:
      folder: of the checkpoint, with all its files.
      about: what else it says, as JSON: step, config, versions.
    """
    content = {"format": FORMAT, **about, "files": _sums(folder)}
    with replacing(folder / FILE) as file:
        json.dump(content | {"sha256": _own_sum(content)}, file, indent=1, default=list)


def fault(folder: epath.Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where nothing is.

    Raises:
      InputError: where it is of another format, so that nothing can be said.
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
    """The manifest of a checkpoint.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: where it is not as it was written.
      InputError: where it is of another format.
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
    """Of a manifest without its sum, however it is written; formats to come keep to this."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def _sums(folder: epath.Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Name → size and SHA-256 of every file below a folder but the manifest."""
    sums = {}
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            # An empty folder is listed too: orbax may have meant it to be there.
            sums |= _sums(path, f"{name}/") or {f"{name}/": {"bytes": 0, "sha256": ""}}
        elif prefix or FILE not in path.name:  # nor what a kill left of one
            sums[name] = _sum(path)
    return sums


def _sum(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
