"""The progress line of a run."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10  # seconds between lines if there is no live bar


def tell(text: str) -> None:
    """Prints a progress line to standard error; in notebooks, which show that as an error, to
    standard output."""
    in_notebook = Console(stderr=True).is_jupyter
    print(text, file=sys.stdout if in_notebook else sys.stderr, flush=True)


class ProgressLine:
    """Progress of a run: loss, kNN accuracy, images per second and time left.

    It is a live bar on a terminal, plain lines elsewhere, and nothing if ``quiet``.
    """

    def __init__(self, title: str, *, total: int, start: int, batch_size: int, quiet: bool):
        self._batch_size, self._start, self._began = batch_size, start, time.perf_counter()
        self._total, self._quiet, self._title = total, quiet, title
        self._last_line, self._unprinted = self._began, ""
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, values="")
        self._bar.start()

    def show(self, step: int, values: dict[str, float]) -> None:
        """Updates the line; ``values`` may contain "loss" and "knn"."""
        rate = self.images_per_second(step)
        words = [f"loss {values['loss']:.3f}"] if "loss" in values else []
        words += [f"kNN {values['knn']:.3f}"] if "knn" in values else []
        text = "  ".join(words + [f"{rate:,.0f} images/s"])
        self._bar.update(self._task, completed=step, values=text)
        left = (self._total - step) * self._batch_size / max(rate, 1e-9)
        self._unprinted = f"{self._title} {step}/{self._total}  {text}  {left:.0f} s left"
        if time.perf_counter() - self._last_line > LINE_EVERY:
            self._print()

    def images_per_second(self, step: int) -> float:
        """Images per second since the run was started or resumed."""
        return (step - self._start) * self._batch_size / (time.perf_counter() - self._began)

    def close(self) -> None:
        self._bar.stop()
        self._print()

    def _print(self):
        if self._unprinted and self._bar.disable and not self._quiet:
            tell(self._unprinted)
        self._last_line, self._unprinted = time.perf_counter(), ""
