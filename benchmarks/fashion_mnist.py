"""Four losses on Fashion-MNIST, pre-trained on five coarse classes and tested on ten fine ones.

    python benchmarks/fashion_mnist.py

Measures on the test part, with the settings that benchmarks/tune.py chose on validation, after 8
epochs (the base setting) and after 24. Ablations of LOOK's own settings are on validation data, by
benchmarks/evidence.py fashion_mnist.
"""

import pathlib

from jaxpt.configs.pretrain import fashion_mnist

from jaxpt import report
from jaxpt.studies import study

RECORDS = pathlib.Path(__file__).parent / "records" / "fashion_mnist.jsonl"
METHODS = ("cross_entropy", "sup_con", "nca", "look")
SEEDS = range(3)
DURATIONS = ("8 epochs", "24 epochs")


def jobs(duration: str) -> list[study.Job]:
    """Jobs of every method with every seed."""
    found = []
    for method in METHODS:
        config = fashion_mnist.get_config(method)
        config.duration = duration
        config.log_every = config.knn_every = "0 steps"
        found += study.seeds_of(method, config, SEEDS, "test")
    return found


def main() -> None:
    for duration in DURATIONS:
        found = study.run(
            jobs(duration), RECORDS, on_done=lambda r: print(r["label"], r["seed"], flush=True)
        )
        print(f"{duration}\n\n{report.markdown(found)}")


if __name__ == "__main__":
    main()
