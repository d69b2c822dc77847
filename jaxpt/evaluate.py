"""Runs frozen-feature suites on checkpoints, weight files or any feature function.

Each measurement is one record. The file first defines models and image sets, whose features are
computed once and cached, and then the jobs.
"""

import functools
import itertools
import os
import pathlib
import statistics
import sys
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import ml_collections
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jaxpt import __version__, records
from jaxpt.backbones import Backbone, open_backbones, report_other_data
from jaxpt.configs.pretrain import defaults
from jaxpt.data import identity, mixture, protocols, sources
from jaxpt.errors import InputError, require
from jaxpt.evaluation import suites
from jaxpt.evaluation.features import BATCH_SIZE, FeatureCache, extract, extract_layers, fingerprint
from jaxpt.evaluation.task import PARTS, Measured, Task, guesses, make_task
from jaxpt.files import writable_folder
from jaxpt.train.parallel import Devices
from jaxpt.weights import framed

# Data fields that only concern pre-training.
NOT_OF_A_SET = (
    *("train_on", "pretrain_limit"),
    *("long_tail", "long_tail_images", "long_tail_seed", "sampling", "wrong_labels"),
)


class Model(NamedTuple):
    """A feature function with the names used for it in records.

    Attributes:
      label: name in tables.
      features: function from uint8 images [n, height, width, channels] to float [n, dim].
      layers: function from the same images to name → float [n, channels], the last layer last;
        None disables CKA.
      checkpoint: a name that changes whenever the features do. It is part of records and of the
        cache keys of features; if it is empty, features are not cached.
      method, seed, step, config: of pre-training; config is None if there was no jaxpt run.
      network: everything else that the features depend on.
      trained_on: name and identity of the pre-training set, if they are known.
      classifier: parameters of the linear classifier that it was trained with, or None.
      framing: how the weights' own images were framed, see ``weights.framed``.
    """

    label: str
    features: Callable[[np.ndarray], np.ndarray]
    layers: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    checkpoint: str = ""
    method: str = "other"
    seed: int = 0
    step: int = 0
    config: ml_collections.ConfigDict | None = None
    network: str = ""
    trained_on: dict[str, Any] = {}
    classifier: dict[str, Any] | None = None
    framing: dict[str, Any] = {}


def of_backbone(backbone: Backbone, devices: Devices) -> Model:
    """Wraps a backbone as a model that splits its images over ``devices``."""
    arguments = backbone.encoder, backbone.params, backbone.batch_stats
    return Model(
        backbone.label,
        functools.partial(extract, *arguments, devices=devices),
        functools.partial(extract_layers, *arguments, devices=devices),
        backbone.checkpoint,
        backbone.method,
        backbone.seed,
        backbone.step,
        backbone.config,
        f"{backbone.encoder!r} {BATCH_SIZE}",
        backbone.made.get("data", {}),
        backbone.classifier and backbone.classifier["Dense_0"],
        backbone.made.get("framing", {}),
    )


class FrozenSet:
    """An image set, loaded on first use, and the tasks of models on it."""

    def __init__(self, config, *, part: str, metric: str, cache: FeatureCache):
        """Wraps the set of a data config without loading it.

        Args:
          config: the data config.
          part, metric: see ``make_task``.
          cache: cache of the features.
        """
        self._config, self._part, self._metric, self._cache = config, part, metric, cache
        self._dataset: sources.Dataset | InputError | None = None
        self._latest: tuple[Model, Task] | None = None
        self._layers: dict[tuple, dict[str, np.ndarray]] = {}
        self._fingerprints: dict[str, str] = {}

    @property
    def dataset(self) -> sources.Dataset:
        """The set, loaded on first access.

        Raises:
          InputError: if it cannot be loaded; later accesses raise again without another attempt.
        """
        if self._dataset is None:
            try:
                self._dataset = sources.load(self._config)
            except InputError as error:
                self._dataset = error
        if isinstance(self._dataset, InputError):
            raise self._dataset
        return self._dataset

    def task(self, model: Model) -> Task:
        """Returns the task of a model; only that of the latest model stays in memory.

        Raises:
          InputError: if the set cannot be loaded, or ``make_task`` refuses the model's features.
        """
        if self._latest is None or self._latest[0] is not model:
            self._latest = None  # frees the previous features before the next are computed
            self._latest = (
                model,
                make_task(
                    lambda name: self._features(model, name),
                    self.dataset,
                    part=self._part,
                    metric=self._metric,
                )._replace(classifier=model.classifier),
            )
        return self._latest[1]

    def layers(self, model: Model) -> dict[str, np.ndarray]:
        """Returns the model's layers on the scored images; those of all models stay in memory.

        Raises:
          InputError: if the set cannot be loaded, or the model has no layers.
        """
        require(model.layers is not None, f"{model.label} has no layers to compare.")
        what = model.label, model.seed
        if what not in self._layers:
            self._layers[what] = self._kept(model, self._part, "layers", model.layers)
        return self._layers[what]

    def _features(self, model, name):
        return self._kept(
            model, name, "features", lambda images: {"features": model.features(images)}
        )["features"]

    def _kept(self, model, name, kind, make) -> dict[str, Any]:
        images = getattr(self.dataset, name).images
        if not model.checkpoint:
            return make(images)
        return self._cache.get(
            {
                "kind": kind,
                "checkpoint": model.checkpoint,
                "network": model.network,
                "images": self._fingerprint(name),
                "jaxpt": __version__,
            },
            lambda: make(images),
        )

    def _fingerprint(self, name) -> str:
        if name not in self._fingerprints:
            self._fingerprints[name] = fingerprint(getattr(self.dataset, name).images)
        return self._fingerprints[name]


class Job(NamedTuple):
    """One measurement to make.

    Attributes:
      key: key of its record.
      data: the data config.
      other_data: that of the second model, whose weights may frame images differently, else None.
      identity: digest of the set's content, or the error that says why the set is unavailable.
      evaluator: name of the evaluator.
      model: the model to measure.
      other: the second model of CKA, else None.
      constants: constants of the evaluator.
    """

    key: str
    data: ml_collections.ConfigDict
    identity: str | InputError
    evaluator: str
    model: Model
    other: Model | None
    constants: dict[str, Any]
    other_data: ml_collections.ConfigDict | None = None

    @property
    def named(self) -> bool:
        """Whether the key identifies the networks, that is, all of them have a checkpoint."""
        return all(m.checkpoint for m in (self.model, self.other) if m is not None)

    def __str__(self):
        against = f" against {self.other.label}" if self.other else ""
        return (
            f"{self.data.source}: {self.evaluator} of {self.model.label}, seed "
            f"{self.model.seed}{against}"
        )


class Set(NamedTuple):
    """A set to measure on: its data config, and its identity as in ``Job``."""

    config: ml_collections.ConfigDict
    identity: str | InputError

    @property
    def key(self) -> str:
        """Key of the set's content and settings; for an unavailable set, of its data config."""
        config = self.config.to_dict()
        if isinstance(self.identity, InputError):
            return records.key_of({"missing": config})
        return records.key_of({"data": self.identity, "settings": identity.settings(config)})


class Outcome(NamedTuple):
    """Result of ``run``.

    Attributes:
      records: records of all measurements made by this call or an earlier one.
      made: number of measurements made by this call.
      skipped: measurement → reason, for those that could not be made.
    """

    records: list[dict[str, Any]]
    made: int
    skipped: dict[str, str]


def run(
    models: Sequence[str | os.PathLike | Model],
    out: str | os.PathLike,
    *,
    suite: Sequence[str] = ("coarse_to_fine",),
    data: Sequence[str] = (),
    fields: dict[str, Any] | None = None,
    part: str = "test",
    cache: str | os.PathLike | None = None,
    model_config: ml_collections.ConfigDict | None = None,
    encoder: str = "",
    constants: dict[str, dict[str, Any]] | None = None,
    strict: bool = False,
    quiet: bool = True,
) -> Outcome:
    """Measures models and appends one record per (model, set, evaluator) to ``out``.

    Measurements already in ``out`` are not repeated: an interrupted call resumes where it stopped
    and ends with the same file, and a call with nothing to do decodes no images. Data and weights
    are identified by their content: a different path causes no new measurement, different images
    at the same path do. A ``Model`` without a checkpoint is always measured.

    Args:
      models: workdirs of pre-training runs, weight files or "scratch:SEED", each with an optional
        prefix "LABEL="; or ``Model``, any function from images to features.
      out: file of records, JSON lines.
      suite: names of suites or evaluators, see ``evaluation.suites``.
      data: names of sets, as in ``data.source`` of a config. By default, each set on which one of
        the models was pre-trained, measured for the models of that set and for those without a
        set. The suites transfer12 and vtab1k bring their own sets.
      fields: overrides of fields of the data config: path, image_size, label_map, limit.
      part: "test", or "validation", with which test is not read.
      cache: folder of the feature cache; None keeps no features.
      model_config: network of scratch and of weight files, see ``open_backbone``.
      encoder: which of a run's encoders, see ``open_backbone``.
      constants: evaluator → overrides of its constants; they are part of the records.
      strict: whether to stop at the first measurement that cannot be made instead of skipping it.
      quiet: whether to hide the progress bar, which is shown only if standard error is a terminal.

    Returns:
      an ``Outcome``.

    Raises:
      InputError: before anything is measured, for unknown names, models that cannot be opened or
        have the same label and seed, or a file or folder that is not writable. With ``strict``
        also for a set that cannot be loaded, or a model that does not fit it.
    """
    require(len(models) > 0, "name at least one model to measure.")
    require(part in PARTS, f"part must be one of {PARTS}, got {part!r}.")
    evaluators = suites.evaluators_of(suite)
    _check_constants(constants or {}, evaluators)
    known = records.known(out)
    devices = Devices()
    named = [m for m in models if not isinstance(m, Model)]
    backbones = iter(open_backbones(named, model=model_config, encoder=encoder))
    opened = [m if isinstance(m, Model) else of_backbone(next(backbones), devices) for m in models]
    _check_distinct(opened)
    jobs = _jobs(opened, suite, data, fields or {}, part, constants or {})
    require(bool(jobs), "there is nothing to measure: cka needs two models of the same seed.")
    writable_folder(pathlib.Path(out).parent)
    kept = FeatureCache(cache)
    todo = [job for job in jobs if job.key not in known or not job.named]
    skipped = {}
    for job, result in _measured(todo, part, kept, strict, quiet):
        if isinstance(result, InputError):
            skipped[str(job)] = str(result)
        else:
            records.append(out, result)
            known[job.key] = result
    return Outcome(
        [known[job.key] for job in jobs if job.key in known], len(todo) - len(skipped), skipped
    )


def _check_constants(constants, evaluators):
    unused = sorted(set(constants) - set(evaluators))
    require(
        not unused,
        f"constants are given for {', '.join(unused)}, which the suites do not "
        f"run; they run {', '.join(evaluators)}.",
    )
    for name, given in constants.items():
        suites.constants_of(name, given)


def _check_distinct(models):
    """Raises InputError if two models have the same label and seed in records."""
    seen = {}
    for model in models:
        require(
            (model.label, model.seed) not in seen,
            f"two models are {model.label!r}, seed "
            f"{model.seed}: give each a label of its own, as LABEL=WORKDIR.",
        )
        seen[model.label, model.seed] = model


def _jobs(models, suite, data, fields, part, constants) -> list[Job]:
    """Jobs ordered by set and model, so that features are loaded once; pairs come last."""
    jobs = {}
    for found, evaluators, of_set in _sets(models, suite, data, fields):
        # Models that frame images alike come one after another, so that a set is loaded once.
        for model in sorted(of_set, key=lambda m: framed(found.config, m.framing).to_json()):
            for name in evaluators:
                if name != suites.PAIRS:
                    own = found._replace(config=framed(found.config, model.framing))
                    job = _job(own, name, model, None, part, constants)
                    jobs.setdefault(job.key, job)
        if suites.PAIRS in evaluators:
            for model, other in itertools.combinations(of_set, 2):
                if model.seed == other.seed:
                    own, others = (
                        found._replace(config=framed(found.config, m.framing))
                        for m in (model, other)
                    )
                    job = _job(own, suites.PAIRS, model, other, part, constants, others)
                    jobs.setdefault(job.key, job)
    return list(jobs.values())


def _job(found: Set, name, model, other, part, constants, others: Set | None = None) -> Job:
    chosen = suites.constants_of(name, constants.get(name, {}))
    measured = sorted(
        (m.label, m.seed, m.checkpoint, m.network) for m in (model, other) if m is not None
    )
    about = {
        "models": measured,
        "set": found.key,
        "part": part,
        "evaluator": name,
        "protocol": suites.EVALUATORS[name].stated | chosen,
    }
    other_data = None if others is None else others.config
    if others is not None and others.key != found.key:
        about["other_set"] = others.key
    key = records.key_of(about)
    return Job(key, found.config, found.identity, name, model, other, chosen, other_data)


def _sets(models, suite, data, fields) -> Iterator[tuple[Set, Sequence[str], list[Model]]]:
    """Yields each set with its evaluators and models."""
    own = [name for name in suite if name not in suites.SETS]
    if own:
        evaluators = suites.evaluators_of(own)
        if data:
            for source in data:
                yield _identified(_named(source, models, fields)), evaluators, models
        else:
            for found, mine in _pretraining_sets(models, fields):
                yield found, evaluators, mine
    for name in suite:
        for source in suites.SETS.get(name, ()):
            yield _identified(_named(source, models, fields)), suites.SUITES[name], models


def _identified(config) -> Set:
    try:
        return Set(config, sources.identify(config).digest)
    except InputError as error:
        return Set(config, error)


def _named(source, models, fields) -> ml_collections.ConfigDict:
    """Data config of a set by name, with the label map of a model that was pre-trained on it."""
    config = _of_set(defaults.get_config().data)
    config.source = source
    if source.removeprefix(protocols.PREFIX) in protocols.PROTOCOLS:
        config.image_size = 0  # the size of the protocol
    for model in models:
        trained_on = {} if model.config is None else mixture.configs(model.config.data)
        same = [one for one in trained_on.values() if one.source == source]
        if same:
            config = _of_set(same[0])
            break
    return _replaced(config, fields)


def _pretraining_sets(models, fields) -> Iterator[tuple[Set, list[Model]]]:
    """Yields the pre-training sets, each with its models and the models without a set."""
    found: dict[str, Set] = {}  # by config, so that each config is identified once
    for model in models:
        if model.config is not None:
            config = _replaced(_of_set(model.config.data), fields)
            name = records.key_of(config.to_dict())
            found[name] = found.get(name) or _identified(config)
            if not fields and isinstance(found[name].identity, str):
                report_other_data(model.label, model.trained_on, config, found[name].identity)
    require(
        bool(found),
        f"the pre-training set of {models[0].label!r} is not known: name a set "
        "with data (--data=NAME).",
    )

    def is_of(model, key):
        config = model.config and _replaced(_of_set(model.config.data), fields)
        return config is None or found[records.key_of(config.to_dict())].key == key

    for key, of_set in {of_set.key: of_set for of_set in found.values()}.items():
        yield of_set, [model for model in models if is_of(model, key)]


def _of_set(config) -> ml_collections.ConfigDict:
    """Complete data config without the fields that only concern pre-training."""
    whole = defaults.completed({"data": config.to_dict()})["data"]
    return ml_collections.ConfigDict(
        {name: value for name, value in whole.items() if name not in NOT_OF_A_SET}
    )


def _replaced(config, fields) -> ml_collections.ConfigDict:
    for name, value in fields.items():
        require(
            name in config and name != "source",
            f"the data config has no field {name!r} to "
            f"replace; it has {', '.join(n for n in config if n != 'source')}.",
        )
        config[name] = value
    return config


def _measured(jobs, part, cache, strict, quiet):
    """Yields pairs of a job and its record, or the InputError that prevented it."""
    surroundings = records.surroundings() if jobs else {}
    live = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=quiet or not sys.stderr.isatty(),
    )

    def opened(data):
        metric = protocols.metric_of(data.source)
        return FrozenSet(data, part=part, metric=metric, cache=cache)

    with live:
        line = live.add_task("", total=len(jobs))
        for _, of_set in itertools.groupby(jobs, key=lambda job: job.data):
            # Several only if the networks of a pair frame images differently.
            benches: dict[str, FrozenSet] = {}
            for job in of_set:
                live.update(line, description=str(job))
                try:
                    if isinstance(job.identity, InputError):
                        raise job.identity
                    own, others = (
                        benches.setdefault(data.to_json(), opened(data))
                        for data in (job.data, job.other_data or job.data)
                    )
                    result = _record(job, own, others, part) | surroundings
                except InputError as error:
                    if strict:
                        raise
                    result = error
                yield job, result
                live.advance(line)


def _record(job: Job, bench: FrozenSet, others: FrozenSet, part: str) -> dict[str, Any]:
    measured = _measure(job, bench, others)
    model, evaluator = job.model, suites.EVALUATORS[job.evaluator]
    stated = evaluator.stated | job.constants
    if job.evaluator == "linear":
        stated |= {"metric": protocols.metric_of(job.data.source)}
    record = {
        "key": job.key,
        "label": model.label,
        "method": model.method,
        "seed": model.seed,
        "data": bench.dataset.name,
        records.IDENTITY: job.identity,
        "part": part,
        "guess": guesses(getattr(bench.dataset, part), bench.dataset),
        "evaluator": job.evaluator,
        "values": measured.values,
        "protocol": {job.evaluator: stated},
        "details": measured.details,
        "notes": measured.notes,
        "config": None if model.config is None else model.config.to_dict(),
        "data_config": job.data.to_dict(),
        "step": model.step,
        "checkpoint": model.checkpoint,
    }
    return {
        name: value for name, value in record.items() if value or name not in ("details", "notes")
    }


def _measure(job: Job, bench: FrozenSet, others: FrozenSet) -> Measured:
    if job.other is None:
        return suites.measure(job.evaluator, bench.task(job.model), **job.constants)
    measure = suites.EVALUATORS[job.evaluator].measure
    found = measure(bench.layers(job.model), others.layers(job.other), **job.constants)
    return found._replace(
        details=found.details | {"other_label": job.other.label, "other_seed": job.other.seed}
    )


def reasons(skipped: dict[str, str]) -> list[str]:
    """One sentence per reason, naming the measurements skipped for it."""
    return [
        f"{jobs[0]}{f' and {len(jobs) - 1} more' if jobs[1:] else ''}: {reason}"
        for reason, jobs in _grouped(skipped, skipped.get).items()
    ]


def notes(found: Sequence[dict[str, Any]]) -> list[str]:
    """Notes of the records on values that could not be measured, without repetition per set."""
    return list(
        dict.fromkeys(
            f"{record['data']}: {note}"
            for record in records.told_apart(found)
            for note in record.get("notes", ())
        )
    )


def tables(found: Sequence[dict[str, Any]]) -> list[Table]:
    """One table per set and part: values by label, mean over seeds."""
    made = []
    apart = records.told_apart(found)
    for (data, part), of_set in _grouped(apart, lambda r: (r["data"], r["part"])).items():
        by_label = {
            label: _means(mine) for label, mine in _grouped(of_set, lambda r: r["label"]).items()
        }
        table = Table("measured", *by_label, title=f"{data}, {part}")
        for name in dict.fromkeys(name for means in by_label.values() for name in means):
            table.add_row(
                name,
                *(f"{means[name]:.4g}" if name in means else "" for means in by_label.values()),
            )
        if table.row_count:
            made.append(table)
    return made


def _means(of_label) -> dict[str, float]:
    values = _grouped(
        (
            (f"{name} with {other}" if other else name, value)
            for record in of_label
            for other in [record.get("details", {}).get("other_label")]
            for name, value in record["values"].items()
        ),
        lambda item: item[0],
    )
    return {name: statistics.fmean(value for _, value in items) for name, items in values.items()}


def _grouped(items, key) -> dict[Any, list]:
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
