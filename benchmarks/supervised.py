"""Supervised networks on all of Fashion-MNIST, beside the test errors that were published.

    python benchmarks/supervised.py                       # the MLP; minutes on a CPU
    python benchmarks/supervised.py --variant=            # ResNet-preact-20; minutes on a GPU
    python benchmarks/supervised.py --variant=cutout16

Trains a variant of pretrain/fashion_mnist_supervised.py to its end with each seed, by the commands
of the config's header. On a CPU it also measures the CPU time of a step of both networks: the
difference between a longer and a shorter run in one process, divided by the difference in steps, so
that start-up and compilation cancel. Adds records to
benchmarks/records/fashion_mnist_supervised.jsonl; benchmarks/tables.py makes the table.
"""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
import time
from typing import NamedTuple

import jax
from jaxpt.configs.pretrain import fashion_mnist_supervised as recipe

from jaxpt import pretrain, records

RECORDS = pathlib.Path(__file__).parent / "records" / "fashion_mnist_supervised.jsonl"
CONFIG = "pretrain/fashion_mnist_supervised.py"
IMAGES = 60_000
# Test accuracies in % that nine public notebooks and posts print for TensorFlow's tutorial "Basic
# classification" (tensorflow/docs@023b91c site/en/tutorials/keras/classification.ipynb), unchanged:
# one hidden layer of 128, Adam, batch 32, 10 epochs. All that were found and show these settings.
TUTORIAL = (88.25, 88.07, 87.98, 88.68, 88.63, 88.32, 88.28, 88.55, 88.10)


class Published(NamedTuple):
    """A published test error.

    Attributes:
      network: in the table.
      error: in %.
      summary: of the published runs, and so of those here: "mean" or "median".
      runs: number of published runs, and so of seeds here.
      note: on the published error.
    """

    network: str
    error: float
    summary: str
    runs: int
    note: str = ""


PUBLISHED = {
    "mlp": Published(
        "MLP, 128",
        round(100 - statistics.mean(TUTORIAL), 2),
        "mean",
        len(TUTORIAL),
        f"standard deviation {statistics.stdev(TUTORIAL):.2f}",
    ),
    "": Published("ResNet-preact-20", 5.04, "median", 3),
    "cutout16": Published("the same with Cutout-16", 4.49, "median", 3),
}
TIMED = {"mlp": (100, 2100), "": (2, 22)}  # variant → steps of the shorter and the longer run


def train(variant: str, seed: int, folder: str) -> None:
    """Trains and measures a network with a seed; adds a record."""
    workdir, config = f"{folder}/{seed}", CONFIG + (variant and f":{variant}")
    options = [f"--config={config}", f"--config.seed={seed}", f"--workdir={workdir}"]
    subprocess.run(["jaxpt", "pretrain", *options], check=True)
    evaluated = ["--suite=classifier", f"--out={RECORDS}", "--cache="]
    subprocess.run(["jaxpt", "evaluate", workdir, *evaluated], check=True)


def step_seconds(variant: str) -> float:
    """CPU seconds per step, of all threads."""
    config = recipe.get_config(variant)
    config.update(knn_every="0 steps", log_every="0 steps", devices=1)
    config.data.limit = 1024  # which the monitor compares with at the end
    spent = []
    for steps in (TIMED[variant][0], *TIMED[variant]):  # the first run fills the compiler's cache
        config.duration = f"{steps} steps"
        start = time.process_time()
        pretrain.run(config, quiet=True)
        spent.append(time.process_time() - start)
    return (spent[2] - spent[1]) / (TIMED[variant][1] - TIMED[variant][0])


def ends(found: list[dict], variant: str) -> list[dict]:
    """Records of a variant's runs that came to their end."""

    def tells(config):  # the variants apart
        return config["model"]["name"], config["augment"]["erase"], config["duration"]

    wanted = tells(recipe.get_config(variant))
    return [
        record
        for record in found
        if record.get("evaluator") == "classifier" and tells(record["config"]) == wanted
    ]


def markdown(found: list[dict]) -> str:
    """Table of published errors and of those measured here, with the CPU time of a run."""
    seconds = {r["variant"]: r["step_seconds"] for r in found if "step_seconds" in r}
    lines = [
        "| network | epochs | published error % | error here %, last epoch | seeds | difference "
        "| device | CPU time per seed, computed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for variant, published in PUBLISHED.items():
        config = recipe.get_config(variant)
        epochs = int(config.duration.partition(" ")[0])
        runs = ends(found, variant)
        errors = [100 * (1 - r["values"]["classifier"]) for r in runs]
        here, difference = "not yet run to its end", ""
        if errors:
            summary = getattr(statistics, published.summary)(errors)
            if published.summary == "median":
                spread = f"{min(errors):.2f} to {max(errors):.2f}"
            else:
                spread = f"standard deviation {statistics.stdev(errors):.2f}"
            here = f"{summary:.2f} ({published.summary}, {spread})"
            difference = f"{summary - published.error:+.2f}".replace("-", "−")
        of_runs = ", ".join(
            filter(None, (f"{published.summary} of {published.runs} runs", published.note))
        )
        devices = ", ".join(sorted({r["device"].partition(" (")[0] for r in runs}))
        spent = seconds.get(variant, seconds.get("")) * epochs * IMAGES / config.batch_size
        spent = f"{spent / 60:.1f} min" if spent < 3600 else f"{spent / 3600:.1f} h"
        lines.append(
            f"| {published.network} | {epochs} | {published.error} ({of_runs}) | {here} | "
            f"{len(errors) or ''} | {difference} | {devices} | {spent} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=list(PUBLISHED), default="mlp", help="of the config")
    variant = parser.parse_args().variant
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(PUBLISHED[variant].runs):
            train(variant, seed, folder)
    if jax.default_backend() == "cpu":
        for variant, steps in TIMED.items():
            record = {"benchmark": "supervised", "variant": variant, "steps": steps}
            measured = {"step_seconds": step_seconds(variant)}
            records.append(RECORDS, record | measured | records.surroundings())


if __name__ == "__main__":
    main()
