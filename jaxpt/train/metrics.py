"""Where a run's numbers go: JSON lines and TensorBoard."""

import contextlib
import json
import math
import os
import sys
from typing import Any

from etils import epath

FILE = "metrics.jsonl"


class MetricWriter:
    """Writes rows to ``metrics.jsonl`` and to a TensorBoard event file in a run's folder.

    A row that cannot be written (a full disk) waits for the next one, and that is told once. On
    an object store, where files cannot grow, the file is written anew every so many rows, and
    there are no event files.
    """

    ROWS = 50  # between two writes to an object store

    def __init__(self, workdir: str | os.PathLike, *, resumed_step: int):
        """Rows after ``resumed_step`` are dropped: the resumed run writes them again."""
        self._path = epath.Path(workdir) / FILE
        self._remote = "://" in os.fspath(self._path)
        kept = _whole_lines(self._path, resumed_step)
        self._waiting: list[str] = kept if self._remote else []
        self._told, self._rows, self._board = False, 0, None
        if not self._remote:
            from tensorboardX import SummaryWriter

            self._path.write_text("".join(kept))
            self._board = SummaryWriter(os.fspath(workdir), purge_step=resumed_step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One row; every value a Python float or int."""
        self._waiting.append(json.dumps({"step": step, **values}) + "\n")
        self._rows += 1
        if not self._remote or self._rows % self.ROWS == 0:
            self._flush()
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._flush()
        if self._board:
            with contextlib.suppress(OSError):
                self._board.close()

    def _flush(self) -> None:
        text = "".join(self._waiting)
        if self._remote:
            self._path.write_text(text)
            return
        try:
            size = self._path.stat().length
            try:
                with self._path.open("a") as file:
                    file.write(text)
            except OSError:
                os.truncate(self._path, size)  # no half of a row
                raise
            self._waiting = []
        except OSError as error:
            if not self._told:
                self._told = True
                print(f"jaxpt: {os.fspath(self._path)!r} cannot be written ({error.strerror}): "
                      "rows wait until it can.", file=sys.stderr, flush=True)


def _whole_lines(path: epath.Path, last_step: int) -> list[str]:
    """The lines up to a step; a line that a kill cut short is none."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= last_step]


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a run, oldest first."""
    return [json.loads(line) for line in (epath.Path(workdir) / FILE).read_text().splitlines()]


def to_floats(metrics: dict[str, Any]) -> dict[str, float]:
    """Device scalars as Python floats, without those that are not finite: JSON has none."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
