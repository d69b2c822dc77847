"""Metrics rows of a run: fetched late, checked, written and shown."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import jax

from jaxpt.train.metrics import MetricWriter, to_floats
from jaxpt.train.progress import ProgressLine
from jaxpt.train.state import TrainState


ONCE = ("startup_seconds", "compile_seconds")  # in the first row only
TIMES = ("images_per_second", "waited", *ONCE)  # values that differ between equal runs


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
        batch_size: int,
        max_skipped: int,
        warnings: Callable[[dict[str, float]], list[str]],
    ):
        """Initializes the log.

        Args:
          writer: where rows go; None keeps them in ``history``.
          progress: line to update with each row; its clock times the steps.
          batch_size: images per step.
          max_skipped: more skipped steps than this raise ``TooManySkipped``.
          warnings: maps a row to warning sentences; each is printed once.
        """
        self.history: list[dict[str, float]] = []
        self._writer, self._progress, self._max_skipped = writer, progress, max_skipped
        self._batch_size, self._warnings = batch_size, warnings
        self._waiting = None
        self._since = 0, 0.0  # step of the previous row, and when the devices had done it
        self._first: dict[str, float] = {}
        # Notes when a step is done, which the host itself sees only one row later.
        self._watch = ThreadPoolExecutor(1)
        self._last: dict[str, float] = {}
        self._warned: set[str] = set()

    def begin(self, step: int, **times: float) -> None:
        """Starts to time the steps after ``step``; the first row will contain ``times``."""
        self._since, self._first = (step, self._progress.clock.seconds()), times

    def later(self, step: int, metrics, state: TrainState) -> None:
        """Queues a row, and writes the one before."""
        self.flush(state)
        self._waiting = step, metrics, self._watch.submit(self._time_of, metrics)

    def _time_of(self, metrics) -> float:
        jax.block_until_ready(metrics)
        return self._progress.clock.seconds()

    def flush(self, state: TrainState) -> None:
        """Writes the queued row, if any."""
        if self._waiting is None:
            return
        (step, metrics, done), self._waiting = self._waiting, None
        row = self.check(metrics, state) | self._first
        before, began = self._since
        self._since, self._first = (step, done.result()), {}
        images, seconds = (step - before) * self._batch_size, self._since[1] - began
        row["images_per_second"] = images / max(seconds, 1e-9)
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
        self._last = {name: row[name] for name in row if name not in ONCE}
        for text in self._warnings(row):
            if text.split("(")[0] not in self._warned:
                self._warned.add(text.split("(")[0])
                print(f"jaxpt: warning at step {step}: {text}.", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the thread."""
        self._watch.shutdown(wait=False)

    def check(self, metrics, state: TrainState) -> dict[str, float]:
        """Converts metrics to Python numbers; waits for the device.

        Raises:
          TooManySkipped: if more than ``max_skipped`` steps were skipped, so the state is frozen.
        """
        values = to_floats(metrics)
        if values["skipped"] > self._max_skipped:
            raise TooManySkipped(state)
        return values
