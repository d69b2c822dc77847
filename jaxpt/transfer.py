"""Transfer: frozen measurements and fine-tuning of checkpoints and weight files."""

import functools
import os
import pathlib
from typing import Any, Sequence

import ml_collections

from jaxpt import records
from jaxpt.backbones import Backbone, open_backbone, report_other_data
from jaxpt.data import crops, identity, sources
from jaxpt.data.dataset import require_part
from jaxpt.errors import require
from jaxpt.evaluation import measure
from jaxpt.files import writable_folder
from jaxpt.finetune import Task, check, choose_cropping, finetune, resolve
from jaxpt.train.parallel import Devices
from jaxpt.weights import framed

# Fields that change no single result, only which results are computed and where.
_FREE = ("frozen", "finetune", "seeds", "mapping", "devices")


def run(
    config: ml_collections.ConfigDict,
    backbones: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    encoder: str = "",
) -> list[dict[str, Any]]:
    """Measures and fine-tunes each backbone and appends the records to ``out``.

    Measurements already in ``out`` are not repeated, so an interrupted call resumes. Each backbone
    gets one record of frozen measurements, and one record of fine-tuning per seed in
    ``config.seeds``.

    Args:
      config: see ``configs/transfer/defaults.py``.
      backbones: sources accepted by ``open_backbone``: workdirs, weight files, "scratch".
      out: file of records, JSON lines.
      encoder: which of a run's encoders, see ``open_backbone``.

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
    # Open all backbones first, so that one that cannot be opened is reported at once.
    opened = [open_backbone(source, model=config.model, encoder=encoder) for source in backbones]
    writable_folder(pathlib.Path(out).parent)
    found, loaded = [], {}
    for backbone in opened:
        data_config = _data_config(config, backbone)
        name = records.key_of(data_config.to_dict())
        if name not in loaded:
            loaded = {}  # keep only one set in memory
            loaded[name] = sources.load(data_config), sources.identify(data_config).digest
        dataset, data = loaded[name]
        require_part(dataset, "test")
        if not config.data.source:
            report_other_data(backbone.label, backbone.made.get("data", {}), data_config, data)
        resolved = resolve(config, dataset, source=data_config.source)
        cropping = choose_cropping(resolved, data_config, dataset.train.images)
        crops.settle(data_config, cropping)
        measuring = functools.partial(_measurements, resolved, backbone, dataset, devices)
        for about, measurement in measuring(cropping):
            about |= {
                "label": backbone.label,
                "checkpoint": backbone.checkpoint,
                records.IDENTITY: data,
                "model": _model(backbone),
            }
            key = records.key_of(about | {"data": identity.settings(data_config.to_dict())})
            if key not in known:
                known[key] = {
                    "key": key,
                    **_origin(backbone),
                    "data": dataset.name,
                    "part": "test",
                    "data_config": data_config.to_dict(),
                    **about,
                    **measurement(),
                    **records.surroundings(),
                }
                records.append(out, known[key])
            found.append(known[key])
    return found


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


def _data_config(config, backbone) -> ml_collections.ConfigDict:
    """Data config of the config's set, or of the pre-training set if it names none."""
    data = ml_collections.ConfigDict(config.data.to_dict())
    if not data.source:
        require(
            backbone.config is not None,
            f"{backbone.label} has no pre-training set: set data.source.",
        )
        # This includes the label map, which coarse measurements need.
        data.update(
            {
                name: backbone.config.data[name]
                for name in data
                if name in backbone.config.data and name not in identity.FREE + identity.OF_VIEWS
            }
        )
    return framed(data, backbone.made.get("framing", {}))


def _measurements(config, backbone, dataset, devices, cropping=None):
    """Yields (identifying fields of a record, function that computes its other fields)."""
    if config.frozen:
        yield (
            {"evaluator": "frozen"},
            lambda: {
                "values": measure.frozen(backbone.features, dataset, part="test"),
                "protocol": measure.PROTOCOL,
            },
        )
    if config.finetune:
        protocol = {
            name: value
            for name, value in config.to_dict().items()
            if name not in (*_FREE, "data", "model")
        }
        if cropping:
            protocol["crops"] = {"whole": cropping.resampler}
        task = functools.cache(lambda: Task(config, backbone, dataset, devices, cropping))
        for seed in config.seeds:
            yield (
                {
                    "evaluator": "finetune",
                    "finetune_seed": seed,
                    "protocol": {"finetune": protocol},
                },
                lambda seed=seed: _finetuned(finetune(task(), seed=seed)),
            )


def _finetuned(result):
    return {
        "values": {
            "fine_finetune": result.accuracy,
            "finetune_validation": result.validation,
            "learning_rate": result.learning_rate,
            "weight_decay": result.weight_decay,
        },
        "details": {"sweep": result.sweep},
    }
