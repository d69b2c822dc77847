"""A run's rows of numbers: read late, checked, written and shown."""

import sys
from typing import Callable

from jaxpt.train.metrics import MetricWriter, to_floats
from jaxpt.train.progress import ProgressLine
from jaxpt.train.state import TrainState


class TooManySkipped(Exception):
    """More steps than allowed were not finite; ``state`` is the one before the last of them."""

    def __init__(self, state: TrainState):
        super().__init__(f"not finite after step {int(state.step)}")
        self.state = state


class Log:
    """Rows of metrics, read from the device one row late, so that the host never waits for it.

    Attributes:
      history: the rows, each with its step; none where a writer keeps them, since a long run has
        more of them than memory should hold.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        progress: ProgressLine,
        *,
        max_skipped: int,
        warnings: Callable[[dict[str, float]], list[str]],
    ):
        """``warnings``: sentences that a row calls for; each is told once."""
        self.history: list[dict[str, float]] = []
        self._writer, self._progress, self._max_skipped = writer, progress, max_skipped
        self._warnings = warnings
        self._waiting = None
        self._last: dict[str, float] = {}
        self._warned: set[str] = set()

    def later(self, step: int, metrics, state: TrainState) -> None:
        """Takes a row, and writes the one before."""
        self.flush(state)
        self._waiting = step, metrics

    def flush(self, state: TrainState) -> None:
        """Writes the row that waits, if any."""
        if self._waiting is None:
            return
        (step, metrics), self._waiting = self._waiting, None
        row = self.check(metrics, state)
        row["images_per_second"] = self._progress.images_per_second(step)
        self.now(step, row)

    def sync(self, state: TrainState) -> None:
        """Writes all rows, also to where they are written by the many."""
        self.flush(state)
        if self._writer:
            self._writer.sync()

    def now(self, step: int, row: dict[str, float]) -> None:
        """Writes a row of Python numbers, and warns where it calls for it."""
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
        """The metrics as Python numbers; waits for the device.

        Raises:
          TooManySkipped: where the state has not been moved on.
        """
        values = to_floats(metrics)
        if values["skipped"] > self._max_skipped:
            raise TooManySkipped(state)
        return values
