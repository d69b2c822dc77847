"""Demo: five losses on real images, with a table, verdicts and a page with figures."""

import importlib
import os
import pathlib
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from jaxpt import records as record_files
from jaxpt import report
from jaxpt.data import sources
from jaxpt.errors import require
from jaxpt.files import replacing, writable_folder
from jaxpt.report.figures import FeatureSet, load_features, save_features
from jaxpt.report.metrics import FINE
from jaxpt.report.results import DATA_NAMES, NAMES
from jaxpt.report.statistics import MIN_SEEDS
from jaxpt.studies import study

DATA = ("digits", "fashion_mnist")
# Its projector before the classifier is thrown away for transfer, like those of the other losses.
# The linear head alone would compare losses that differ in more than the loss.
MLP_HEAD = "cross_entropy_mlp"
METHODS = ("cross_entropy", MLP_HEAD, "sup_con", "nca", "look")
PICTURED_SEED = 0  # the seed whose features and training curves are kept for the figures


def run(
    data: str, out: str | os.PathLike, seeds: int = 5, *, duration: str | None = None
) -> pathlib.Path:
    """Pre-trains with each loss, measures on the test part, prints the table and writes the page.

    If it is interrupted and started again with the same folder, it continues where it stopped.

    Args:
      data: "digits" or "fashion_mnist".
      out: folder for ``records.jsonl``, ``report.html`` and features.
      seeds: runs per loss.
      duration: of pre-training; None uses the config's.

    Returns:
      The path of the page.

    Raises:
      InputError: for unknown or missing data, fewer than two seeds, or a folder that cannot be
        written. It is raised before any run starts.
    """
    require(data in DATA, f"data must be one of {', '.join(DATA)}, got {data!r}.")
    require(
        seeds >= MIN_SEEDS,
        f"seeds must be at least {MIN_SEEDS}, since verdicts need a spread, got {seeds}.",
    )
    jobs = study.identified(_jobs(data, seeds, duration))
    dataset = sources.load(_config(data, "look").data)
    folder = writable_folder(out)
    path = folder / "records.jsonl"
    _check_kept(path, dataset.name)
    _forget(path, _keys_without_pictures(jobs, folder))
    console = Console()
    console.print(
        f"{len(METHODS)} losses × {seeds} seeds on {DATA_NAMES[data]}: pre-train on "
        f"{len(dataset.coarse.names)} coarse classes, measure on "
        f"{len(dataset.class_names)} fine ones."
    )
    console.print(f"Records: {path}", soft_wrap=True)
    found = _run(jobs, path, folder, dataset, console)
    console.print()
    console.print(report.terminal(found))
    page = report.write_report(found, folder)
    console.print(f"\nReport: {page}", soft_wrap=True)
    return page


def _config(data: str, method: str):
    get_config = importlib.import_module(f"jaxpt.configs.pretrain.{data}").get_config
    if method != MLP_HEAD:
        return get_config(method)
    config = get_config("cross_entropy")  # with the settings tuned for a linear head
    config.cross_entropy.classifier = "mlp"
    return config


def _jobs(data: str, seeds: int, duration: str | None) -> list[study.Job]:
    """Jobs ordered by seed, so that an interrupted demo has runs of every method."""
    jobs = []
    for seed in range(seeds):
        for method in METHODS:
            config = _config(data, method)
            config.duration = duration or config.duration
            pictured = seed == PICTURED_SEED
            if not pictured:  # their curves are not shown
                config.log_every = config.knn_every = "0 steps"
            jobs += study.seeds_of(method, config, [seed], "test", keep_features=pictured)
    return jobs


def _check_kept(path: pathlib.Path, data: str) -> None:
    """Raises InputError if the folder holds a demo of another set."""
    others = sorted({record["data"] for record in record_files.read(path)} - {data})
    require(
        not others,
        f"{path} holds records of {', '.join(others)}: choose another folder for {data}.",
    )


def _keys_without_pictures(jobs: list[study.Job], folder: pathlib.Path) -> set[str]:
    """Keys of the jobs whose features should be in the folder, but are missing."""

    def kept(job):
        features = load_features(folder, job.label)
        return features is not None and features.key == job.key

    return {job.key for job in jobs if job.keep_features and not kept(job)}


def _forget(path: pathlib.Path, keys: set[str]) -> None:
    """Drops records, so that ``study.run`` makes them again with their features."""
    known = record_files.read(path)
    if any(record["key"] in keys for record in known):
        with replacing(path) as file:
            kept = (record for record in known if record["key"] not in keys)
            file.writelines(record_files.line_of(record) for record in kept)


def _run(jobs, path, folder, dataset, console) -> list[dict[str, Any]]:
    """Runs the jobs without a record, with a progress line."""
    total, done = len(jobs), len(jobs) - study.missing(jobs, path)
    if done:
        console.print(f"{done} of {total} runs are already done.")
    live = Progress(
        SpinnerColumn(),  # shows activity during a run, which takes seconds
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=console,
        speed_estimate_period=3600,
        disable=not console.is_terminal,
    )
    with live:
        task = live.add_task("runs", total=total, completed=done, last="")

        def on_done(record):
            nonlocal done
            done += 1
            if "features" in record:
                arrays = record["features"]
                save_features(
                    folder,
                    record["label"],
                    FeatureSet(
                        record["key"],
                        **arrays,
                        fine_names=dataset.class_names,
                        coarse_names=dataset.coarse.names,
                    ),
                )
            live.update(task, completed=done, last=_result(record))
            if live.disable:
                print(f"{done}/{total}  {_result(record)}", flush=True)

        return study.run(jobs, path, on_done=on_done)


def _result(record: dict[str, Any]) -> str:
    first = FINE[0]
    return (
        f"{NAMES[record['label']]}, seed {record['seed']}: {first.title} "
        f"{first.text(record['values'][first.key])} %"
    )
