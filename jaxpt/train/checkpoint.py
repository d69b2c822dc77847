"""Checkpoints; the only module that uses orbax.

A run's folder holds ``config.json`` and ``checkpoints/STEP/``. Orbax renames a finished checkpoint
into place; then its manifest is written: ``manifest.json``, with size and SHA-256 of every file. A
checkpoint without one does not count. So a kill leaves a whole checkpoint or none, and later damage
is detected. Checkpoints are independent of devices: what eight devices saved, one can restore.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import threading
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from jaxpt import records
from jaxpt.errors import InputError, RunError, require
from jaxpt.files import absolute, replacing

FOLDER, DAMAGED, MANIFEST = "checkpoints", "damaged", "manifest.json"
FORMAT = 1  # of checkpoints; to be increased when old code cannot read a new one
UNFINISHED = "orbax-checkpoint-tmp"  # in names of folders that orbax has not renamed into place
_CHUNK = 1 << 20  # bytes that are read at a time


class Checkpointer:
    """Saves and restores the state of the run in one folder.

    On creation, checkpoints are verified against their manifests, latest first, up to the first
    undamaged one; damaged ones are moved to ``damaged/``, with a message.

    Attributes:
      longest_save: duration of the slowest save in seconds, until it was complete.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int,
        about: dict[str, Any],
        best: bool = False,
        stop_on_failure: bool = True,
    ):
        """Opens the folder; creates it if it is missing.

        Args:
          workdir: folder of the run.
          keep: number of latest checkpoints to keep.
          about: metadata for each manifest, such as the config.
          best: whether to also keep the checkpoint that was saved with the highest ``score``.
          stop_on_failure: whether a failed save (a full disk) ends the run; otherwise it is
            reported and retried at the next save.

        Raises:
          InputError: if the latest checkpoint is of another format.
        """
        self._root = absolute(workdir) / FOLDER
        self._keep, self._best = keep, best
        self._about = about | records.surroundings()
        self._stop_on_failure = stop_on_failure
        if jax.process_index() == 0:
            _tidy(self._root)
        if jax.process_count() > 1:  # no process lists checkpoints before this is done
            multihost_utils.sync_global_devices("checkpoints are tidy")
        # Not orbax's CheckpointManager: its deletions synchronize all devices, even in the
        # background, which interferes with the collectives of the steps.
        self._saver = ocp.StandardCheckpointer()
        self._loud = threading.excepthook, sys.unraisablehook
        threading.excepthook, sys.unraisablehook = map(_without_orbax, self._loud)
        self._scores = {step: _score(self._root / str(step)) for step in _steps(self._root)}
        self._finishing: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None
        self.longest_save = 0.0

    def latest_step(self) -> int | None:
        """Step of the latest whole checkpoint, or None."""
        return max(self._scores, default=None)

    def score(self, step: int) -> float | None:
        """Score that the checkpoint of a step was saved with, or None."""
        return self._scores.get(step)

    def save(
        self, step: int, state: Any, *, score: float | None = None, final: bool = False
    ) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Does nothing if ``step`` is the latest one saved.

        Args:
          step: step of the state.
          state: a pytree of arrays.
          score: number that ``best`` compares; higher is better.
          final: whether to wait until everything is on disk, and to raise if this fails.

        Raises:
          RunError: if this or the previous save failed and ``stop_on_failure`` or ``final`` is set.
        """
        self._finish()
        if step != self.latest_step():
            began = time.monotonic()
            try:
                self._saver.save(self._root / str(step), state)
            except Exception as error:  # orbax and tensorstore raise all kinds
                self._failure = step, error
            else:
                self._finishing = threading.Thread(target=self._complete, args=(step, score, began))
                self._finishing.start()
        if final or self._failure:
            self._finish(final)

    def restore(self, step: int, like: Any) -> Any:
        """Restores the state of a step, in the structure, shapes and placement of ``like``.

        Raises:
          InputError: if the checkpoint does not fit ``like``.
        """
        return restore(self._root.parent, step, like)

    def close(self) -> None:
        """Waits until everything is on disk, and closes orbax.

        Raises:
          RunError: as ``save``.
        """
        try:
            self._finish()
        finally:
            with contextlib.suppress(Exception):  # _finish has reported what failed
                self._saver.close()
            threading.excepthook, sys.unraisablehook = self._loud

    def _complete(self, step: int, score: float | None, began: float) -> None:
        """Finishes a save, in a thread: waits, writes the manifest, removes old checkpoints."""
        try:
            self._saver.wait_until_finished()
            if jax.process_index() == 0:
                _write_manifest(
                    self._root / str(step), self._about | {"step": step, "score": score}
                )
        except Exception as error:  # reported by _finish, in the thread of the run
            self._failure = step, error
            return
        self._scores[step] = score
        self.longest_save = max(self.longest_save, time.monotonic() - began)
        for old in self._superfluous():
            with contextlib.suppress(OSError):  # retried after the next save
                if jax.process_index() == 0:
                    _remove(self._root / str(old))
                del self._scores[old]

    def _superfluous(self) -> list[int]:
        steps = sorted(self._scores)
        stay = set(steps[-self._keep :])
        if self._best:
            scored = [(self._scores[s], s) for s in steps if self._scores[s] is not None]
            stay |= {step for _, step in sorted(scored)[-1:]}
        return [step for step in steps if step not in stay]

    def _finish(self, final: bool = False) -> None:
        """Waits for the save in the background; raises or reports its failure."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._failure is None:
            return
        (step, error), self._failure = self._failure, None
        self._start_anew(without=step)
        whole = self.latest_step()
        text = (
            f"the checkpoint of step {step} could not be written under "
            f"{os.fspath(self._root)!r} ({_reason(error)}); the latest whole one is "
            f"{'none' if whole is None else f'of step {whole}'}"
        )
        if self._stop_on_failure or final:
            raise RunError(f"{text}: make room, then start the same command again.") from error
        print(
            f"jaxpt: {text}. The run continues and tries again at the next save.",
            file=sys.stderr,
            flush=True,
        )

    def _start_anew(self, *, without: int) -> None:
        """Replaces the saver and removes what the failed save left behind."""
        with contextlib.suppress(Exception):
            self._saver.close()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                _remove_unfinished(self._root)
                if (self._root / str(without)).exists():
                    _remove(self._root / str(without))
        self._saver = ocp.StandardCheckpointer()


def newest(workdir: str | os.PathLike) -> int | None:
    """Step of the latest undamaged checkpoint, or None; changes nothing on disk.

    Raises:
      InputError: if it is of another format.
    """
    root = absolute(workdir) / FOLDER
    return next((step for step in reversed(_steps(root)) if not _fault(root / str(step))), None)


def about(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """Reads the manifest of a checkpoint: its config, versions and files."""
    return _read_manifest(_folder(workdir, step))


def restore(workdir: str | os.PathLike, step: int, like: Any) -> Any:
    """Restores the state of a step, in the structure, shapes and placement of ``like``.

    Raises:
      InputError: if the checkpoint does not fit ``like``.
    """
    folder = _folder(workdir, step)
    with ocp.StandardCheckpointer() as checkpointer:
        there = _shapes(checkpointer.metadata(folder).item_metadata.tree)
        here = _shapes(like)
        for name in sorted(there.keys() | here.keys()):
            require(
                there.get(name) == here.get(name),
                f"the checkpoint of step {step} does not fit the config: {name} is "
                f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here.",
            )
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        if not dataclasses.is_dataclass(like):
            return checkpointer.restore(folder, shapes)
        # Earlier versions saved a state without some fields, which are None here.
        saved = checkpointer.metadata(folder).item_metadata.tree
        fields = {field.name: getattr(shapes, field.name) for field in dataclasses.fields(like)}
        known = {name: value for name, value in fields.items() if name in saved}
        return dataclasses.replace(like, **checkpointer.restore(folder, known))


def read_arrays(workdir: str | os.PathLike, step: int) -> Any:
    """Reads the state of a step as nested dicts of arrays on one device, however it was sharded."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(saved):
        return jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=device)

    with ocp.StandardCheckpointer() as checkpointer:
        folder = _folder(workdir, step)
        saved = checkpointer.metadata(folder).item_metadata.tree
        return checkpointer.restore(folder, jax.tree.map(abstract, saved))


def _shapes(tree: Any) -> dict[str, str]:
    """Maps the name of each array to its dtype and shape, such as "float32[3, 4]"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{x.dtype}{[*x.shape]}"
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _folder(workdir, step: int) -> epath.Path:
    return absolute(workdir) / FOLDER / str(step)


def _write_manifest(folder: epath.Path, about: dict[str, Any]) -> None:
    """Writes the manifest atomically, so that a kill leaves a whole one or none.

    Args:
      folder: folder of the checkpoint, with all its files.
      about: JSON-serializable metadata: step, config, versions.
    """
    content = {"format": FORMAT, **about, "files": _file_sums(folder)}
    with replacing(folder / MANIFEST) as file:
        json.dump(content | {"sha256": _manifest_sum(content)}, file, indent=1, default=list)


def _fault(folder: epath.Path) -> str:
    """Verifies a checkpoint; returns the fault in a few words, empty if there is none.

    Raises:
      InputError: if it is of another format, so that it cannot be verified.
    """
    try:
        expected = _read_manifest(folder)["files"]
        found = _file_sums(folder)
    except FileNotFoundError:
        return f"it has no {MANIFEST}: it was not finished"
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


def _read_manifest(folder: epath.Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not as it was written.
      InputError: if it is of another format.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict) or manifest.pop("sha256", "") != _manifest_sum(manifest):
        raise ValueError(f"{MANIFEST} is not as it was written")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{str(folder)!r} is a checkpoint of format {manifest.get('format')}, but "
            f"this version of jaxpt reads format {FORMAT}: use the version that "
            "wrote it, or another workdir."
        )
    return manifest


def _manifest_sum(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, whatever its layout; the same rule for all formats."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def _file_sums(folder: epath.Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Maps the name of every file below a folder, except the manifest, to its size and SHA-256."""
    sums = {}
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            # Empty folders are listed too, as orbax may need them.
            sums |= _file_sums(path, f"{name}/") or {f"{name}/": {"bytes": 0, "sha256": ""}}
        elif prefix or MANIFEST not in path.name:  # nor an unfinished one that a kill left
            sums[name] = _file_sum(path)
    return sums


def _file_sum(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _tidy(root: epath.Path) -> None:
    """Removes unfinished checkpoints and sets damaged ones aside."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(root)
    moved = []
    for step in reversed(_steps(root)):
        fault = _fault(root / str(step))
        if not fault:
            break
        moved.append((step, fault, _set_aside(root, step)))
    sound = _steps(root)[-1:]
    instead = (
        f"that of step {sound[0]} is used" if sound else "as none is left, the run starts over"
    )
    for step, fault, aside in moved:
        print(
            f"jaxpt: the checkpoint of step {step} is damaged: {fault}; it was moved to "
            f"{os.fspath(aside)!r}, and {instead}.",
            file=sys.stderr,
            flush=True,
        )


def _set_aside(root: epath.Path, step: int) -> epath.Path:
    aside = root.parent / DAMAGED
    aside.mkdir(parents=True, exist_ok=True)
    number = sum(1 for path in aside.iterdir() if path.name.split(".")[0] == str(step))
    target = aside / (f"{step}.{number}" if number else f"{step}")
    (root / str(step)).rename(target)
    return target


def _remove_unfinished(root: epath.Path) -> None:
    for path in root.iterdir():
        if UNFINISHED in path.name:
            path.rmtree()


def _remove(folder: epath.Path) -> None:
    """Removes the manifest first, so that a kill leaves nothing that looks like a checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.rmtree()


def _steps(root: epath.Path) -> list[int]:
    if not root.exists():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit())


def _score(folder: epath.Path) -> float | None:
    try:
        return _read_manifest(folder).get("score")
    except (OSError, ValueError):
        return None


def _without_orbax(hook):
    """Wraps an exception hook; ignores errors of orbax's threads, which ``_finish`` reports."""

    def quiet(args):
        thread = getattr(args, "thread", None)
        if not (
            type(thread).__module__.startswith("orbax.")
            or "Event loop is closed" in str(args.exc_value)
        ):
            hook(args)

    return quiet


def _reason(error: Exception) -> str:
    text = str(error)
    if "No space left" in text or "ENOSPC" in text:
        return "no space left on the disk"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"
