"""Tuning of every method with the same effort, on validation data only.

    python benchmarks/tune.py digits
    python benchmarks/tune.py fashion_mnist

Runs every combination of four learning rates and the values of the hyper-parameter that matters
most to the method: twenty settings per method with three seeds on digits; twelve with two seeds on
Fashion-MNIST, where a run takes ten times as long. A setting's score is the mean over its seeds of
the mean of the three fine-label accuracies (kNN, linear, 5-shot) on the validation part. The
winners are the settings in ``configs/pretrain/``.
"""

import argparse
import importlib
import pathlib

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxpt.studies import study

RECORDS = pathlib.Path(__file__).parent / "records"
METHODS = ("cross_entropy", "sup_con", "nca", "look")
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
KNOBS = {
    "digits": {
        "cross_entropy": ("cross_entropy.label_smoothing", (0.0, 0.05, 0.1, 0.2, 0.3)),
        "sup_con": ("temperature", (0.05, 0.1, 0.2, 0.5, 1.0)),
        "nca": ("temperature", (0.02, 0.05, 0.1, 0.2, 0.5)),
        "look": ("look.k", (10, 20, 50, 100, 200)),
    },
    "fashion_mnist": {
        "cross_entropy": ("cross_entropy.label_smoothing", (0.0, 0.1, 0.2)),
        "sup_con": ("temperature", (0.1, 0.3, 1.0)),
        "nca": ("temperature", (0.05, 0.1, 0.2)),
        "look": ("look.k", (30, 100, 300)),
    },
}
SEEDS = {"digits": (100, 101, 102), "fashion_mnist": (100, 101)}
FINE = ("fine_knn", "fine_linear", "fine_5shot")


def jobs(data: str) -> list[study.Job]:
    """Jobs of all settings of all methods."""
    module = importlib.import_module(f"jaxpt.configs.pretrain.{data}")
    found = []
    for method in METHODS:
        knob, values = KNOBS[data][method]
        for rate in LEARNING_RATES:
            for value in values:
                config = module.get_config(method)
                config.update_from_flattened_dict({"optimizer.learning_rate": rate, knob: value})
                config.log_every = config.knn_every = "0 steps"
                found += study.seeds_of(
                    f"{method} lr={rate:g} {knob.rpartition('.')[2]}={value:g}",
                    config,
                    SEEDS[data],
                    "validation",
                )
    return found


def score(records: list[dict]) -> float:
    """Score of a setting: mean fine-label accuracy over its seeds."""
    return float(np.mean([[r["values"][name] for name in FINE] for r in records]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=sorted(KNOBS))
    data = parser.parse_args().data
    results = study.run(
        jobs(data),
        RECORDS / f"tuning_{data}.jsonl",
        on_done=lambda r: print(r["label"], r["seed"], flush=True),
    )
    table = Table("setting", "score", *FINE, "coarse_knn", "seconds")
    for label in dict.fromkeys(r["label"] for r in results):
        group = [r for r in results if r["label"] == label]
        table.add_row(
            label,
            f"{score(group):.4f}",
            *(
                f"{np.mean([r['values'][name] for r in group]):.3f}"
                for name in (*FINE, "coarse_knn", "pretrain_seconds")
            ),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
