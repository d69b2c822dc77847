"""The progress line of a run, and the clock of its steps."""

import collections
import contextlib
import sys
import time
from concurrent import futures

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

LINE_EVERY = 10  # seconds between lines if there is no live bar


def tell(text: str) -> None:
    """Prints a progress line to standard error; in notebooks, which show that as an error, to
    standard output."""
    in_notebook = Console(stderr=True).is_jupyter
    print(text, file=sys.stdout if in_notebook else sys.stderr, flush=True)


class StepClock:
    """Clock that stands still while the run does something other than steps."""

    def __init__(self):
        # (seconds of all pauses, beginning of the present one); one value, as threads read it.
        self._pauses: tuple[float, float | None] = 0.0, None

    def seconds(self) -> float:
        """Seconds, from an arbitrary start, without those of all pauses."""
        paused, since = self._pauses
        return (time.perf_counter() if since is None else since) - paused

    @contextlib.contextmanager
    def pause(self):
        """Stops the clock. The devices must be idle, or their steps would count as pause."""
        paused, began = self._pauses[0], time.perf_counter()
        self._pauses = paused, began
        try:
            yield
        finally:
            self._pauses = paused + time.perf_counter() - began, None


class ProgressLine:
    """Progress of a run: loss, kNN accuracy, images per second and time left.

    It is a live bar on a terminal, plain lines elsewhere, and nothing if ``quiet``.

    Attributes:
      clock: runs during steps, and stands still within ``doing`` and ``wait``.
      spent: seconds of each task of ``doing`` and ``wait``.
    """

    def __init__(self, title: str, *, total: int, start: int, batch_size: int, quiet: bool):
        self.clock, self.spent = StepClock(), collections.Counter()
        self._batch_size, self._total, self._quiet, self._title = batch_size, total, quiet, title
        self._last_line, self._unprinted = time.perf_counter(), ""
        self._task_of_host = ""
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[values]}"),
            _Doing(self),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, values="")
        self._bar.start()

    def show(self, step: int, values: dict[str, float]) -> None:
        """Updates the line.

        Args:
          step: number of steps done.
          values: may contain "loss", "knn", "images_per_second", from which the time left follows,
            and "startup_seconds" and "compile_seconds".
        """
        words = [f"loss {values['loss']:.3f}"] if "loss" in values else []
        words += [f"kNN {values['knn']:.3f}"] if "knn" in values else []
        rate = values.get("images_per_second")
        if rate:
            left = (self._total - step) * self._batch_size / rate
            words += [f"{rate:,.0f} images/s", f"{duration(left)} left"]
        text = "  ".join(words)
        self._bar.update(self._task, completed=step, values=text)
        self._unprinted = f"{self._title} {step}/{self._total}  {text}"
        if "startup_seconds" in values and not self._quiet:
            tell(
                f"{self._title}: the first step came after "
                f"{duration(values['startup_seconds'])} of start-up and "
                f"{duration(values['compile_seconds'])} of compilation."
            )
        self._print_now_and_then()

    @contextlib.contextmanager
    def doing(self, what: str):
        """Shows what the host does between steps, and for how long; stops the clock."""
        with self.clock.pause():
            self._task_of_host, self._began = what, time.perf_counter()
            try:
                yield
            finally:
                self._task_of_host = ""
                self.spent[what] += time.perf_counter() - self._began

    def wait(self, what: str, future: futures.Future):
        """Returns the result of a future, within ``doing(what)``."""
        with self.doing(what):
            while not future.done():
                futures.wait([future], timeout=LINE_EVERY)
                if not future.done():
                    self._unprinted = f"{self._title}: {self.host_task()}"
                    self._print_now_and_then()
            return future.result()

    def host_task(self) -> str:
        """The words of ``doing`` with the seconds so far, or an empty text."""
        what = self._task_of_host
        return f"{what} … {duration(time.perf_counter() - self._began)}" if what else ""

    def close(self) -> None:
        self._bar.stop()
        self._print()

    def _print_now_and_then(self):
        if time.perf_counter() - self._last_line >= LINE_EVERY:
            self._print()

    def _print(self):
        if self._unprinted and self._bar.disable and not self._quiet:
            tell(self._unprinted)
        self._last_line, self._unprinted = time.perf_counter(), ""


class _Doing(ProgressColumn):
    """Column of the live bar that counts the seconds of ``ProgressLine.doing``."""

    def __init__(self, line: ProgressLine):
        super().__init__()
        self._line = line

    def render(self, task) -> Text:
        return Text(self._line.host_task())


def duration(seconds: float) -> str:
    """Formats a duration in its largest sensible unit, such as "12 s", "25 min" or "3.5 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
