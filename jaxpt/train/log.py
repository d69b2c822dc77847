"""Metrics rows of a run: fetched late, checked, written and shown."""

import sys
from typing import Callable

from jaxpt.train.metrics import MetricWriter, to_floats
from jaxpt.train.progress import ProgressLine
from jaxpt.train.state import TrainState


class TooManySkipped(Exception):
    """Raised if too many steps were not finite; ``state`` is the one before the last of them."""

    def __init__(self, state: TrainState):
        super().__init__(f"not finite after step {int(state.step)}")
        self.state = state


class Log:
    """Log of metrics rows, fetched from the device one row late so that the host never waits.

    Attributes:
      history: the rows, each with its step; empty if there is a writer, as a long run has more rows
        than should be kept in memory.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        progress: ProgressLine,
        *,
        max_skipped: int,
        warnings: Callable[[dict[str, float]], list[str]],
    ):
        """Initializes the log.

        Args:
          writer: where rows go; None keeps them in ``history``.
          progress: line to update with each row.
          max_skipped: more skipped steps than this raise ``TooManySkipped``.
          warnings: maps a row to warning sentences; each is printed once.
        """
        self.history: list[dict[str, float]] = []
        self._writer, self._progress, self._max_skipped = writer, progress, max_skipped
        self._warnings = warnings
        self._waiting = None
        self._last: dict[str, float] = {}
        self._warned: set[str] = set()

    def later(self, step: int, metrics, state: TrainState) -> None:
        """Queues a row, and writes the one before."""
        self.flush(state)
        self._waiting = step, metrics

    def flush(self, state: TrainState) -> None:
        """Writes the queued row, if any."""
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        row = self.check(metrics, state)
        row["images_per_second"] = self._progress.images_per_second(step)
        self.now(step, row)

    def sync(self, state: TrainState) -> None:
        """Writes all rows, including those that the writer buffers for an object store."""
        self.flush(state)
        if self._writer:
            self._writer.sync()

    def now(self, step: int, row: dict[str, float]) -> None:
        """Writes a row of Python numbers, shows it, and prints the warnings that apply."""
        if self._writer:
            self._writer.write(step, row)
        else:
            self.history.append({"step": step, **row})
        self._progress.show(step, self._last | row)
        self._last = row
        for text in self._warnings(row):
            if text.split("(")[0] not in self._warned:
                self._warned.add(text.split("(")[0])
                print(f"jaxpt: warning at step {step}: {text}.", file=sys.stderr, flush=True)

    def check(self, metrics, state: TrainState) -> dict[str, float]:
        """Converts metrics to Python numbers; waits for the device.

        Raises:
          TooManySkipped: if more than ``max_skipped`` steps were skipped, so the state is frozen.
        """
        values = to_floats(metrics)
        if values["skipped"] > self._max_skipped:
            raise TooManySkipped(state)
        return values
