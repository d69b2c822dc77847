"""The transfer loop: from a checkpoint to records of what its encoder is worth elsewhere."""

import os
import pathlib
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpt import losses, models, records
from jaxpt.data import augment, sources
from jaxpt.data.resident import Resident, gather, rows_of_step
from jaxpt.errors import require
from jaxpt.evaluation import measure
from jaxpt.evaluation.features import extract
from jaxpt.models.encoder import encode
from jaxpt.train import optimizer as optimizers
from jaxpt.train.checkpoint import Checkpointer, open_run
from jaxpt.train.metrics import to_floats
from jaxpt.train.parallel import AXIS, Devices


class Pretrained(NamedTuple):
    """A backbone out of a checkpoint, with a new classifier on it.

    Attributes:
      config: the config that it was pre-trained with.
      step: of the checkpoint.
      encoder: backbone and ``Classifier``.
      params, batch_stats: the backbone's as saved, the classifier's fresh (zero).
    """

    config: Any
    step: int
    encoder: models.Encoder
    params: Any
    batch_stats: Any

    def features(self, images: np.ndarray) -> np.ndarray:
        """Backbone features, float32 [n, dim], of uint8 images [n, height, width, channels]."""
        return extract(self.encoder, self.params, self.batch_stats, images)


@flax.struct.dataclass
class FinetuneState:
    """The state of fine-tuning: nothing of pre-training is in it but where it started from."""

    params: Any
    batch_stats: Any
    opt_state: Any


def run(config, workdirs, out: str | os.PathLike) -> list[dict[str, Any]]:
    """Measures the newest checkpoint of every workdir and adds the records to ``out``.

    Measurements that ``out`` already holds are not made again, so an interrupted call goes on.

    Args:
      config: see ``configs/transfer/defaults.py``.
      workdirs: folders of pre-training runs.
      out: file of records, JSON lines.

    Returns:
      The records, old and new, in the order of the workdirs.

    Raises:
      InputError: for a missing checkpoint, data that does not fit the encoder, a bad config.
    """
    require(config.frozen or config.finetune, "nothing to do: both frozen and finetune are off.")
    require(not config.finetune or len(config.seeds) > 0, "seeds is empty: name at least one.")
    require(len(config.learning_rates) > 0, "learning_rates is empty: name at least one.")
    augment.check(config.augment)
    devices = Devices(config.mapping, config.devices)
    devices.check_batch(config.batch_size)
    known = {record["key"]: record for record in records.read(out)}
    opened_runs = [(workdir, *open_run(workdir)) for workdir in workdirs]
    records.writable_folder(pathlib.Path(out).parent)
    found = []
    for workdir, opened, step in opened_runs:
        dataset = _load_data(config, opened)
        pretrained = load_backbone(workdir, classes=len(dataset.class_names),
                                   channels=dataset.trainval.images.shape[-1])
        for name, measurement in _measurements(config, pretrained, dataset, devices):
            key = records.key_of({"pretrain": pretrained.config.to_dict(), "step": step,
                                  "transfer": config.to_dict(), "measurement": name})
            if key not in known:
                known[key] = {
                    "key": key, "label": name, "method": pretrained.config.method,
                    "data": dataset.name, "part": "test", "seed": pretrained.config.seed,
                    "values": measurement(), "protocol": measure.PROTOCOL,
                    "config": pretrained.config.to_dict(), "transfer": config.to_dict(),
                    "step": step, **records.surroundings()}
                records.append(out, known[key])
            found.append(known[key])
    return found


def load_backbone(workdir: str | os.PathLike, *, classes: int, channels: int) -> Pretrained:
    """The backbone of the newest checkpoint, every parameter of it accounted for.

    Raises:
      InputError: where there is no checkpoint, the images have another number of channels, or
        the checkpoint's parameters are not exactly those of its config's backbone.
    """
    config, step = open_run(workdir)
    checkpointer = Checkpointer(workdir, keep=config.keep_checkpoints)
    saved = checkpointer.restore_arrays(step)
    checkpointer.close()
    encoder = models.Encoder(models.make_backbone(config.model, axis_name=AXIS),
                             models.Classifier(classes))
    sample = jnp.zeros((1, 32, 32, channels))
    params, stats = jax.jit(lambda key: models.init(encoder, key, sample))(jax.random.key(0))
    params["backbone"] = _exactly(saved["params"]["backbone"], params["backbone"], workdir)
    if stats:
        stats["backbone"] = _exactly(saved["batch_stats"]["backbone"], stats["backbone"], workdir)
    return Pretrained(config, step, encoder, params, stats)


def finetune(config, pretrained: Pretrained, dataset: sources.Dataset, devices: Devices, *,
             seed: int) -> dict[str, float]:
    """Fine-tunes the whole network on the fine labels.

    The learning rate is the one of ``config.learning_rates`` with the best accuracy on validation
    after training on train; then train + validation from the start again, and test once.

    Returns:
      finetune (test accuracy), finetune_validation, learning_rate.
    """
    scores = [_accuracy(_train(config, pretrained, dataset.train, devices, rate, seed),
                        pretrained.encoder, dataset.validation) for rate in config.learning_rates]
    best = int(np.argmax(scores))
    state = _train(config, pretrained, dataset.trainval, devices, config.learning_rates[best], seed)
    return {"finetune": _accuracy(state, pretrained.encoder, dataset.test),
            "finetune_validation": scores[best], "learning_rate": config.learning_rates[best]}


def _load_data(config, pretrain_config):
    data = type(config.data)(config.data)
    if not config.data.source:
        for field in ("source", "path", "image_size", "limit", "train_split", "test_split",
                      "try_gcs"):
            data[field] = pretrain_config.data.get(field, data[field])
        data.label_map = pretrain_config.data.label_map  # coarse measurements need it
    return sources.load(data)


def _measurements(config, pretrained, dataset, devices):
    """(name, function that makes it) for everything that the config asks for."""
    if config.frozen:
        yield "frozen", lambda: measure.frozen(pretrained.features, dataset, part="test")
    if config.finetune:
        for seed in config.seeds:
            yield f"finetune seed {seed}", lambda seed=seed: finetune(
                config, pretrained, dataset, devices, seed=seed)


def _exactly(saved, expected, workdir):
    """``saved``, after a check that names and shapes are those expected."""
    shapes = [{jax.tree_util.keystr(path): leaf.shape for path, leaf
               in jax.tree_util.tree_leaves_with_path(tree)} for tree in (saved, expected)]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        require(shapes[0].get(name) == shapes[1].get(name),
                f"{str(workdir)!r}: parameter {name} has shape {shapes[0].get(name)} in the "
                f"checkpoint, but the network and these images want {shapes[1].get(name)}.")
    return saved


def _train(config, pretrained, split, devices, learning_rate, seed) -> FinetuneState:
    n = len(split.ids)
    total, warmup = (optimizers.steps(d, batch_size=config.batch_size, n_examples=n)
                     for d in (config.duration, config.warmup))
    require(total >= 1, f"duration {config.duration!r} is less than one step.")
    chosen = type(config.optimizer)(config.optimizer)
    chosen.learning_rate = learning_rate
    schedule = optimizers.learning_rate(chosen, total_steps=total, warmup_steps=warmup)
    optimizer = optimizers.make_optimizer(chosen, schedule)
    # Copies: the step consumes the state that it is given, and the next run starts here too.
    params, stats = jax.tree.map(np.asarray, (pretrained.params, pretrained.batch_stats))
    state = devices.replicate(FinetuneState(params, stats, optimizer.init(params)))
    data = devices.replicate(Resident(split.images, split.labels, split.ids, np.int32(seed)))
    step_fn = devices.map(lambda state, data, rows: _step(
        pretrained.encoder, config.augment, optimizer, state, gather(data, rows)))
    for step in range(total):
        rows = rows_of_step(step, config.batch_size, n=n, seed=seed)
        state, metrics = step_fn(state, data, devices.split(rows))
    to_floats(total, metrics)
    return state


def _step(encoder, augmentation, optimizer, state, batch):
    images = augment.draw_view(augmentation, batch, view=0)

    def loss_of(params):
        encoded = encode(encoder, params, state.batch_stats, images, train=True)
        per_example = losses.cross_entropy(encoded.output, batch.label)
        return jnp.mean(per_example), encoded.batch_stats

    (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    loss, stats, gradients = jax.lax.pmean((loss, stats, gradients), AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    return (FinetuneState(optax.apply_updates(state.params, updates), stats, opt_state),
            {"loss": loss})


def _accuracy(state, encoder, split, batch_size: int = 500) -> float:
    """Top-1 over every image exactly once."""
    params, stats = jax.device_get((state.params, state.batch_stats))
    logits = extract(encoder, params, stats, split.images, batch_size=batch_size, what="output")
    return float(np.mean(np.argmax(logits, axis=1) == split.labels))
