"""Checkpoints: the only file that knows orbax.

A run's folder holds ``config.json`` and ``checkpoints/STEP/``. Orbax renames a finished checkpoint
into place; then its manifest is written, and only with it the checkpoint counts. A kill leaves
either a whole one or none, and what changes afterwards is noticed. Checkpoints know no devices:
what eight saved, one can restore.
"""

import contextlib
import logging
import os
import sys
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from jaxpt import records
from jaxpt.errors import InputError, RunError, require
from jaxpt.train import manifest

logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells every file it touches

FOLDER, DAMAGED = "checkpoints", "damaged"
ITEM = "default"  # orbax's name for what it saves where only one thing is saved


class Checkpointer:
    """Saves and restores the state of the run in one folder.

    On creation the newest checkpoints are checked against their manifests, and what is damaged is
    moved to ``damaged/``, with a line that says so, down to the first sound one.
    """

    def __init__(self, workdir: str | os.PathLike, *, keep: int, about: dict[str, Any],
                 best: bool = False, stop_on_failure: bool = True):
        """Opens the folder, made where it is missing.

        Args:
          workdir: of the run.
          keep: how many of the latest checkpoints stay.
          about: what each manifest says beside the files: config and the like.
          best: whether the one saved with the highest ``score`` stays too.
          stop_on_failure: whether a save that fails (a full disk) ends the run; otherwise it is
            told and the next one is awaited.
        """
        self._root = epath.Path(workdir).resolve() / FOLDER
        self._keep, self._about, self._best = keep, about, best
        self._stop_on_failure = stop_on_failure
        if jax.process_index() == 0:
            _remove(self._root, unfinished=False)
            _set_damaged_aside(self._root)
        if jax.process_count() > 1:  # nobody looks before it is tidy
            multihost_utils.sync_global_devices("checkpoints are tidy")
        self._manager = ocp.CheckpointManager(
            self._root, item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(create=True))
        self._scores = {step: _score(self._root / str(step)) for step in _steps(self._root)}
        self._finishing: threading.Thread | None = None
        self._failure: Exception | None = None

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
          step: of the state.
          state: a pytree of arrays.
          score: what ``best`` goes by, the higher the better.

        Raises:
          RunError: where this or the previous save failed and ``stop_on_failure``.
        """
        self._finish()
        if step == self.latest_step():
            return
        self._scores[step] = score
        with self._told(step):
            self._manager.save(step, args=ocp.args.StandardSave(state))
            self._finishing = threading.Thread(target=self._complete, args=(step, score))
            self._finishing.start()

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, in the structure, shapes and placement of ``like``.

        Raises:
          InputError: where the checkpoint does not fit ``like``.
        """
        return restore(self._root.parent, step, like)

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          RunError: as ``save``.
        """
        try:
            self._finish()
        finally:
            with contextlib.suppress(Exception):  # what failed was told by _finish
                self._manager.close()

    def _complete(self, step: int, score: float | None) -> None:
        """In the background: waits for orbax, writes the manifest, removes what need not stay."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if jax.process_index() == 0:
                about = self._about | {"step": step, "score": score,
                                       "packages": records.surroundings()["packages"]}
                manifest.write(self._root / str(step), about)
            for old in self._superfluous():
                self._manager.delete(old)
        except Exception as error:  # told in the thread of the run
            self._failure = error

    def _superfluous(self) -> list[int]:
        steps = sorted(self._manager.all_steps())
        stay = set(steps[-self._keep:])
        if self._best:
            scored = [(self._scores[s], s) for s in steps if self._scores.get(s) is not None]
            stay |= {step for _, step in sorted(scored)[-1:]}
        return [step for step in steps if step not in stay]

    def _finish(self) -> None:
        """Waits for the save in the background and tells whether it failed."""
        if self._finishing is None:
            return
        self._finishing.join()
        self._finishing = None
        if self._failure is not None:
            error, self._failure = self._failure, None
            with self._told(None):
                raise error

    @contextlib.contextmanager
    def _told(self, step: int | None):
        """Turns what orbax raises into one sentence, and ends the run or goes on."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise all kinds
            self._reopen()
            whole = self.latest_step()
            text = (f"the checkpoint{'' if step is None else f' of step {step}'} could not be "
                    f"written under {os.fspath(self._root)!r} ({_reason(error)}); the newest whole "
                    f"one is {'none' if whole is None else f'of step {whole}'}")
            if self._stop_on_failure:
                raise RunError(f"{text}: make room, then start the same command again.") from error
            print(f"jaxpt: {text}. The run goes on and saves again next time.", file=sys.stderr,
                  flush=True)

    def _reopen(self) -> None:
        """A new manager, without what the failed save left lying."""
        with contextlib.suppress(Exception):
            self._manager.close()
        if jax.process_index() == 0:
            _remove(self._root, unfinished=True)
        self._manager = ocp.CheckpointManager(
            self._root, item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(create=True))


def newest(workdir: str | os.PathLike) -> int | None:
    """The step of the newest sound checkpoint, or None; nothing is touched."""
    root = epath.Path(workdir).resolve() / FOLDER
    return next((step for step in reversed(_steps(root))
                 if not manifest.fault(root / str(step))), None)


def about(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """What the manifest of a checkpoint says: its config, versions and files."""
    return manifest.read(_folder(workdir, step))


def restore(workdir: str | os.PathLike, step: int, like: Any) -> Any:
    """The state of a step, in the structure, shapes and placement of ``like``.

    Raises:
      InputError: where the checkpoint does not fit ``like``.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(_folder(workdir, step) / ITEM, abstract)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"the checkpoint of step {step} does not fit the config: "
                         f"{str(error).splitlines()[0]}") from error


def read_arrays(workdir: str | os.PathLike, step: int) -> Any:
    """The state of a step as nested dicts of arrays on one device, whatever it was saved by."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(saved):
        return jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=device)

    with ocp.StandardCheckpointer() as checkpointer:
        folder = _folder(workdir, step) / ITEM
        saved = checkpointer.metadata(folder).item_metadata.tree
        return checkpointer.restore(folder, jax.tree.map(abstract, saved))


def _folder(workdir, step: int) -> epath.Path:
    return epath.Path(workdir).resolve() / FOLDER / str(step)


def _set_damaged_aside(root: epath.Path) -> None:
    for step in reversed(_steps(root)):
        fault = manifest.fault(root / str(step))
        if not fault:
            _check_format(root / str(step))
            return
        aside = root.parent / DAMAGED
        aside.mkdir(parents=True, exist_ok=True)
        number = sum(1 for path in aside.iterdir() if path.name.split(".")[0] == str(step))
        (root / str(step)).rename(aside / (f"{step}.{number}" if number else f"{step}"))
        print(f"jaxpt: the checkpoint of step {step} is damaged: {fault}. It was moved to "
              f"{os.fspath(aside)!r}, and the one before is taken.", file=sys.stderr, flush=True)


def _check_format(folder: epath.Path) -> None:
    found = manifest.read(folder)["format"]
    require(found == manifest.FORMAT, f"{os.fspath(folder)!r} is a checkpoint of format {found}, "
            f"but this version of jaxpt reads format {manifest.FORMAT}: use the version that "
            "wrote it, or another workdir.")


def _remove(root: epath.Path, *, unfinished: bool) -> None:
    """Removes what orbax did not rename into place, and checkpoints without a manifest."""
    for path in root.iterdir() if root.exists() else ():
        if "orbax-checkpoint-tmp" in path.name or (
                unfinished and path.name.isdigit() and not (path / manifest.FILE).exists()):
            path.rmtree()


def _steps(root: epath.Path) -> list[int]:
    if not root.exists():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())


def _score(folder: epath.Path) -> float | None:
    try:
        return manifest.read(folder).get("score")
    except (OSError, ValueError):
        return None


def _reason(error: Exception) -> str:
    text = str(error)
    if "No space left" in text or "ENOSPC" in text:
        return "no space left on the disk"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
