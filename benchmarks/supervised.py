"""Supervised networks on all of Fashion-MNIST, beside the test errors that were published.

    python benchmarks/supervised.py

Trains the MLP of pretrain/fashion_mnist_supervised.py to its end with nine seeds, by the commands
of the config's header, and measures the CPU time of a step of each network there. A step's time is
the difference between a longer and a shorter run in one process, divided by the difference in
steps, so that start-up and compilation cancel. Adds records to
benchmarks/records/fashion_mnist_supervised.jsonl; benchmarks/tables.py makes the table.
"""

import pathlib
import statistics
import subprocess
import tempfile
import time

from jaxpt.configs.pretrain import fashion_mnist_supervised as recipe

from jaxpt import pretrain, records

RECORDS = pathlib.Path(__file__).parent / "records" / "fashion_mnist_supervised.jsonl"
CONFIG = "pretrain/fashion_mnist_supervised.py"
SEEDS = range(9)  # as many as the published runs
IMAGES = 60_000
# Test accuracies in % that nine public notebooks and posts print for TensorFlow's tutorial "Basic
# classification" (tensorflow/docs@023b91c site/en/tutorials/keras/classification.ipynb), unchanged:
# one hidden layer of 128, Adam, batch 32, 10 epochs. All that were found and show these settings.
TUTORIAL = (88.25, 88.07, 87.98, 88.68, 88.63, 88.32, 88.28, 88.55, 88.10)
# Variant → (network, published test error in %, how it was published).
PUBLISHED = {
    "mlp": (
        "MLP, 128",
        round(100 - statistics.mean(TUTORIAL), 2),
        f"mean of {len(TUTORIAL)} runs, standard deviation {statistics.stdev(TUTORIAL):.2f}",
    ),
    "": ("ResNet-preact-20", 5.04, "median of 3 runs"),
    "cutout16": ("the same with Cutout-16", 4.49, "median of 3 runs"),
}
TIMED = {"mlp": (100, 2100), "": (2, 22)}  # variant → steps of the shorter and the longer run


def train(seed: int, folder: str) -> None:
    """Trains and measures the MLP with a seed; adds a record."""
    workdir = f"{folder}/{seed}"
    options = [f"--config={CONFIG}:mlp", f"--config.seed={seed}", f"--workdir={workdir}"]
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


def markdown(found: list[dict]) -> str:
    """Table of published errors and of those measured here, with the CPU time of a run."""
    ends = {"mlp": [r for r in found if r.get("evaluator") == "classifier"]}
    seconds = {r["variant"]: r["step_seconds"] for r in found if "step_seconds" in r}
    lines = [
        "| network | epochs | published error % | error here %, last epoch | seeds | difference "
        "| CPU time per seed, computed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for variant, (network, published, how) in PUBLISHED.items():
        config = recipe.get_config(variant)
        epochs = int(config.duration.partition(" ")[0])
        errors = [100 * (1 - r["values"]["classifier"]) for r in ends.get(variant, [])]
        here, difference = "not yet run to its end", ""
        if errors:
            mean = statistics.mean(errors)
            here = f"{mean:.2f} (standard deviation {statistics.stdev(errors):.2f})"
            difference = f"{mean - published:+.2f}".replace("-", "−")
        spent = seconds.get(variant, seconds.get("")) * epochs * IMAGES / config.batch_size
        spent = f"{spent / 60:.1f} min" if spent < 3600 else f"{spent / 3600:.1f} h"
        lines.append(
            f"| {network} | {epochs} | {published} ({how}) | {here} | {len(errors) or ''} | "
            f"{difference} | {spent} |"
        )
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            train(seed, folder)
    for variant in TIMED:
        record = {"benchmark": "supervised", "variant": variant, "steps": TIMED[variant]}
        measured = {"step_seconds": step_seconds(variant)}
        records.append(RECORDS, record | measured | records.surroundings())


if __name__ == "__main__":
    main()
