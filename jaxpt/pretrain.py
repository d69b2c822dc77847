"""The pre-training loop: config in, trained encoder out."""

import contextlib
import os
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from jaxpt import memory, training_loop
from jaxpt import start as start_from
from jaxpt.config_check import check_numbers
from jaxpt.configs.pretrain import defaults
from jaxpt.data import augment, identity, mixup, sources
from jaxpt.data.dataset import Dataset
from jaxpt.data.feed import make_feed
from jaxpt.errors import RunError, require
from jaxpt.evaluation import collapse
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.knn import knn_classify
from jaxpt.methods import Method, Setup, encoding, make_method
from jaxpt.train import calls, checkpoint, lock, parts
from jaxpt.train import optimizer as optimizers
from jaxpt.train import workdir as workdirs
from jaxpt.train.checkpoint import Checkpointer
from jaxpt.train.log import Log, TooManySkipped
from jaxpt.train.metrics import MetricWriter, read_metrics
from jaxpt.train.parallel import AXIS, Devices, on_host, require_agreement
from jaxpt.train.progress import ProgressLine, tell
from jaxpt.train.state import TrainState
from jaxpt.train.stopping import StopRequest

BROKEN = "broken.txt"  # in the workdir: which files were left out, and why
NOT_FINITE = "not_finite"  # folder with the state before a step that broke, for ``jaxpt replay``
MONITOR_EXAMPLES = 2_000  # the kNN monitor is a monitor: it looks at no more than this


class Trained(NamedTuple):
    """A pre-trained encoder.

    Attributes:
      encoder: backbone and head.
      state: the last TrainState.
      history: what was logged, one dict per row, each with its step; with a workdir also by the
        starts that this one went on from.
    """

    encoder: Any
    state: TrainState
    history: list[dict[str, float]]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Backbone features, float32 [n, dim], of uint8 images [n, height, width, channels]."""
        params, stats = on_host((self.state.params, self.state.batch_stats))
        return extract(self.encoder, params, stats, images)


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike | None = None,
    *,
    resume: bool = True,
    quiet: bool = False,
    dataset: sources.Dataset | None = None,
    max_minutes: float = 0.0,
) -> Trained:
    """Pre-trains, from the newest checkpoint in ``workdir`` if there is one.

    Killed at any moment and started again with the same config and device count, it ends with the
    same bits as an uninterrupted run: order and augmentation are functions of (seed, step).

    Args:
      config: see ``configs/pretrain/defaults.py``.
      workdir: where config, metrics and checkpoints go; None keeps everything in memory.
      resume: False refuses a workdir that already holds a run.
      quiet: no progress line.
      dataset: the set, where it is loaded already. Its arrays are what a resumed run compares.
      max_minutes: the run saves and stops before so many minutes are over; 0: no limit.

    Raises:
      InputError: for a config, data or workdir that cannot work.
      RunError: for numbers that are not finite, more often than ``config.max_skipped`` allows; for
        a checkpoint that cannot be written.
      Stopped: after SIGTERM, SIGINT or the time limit; the state is saved. Only with a workdir.
    """
    require(0 <= max_minutes < 1e6, f"max_minutes must be 0 or more, got {max_minutes}.")
    require(
        not max_minutes or workdir is not None,
        "max_minutes without a workdir would lose the run: give a workdir.",
    )
    stop = StopRequest(max_minutes=max_minutes) if workdir is not None else None
    devices = Devices(config.mapping, config.devices)
    devices.check_batch(config.batch_size)
    encoding.check_micro_batches(config, devices.count)
    given, dataset = dataset, dataset or sources.load(config.data)
    train = train_split(config, dataset)
    method, durations = prepare(config, dataset)
    state = init_state(method, config, train.images)
    if config.model.weights and (workdir is None or checkpoint.newest(workdir) is None):
        state = start_from.from_weights(state, method.encoder.backbone, config.model.weights)
    state = place_state(state, config, devices)
    data = None
    if workdir is not None or jax.process_count() > 1:
        data = identity.of_dataset(given) if given else sources.identify(config.data)
        require_agreement(data.digest, "data: give each the same files in the same order")
    feed = make_feed(config, train, dataset.coarse(train.labels), devices)
    with contextlib.ExitStack() as stack:
        stack.callback(feed.close)
        checkpointer = writer = None
        if workdir is not None:  # last of all checks, so that a bad config leaves nothing behind
            stack.enter_context(stop)
            about = {"config": config.to_dict(), "data": _about(dataset, train, data)}
            checkpointer = _open_folder(stack, workdir, config, durations, resume, about, data)
        start = checkpointer.latest_step() if checkpointer else None
        if start is not None:
            state = checkpointer.restore(start, state)
        elif method.fill is not None:
            state = training_loop.fill_memory(
                method, devices, state, feed, config, len(train.ids), stop
            )
        if workdir is not None and jax.process_index() == 0:
            writer = MetricWriter(workdir, resumed_step=start or 0)
            stack.callback(writer.close)
        progress = ProgressLine(
            config.method,
            total=durations.total,
            start=start or 0,
            batch_size=config.batch_size,
            quiet=quiet or jax.process_index() > 0,
        )
        stack.callback(progress.close)
        _tell(devices, feed, dataset, workdir, quiet)
        log = Log(writer, progress, max_skipped=config.max_skipped, warnings=collapse.warnings)
        monitor = _make_monitor(method.encoder, config, dataset, train)
        try:
            state = training_loop.train(
                state,
                feed,
                start or 0,
                method,
                devices,
                config,
                durations,
                monitor,
                log,
                checkpointer,
                stop,
            )
        except TooManySkipped as error:
            raise _not_finite(error, config, workdir) from error
    return Trained(method.encoder, state, log.history if workdir is None else read_metrics(workdir))


def _tell(devices, feed, dataset, workdir, quiet) -> None:
    """Says on what a run runs and how its set travels, and keeps the names of broken files."""
    if jax.process_index() > 0:
        return
    if not quiet:
        tell(f"jaxpt: {devices.about}. {feed.about}")
    if workdir is not None and dataset.broken:
        (workdirs.make(workdir) / BROKEN).write_text("\n".join(dataset.broken) + "\n")


def _about(dataset, train, data) -> dict[str, Any]:
    """What a checkpoint says of the images that it saw."""
    return {
        "name": dataset.name,
        "identity": data.digest,
        "images": len(train.ids),
        "shape": list(train.images.shape[1:]),
        "classes": list(dataset.coarse.names),
    }


def _open_folder(stack, workdir, config, durations, resume, about, data) -> Checkpointer:
    """Claims the folder for this run, for as long as ``stack`` is open."""
    changes = workdirs.check(workdir, config, defaults.get_config().to_dict(), data, resume=resume)
    finished = changes.config and (checkpoint.newest(workdir) or 0) >= durations.total
    require(
        not finished,
        f"{os.fspath(workdir)!r} holds a finished run, and this config differs "
        f"in {'; '.join(changes.config)}: choose another workdir.",
    )
    folder = workdirs.make(workdir)
    if jax.process_index() == 0:
        stack.enter_context(lock.hold(folder))
    checkpointer = Checkpointer(
        workdir,
        keep=config.keep_checkpoints,
        best=config.keep_best,
        stop_on_failure=config.stop_on_save_failure,
        about=about,
    )
    stack.callback(checkpointer.close)
    if jax.process_index() == 0:
        workdirs.claim(workdir, config, changes, data)
    return checkpointer


def _not_finite(error: TooManySkipped, config, workdir) -> RunError:
    """Keeps the state before the step that broke, and says what happened."""
    step = int(error.state.step)
    text = (
        f"the loss or a gradient is not finite at step {step + 1}: lower "
        "optimizer.learning_rate, set optimizer.clip_norm, or look at the labels and the "
        "temperature"
    )
    if config.max_skipped:
        text += f"; max_skipped={config.max_skipped} such steps were skipped before"
    if workdir is None:
        return RunError(text + ".")
    folder = workdirs.make(os.path.join(workdir, NOT_FINITE))
    if jax.process_index() == 0 and (folder / checkpoint.FOLDER).exists():
        (folder / checkpoint.FOLDER).rmtree()
    try:
        dump = Checkpointer(folder, keep=1, about={"config": config.to_dict()})
        dump.save(step, error.state, final=True)
        dump.close()
    except RunError as failed:
        return RunError(f"{text}. The state before it was not kept: {failed}")
    return RunError(
        f"{text}. The state before it is kept in {os.fspath(folder)!r}: "
        f"jaxpt replay {os.fspath(workdir)} shows where it breaks."
    )


class Durations(NamedTuple):
    """The config's durations in steps; 0 means never."""

    total: int
    log: int
    knn: int
    checkpoint: int


def prepare(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Method, Durations]:
    """The method and the durations of a config, checked against the data."""
    method, durations = prepare_for(
        config, n_examples=len(train_split(config, dataset).ids), classes=len(dataset.coarse.names)
    )
    start_from.check_image_size(method.encoder.backbone, config, dataset.train.images)
    return method, durations


def prepare_for(
    config: ml_collections.ConfigDict, *, n_examples: int, classes: int
) -> tuple[Method, Durations]:
    """The same for so many training examples of so many classes."""
    check_numbers(config)
    parts.check(config)
    require(0 <= config.seed < 2**31, f"seed must lie in 0 … 2147483647, got {config.seed}.")
    for name in "views", "knn_k", "keep_checkpoints":
        require(config[name] >= 1, f"{name} must be at least 1, got {config[name]}.")
    for name in "local_views", "max_skipped":
        require(config[name] >= 0, f"{name} must not be negative, got {config[name]}.")
    calls.most_steps(config.steps_per_call, resident=True)
    augment.check(config.augment)
    augment.check(config.key_augment)
    augment.check(config.local_augment)
    mixup.check(config)

    def steps(duration):
        return optimizers.steps(duration, batch_size=config.batch_size, n_examples=n_examples)

    total = steps(config.duration)
    require(total >= 1, f"duration {config.duration!r} is less than one step.")
    schedule = optimizers.learning_rate(
        config.optimizer, total_steps=total, warmup_steps=steps(config.optimizer.warmup)
    )
    method = make_method(
        Setup(
            config,
            classes,
            n_examples,
            optimizers.make_optimizer(config.optimizer, schedule),
            steps,
            AXIS,
        )
    )
    return method, Durations(
        total, *(steps(d) for d in (config.log_every, config.knn_every, config.checkpoint_every))
    )


def train_split(config: ml_collections.ConfigDict, dataset: Dataset) -> sources.Split:
    """The part of the set that a config trains on.

    With ``data.pretrain_limit`` = n it is the first n of a shuffle that depends on the seed alone:
    the same images for every method, those of a smaller n among those of a larger, and others
    with another seed, so that the spread over seeds holds that choice too.

    Raises:
      InputError: for an unknown part, or a limit that is negative or above its size.
    """
    parts = {"train": dataset.train, "trainval": dataset.trainval}
    require(
        config.data.train_on in parts,
        f"data.train_on must be one of {sorted(parts)}, got {config.data.train_on!r}.",
    )
    require(
        not dataset.trainval.multi_label,
        f"{dataset.name} has several labels an image: it is "
        "for measuring transfer, not for pre-training.",
    )
    split, limit = parts[config.data.train_on], config.data.pretrain_limit
    require(
        0 <= limit <= len(split.ids),
        f"data.pretrain_limit must lie between 0 (all) and "
        f"{len(split.ids)}, the images of {config.data.train_on}, got {limit}.",
    )
    if not limit:
        return split
    return split.take(
        np.sort(np.random.default_rng(config.seed).permutation(len(split.ids))[:limit])
    )


def init_state(method: Method, config: ml_collections.ConfigDict, images: np.ndarray) -> TrainState:
    """The state before the first step, from the seed alone."""
    side = config.augment.crop_size
    shape = (side, side) if side else images.shape[1:3]
    sample = np.zeros((1, *shape, images.shape[3]), np.float32)
    return jax.jit(method.init)(jax.random.key(config.seed), sample)


def place_state(
    state: TrainState, config: ml_collections.ConfigDict, devices: Devices
) -> TrainState:
    """The first state on the devices, with those parts of it in pieces that the config shards."""
    return devices.place(state, axes_of(state, config, devices.count))


def axes_of(state: TrainState, config: ml_collections.ConfigDict, devices: int) -> TrainState:
    """For each of a state's arrays the axis along which so many devices share it; None: none do.

    Raises:
      InputError: where the memory, or no parameter, divides over the devices, or they are mapped
        by pmap.
    """
    axes = jax.tree.map(lambda _: None, state)
    if config.memory_sharding == "sharded" and state.memory is not None:
        size = len(state.memory.labels)
        require(
            config.mapping != "pmap", "memory_sharding sharded needs mapping shard_map, got pmap."
        )
        field = "data.pretrain_limit" if config.memory_kind == "bank" else "memory"
        require(
            size % devices == 0,
            f"a memory of {size} keys does not divide over {devices} "
            f"devices: make {field} a multiple of {devices}, or set memory_sharding to "
            "replicated.",
        )
        axes = axes.replace(memory=memory.SHARDED)
    return parts.of_state(axes, state, devices) if config.param_sharding == "sharded" else axes


def _make_monitor(encoder, config, dataset, train):
    """kNN accuracy on the training labels: of validation, where the run leaves one out, else of
    training images with themselves left out."""
    bank = train.take(np.arange(min(len(train.ids), MONITOR_EXAMPLES)))
    queries = dataset.validation if config.data.train_on == "train" else bank
    queries = queries.take(np.arange(min(len(queries.ids), MONITOR_EXAMPLES)))

    def monitor(state) -> dict[str, float]:
        features = Trained(encoder, state, []).features
        known = features(bank.images)
        predicted = knn_classify(
            known,
            dataset.coarse(bank.labels),
            features(queries.images),
            k=config.knn_k,
            train_ids=bank.ids,
            test_ids=queries.ids,
        )
        return {
            "knn": float(np.mean(predicted == dataset.coarse(queries.labels))),
            **collapse.spread(known),
        }

    return monitor
