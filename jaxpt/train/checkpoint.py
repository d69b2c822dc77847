"""Checkpoints: the only file that knows orbax.

A run's folder holds ``config.json`` and ``checkpoints/STEP/``. Orbax renames a finished
checkpoint into place, so a kill leaves either a whole one or none. Checkpoints know no devices:
what eight saved, one can restore.
"""

import json
import logging
import os
import pathlib
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp

from jaxpt.errors import InputError, require

logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells every file it touches

# What may differ between a run and its resumption, since it changes no result.
FREE_KEYS = ("log_every", "checkpoint_every", "keep_checkpoints", "mapping", "devices")


class Checkpointer:
    """Saves and restores the state of the run in one folder."""

    def __init__(self, workdir: str | os.PathLike, *, keep: int):
        """``keep``: how many of the latest checkpoints stay."""
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).resolve() / "checkpoints",
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True))

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves in the background; the state may be donated as soon as this returns."""
        if step != self.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, in the structure, shapes and placement of ``like``.

        Raises:
          InputError: where the checkpoint does not fit ``like``.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"the checkpoint of step {step} does not fit the config: "
                             f"{str(error).splitlines()[0]}") from error

    def restore_arrays(self, step: int) -> Any:
        """The state of a step as nested dicts of arrays on one device, whatever it was saved by."""
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def abstract(saved):
            return jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=device)

        tree = jax.tree.map(abstract, self._manager.item_metadata(step).tree)
        return self._manager.restore(step, args=ocp.args.StandardRestore(tree))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def open_run(workdir: str | os.PathLike) -> tuple[ml_collections.ConfigDict, int]:
    """The config and the newest step of a finished or interrupted run.

    Raises:
      InputError: where there is no run, or it has no checkpoint.
    """
    path = pathlib.Path(workdir)
    config = _read_config(path)
    require(config is not None, f"no pre-training run in {str(workdir)!r}: it has no config.json.")
    steps = [int(p.name) for p in (path / "checkpoints").glob("*") if p.name.isdigit()]
    require(bool(steps), f"no checkpoint in {str(workdir)!r}: pre-train there first.")
    return config, max(steps)


def claim_workdir(workdir: str | os.PathLike, config, *, resume: bool) -> None:
    """Makes the folder of a run and writes its config, or checks that the run there is the same.

    Raises:
      InputError: where the folder cannot be written, holds a run of another config, or holds a
        run and ``resume`` is False.
    """
    path = pathlib.Path(workdir)
    saved = _read_config(path)
    if saved is not None:
        require(resume, f"{str(workdir)!r} already holds a run and --noresume was given: choose "
                "another workdir or remove it.")
        different = _differences(saved.to_dict(), config.to_dict())
        require(not different, f"{str(workdir)!r} holds a run with another config, different in "
                f"{'; '.join(different)}: use the same config or another workdir.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / f".config.json.{os.getpid()}"
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
        temporary.replace(path / "config.json")
    except OSError as error:
        raise InputError(f"workdir {str(workdir)!r} cannot be written ({error.strerror}): choose "
                         "another --workdir.") from error


def _read_config(path: pathlib.Path) -> ml_collections.ConfigDict | None:
    try:
        return ml_collections.ConfigDict(json.loads((path / "config.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path / 'config.json'} cannot be read ({error}).") from error


def _differences(saved: dict, given: dict, prefix: str = "") -> list[str]:
    """Sentences such as "k (100 there, 50 here)"."""
    found = []
    given = json.loads(json.dumps(given))  # tuples become lists, as in the file
    for key in sorted(saved.keys() | given.keys()):
        there, here = saved.get(key, "nothing"), given.get(key, "nothing")
        if isinstance(there, dict) and isinstance(here, dict):
            found += _differences(there, here, f"{prefix}{key}.")
        elif there != here and prefix + key not in FREE_KEYS:
            found.append(f"{prefix}{key} ({there} there, {here} here)")
    return found
