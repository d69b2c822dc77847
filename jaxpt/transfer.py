"""Transfer: frozen measurements and fine-tuning of checkpoints and weight files."""

import functools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from jaxpt import models, records
from jaxpt.backbones import FINETUNED, Backbone, open_backbones, report_other_data
from jaxpt.configs.pretrain import defaults
from jaxpt.data import crops, identity, mixture, sources
from jaxpt.data.dataset import Dataset, require_part
from jaxpt.errors import require
from jaxpt.evaluation import suites
from jaxpt.files import writable_folder
from jaxpt.finetune import Finetuned, Task, check, choose_cropping, few, finetune, resolve
from jaxpt.train import workdir
from jaxpt.train.checkpoint import Checkpointer
from jaxpt.train.parallel import Devices
from jaxpt.train.progress import tell
from jaxpt.weights import framed

# Fields that change no single result, only which results are computed and where.
_FREE = ("frozen", "finetune", "seeds", "mapping", "devices")


def run(
    config: ml_collections.ConfigDict,
    backbones: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    encoder: str = "",
    keep: str | os.PathLike | None = None,
    quiet: bool = True,
) -> list[dict[str, Any]]:
    """Measures and fine-tunes each backbone and appends the records to ``out``.

    Measurements already in ``out`` are not repeated, so an interrupted call resumes. Each backbone
    gets one record of frozen measurements, and one record of fine-tuning per seed in
    ``config.seeds``. All backbones and sets are checked before the first is measured.

    Args:
      config: see ``configs/transfer/defaults.py``.
      backbones: sources accepted by ``open_backbone``: workdirs, weight files, "scratch". One that
        has no pre-training set is measured on that of the first that has one.
      out: file of records, JSON lines.
      encoder: which of a run's encoders, see ``open_backbone``.
      keep: folder in which each fine-tuned network is kept as a run of its own, see ``kept_as``;
        None keeps none.
      quiet: whether to omit sentences on the progress.

    Returns:
      the records, old and new, in the order of the backbones.

    Raises:
      InputError: for a backbone that cannot be opened, data that does not fit it, a bad config.
    """
    require(config.frozen or config.finetune, "nothing to do: both frozen and finetune are off.")
    check(config)
    devices = Devices(config.mapping, config.devices)
    devices.check_batch(config.batch_size)
    known = records.known(out)
    opened = open_backbones(backbones, model=config.model, encoder=encoder)
    with_set = next((backbone for backbone in opened if backbone.config is not None), None)
    sets = _Sets()
    for backbone in opened:  # everything is checked before anything is trained
        _prepared(config, backbone, with_set, sets, devices)
    writable_folder(pathlib.Path(out).parent)
    if keep is not None and config.finetune:
        writable_folder(keep, option="keep")
    found = []
    for backbone in opened:
        say = (lambda text: None) if quiet else functools.partial(_say, backbone.label)
        job = _prepared(config, backbone, with_set, sets, devices, say)
        if not config.data.source and backbone.config is not None:
            report_other_data(
                backbone.label, backbone.made.get("data", {}), job.data_config, job.data
            )
        for about, measurement in _measurements(job):
            about |= {
                "label": backbone.label,
                "checkpoint": backbone.checkpoint,
                records.IDENTITY: job.data,
                "model": _model(backbone),
            }
            settings = identity.settings(job.data_config.to_dict())
            key = records.key_of(about | {"data": settings})
            if key not in known:
                values, network = measurement()
                if network is not None and keep is not None:
                    folder = kept_as(keep, backbone, job.dataset, about["finetune_seed"], key)
                    _keep(folder, job, about["finetune_seed"], network)
                    say(f"the fine-tuned network is kept in {folder}")
                known[key] = {
                    "key": key,
                    **_origin(backbone),
                    "data": job.dataset.name,
                    "part": "test",
                    "data_config": job.data_config.to_dict(),
                    **about,
                    **values,
                    **records.surroundings(),
                }
                records.append(out, known[key])
            found.append(known[key])
    return found


class Job(NamedTuple):
    """What is measured of one backbone.

    Attributes:
      config: the resolved config.
      backbone: the backbone.
      data_config: of the set.
      data: identity of the set.
      dataset: the set.
      task: of fine-tuning, or None.
      say: receives sentences on the progress.
    """

    config: ml_collections.ConfigDict
    backbone: Backbone
    data_config: ml_collections.ConfigDict
    data: str
    dataset: Dataset
    task: Task | None
    say: Callable[[str], None]


class _Sets:
    """Loaded sets by their data configs; only the latest one stays in memory."""

    def __init__(self):
        self._name, self._latest = "", None

    def load(self, config) -> tuple[Dataset, str]:
        """The set, and the digest of its identity."""
        name = records.key_of(config.to_dict())
        if name != self._name:
            self._latest = None
            self._latest = sources.load(config), sources.identify(config).digest
            self._name = name
        return self._latest


def _prepared(config, backbone, with_set, sets, devices, say=lambda text: None) -> Job:
    """Loads the set of a backbone and checks that both fit the config and each other."""
    data_config = _data_config(config, backbone, with_set)
    dataset, data = sets.load(data_config)
    require_part(dataset, "test")
    drawn = few(dataset, config.data.shots, 0, share=config.data.labelled_share)
    resolved = resolve(config, drawn, source=data_config.source)
    cropping = choose_cropping(resolved, data_config, dataset.train.images)
    crops.settle(data_config, cropping)
    task = None
    if config.finetune:
        task = Task(resolved, backbone, dataset, devices, cropping, say)
    if config.frozen:  # raises if the network does not take such images
        shape = jax.ShapeDtypeStruct((1, *dataset.test.images.shape[1:]), np.float32)
        variables = backbone.params, backbone.batch_stats
        jax.eval_shape(lambda x: models.encode(backbone.encoder, *variables, x, train=False), shape)
    return Job(resolved, backbone, data_config, data, dataset, task, say)


def _say(label: str, text: str) -> None:
    tell(f"{label}: {text}.")


def kept_as(
    keep: str | os.PathLike, backbone: Backbone, dataset: Dataset, seed: int, key: str
) -> pathlib.Path:
    """Folder of a fine-tuned network: its label, set, seeds, and the beginning of its key."""
    name = f"{backbone.label}-{dataset.name}-{backbone.seed}-{seed}-{key[:6]}"
    return pathlib.Path(keep) / re.sub(r"[^\w.,=()+-]+", "_", name)


def _keep(folder: pathlib.Path, job: Job, seed: int, result: Finetuned) -> None:
    """Writes a fine-tuned network as a run, which ``open_backbone`` opens."""
    if folder.exists():  # of an earlier call that was killed before its record was written
        shutil.rmtree(folder)
    backbone, dataset = job.backbone, job.dataset
    start = {} if backbone.config is None else backbone.config.to_dict()
    config = ml_collections.ConfigDict(defaults.completed(start))
    with config.unlocked():
        config.method, config.seed, config.evaluated_weights = FINETUNED, seed, "online"
        config.cross_entropy.classifier = job.config.head.name
        for name in config.data:
            if name in job.data_config:
                config.data[name] = job.data_config[name]
        config.data.label_map = "fine"
        for name in ("name", "norm", "dtype", "options"):
            config.model[name] = backbone.model[name]
        config.model.weights, config.model.normalisation = "", backbone.encoder.normalisation
    params, batch_stats = result.variables
    images = job.task.labelled(seed).trainval.ids
    data = sources.identify(job.data_config)
    about = {
        "config": config.to_dict(),
        "label": f"{backbone.label} fine-tuned",
        "data": {
            "name": dataset.name,
            "identity": data.digest,
            "kind": data.kind,
            "images": len(images),
            "shape": list(dataset.train.images.shape[1:]),
            "classes": list(dataset.class_names),
        },
    }
    saver = Checkpointer(folder, keep=1, about=about)
    try:
        saver.save(result.steps, {"params": params, "batch_stats": batch_stats}, final=True)
    finally:
        saver.close()
    workdir.claim(folder, config)


def _origin(backbone: Backbone):
    return {
        "method": backbone.method,
        "seed": backbone.seed,
        "step": backbone.step,
        "config": backbone.config and backbone.config.to_dict(),
    }


def _model(backbone):
    """Network and normalisation of a backbone without a run's config, else None."""
    if backbone.config is not None:
        return None
    fields = {name: backbone.model[name] for name in ("name", "norm", "dtype")}
    return fields | {
        "options": backbone.model.options.to_dict(),
        "normalisation": backbone.encoder.normalisation,
    }


def _data_config(config, backbone, with_set) -> ml_collections.ConfigDict:
    """Data config of the config's set, or of the pre-training set if it names none.

    A backbone without a pre-training set has that of ``with_set``.
    """
    data = ml_collections.ConfigDict(config.data.to_dict())
    if not data.source:
        owner = backbone if backbone.config is not None else with_set
        require(owner is not None, f"{backbone.label} has no pre-training set: set data.source.")
        trained_on = mixture.configs(owner.config.data)
        require(
            len(trained_on) == 1,
            f"{owner.label} was pre-trained on several sources, {', '.join(trained_on)}: set "
            "data.source to one of them.",
        )
        (own,) = trained_on.values()
        # This includes the label map, which coarse measurements need.
        data.update(
            {
                name: own[name]
                for name in data
                if name in own and name not in identity.FREE + identity.OF_VIEWS
            }
        )
    return framed(data, backbone.made.get("framing", {}))


def _measurements(job: Job):
    """Yields (identifying fields of a record, function that makes its other fields and network)."""
    config, backbone = job.config, job.backbone
    if config.frozen:

        def frozen():
            job.say("measuring frozen features")
            shots, share = config.data.shots, config.data.labelled_share
            drawn = few(job.dataset, shots, 0, share=share)
            return {
                "values": suites.frozen(backbone.features, drawn, part="test"),
                "protocol": suites.FROZEN_PROTOCOL,
            }, None

        yield {"evaluator": "frozen"}, frozen
    if config.finetune:
        protocol = {
            name: value
            for name, value in config.to_dict().items()
            if name not in (*_FREE, "data", "model")
        }
        if job.task.cropping:
            protocol["crops"] = {"whole": job.task.cropping.resampler}
        for seed in config.seeds:
            yield (
                {
                    "evaluator": "finetune",
                    "finetune_seed": seed,
                    "protocol": {"finetune": protocol},
                },
                lambda seed=seed: _finetuned(finetune(job.task, seed=seed)),
            )


def _finetuned(result: Finetuned):
    return {
        "values": {
            "fine_finetune": result.accuracy,
            "finetune_validation": result.validation,
            "learning_rate": result.learning_rate,
            "weight_decay": result.weight_decay,
        },
        "details": {"sweep": result.sweep},
    }, None if result.variables is None else result
