"""The folder of a run: its config, and who may go on with it."""

import datetime
import json
import os
import sys
from typing import Any, NamedTuple

import ml_collections
from etils import epath

from jaxpt import old_names
from jaxpt.data import identity
from jaxpt.data.identity import Identity
from jaxpt.errors import InputError, require
from jaxpt.files import replacing, unwritable
from jaxpt.train import checkpoint

CONFIG, CHANGES, DATA = "config.json", "config_changes.jsonl", "data.json"
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
    *(f"data.{name}" for name in identity.FREE),
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
# These may once the data in them is known to be the same.
MOVABLE = tuple(f"data.{name}" for name in identity.BY_CONTENT)


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


class Changes(NamedTuple):
    """What differs between a run and its resumption, in sentences.

    Attributes:
      config: fields that may change results from here on.
      data: where the data lies, and what of it does not concern training.
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
) -> Changes:
    """What changed since the run in the folder; nothing if there is none.

    Args:
      workdir: of the run.
      config: for going on with it.
      defaults: of fields that the saved config, of an older version, does not have.
      data: the identity of the set that it would go on with.
      resume: False refuses a folder that holds a run.

    Raises:
      InputError: where the folder holds a run that this config or these data cannot go on with,
        or ``resume`` is False.
    """
    saved = read_config(workdir)
    if saved is None:
        return Changes()
    require(
        resume,
        f"{os.fspath(workdir)!r} already holds a run and --noresume was given: choose "
        "another workdir or remove it.",
    )
    changes = dict(_differences(saved.to_dict(), config.to_dict(), defaults))
    known = data and read_data(workdir)
    moved = [changes.pop(key) for key in MOVABLE if known and key in changes]
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
            "an older version began the run and did not store which data it is of, so nothing "
            f"tells whether these are the same; from now on {DATA} does"
        )
    return Changes([text for key, text in changes.items() if not _among(key, FREE)], moved)


def require_same_data(workdir: str | os.PathLike, data: Identity) -> None:
    """Raises InputError if the run in the folder is known to have been trained on other data."""
    known = read_data(workdir)
    if known:
        _changed_data(workdir, known, data)


def _changed_data(workdir, known: Identity, data: Identity) -> list[str]:
    """What differs in the part that is only measured on.

    Raises:
      InputError: where anything else does.
    """
    found = identity.differences(known, data)
    only_measured = found.pop("test", [])
    require(
        not found,
        f"{os.fspath(workdir)!r} holds a run on other data: "
        f"{'; '.join(text for part in found.values() for text in part)}. Give the run the data "
        "that it began with, or choose another workdir.",
    )
    if known.kind != data.kind:
        only_measured.append(
            f"the run began with data given as {known.kind} and these are {data.kind}, so that "
            "classes and numbers of images were compared, and no image"
        )
    return only_measured


def claim(
    workdir: str | os.PathLike, config, changes: Changes = Changes(), data: Identity | None = None
) -> None:
    """Writes the config and the data's identity of a run into its folder, and what they change to
    the record of changes.

    Raises:
      InputError: where the folder cannot be written.
    """
    path = epath.Path(workdir)
    said = [f"the run goes on with another config: {'; '.join(changes.config)}"] * bool(
        changes.config
    ) + changes.data
    try:
        if said:
            print(f"jaxpt: {'; '.join(said)}. {CHANGES} keeps this.", file=sys.stderr, flush=True)
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
        # Last: a folder with a config holds a run.
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


def read_data(workdir: str | os.PathLike) -> Identity | None:
    """The identity of the data of the run in a folder, None where none is stored.

    Raises:
      InputError: for a file that is none.
    """
    path = epath.Path(workdir) / DATA
    try:
        return Identity.from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{os.fspath(path)} cannot be read ({error!r}), so nothing tells which data the run is "
            "of: remove it to go on without that check."
        ) from error


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
