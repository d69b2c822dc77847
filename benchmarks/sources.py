"""Pre-training on two sources together against each alone; docs/sources.md is the protocol.

    python benchmarks/sources.py                # two CPU cores, some minutes
    python benchmarks/sources.py --minutes=5    # a part of it; repeat to continue

Runs that are already in the file of records are not repeated. Seeds follow one another, so that a
part has all arms of a method.
"""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent
RECORDS = ROOT / "records" / "sources.jsonl"
SEEDS = tuple(range(5))
STEPS, SIDE = 300, 16
DIGITS, CLOTHES = "digits", "fashion_mnist"
SOURCES = {DIGITS: {"label_map": "halves"}, CLOTHES: {"label_map": "fashion5"}}
METHODS = {
    "look": ("LOOK", {"look.k": 50, "temperature": 0.1}),
    "cross_entropy": (
        "cross-entropy with MLP head",
        {"cross_entropy.classifier": "mlp", "cross_entropy.label_smoothing": 0.1},
    ),
}
ARMS = {
    DIGITS: "digits alone",
    CLOTHES: "Fashion-MNIST alone",
    "ignored": "both, other source ignored",
    "negatives": "both, other source as negatives",
}
FIELDS = {
    "data.image_size": SIDE,
    "duration": f"{STEPS} steps",
    "batch_size": 64,
    "memory": 1_024,
    "ema": 0.99,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup": "30 steps",
    "log_every": "100 steps",
    "knn_every": "0 steps",
    "checkpoint_every": "0 steps",
}
NETWORK = {"widths": (16, 32, 64), "strides": (2, 1, 2)}
SHOTS, DRAWS, L2, ROWS = 5, 10, 10.0, 2_000
PROTOCOL = {"shots": SHOTS, "draws": DRAWS, "l2": L2, "rows": ROWS, "features": "backbone"}
TASKS = {DIGITS: "digits", CLOTHES: "Fashion-MNIST"}
PRIMARY = "mean"  # of the tasks
CONTRASTS = (("ignored", DIGITS), ("ignored", CLOTHES), ("ignored", "negatives"))


def config_of(method: str, arm: str, seed: int):
    """Config of a run; one source alone takes its images from the mixture, see ``run``."""
    from jaxpt.configs.pretrain import defaults

    c = defaults.apply_variant(defaults.get_config(), method)
    c.update_from_flattened_dict(FIELDS | METHODS[method][1] | {"seed": seed})
    c.data.sources = {name: own | {"weight": 1.0} for name, own in SOURCES.items()}
    c.model.options = NETWORK
    c.other_sources = arm if arm in ("ignored", "negatives") else "ignored"
    return c


@functools.cache
def mixture():
    """Both sources as one set, and its identity."""
    from jaxpt.data import sources

    config = config_of("look", "ignored", 0)
    return sources.load(config.data), sources.identify(config.data).digest


@functools.cache
def tasks() -> dict[str, tuple[np.ndarray, ...]]:
    """Images and labels to fit on and to score, by task: a fixed draw of each side."""
    from jaxpt.evaluation.task import some_rows

    found = {}
    for name in TASKS:
        alone, sides = mixture()[0].alone(name), []
        for split in alone.trainval, alone.test:
            rows = some_rows(len(split.ids), ROWS)
            sides += [split.images[rows], split.labels[rows]]
        found[name] = tuple(sides)
    return found


def run(job: tuple[str, str, int]) -> dict[str, Any]:
    """Pre-trains and measures; returns the record."""
    from jaxpt import pretrain, records
    from jaxpt.cache import use_compile_cache
    from jaxpt.evaluation.few_shot import few_shot_predictions

    use_compile_cache()
    method, arm, seed = job
    dataset, identity = mixture()
    config = config_of(method, arm, seed)
    began = time.process_time()
    trained = pretrain.run(
        config, quiet=True, dataset=dataset.alone(arm) if arm in SOURCES else dataset
    )
    seconds, values = time.process_time() - began, {}
    for name, (known, labels, asked, wanted) in tasks().items():
        one, two = trained.features(known), trained.features(asked)
        how = {"shots": SHOTS, "draws": DRAWS, "l2": L2}
        predicted = few_shot_predictions(one, labels, two, wanted, **how)
        values[name] = float(np.mean(predicted == wanted))
    values[PRIMARY] = float(np.mean(list(values.values())))
    return {
        "key": key_of(config.to_dict(), arm, PROTOCOL),
        "method": method,
        "arm": arm,
        "seed": seed,
        records.IDENTITY: identity,
        "values": values | {"pretrain_cpu_seconds": seconds},
        "protocol": PROTOCOL,
        "config": config.to_dict(),
        **records.surroundings(),
    }


def key_of(config: dict[str, Any], arm: str, protocol: dict[str, Any]) -> str:
    """Key of a run, also of one whose config lacks fields that a later version added."""
    from jaxpt.studies import study

    return study.key_of(config, arm, json.dumps(protocol, sort_keys=True))


def left(found: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Runs that have no record yet."""
    known = {key_of(r["config"], r["arm"], r["protocol"]) for r in found}
    jobs = [(method, arm, seed) for method in METHODS for seed in SEEDS for arm in ARMS]
    return [job for job in jobs if key_of(config_of(*job).to_dict(), job[1], PROTOCOL) not in known]


def _points(value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}".replace("-", "−")


def markdown(found: list[dict[str, Any]]) -> str:
    """Means (standard deviation over seeds) of all arms, and the planned differences."""
    from jaxpt.report import statistics

    of = {}
    for record in found:
        of.setdefault((record["method"], record["arm"]), {})[record["seed"]] = record["values"]
    lines = [
        f"| pre-training | seeds | {' | '.join(TASKS.values())} | mean |",
        "| --- |" + " ---: |" * (2 + len(TASKS)),
    ]
    for method, (title, _) in METHODS.items():
        for arm, name in ARMS.items():
            runs = list(of.get((method, arm), {}).values())
            if len(runs) >= statistics.MIN_SEEDS:
                columns = (np.array([r[task] for r in runs]) for task in (*TASKS, PRIMARY))
                cells = [f"{_points(c.mean())} ({_points(c.std(ddof=1))})" for c in columns]
                lines.append(f"| {title}: {name} | {len(runs)} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| difference, points (95 % interval) | {' | '.join(TASKS.values())} | mean |",
        "| --- |" + " ---: |" * (1 + len(TASKS)),
    ]
    for method, (title, _) in METHODS.items():
        for one, other in CONTRASTS:
            pair = of.get((method, one), {}), of.get((method, other), {})
            if len(pair[0].keys() & pair[1].keys()) < statistics.MIN_SEEDS:
                continue
            cells = []
            for task in (*TASKS, PRIMARY):
                sides = ({seed: v[task] for seed, v in runs.items()} for runs in pair)
                c = statistics.compare(*sides)
                cells.append(f"{_points(c.mean, '+')} (± {_points(c.half_width)})")
            lines.append(f"| {title}: {ARMS[one]} − {ARMS[other]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _one_thread() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
        os.environ[name] = "1"


def main() -> None:
    from jaxpt import records

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after that")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    end, jobs = time.monotonic() + 60 * args.minutes, left(records.read(RECORDS))
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.workers, spawn, _one_thread) as pool:
        for start in range(0, len(jobs), args.workers):
            if time.monotonic() < end:
                for record in pool.map(run, jobs[start : start + args.workers]):
                    records.append(RECORDS, record)
                    print(record["method"], record["arm"], record["seed"], record["values"])
    print(markdown(records.read(RECORDS)))


if __name__ == "__main__":
    main()
