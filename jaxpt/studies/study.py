"""Studies of many runs: pre-training, measurement and records, resumable."""

import concurrent.futures
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import time
from concurrent.futures import FIRST_COMPLETED
from typing import Any, Callable, Iterable, NamedTuple

import jax
import ml_collections

from jaxpt import records
from jaxpt.configs.pretrain import defaults
from jaxpt.data import identity
from jaxpt.errors import require
from jaxpt.files import writable_folder
from jaxpt.methods import METHODS
from jaxpt.train.metrics import TIMES


class Job(NamedTuple):
    """One run of a study.

    Attributes:
      label: the run's name in tables ("look", "look k=20").
      config: its pre-training config as a plain dict, including the seed.
      part: the part it is measured on, "validation" or "test".
      keep_features: whether to return the features of that part too, for plots.
      measure: "frozen", the measurements of ``evaluation.suites.frozen``, or "transfer", those of
        ``studies.transfer``.
      data: digest of the identity of its set, and of the weight file that it starts from if there
        is one; "" before ``identified`` has determined it.
    """

    label: str
    config: dict[str, Any]
    part: str
    keep_features: bool = False
    data: str = ""
    measure: str = "frozen"

    @property
    def key(self) -> str:
        return _key(self.config, self.part, self.data, self.measure)


def seeds_of(
    label: str, config: ml_collections.ConfigDict, seeds: Iterable[int], part: str, **kwargs: Any
) -> list[Job]:
    """One job per seed; training excludes the validation part exactly if it is measured."""
    jobs = []
    for seed in seeds:
        c = ml_collections.ConfigDict(config.to_dict())
        c.seed = seed
        c.data.train_on = "train" if part == "validation" else "trainval"
        jobs.append(Job(label, c.to_dict(), part, **kwargs))
    return jobs


def run(
    jobs: list[Job],
    path: str | os.PathLike | None = None,
    *,
    workers: int = 0,
    max_minutes: float = 0.0,
    on_done: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Runs all jobs, each on one thread, and returns their records in the order of the jobs.

    Args:
      jobs: the jobs.
      path: file of records (JSON lines) to which results are appended; jobs that already have a
        record there are not run again. None stores nothing.
      workers: number of processes; 0 for one per CPU core, or one on an accelerator. With 1, jobs
        run one after another in this process. Several share an accelerator's memory only with
        XLA_PYTHON_CLIENT_PREALLOCATE=false.
      max_minutes: no job starts after this many minutes, and jobs without a record are left out of
        the result; 0 for no limit.
      on_done: called with each new record.
    """
    jobs = identified(jobs)
    known = _known(path) if path else {}
    if path:
        writable_folder(pathlib.Path(path).parent)
    todo = list({job.key: job for job in jobs if job.key not in known}.values())
    workers = workers or (os.cpu_count() or 1 if jax.default_backend() == "cpu" else 1)
    end = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
    in_time = itertools.takewhile(lambda job: time.monotonic() < end, todo)
    for record in _results(in_time, workers):
        features = record.pop("features", None)
        if path:
            records.append(path, record)
        known[record["key"]] = record if features is None else record | {"features": features}
        on_done(known[record["key"]])
    done = jobs if end == math.inf else [job for job in jobs if job.key in known]
    return [known[job.key] | {"label": job.label} for job in done]


def identified(jobs: list[Job]) -> list[Job]:
    """Adds to each job the digests of the set and the weight file that its config names.

    Raises:
      InputError: if the set or the file cannot be read.
    """
    from jaxpt import weights  # imported late, see ``run_job``
    from jaxpt.data import sources

    @functools.cache
    def of_set(name):
        return sources.identify(ml_collections.ConfigDict(json.loads(name))).digest

    @functools.cache
    def of_file(path):
        return f"-{weights.digest(path)}" if path else ""

    return [
        job
        if job.data
        else job._replace(
            data=of_set(json.dumps(job.config["data"]))
            + of_file(job.config["model"].get("weights", ""))
        )
        for job in jobs
    ]


def missing(jobs: list[Job], path: str | os.PathLike) -> int:
    """Number of jobs without a record, which ``run`` would run."""
    known = _known(path, quiet=True)
    return len({job.key for job in identified(jobs)} - known.keys())


def stored(jobs: list[Job], path: str | os.PathLike) -> list[dict[str, Any]]:
    """Records of these jobs' configs in a file, in the order of the jobs.

    Nothing is run, and no data are needed: records of any data count, of each config the latest.
    """
    known = {
        _key(r["config"], r["part"], "", r.get("measure", "frozen")): r for r in records.read(path)
    }
    keys = [_key(job.config, job.part, "", job.measure) for job in jobs]
    return [known[key] | {"label": job.label} for job, key in zip(jobs, keys) if key in known]


def key_of(config: dict[str, Any], part: str, measure: str = "frozen") -> str:
    """Key of a job or record without its data, to match jobs with ``stored`` records."""
    return _key(config, part, "", measure)


def _known(path, quiet=False):
    def key(r):
        return _key(r["config"], r["part"], r[records.IDENTITY], r.get("measure", "frozen"))

    return records.known(path, key, quiet=quiet)


def _key(config, part, data, measure):
    """Key of a config, a part, the data and the kind of measurement.

    Missing fields of the config take their defaults, so that records remain valid when a later
    version adds fields, and sections of other methods do not count, so that they remain valid when
    a default there changes. If the data's digest is known, it replaces the path of the set.
    """
    config = defaults.completed(config)
    others = METHODS.keys() - {config["method"]}
    config = {name: value for name, value in config.items() if name not in others}
    if data:
        config["data"] = identity.settings(config["data"])
        config["model"] = config["model"] | {"weights": ""}
    what = {"config": config, "part": part, "data": data}
    return records.key_of(what if measure == "frozen" else what | {"measure": measure})


def _results(jobs, workers):
    if workers == 1:
        yield from map(run_job, jobs)
        return
    # Networks this small are fastest on one thread, so that every core can run its own job.
    # The processes are spawned, since JAX must not be forked.
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _one_thread
    ) as pool:
        try:
            pending = {pool.submit(run_job, job) for job in itertools.islice(jobs, workers)}
            while pending:  # a job is submitted when another is done, so that the time limit holds
                done, pending = concurrent.futures.wait(pending, return_when=FIRST_COMPLETED)
                pending |= {pool.submit(run_job, job) for job in itertools.islice(jobs, len(done))}
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread():
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    )
    for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
        os.environ[name] = "1"


def run_job(job: Job) -> dict[str, Any]:
    """Pre-trains and measures, and returns the record of a job."""
    # Imported here, so that a worker sets its number of threads before JAX starts.
    from jaxpt import pretrain
    from jaxpt.cache import use_compile_cache
    from jaxpt.evaluation import suites
    from jaxpt.evaluation.task import guesses
    from jaxpt.studies import transfer

    use_compile_cache()
    config = ml_collections.ConfigDict(job.config)
    (now,) = identified([job._replace(data="")])
    require(
        job.data in ("", now.data),
        f"the data of {job.label!r}, {config.data.source} {config.data.path!r}, or the weights it "
        "starts from changed while the study ran: start it again.",
    )
    dataset = transfer.loaded(config.data)
    began, cpu = time.perf_counter(), time.process_time()
    trained = pretrain.run(config, quiet=True, dataset=dataset)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    last = {}
    for row in trained.history:
        last |= row
    measured = {}
    if job.measure == "transfer":
        values, correct = transfer.measured(trained.features, dataset, config.data, part=job.part)
        measured = {"measure": job.measure}
        if job.part == "test":
            measured["correct"] = correct
    else:
        values = suites.frozen(trained.features, dataset, part=job.part)
    scored = dataset.validation if job.part == "validation" else dataset.test
    record = {
        "key": now.key,
        "label": job.label,
        "method": config.method,
        "data": dataset.name,
        records.IDENTITY: now.data,
        "part": job.part,
        "guess": guesses(scored, dataset),
        "seed": config.seed,
        "pretrain_images": len(pretrain.train_split(config, dataset).ids),
        "values": values | {"pretrain_seconds": seconds, "pretrain_cpu_seconds": cpu},
        "last": {name: value for name, value in last.items() if name not in TIMES},
        "history": [
            {k: v for k, v in row.items() if k in ("step", "loss", "knn")}
            for row in trained.history
        ]
        if job.keep_features
        else None,
        "protocol": transfer.PROTOCOL if measured else suites.FROZEN_PROTOCOL,
        "config": job.config,
        **measured,
        **records.surroundings(),
    }
    if job.keep_features:
        record["features"] = {
            "features": trained.features(scored.images),
            "fine": scored.labels,
            "coarse": dataset.coarse(scored.labels),
        }
    return record
