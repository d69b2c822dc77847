"""Records: what was measured, with everything needed to measure it again."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any, Callable, Sequence

import jax

from jaxpt import __version__, old_names
from jaxpt.errors import InputError, require
from jaxpt.files import unwritable

SURROUNDINGS = ("device", "packages", "python", "date", "revision")
IDENTITY = "data_identity"  # field with the identity of the set that a record is of
# What two records have in common if one of them measures again what the other did.
SAME = ("data", "part", "label", "seed", "evaluator", "finetune_seed")
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn")


def key_of(what: dict[str, Any]) -> str:
    """A short name that is the same for the same config and measurement, whatever the order."""
    text = json.dumps(what, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def known(
    path: str | os.PathLike,
    key: Callable[[dict[str, Any]], str] = lambda record: record["key"],
    *,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """The records of a file by key, for a loop that makes only those that are not there.

    Records that do not say which data they are of are left out, with one sentence about them, as
    long as they were not made again.

    Args:
      path: the file; there may be none.
      key: of a record.
      quiet: without the sentence.

    Raises:
      InputError: see ``read``.
    """
    found = read(path)
    unknown = sum("key" in record and IDENTITY not in record for record in current(found))
    if unknown and not quiet:
        print(
            f"jaxpt: records in {os.fspath(path)} that an older version made ({unknown}) do not "
            "say which data they are of: they stay, and what is asked for is measured anew.",
            file=sys.stderr,
            flush=True,
        )
    return {key(record): record for record in found if "key" in record and IDENTITY in record}


def current(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without those that do not say which data they are of and were made again since."""
    again = {_same(record) for record in found if IDENTITY in record}
    return [record for record in found if IDENTITY in record or _same(record) not in again]


def told_apart(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in which sets of one name and different content have different names.

    "photos" becomes "photos (1f2e3d4c)", with the start of the set's identity, where there are
    several. Coarse classes make no other set.
    """
    contents: dict[str, set[str]] = {}
    for record in found:
        contents.setdefault(record["data"], set()).add(_content(record))
    return [
        record | {"data": f"{record['data']} ({_content(record)[:8] or 'data unknown'})"}
        if len(contents[record["data"]]) > 1
        else record
        for record in found
    ]


def _content(record) -> str:
    return record.get(IDENTITY, "").partition("-")[0]


def _same(record) -> str:
    limit = ((record.get("config") or {}).get("data") or {}).get("pretrain_limit", 0)
    other = (record.get("details") or {}).get("other_label")  # of CKA
    about = [*(record.get(name) for name in SAME), other, limit, record.get("protocol")]
    return json.dumps(about, sort_keys=True, default=list)


def surroundings() -> dict[str, Any]:
    """Device, package versions, date and source revision of a measurement made here and now."""
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind} ({_processor()}, {os.cpu_count()} CPU cores)",
        "packages": packages(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "revision": _revision(),
    }


def _processor() -> str:
    """What Linux calls the processor; elsewhere, or where it has no name, its architecture."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def packages() -> dict[str, str]:
    """Name → version of what a result depends on."""
    return {"jaxpt": __version__} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    """A package's version by its metadata, which a bare copy of its source does not have."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def append(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Adds one record as one line, in one write.

    Should a kill, or a full disk, have torn the line before, what is left of it is cut off first.

    Raises:
      InputError: where the file cannot be written.
    """
    try:
        _mend_end(pathlib.Path(path))
        with open(path, "ab", buffering=0) as file:
            file.write(line_of(record).encode())
    except OSError as error:
        raise unwritable(path, error, kind="file") from error


def line_of(record: dict[str, Any]) -> str:
    """The record as a line of JSON."""
    return json.dumps(record, default=list) + "\n"


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """All records of a file, oldest first; [] where there is no file.

    A last line that was torn, so that it neither ends nor is a record, does not count: ``append``
    removes it. Fields of a record's config that had other names in earlier versions have today's.

    Raises:
      InputError: for any other line that is no record, or a path that is no file.
    """
    path = pathlib.Path(path)
    require(not path.is_dir(), f"{str(path)!r} is a folder: name a file of records.")
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")  # the last is empty, but for an unended line
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_with_new_names(json.loads(line)))
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no record ({error}): remove it.") from error
    return records + ([_with_new_names(json.loads(last))] if _is_record(last) else [])


def _with_new_names(record):
    """The record with the fields of its pre-training config under today's names."""
    if not isinstance(record, dict) or "config" not in record:
        return record
    return record | {"config": old_names.with_new_names(record["config"])}


def read_given(paths: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """The records of several files, one file after the other.

    Raises:
      InputError: for a file that is not there, holds none, or cannot be read.
    """
    found = []
    for path in paths:
        require(pathlib.Path(path).is_file(), f"no file {str(path)!r} with records.")
        of_file = read(path)
        require(bool(of_file), f"{path} holds no records.")
        found += of_file
    return found


def _mend_end(path: pathlib.Path) -> None:
    """Ends the last line: removes it where it is torn, else gives it its newline."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
        file.seek(0)
        last = file.read().rpartition(b"\n")[2]
        if _is_record(last):
            file.write(b"\n")
        else:
            file.truncate(file.tell() - len(last))


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _revision() -> str:
    """The git commit of the package's source, or "installed" outside of a checkout."""
    root = pathlib.Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "installed"
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "uncommitted"
