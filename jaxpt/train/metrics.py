"""Where a run's numbers go: JSON lines and TensorBoard."""

import json
import math
import pathlib
from typing import Any

from tensorboardX import SummaryWriter

from jaxpt.errors import require


class MetricWriter:
    """Appends rows to ``metrics.jsonl`` and to a TensorBoard event file in a run's folder."""

    def __init__(self, workdir: str | pathlib.Path, *, resumed_step: int):
        """Rows after ``resumed_step`` are dropped: the resumed run writes them again."""
        path = pathlib.Path(workdir) / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True)
                    if line.endswith("\n") and json.loads(line)["step"] <= resumed_step]
            path.write_text("".join(kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(workdir), purge_step=resumed_step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One row; every value a Python float or int."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a run, oldest first."""
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").open()]


def to_floats(step: int, metrics: dict[str, Any]) -> dict[str, float]:
    """Device scalars as Python floats.

    Raises:
      InputError: where the loss is not finite.
    """
    values = {name: float(value) for name, value in metrics.items()}
    require(math.isfinite(values["loss"]),
            f"the loss is {values['loss']} at step {step}: lower optimizer.learning_rate, or look "
            "at the labels and the temperature.")
    return values
