"""Records of measurements, with everything needed to repeat them."""

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
IDENTITY = "data_identity"  # field with the identity of the measured set
# Fields in which two records agree if one repeats the measurement of the other.
SAME = ("data", "part", "label", "seed", "evaluator", "finetune_seed")
PACKAGES = ("jax", "flax", "optax", "numpy", "scikit-learn")
# Values that depend on which coarse classes there are, beside those named coarse_….
OF_COARSE = (
    *("class_separation", "fine_purity", "effective_rank", "cdnv", "confused_within"),
    *("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maximal_angle", "nc3", "nc4"),
)


def key_of(what: dict[str, Any]) -> str:
    """Short hash of a config and measurement, independent of the order of keys."""
    text = json.dumps(what, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def known(
    path: str | os.PathLike,
    key: Callable[[dict[str, Any]], str] = lambda record: record["key"],
    *,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Records of a file by key, for a loop that makes only the missing ones.

    Records without the identity of their data are left out. If some of them have not been replaced
    by a new measurement, a sentence on stderr says so.

    Args:
      path: the file, which need not exist.
      key: function from a record to its key.
      quiet: whether to omit the sentence.

    Raises:
      InputError: see ``read``.
    """
    found = read(path)
    unknown = sum("key" in record and IDENTITY not in record for record in current(found))
    if unknown and not quiet:
        print(
            f"jaxpt: records in {os.fspath(path)} from an older version ({unknown}) do not say "
            "which data they are of: they are kept, and the requested measurements are made again.",
            file=sys.stderr,
            flush=True,
        )
    return {key(record): record for record in found if "key" in record and IDENTITY in record}


def current(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drops records without data identity whose measurement another record repeats with one."""
    again = {_same(record) for record in found if IDENTITY in record}
    return [record for record in found if IDENTITY in record or _same(record) not in again]


def told_apart(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Renames sets so that sets of one name but different content have different names.

    If there are several sets "photos", one becomes "photos (1f2e3d4c)", with the beginning of its
    identity. If the same images have several partitions into coarse classes, values that depend on
    it move to a record of their own, of a set such as "digits (parity)".
    """
    contents = _by_set(found, _content)
    found = [
        record | {"data": f"{record['data']} ({_content(record)[:8] or 'data unknown'})"}
        if len(contents[record["data"]]) > 1
        else record
        for record in found
    ]
    partitions, label_maps = _by_set(found, _partition), _by_set(found, _label_map)
    apart = []
    for record in found:
        number = len(partitions[record["data"]])
        own = {name: v for name, v in record["values"].items() if _of_coarse(name)}
        if number == 1 or not own:
            apart.append(record)
            continue
        if others := {name: v for name, v in record["values"].items() if name not in own}:
            apart.append(record | {"values": others})
        label_map = "".join(c for c in _label_map(record) if c not in "()") or "no label map"
        if len(label_maps[record["data"]]) < number:
            label_map += f" {_partition(record)[:8]}"
        apart.append(
            record | {"data": f"{record['data']} ({label_map})", "values": own, "details": {}}
        )
    return apart


def _by_set(found, of_record) -> dict[str, set[str]]:
    """What the records of each set have."""
    values: dict[str, set[str]] = {}
    for record in found:
        values.setdefault(record["data"], set()).add(of_record(record))
    return values


def _content(record) -> str:
    return record.get(IDENTITY, "").partition("-")[0]


def _partition(record) -> str:
    return record.get(IDENTITY, "").partition("-")[2]


def _of_coarse(name: str) -> bool:
    return name.startswith("coarse_") or name in OF_COARSE


def _label_map(record) -> str:
    return str(data_of(record).get("label_map", ""))


def data_of(record: dict[str, Any]) -> dict[str, Any]:
    """Data config of the measured set, else of the pre-training set; {} if a record has neither."""
    return record.get("data_config") or (record.get("config") or {}).get("data") or {}


def _same(record) -> str:
    limit = ((record.get("config") or {}).get("data") or {}).get("pretrain_limit", 0)
    other = (record.get("details") or {}).get("other_label")  # of CKA
    about = [*(record.get(name) for name in SAME), other, limit, record.get("protocol")]
    return json.dumps(about, sort_keys=True, default=list)


def surroundings() -> dict[str, Any]:
    """Device, package versions, date and source revision of a measurement made now."""
    device = jax.devices()[0]
    return {
        "device": f"{device.device_kind} ({_processor()}, {os.cpu_count()} CPU cores)",
        "packages": packages(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "revision": _revision(),
    }


def _processor() -> str:
    """Name of the processor by Linux; its architecture on other systems or without a name."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def packages() -> dict[str, str]:
    """Name → version of the packages that results depend on."""
    return {"jaxpt": __version__} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    """Version of a package by its metadata; "unknown" for a bare copy of its source."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def append(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Appends a record as one line, in one write.

    If a kill or a full disk has left an incomplete last line, that line is removed first.

    Raises:
      InputError: if the file cannot be written.
    """
    try:
        _repair_end(pathlib.Path(path))
        with open(path, "ab", buffering=0) as file:
            file.write(line_of(record).encode())
    except OSError as error:
        raise unwritable(path, error, kind="file") from error


def line_of(record: dict[str, Any]) -> str:
    """Formats a record as a line of JSON."""
    return json.dumps(record, default=list) + "\n"


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads all records of a file, oldest first; [] if there is no file.

    An incomplete last line (without newline, and not a record) is ignored; ``append`` removes it.
    Old names of config fields are replaced by new ones.

    Raises:
      InputError: for any other line that is not a record, or a path that is a folder.
    """
    path = pathlib.Path(path)
    require(not path.is_dir(), f"{str(path)!r} is a folder: name a file of records.")
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(
        b"\n"
    )  # the last is empty if the file ends with a newline
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_with_new_names(json.loads(line)))
        except ValueError as error:
            raise InputError(f"{path}, line {number} is no record ({error}): remove it.") from error
    return records + ([_with_new_names(json.loads(last))] if _is_record(last) else [])


def _with_new_names(record):
    """Replaces old names of fields in a record's pre-training config."""
    if not isinstance(record, dict) or "config" not in record:
        return record
    return record | {"config": old_names.with_new_names(record["config"])}


def read_given(paths: Sequence[str | os.PathLike]) -> list[dict[str, Any]]:
    """Reads the records of several files, one file after the other.

    Raises:
      InputError: for a file that is missing, has no records, or cannot be read.
    """
    found = []
    for path in paths:
        require(pathlib.Path(path).is_file(), f"no file {str(path)!r} with records.")
        of_file = read(path)
        require(bool(of_file), f"{path} holds no records.")
        found += of_file
    return found


def _repair_end(path: pathlib.Path) -> None:
    """Removes an incomplete last line, or adds the newline that a complete one lacks."""
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
    """Git commit of the package's source; "installed" outside a checkout."""
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
