"""Scaling studies: error against the number of pre-training images, with power-law fits.

As in few-shot scaling laws (Prato et al. 2021, arXiv 2110.06990).
"""

import contextlib
import os
import pathlib
from typing import Mapping, Sequence

import ml_collections
from rich.console import Console

from jaxpt import report
from jaxpt.data import sources
from jaxpt.errors import InputError, require
from jaxpt.files import writable_folder
from jaxpt.report import scaling as laws
from jaxpt.report.metrics import FINE
from jaxpt.report.results import NAMES, collect
from jaxpt.studies import study
from jaxpt.train import optimizer as optimizers

RECORDS = "records.jsonl"


def run(
    configs: Mapping[str, ml_collections.ConfigDict],
    sizes: Sequence[int],
    seeds: int,
    out: str | os.PathLike,
) -> pathlib.Path:
    """Pre-trains on each number of images with each method and seed, fits power laws and reports.

    Only pre-training sees fewer images. Evaluators fit and score on all images, so that errors
    reflect only what the encoder learnt. Every size trains for the same number of optimizer steps,
    that of the config's duration on all images: with equal epochs a smaller set would also train
    less, and the curve would confound data with computation. A larger size includes the images of
    a smaller one, and all methods get the same images (``pretrain.train_split``). If the study is
    interrupted and started again, it continues where it stopped.

    Args:
      configs: label → pre-training config, all of one set.
      sizes: numbers of images; the largest is held out of the fit.
      seeds: runs per size and method.
      out: folder for ``records.jsonl`` and ``report.html``.

    Returns:
      The path of the report.

    Raises:
      InputError: for invalid sizes or seeds, before anything is run.
    """
    jobs = _jobs(configs, sizes, seeds)
    jobs = study.identified(jobs)
    folder = writable_folder(out)
    path = folder / RECORDS
    console = Console()
    console.print(
        f"{len(configs)} methods × {len(sizes)} sizes × {seeds} seeds. Records: {path}",
        soft_wrap=True,
    )
    left = study.missing(jobs, path)

    def on_done(record):
        nonlocal left
        left -= 1
        print(_progress(record, left), flush=True)

    found = study.run(jobs, path, on_done=on_done)
    console.print()
    console.print(laws.terminal(collect(found)))
    page = report.write_report(found, folder)
    console.print(f"\nReport: {page}", soft_wrap=True)
    return page


def _jobs(configs, sizes, seeds) -> list[study.Job]:
    """Jobs ordered by seed and size, so that an interrupted study has runs of every method."""
    sizes = sorted(sizes)
    require(bool(configs), "methods is empty: name at least one.")
    require(
        len(sizes) >= 2 and len(set(sizes)) == len(sizes),
        f"sizes must be at least two different numbers of images, got {sizes}.",
    )
    require(seeds >= 1, f"seeds must be at least 1, got {seeds}.")
    prepared = {label: _in_steps(config, sizes) for label, config in configs.items()}
    jobs = []
    for seed in range(seeds):
        for size in sizes:
            for label, config in prepared.items():
                config.data.pretrain_limit = size
                jobs += study.seeds_of(label, config, [seed], "test")
    return jobs


def _in_steps(config, sizes) -> ml_collections.ConfigDict:
    """Converts the config's durations to steps, after checking the sizes against its set."""
    config = ml_collections.ConfigDict(config.to_dict())
    available = len(sources.load(config.data).trainval.ids)
    require(
        config.batch_size <= sizes[0] and sizes[-1] <= available,
        "sizes must lie between the "
        f"batch size, {config.batch_size}, and the {available} training images of "
        f"{config.data.source}, got {sizes}.",
    )
    _fix_durations(config, batch_size=config.batch_size, n_examples=available)
    config.log_every = config.knn_every = "0 steps"  # the curves are not shown
    return config


def _fix_durations(config, **sizes) -> None:
    """Converts all durations, which would depend on the number of images, to steps.

    Intervals such as ``knn_every`` stay, as they change no result.
    """
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            _fix_durations(value, **sizes)
        elif isinstance(value, str) and not name.endswith("_every"):
            with contextlib.suppress(InputError):  # any other text
                config[name] = f"{optimizers.steps(value, **sizes)} steps"


def _progress(record, left) -> str:
    metric = FINE[0]
    label = NAMES.get(record["label"], record["label"])
    return (
        f"{label}, {record['pretrain_images']} images, seed {record['seed']}: {metric.title} "
        f"{metric.text(record['values'][metric.key])} % ({left} to go)"
    )
