"""Search, on validation data only, for a setting in which the losses differ on fine labels.

    python benchmarks/evidence.py digits             # the search
    python benchmarks/evidence.py digits --confirm   # the chosen setting on test data, once

Every setting that was tried is here, and every record is kept.
"""

import argparse
import pathlib

import numpy as np
from jaxpt.configs.pretrain import digits, fashion_mnist

from jaxpt.studies import study

RECORDS = pathlib.Path(__file__).parent / "records"
METHODS = ("cross_entropy", "sup_con", "nca", "look")
COLUMNS = {
    "fine_knn": "fine kNN",
    "fine_linear": "fine linear",
    "fine_5shot": "5-shot",
    "coarse_knn": "coarse kNN",
    "class_separation": "R²",
    "fine_purity": "purity",
}  # name in a record's values → heading
SEARCH_SEEDS = (200, 201, 202)
CONFIRM_SEEDS = tuple(range(6))
# The results of the search: the setting in which the losses differ most on fine labels, and the one
# change to LOOK that clearly helped in the base setting.
CONFIRMED = "no augmentation, 200 epochs"
OWN_VIEW = {"look.own_view": 0.25}
NO_AUGMENTATION = {
    f"{who}.{what}": 0
    for who in ("augment", "key_augment")
    for what in ("shift", "contrast", "noise")
}
NO_FLIP = {"augment.flip": False, "key_augment.flip": False}
CONFIGS = {"digits": digits.get_config, "fashion_mnist": fashion_mnist.get_config}

# Settings in which all four methods are compared, as changes to fields of the config.
SETTINGS = {
    "digits": {
        "base": {},
        "two views": {"views": 2},
        "200 epochs": {"duration": "200 epochs"},
        "twice the width": {"model.options.widths": (32, 64, 64, 128)},
        "twice the width, 120 epochs": {
            "model.options.widths": (32, 64, 64, 128),
            "duration": "120 epochs",
        },
        "parity": {"data.label_map": "parity"},
        "parity, 200 epochs": {"data.label_map": "parity", "duration": "200 epochs"},
        "all ten labels": {"data.label_map": "fine"},
        "no augmentation, 200 epochs": {"duration": "200 epochs", **NO_AUGMENTATION},
    },
    "fashion_mnist": {
        "base": {},
        "24 epochs": {"duration": "24 epochs"},
        "no augmentation, 24 epochs": {"duration": "24 epochs", **NO_AUGMENTATION, **NO_FLIP},
    },
}
# Changes to LOOK, one field at a time.
ABLATIONS = {
    "digits": {
        "look.k": (5, 10, 20, 50, 100, 200, 400, 1200),
        "temperature": (0.03, 0.05, 0.1, 0.2, 0.5),
        "memory": (120, 360, 1200, 4800),
        "ema": (0.0, 0.9, 0.98, 0.995),
        "look.no_positive": ("nearest", "drop", "floor"),
        "look.own_view": (0.0, 0.1, 0.25, 0.5),
        "look.k_warmup": ("0 steps", "20 epochs", "60 epochs"),
    },
    "fashion_mnist": {
        "look.k": (10, 30, 100, 300, 2400),
        "temperature": (0.05, 0.1, 0.2),
        "memory": (600, 2400, 6_000),
        "ema": (0.9, 0.99, 0.999),
        "look.no_positive": ("nearest", "drop", "floor"),
        "look.own_view": (0.0, 0.25, 0.5),
        # Extensions beyond the paper, each compared with the base setting, which has none.
        "look.gate": (5.0, 20.0, 80.0),
        "look.balanced": (True,),
        "look.k_by_class": (True,),
        "look.robustness": (0.3, 0.7),
        "local_views": (2,),
        "memory_kind": ("bank",),
    },
}
# Small crops (multi-crop) on Fashion-MNIST.
SMALL_CROPS = {
    "local_augment.crop_size": 14,
    "local_augment.crop_area": (0.2, 0.6),
    "local_augment.flip": True,
}


def settings_jobs(data: str, names, seeds, part: str) -> list[study.Job]:
    """Jobs of every method in the named settings."""
    return [
        job
        for name in names
        for method in METHODS
        for job in _jobs(data, f"{name}: {method}", method, SETTINGS[data][name], seeds, part)
    ]


def ablation_jobs(data: str) -> list[study.Job]:
    """Jobs of LOOK with one field changed at a time."""
    return [
        job
        for field, values in ABLATIONS[data].items()
        for value in values
        for job in _jobs(
            data,
            f"{field.removeprefix('look.')}={value}",
            "look",
            {field: value} | (SMALL_CROPS if field == "local_views" else {}),
            SEARCH_SEEDS,
            "validation",
        )
    ]


def confirmation_jobs(setting: str) -> list[study.Job]:
    """Jobs of the setting that the search on digits chose, on test data with fresh seeds."""
    jobs = settings_jobs("digits", [setting], CONFIRM_SEEDS, "test")
    if setting == "base":
        jobs += _jobs("digits", "base: look + own view", "look", OWN_VIEW, CONFIRM_SEEDS, "test")
    return jobs


def _jobs(data, label, method, changes, seeds, part):
    config = CONFIGS[data](method)
    config.log_every = config.knn_every = "0 steps"
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return study.seeds_of(label, config, seeds, part)


def markdown(records: list[dict]) -> str:
    """Table with one row per label: mean (standard deviation over seeds)."""
    titles = ["setting", "seeds", *COLUMNS.values()]
    lines = [f"| {' | '.join(titles)} |", "| --- |" + " ---: |" * (len(titles) - 1)]
    for label in dict.fromkeys(r["label"] for r in records):
        group = [r["values"] for r in records if r["label"] == label]
        if len(group) < 2:  # without a spread there is no row
            continue
        columns = [np.array([values[name] for values in group]) for name in COLUMNS]
        cells = [f"{column.mean():.3f} ({column.std(ddof=1):.3f})" for column in columns]
        lines.append(f"| {label} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=sorted(SETTINGS))
    parser.add_argument(
        "--confirm",
        action="store_true",
        help="run the setting that the search on digits chose on test data, with fresh seeds",
    )
    args = parser.parse_args()

    def done(record):
        print(record["label"], record["seed"], flush=True)

    if args.confirm:
        jobs = confirmation_jobs(CONFIRMED) + confirmation_jobs("base")
        print(markdown(study.run(jobs, RECORDS / "confirmation_digits.jsonl", on_done=done)))
        return
    path = RECORDS / f"evidence_{args.data}.jsonl"
    jobs = settings_jobs(args.data, SETTINGS[args.data], SEARCH_SEEDS, "validation")
    print(markdown(study.run(jobs, path, on_done=done)))
    print(markdown(study.run(ablation_jobs(args.data), path, on_done=done)))


if __name__ == "__main__":
    main()
