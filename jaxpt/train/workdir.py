"""The folder of a run: its config, and who may go on with it."""

import datetime
import json
import os
import sys
from typing import Any

import ml_collections
from etils import epath

from jaxpt import old_names
from jaxpt.errors import InputError, require
from jaxpt.files import replacing, unwritable
from jaxpt.train import checkpoint

CONFIG, CHANGES = "config.json", "config_changes.jsonl"
# What may differ between a run and its resumption without a word, since it changes no result.
FREE = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "mapping",
    "devices",
    "memory_sharding",
    "param_sharding",
    "stop_on_save_failure",
    "data.resident",
    "data.resident_limit_mb",
    "data.workers",
    "data.prefetch",
)
# What may not: it would be another run, though its state might fit.
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
)
RECORDED = ("model.remat",)  # but this part of it may: the same function, computed otherwise


def open_run(workdir: str | os.PathLike) -> tuple[ml_collections.ConfigDict, int]:
    """The config and the newest sound step of a finished or interrupted run.

    Raises:
      InputError: where there is no run, or it has no checkpoint.
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


def check_config(
    workdir: str | os.PathLike, config, defaults: dict[str, Any], *, resume: bool
) -> list[str]:
    """What changed since the run in the folder, in sentences; nothing where there is none.

    Args:
      workdir: of the run.
      config: for going on with it.
      defaults: of fields that the saved config, of an older version, does not have.
      resume: False refuses a folder that holds a run.

    Raises:
      InputError: where the folder holds a run that this config cannot go on with, or ``resume``
        is False.
    """
    saved = read_config(workdir)
    if saved is None:
        return []
    require(
        resume,
        f"{os.fspath(workdir)!r} already holds a run and --noresume was given: choose "
        "another workdir or remove it.",
    )
    changes = dict(_differences(saved.to_dict(), config.to_dict(), defaults))
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
    return [text for key, text in changes.items() if not _among(key, FREE)]


def claim(workdir: str | os.PathLike, config, changes: list[str]) -> None:
    """Writes the config of a run into its folder, and what it changes to the record of changes.

    Raises:
      InputError: where the folder cannot be written.
    """
    path = epath.Path(workdir)
    try:
        if changes:
            print(
                f"jaxpt: the run goes on with another config: {'; '.join(changes)}. "
                f"{CHANGES} keeps this.",
                file=sys.stderr,
                flush=True,
            )
            line = json.dumps(
                {
                    "date": datetime.date.today().isoformat(),
                    "after_step": checkpoint.newest(workdir),
                    "changes": changes,
                }
            )
            before = (path / CHANGES).read_text() if (path / CHANGES).exists() else ""
            with replacing(path / CHANGES) as file:
                file.write(before + line + "\n")
        with replacing(path / CONFIG) as file:
            file.write(json.dumps(config.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise unwritable(workdir, error, option="workdir") from error


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict | None:
    """The config of the run in a folder, None where there is none.

    Raises:
      InputError: for a file that is no config.
    """
    path = epath.Path(workdir) / CONFIG
    try:
        return ml_collections.ConfigDict(old_names.with_new_names(json.loads(path.read_text())))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read ({error}): it is no config.") from error


def _among(key: str, names) -> bool:
    return any(key == name or key.startswith(name + ".") for name in names)


def _differences(saved: dict, given: dict, defaults: dict, prefix: str = ""):
    """Pairs such as ("k", "k (100 there, 50 here)")."""
    given, defaults = (json.loads(json.dumps(x)) for x in (given, defaults))  # tuples → lists
    for key in sorted(saved.keys() | given.keys()):
        default = defaults.get(key, "nothing")
        there, here = saved.get(key, default), given.get(key, default)
        if isinstance(there, dict) and isinstance(here, dict):
            below = default if isinstance(default, dict) else {}
            yield from _differences(there, here, below, f"{prefix}{key}.")
        elif there != here:
            yield prefix + key, f"{prefix}{key} ({there} there, {here} here)"
