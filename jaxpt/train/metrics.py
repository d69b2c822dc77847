"""Metrics rows of a run: fetched late, checked, shown, and written.

``Log`` is what the loop of a run talks to. It passes the rows on to a ``MetricWriter``, which
writes JSON lines and TensorBoard's events; ``read_metrics`` reads the lines again.
"""

import contextlib
import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import jax
from etils import epath

from jaxpt.files import is_remote, replacing
from jaxpt.train.progress import ProgressLine
from jaxpt.train.state import TrainState

FILE = "metrics.jsonl"
ONCE = ("startup_seconds", "compile_seconds")  # in the first row only
TIMES = ("images_per_second", "waited", *ONCE)  # values that differ between equal runs


class MetricWriter:
    """Writes rows to ``metrics.jsonl`` and to a TensorBoard event file in a run's folder.

    Rows that cannot be written (a full disk) are kept until the next attempt; this is reported
    once. On an object store, where files cannot grow, the file is rewritten every ``ROWS`` rows and
    at every checkpoint, and there are no event files.
    """

    ROWS = 50  # between two writes to an object store

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        resumed_step: int,
        also: Callable[[int, dict[str, Any]], None] | None = None,
    ):
        """Opens the files; drops rows after ``resumed_step``, which the run will write again.

        Args:
          workdir: the run's folder.
          resumed_step: step that the run continues from; 0 for a new run.
          also: called with every row, for experiment trackers; it must not raise.
        """
        self._also = also
        self._path = epath.Path(workdir) / FILE
        self._remote = is_remote(self._path)
        kept = _whole_lines(self._path, resumed_step)
        self._waiting: list[str] = kept if self._remote else []
        self._reported, self._rows, self._board = False, 0, None
        if self._remote:
            return
        with self._reporting():
            with replacing(self._path) as file:
                file.writelines(kept)
        with self._reporting():
            self._board = EventFile(workdir, resumed_step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one row; every value is a Python float or int."""
        self._waiting.append(json.dumps({"step": step, **values}) + "\n")
        self._rows += 1
        if self._also:
            self._also(step, values)
        if not self._remote or self._rows % self.ROWS == 0:
            self.sync()
        if self._board:
            try:
                self._board.write(step, values)
            except OSError:  # sync() has reported it; TensorBoard gets no more rows
                self._close_board()

    def sync(self) -> None:
        """Tries to write the rows that are waiting."""
        text = "".join(self._waiting)
        with self._reporting():
            if self._remote:
                with replacing(self._path) as file:
                    file.write(text)
            else:
                _append(self._path, text)
                self._waiting = []

    def close(self) -> None:
        self.sync()
        self._close_board()

    def _close_board(self) -> None:
        board, self._board = self._board, None
        with contextlib.suppress(OSError):
            if board:
                board.close()

    @contextlib.contextmanager
    def _reporting(self):
        """Reports once that something cannot be written, instead of raising."""
        try:
            yield
        except Exception as error:  # object stores raise all kinds
            if not isinstance(error, OSError) and not self._remote:
                raise
            if not self._reported:
                self._reported = True
                print(
                    f"jaxpt: {os.fspath(self._path)!r} cannot be written "
                    f"({getattr(error, 'strerror', None) or error}): rows are kept until it can.",
                    file=sys.stderr,
                    flush=True,
                )


class EventFile:
    """TensorBoard event file, written synchronously.

    tensorboardX's own ``SummaryWriter`` writes in a thread: when the disk is full, that thread
    dies, its queue fills up, and the run waits forever.
    """

    def __init__(self, workdir: str | os.PathLike, resumed_step: int):
        """Opens a file that makes TensorBoard discard earlier rows after ``resumed_step``."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._file = EventsWriter(os.path.join(workdir, "events"), f".{os.getpid()}.{resumed_step}")
        self._file.write_event(
            Event(
                step=resumed_step + 1,
                wall_time=time.time(),
                session_log=SessionLog(status=SessionLog.START),
            )
        )
        self._file.flush()

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self._file.write_event(
                self._event(step=step, wall_time=time.time(), summary=self._scalar(name, value))
            )
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the rows of a run, oldest first."""
    return [json.loads(line) for line in _whole_lines(epath.Path(workdir) / FILE, sys.maxsize)]


def _append(path: epath.Path, text: str) -> None:
    """Appends a whole text to a local file or, if that fails, nothing."""
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        try:
            data = memoryview(text.encode())
            while data:
                data = data[file.write(data) :]
        except OSError:
            os.truncate(path, size)
            raise


def _whole_lines(path: epath.Path, last_step: int) -> list[str]:
    """Returns the lines up to a step, without those that a kill cut short or that are damaged."""
    if not path.exists():
        return []
    lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n") and _step(line) <= last_step]


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


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
        values = _to_floats(metrics)
        if values["skipped"] > self._max_skipped:
            raise TooManySkipped(state)
        return values


def _to_floats(metrics: dict[str, Any]) -> dict[str, float]:
    """Converts device scalars to Python floats; drops non-finite ones, which JSON does not have."""
    values = {name: float(value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
