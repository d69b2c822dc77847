"""The folder of a run: its lock, its config and data identity, and checks before it is resumed.

``check`` compares a config and data with those of the run in the folder; ``hold_lock`` keeps other
processes out of it; then ``claim`` writes what the run will be compared with.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Collection
from typing import Any, NamedTuple

import ml_collections
from etils import epath

from jaxpt import old_names
from jaxpt.data import identity
from jaxpt.data.identity import Identity
from jaxpt.errors import InputError, require
from jaxpt.files import is_remote, replacing, unwritable
from jaxpt.train import checkpoint

CONFIG, CHANGES, DATA = "config.json", "config_changes.jsonl", "data.json"
LOCK = "run.lock"
# In seconds. Without file locks (object stores), a lease is renewed as long as its holder lives.
RENEWED_EVERY, EXPIRES_AFTER, SETTLES_IN = 20.0, 60.0, 2.0
# Fields that may differ silently when a run is resumed, as they do not affect results.
FREE = (
    "log_every",
    "trackers",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "mapping",
    "devices",
    "memory_sharding",
    "param_sharding",
    "stop_on_save_failure",
    *(f"data.{name}" for name in identity.FREE),
)
# Fields that must not differ: it would be another run, although its state might fit.
FIXED = (
    "seed",
    "method",
    "data",
    "batch_size",
    "model",
    "memory",
    "memory_kind",
    "memory_dtype",
    "optimizer.name",
    "probe.labels",
    "rw_sam",
    "t_rex.prototypes_from",
)
RECORDED = ("model.remat",)  # exception from FIXED: the same function, computed differently
# These may differ once their content is known to be the same, of each source.
MOVABLE = re.compile(rf"data\.(sources\.[^.]+\.)?({'|'.join(identity.BY_CONTENT)})")


def open_run(workdir: str | os.PathLike) -> tuple[ml_collections.ConfigDict, int]:
    """Returns the config of a finished or interrupted run and the step of its latest checkpoint.

    Raises:
      InputError: if there is no run, or it has no undamaged checkpoint.
    """
    config = read_config(workdir)
    require(
        config is not None, f"no pre-training run in {os.fspath(workdir)!r}: it has no {CONFIG}."
    )
    step = checkpoint.newest(workdir)
    require(
        step is not None, f"no whole checkpoint in {os.fspath(workdir)!r}: pre-train there first."
    )
    return config, step


class Changes(NamedTuple):
    """Differences between a run and its resumption, as sentences.

    Attributes:
      config: changed fields that may affect results from now on.
      data: a changed path of the data, and changes of it that do not affect training.
    """

    config: list[str] = []
    data: list[str] = []


def check(
    workdir: str | os.PathLike,
    config,
    defaults: dict[str, Any],
    data: Identity | None = None,
    *,
    resume: bool,
    unread: Collection[str] = (),
) -> Changes:
    """Compares a config and data with those of the run in a folder.

    Args:
      workdir: folder of the run.
      config: the config to resume with.
      defaults: values of fields that a saved config of an older version lacks.
      data: identity of the dataset to resume with.
      resume: False refuses a folder that holds a run.
      unread: fields and sections that the run does not read, which may differ.

    Returns:
      The ``Changes``; empty if the folder holds no run.

    Raises:
      InputError: if the folder holds a run that cannot be resumed with this config or data, or if
        it holds any run and ``resume`` is False.
    """
    saved = read_config(workdir)
    if saved is None:
        return Changes()
    require(
        resume,
        f"{os.fspath(workdir)!r} already holds a run and --noresume was given: choose "
        "another workdir or remove it.",
    )
    changes = {
        key: text
        for key, text in _differences(saved.to_dict(), config.to_dict(), defaults)
        if not _among(key, unread)
    }
    known = data and read_data(workdir)
    moved = [changes.pop(key) for key in list(changes) if known and MOVABLE.fullmatch(key)]
    fixed = [
        text
        for key, text in changes.items()
        if _among(key, FIXED) and not _among(key, FREE + RECORDED)
    ]
    require(
        not fixed,
        f"{os.fspath(workdir)!r} holds a run with another config, different in "
        f"{'; '.join(fixed)}: use the same config or another workdir.",
    )
    if known:
        moved += _changed_data(workdir, known, data)
    elif data:
        moved.append(
            "an older version started the run without storing the identity of its data, so it is "
            f"unknown whether these are the same; from now on it is stored in {DATA}"
        )
    return Changes([text for key, text in changes.items() if not _among(key, FREE)], moved)


def require_same_data(workdir: str | os.PathLike, data: Identity) -> None:
    """Raises InputError if the run in the folder is known to be trained on other data."""
    known = read_data(workdir)
    if known:
        _changed_data(workdir, known, data)


def _changed_data(workdir, known: Identity, data: Identity) -> list[str]:
    """Differences in the test part, which training does not use.

    Raises:
      InputError: if anything else differs.
    """
    found = identity.differences(known, data)
    only_measured = [
        text for part in list(found) if identity.is_test(part) for text in found.pop(part)
    ]
    require(
        not found,
        f"{os.fspath(workdir)!r} holds a run on other data: "
        f"{'; '.join(text for part in found.values() for text in part)}. Use the data that the "
        "run was started with, or another workdir.",
    )
    if known.kind != data.kind:
        only_measured.append(
            f"the run was started with data given as {known.kind} and these are {data.kind}, so "
            "only classes and numbers of images were compared, not the images"
        )
    return only_measured


def claim(
    workdir: str | os.PathLike, config, changes: Changes = Changes(), data: Identity | None = None
) -> None:
    """Writes a run's config and data identity into its folder, and appends to the log of changes.

    Raises:
      InputError: if the folder cannot be written.
    """
    path = epath.Path(workdir)
    said = [f"the run resumes with another config: {'; '.join(changes.config)}"] * bool(
        changes.config
    ) + changes.data
    try:
        if said:
            print(f"jaxpt: {'; '.join(said)}. Recorded in {CHANGES}.", file=sys.stderr, flush=True)
            line = json.dumps(
                {
                    "date": datetime.date.today().isoformat(),
                    "after_step": checkpoint.newest(workdir),
                    "changes": changes.config + changes.data,
                }
            )
            before = (path / CHANGES).read_text() if (path / CHANGES).exists() else ""
            with replacing(path / CHANGES) as file:
                file.write(before + line + "\n")
        known = read_config(workdir) and read_data(workdir)
        if data and (known is None or known.kind == data.kind):
            with replacing(path / DATA) as file:
                file.write(data.to_json() + "\n")
        # The config is written last, as a folder that has one counts as a run.
        with replacing(path / CONFIG) as file:
            file.write(json.dumps(config.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise unwritable(workdir, error, option="workdir") from error


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict | None:
    """Reads the config of the run in a folder; None if there is no run.

    Raises:
      InputError: if the file is not a config.
    """
    path = epath.Path(workdir) / CONFIG
    try:
        config = ml_collections.ConfigDict(old_names.with_new_names(json.loads(path.read_text())))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read as a config ({error}).") from error
    missing = [name for name in ("method", "model", "data", "seed") if name not in config]
    require(not missing, f"{os.fspath(path)} is no config of a run: it has no {missing}.")
    return config


def read_data(workdir: str | os.PathLike) -> Identity | None:
    """Reads the data identity of the run in a folder; None if none is stored.

    Raises:
      InputError: if the file is not an identity.
    """
    path = epath.Path(workdir) / DATA
    try:
        return Identity.from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{os.fspath(path)} cannot be read ({error!r}), so the data of the run are unknown: "
            "remove the file to resume without comparing the data."
        ) from error


def _among(key: str, names) -> bool:
    return any(key == name or key.startswith(name + ".") for name in names)


def _differences(saved: dict, given: dict, defaults: dict, prefix: str = ""):
    """Yields pairs such as ("k", "k (100 there, 50 here)") for fields that differ."""
    given, defaults = (json.loads(json.dumps(x)) for x in (given, defaults))  # tuples → lists
    for key in sorted(saved.keys() | given.keys()):
        default = defaults.get(key, "nothing")
        there, here = saved.get(key, default), given.get(key, default)
        if isinstance(there, dict) and isinstance(here, dict):
            below = default if isinstance(default, dict) else {}
            yield from _differences(there, here, below, f"{prefix}{key}.")
        elif there != here:
            yield prefix + key, f"{prefix}{key} ({there} there, {here} here)"


@contextlib.contextmanager
def hold_lock(workdir: epath.Path):
    """Context manager that holds the lock of a run's folder.

    On a disk it is a kernel lock (``flock``), which is released however the process dies. Object
    stores, and disks that do not support locks, get a lease. If the holder was killed, this waits
    until its lease expires.

    Raises:
      InputError: if another live process holds the lock.
    """
    if is_remote(workdir):
        with _lease(workdir / LOCK):
            yield
        return
    try:
        file = open(workdir / LOCK, "a+")
    except OSError as error:
        raise unwritable(workdir / LOCK, error, option="workdir") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _taken(workdir, file.read().strip() or "another process") from error
        except OSError:
            stack.enter_context(_lease(workdir / LOCK))
        else:
            with contextlib.suppress(OSError):  # a full disk: the lock holds, only its text is lost
                os.truncate(workdir / LOCK, 0)
                os.write(file.fileno(), _me().encode())
        yield


@contextlib.contextmanager
def _lease(path: epath.Path):
    _wait_until_free(path)
    _renew_lease(path)
    time.sleep(SETTLES_IN)  # if two processes come at the same moment, the later writer gets it
    holder, _ = _read_lease(path)
    if holder != _me():
        raise _taken(path.parent, holder)
    done = threading.Event()

    def keep():
        while not done.wait(RENEWED_EVERY):
            with contextlib.suppress(Exception):  # the store may be unreachable for a moment
                _renew_lease(path)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        path.unlink(missing_ok=True)


def _wait_until_free(path: epath.Path) -> None:
    """Returns once the lease is free or has expired; a live holder renews it in the meantime.

    Raises:
      InputError: if a live process holds it.
    """
    first = holder, renewed = _read_lease(path)
    reported = False
    while holder not in ("", _me()) and time.time() - renewed < EXPIRES_AFTER:
        if not reported:
            reported = True
            print(
                f"jaxpt: {os.fspath(path.parent)!r} was in use by {holder}: waiting up to "
                f"{EXPIRES_AFTER:g} seconds to see whether that process is alive.",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(min(1.0, EXPIRES_AFTER / 10))
        now = holder, renewed = _read_lease(path)
        if holder and now != first:
            raise _taken(path.parent, holder)


def _renew_lease(path: epath.Path) -> None:
    with replacing(path) as file:  # a lease that is read half-written would hold nobody
        file.write(f"{_me()} at {time.time():.3f}")


def _read_lease(path: epath.Path) -> tuple[str, float]:
    """Returns the holder of a lease and the time of its renewal; ("", 0) if there is none."""
    try:
        holder, _, renewed = path.read_text().rpartition(" at ")
        return holder, float(renewed)
    except (FileNotFoundError, ValueError):
        return "", 0.0


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(workdir, holder: str) -> InputError:
    return InputError(
        f"{os.fspath(workdir)!r} is in use by {holder}: two runs would overwrite "
        "each other. Wait for it, stop it, or choose another workdir."
    )
