"""The pre-training loop: config in, trained encoder out."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpt.data import augment, sources
from jaxpt.data.resident import Resident, gather, rows_of_step
from jaxpt.errors import require
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.knn import knn_classify
from jaxpt.methods import Method, Setup, make_method
from jaxpt.train import optimizer as optimizers
from jaxpt.train.checkpoint import Checkpointer, claim_workdir
from jaxpt.train.metrics import MetricWriter, to_floats
from jaxpt.train.parallel import AXIS, Devices
from jaxpt.train.progress import ProgressLine
from jaxpt.train.state import TrainState

MONITOR_EXAMPLES = 2_000  # the kNN monitor is a monitor: it looks at no more than this
FILL_EPOCH = -1  # the filling of the memory draws views of its own


class Trained(NamedTuple):
    """A pre-trained encoder.

    Attributes:
      encoder: backbone and head.
      state: the last TrainState.
      history: what was logged, one dict per row, each with its step.
    """

    encoder: Any
    state: TrainState
    history: list[dict[str, float]]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Backbone features, float32 [n, dim], of uint8 images [n, height, width, channels]."""
        params, stats = jax.device_get((self.state.params, self.state.batch_stats))
        return extract(self.encoder, params, stats, images)


def run(config, workdir: str | None = None, *, resume: bool = True, quiet: bool = False,
        dataset: sources.Dataset | None = None) -> Trained:
    """Pre-trains, from the newest checkpoint in ``workdir`` if there is one.

    Killed at any moment and started again with the same config and device count, it ends with the
    same bits as an uninterrupted run: order and augmentation are functions of (seed, step).

    Args:
      config: see ``configs/pretrain/defaults.py``.
      workdir: where config, metrics and checkpoints go; None keeps everything in memory.
      resume: False refuses a workdir that already holds a run.
      quiet: no progress line.
      dataset: the set, where it is loaded already.

    Raises:
      InputError: for a config, data or workdir that cannot work; a loss that is not finite.
    """
    devices = Devices(config.mapping, config.devices)
    devices.check_batch(config.batch_size)
    dataset = dataset or sources.load(config.data)
    train = train_split(config, dataset)
    method, durations = prepare(config, dataset)
    state = devices.replicate(init_state(method, config, train.images))
    if workdir is not None:  # last of all checks, so that a bad config leaves nothing behind
        claim_workdir(workdir, config, resume=resume)
    data = devices.replicate(Resident(train.images, dataset.coarse(train.labels), train.ids,
                                      np.int32(config.seed)))
    checkpointer = Checkpointer(workdir, keep=config.keep_checkpoints) if workdir else None
    start = checkpointer.latest_step() if checkpointer else None
    if start is not None:
        state = checkpointer.restore(start, state)
    elif method.fill is not None:
        state = _fill_memory(method, devices, state, data, config, len(train.ids))
    writer = MetricWriter(workdir, resumed_step=start or 0) if workdir else None
    progress = ProgressLine(config.method, total=durations.total, start=start or 0,
                            batch_size=config.batch_size, quiet=quiet)
    monitor = _make_monitor(method.encoder, config, dataset, train)
    try:
        state, history = _train(state, data, start or 0, method, devices, config, durations,
                                monitor, writer, progress, checkpointer)
    finally:
        for part in (progress, writer, checkpointer):
            if part is not None:
                part.close()
    return Trained(method.encoder, state, history)


class Durations(NamedTuple):
    """The config's durations in steps; 0 means never."""

    total: int
    log: int
    knn: int
    checkpoint: int


def prepare(config, dataset) -> tuple[Method, Durations]:
    """The method and the durations of a config, checked against the data."""
    n_examples = len(train_split(config, dataset).ids)
    require(0 <= config.seed < 2**31, f"seed must lie in 0 … 2147483647, got {config.seed}.")
    for name in "views", "knn_k", "keep_checkpoints":
        require(config[name] >= 1, f"{name} must be at least 1, got {config[name]}.")
    require(config.local_views >= 0,
            f"local_views must not be negative, got {config.local_views}.")
    augment.check(config.augment)
    augment.check(config.key_augment)
    augment.check(config.local_augment)

    def steps(duration):
        return optimizers.steps(duration, batch_size=config.batch_size, n_examples=n_examples)

    total = steps(config.duration)
    require(total >= 1, f"duration {config.duration!r} is less than one step.")
    schedule = optimizers.learning_rate(config.optimizer, total_steps=total,
                                        warmup_steps=steps(config.optimizer.warmup))
    method = make_method(Setup(config, len(dataset.coarse.names), n_examples,
                               optimizers.make_optimizer(config.optimizer, schedule), steps, AXIS))
    return method, Durations(total, *(steps(d) for d in (config.log_every, config.knn_every,
                                                         config.checkpoint_every)))


def train_split(config, dataset) -> sources.Split:
    """The part of the set that a config trains on."""
    parts = {"train": dataset.train, "trainval": dataset.trainval}
    require(config.data.train_on in parts,
            f"data.train_on must be one of {sorted(parts)}, got {config.data.train_on!r}.")
    require(not dataset.trainval.multi_label, f"{dataset.name} has several labels an image: it is "
            "for measuring transfer, not for pre-training.")
    return parts[config.data.train_on]


def init_state(method: Method, config, images: np.ndarray) -> TrainState:
    """The state before the first step, from the seed alone."""
    sample = augment.to_float(jax.numpy.asarray(images[:1]))
    return jax.jit(method.init)(jax.random.key(config.seed), sample)


def _train(state, data, start, method, devices, config, durations, monitor, writer, progress,
           checkpointer):
    step_fn = devices.map(lambda state, data, rows: method.step(state, gather(data, rows)))
    n_examples = data.image.shape[0]
    history, waiting = [], None

    def report(step, metrics):
        row = to_floats(step, metrics)
        row["images_per_second"] = progress.images_per_second(step)
        _record(history, writer, step, row)
        progress.show(step, row)

    for step in range(start + 1, durations.total + 1):
        rows = rows_of_step(step - 1, config.batch_size, n=n_examples, seed=config.seed)
        state, metrics = step_fn(state, data, devices.split(rows))
        last = step == durations.total
        if last or (durations.log and step % durations.log == 0):
            # The row before is read only now, so that the host never waits for the device.
            if waiting:
                report(*waiting)
            waiting = step, metrics
        if last or (durations.knn and step % durations.knn == 0):
            if waiting:
                report(*waiting)
                waiting = None
            _record(history, writer, step, {"knn": monitor(state)})
            progress.show(step, history[-2] | history[-1] if len(history) > 1 else history[-1])
        if checkpointer and (last or (durations.checkpoint and step % durations.checkpoint == 0)):
            to_floats(step, metrics)  # a broken state is not worth keeping
            checkpointer.save(step, state)
    return state, history


def _record(history, writer, step, values):
    history.append({"step": step, **values})
    if writer:
        writer.write(step, values)


def _fill_memory(method, devices, state, data, config, n_examples):
    """Fills the memory with real keys before the first update: a queue with as many whole batches
    as it holds, each example at most once; a bank with all examples."""
    fill = devices.map(
        lambda state, data, rows: (method.fill(state, gather(data, rows)), {}))
    batches = (-(-n_examples // config.batch_size) if config.memory_kind == "bank"
               else min(config.memory, n_examples) // config.batch_size)
    for i in range(batches):
        rows = rows_of_step(i, config.batch_size, n=n_examples, seed=config.seed)
        rows = rows._replace(epoch=np.full(config.batch_size, FILL_EPOCH, np.int32))
        state, _ = fill(state, data, devices.split(rows))
    return state


def _make_monitor(encoder, config, dataset, train):
    """kNN accuracy on the training labels: of validation, where the run leaves one out, else of
    training images with themselves left out."""
    bank = train.take(np.arange(min(len(train.ids), MONITOR_EXAMPLES)))
    queries = dataset.validation if config.data.train_on == "train" else bank
    queries = queries.take(np.arange(min(len(queries.ids), MONITOR_EXAMPLES)))

    def monitor(state) -> float:
        features = Trained(encoder, state, []).features
        predicted = knn_classify(features(bank.images), dataset.coarse(bank.labels),
                                 features(queries.images), k=config.knn_k,
                                 train_ids=bank.ids, test_ids=queries.ids)
        return float(np.mean(predicted == dataset.coarse(queries.labels)))

    return monitor
