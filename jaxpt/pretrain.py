"""Pre-training of an encoder from a config.

``run`` does the following, in the order of this file:

1. loads the images (``data/sources.py``) and selects the part to train on;
2. makes the method (``methods/NAME.py``: initial state, step, memory fill) and the durations;
3. claims the workdir (``train/workdir.py``), and compiles all programs at once, in threads;
4. restores the latest checkpoint, or makes the initial state, from a seed or a weight file, places
   it on the devices (``train/parallel.py``) and fills the memory with real keys;
5. calls the step: batch (``data/feed.py``) → views → loss → update, one or several steps per call.
   Between calls it logs, runs the kNN monitor, saves checkpoints, and stops on request.
"""

import contextlib
import functools
import math
import os
import sys
import time
from concurrent.futures import Future
from typing import Any, Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from etils import epath

from jaxpt import models, old_names, weights
from jaxpt.configs.pretrain import defaults
from jaxpt.data import augment, crops, identity, imbalance, mixture, sources
from jaxpt.data import feed as feeds
from jaxpt.data.dataset import Dataset
from jaxpt.data.feed import ResidentFeed, StreamedFeed, Undecoded, make_feed, rows_of_step
from jaxpt.data.labels import with_wrong_labels
from jaxpt.data.pictures import Pictures
from jaxpt.errors import RunError, require
from jaxpt.evaluation import features, geometry
from jaxpt.evaluation.knn import knn_classify
from jaxpt.files import writable_folder
from jaxpt.methods import Method, Setup, encoding, make_method, probing, rw_sam, unread
from jaxpt.ops import memory
from jaxpt.train import checkpoint, parallel, parts, trackers
from jaxpt.train import optimizer as optimizers
from jaxpt.train import workdir as workdirs
from jaxpt.train.checkpoint import Checkpointer
from jaxpt.train.metrics import Log, MetricWriter, TooManySkipped, read_metrics
from jaxpt.train.parallel import (
    AXIS,
    Compilers,
    Devices,
    Program,
    on_host,
    require_agreement,
    shared,
)
from jaxpt.train.progress import ProgressLine, tell
from jaxpt.train.state import WEIGHTS, TrainState, copy, measured
from jaxpt.train.stopping import Stopped, StopRequest
from jaxpt.train.trackers import Trackers

BROKEN = "broken.txt"  # in the workdir: omitted image files, and why
NOT_FINITE = "not_finite"  # folder with the state before a failed step, for ``jaxpt replay``
MONITOR_EXAMPLES = 2_000  # bounds the time of the kNN monitor, which runs every few epochs
FILL_EPOCH = -1  # an epoch of its own: the views that fill the memory recur in no training step
EARLIER = {"crops": "square", "resampler": "auto"}  # what runs did whose config lacks these fields
LARGEST = 2**31 - 1  # integers are int32 on the devices


class Trained(NamedTuple):
    """A pre-trained encoder with its final state.

    Attributes:
      encoder: backbone and head.
      state: the final TrainState.
      history: logged metrics, one dict per row, each with its step. With a workdir this includes
        the rows of earlier starts of the same run.
      weights: "online" or "target", the encoder that ``features`` uses.
    """

    encoder: Any
    state: TrainState
    history: list[dict[str, float]]
    weights: str = "online"

    def features(self, images: np.ndarray) -> np.ndarray:
        """Backbone features, float32 [n, dim], of uint8 images [n, height, width, channels]."""
        params, stats = on_host(measured(self.state, self.weights))
        return features.extract(self.encoder, params, stats, images)


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike | None = None,
    *,
    resume: bool = True,
    quiet: bool = False,
    dataset: sources.Dataset | None = None,
    max_minutes: float = 0.0,
) -> Trained:
    """Pre-trains an encoder, from the latest checkpoint in ``workdir`` if there is one.

    A run that is killed at any moment and started again with the same config and device count ends
    with the same bits as an uninterrupted run, because order and augmentation are functions of
    (seed, step).

    Args:
      config: see ``configs/pretrain/defaults.py``.
      workdir: folder for config, metrics and checkpoints; None keeps everything in memory.
      resume: False refuses a workdir that already holds a run.
      quiet: whether to omit the progress line.
      dataset: the set, if it is already loaded. Then a resumed run compares its arrays.
      max_minutes: save and stop before this many minutes are over; 0 for no limit.

    Raises:
      InputError: for an invalid config, data or workdir.
      RunError: if more steps than ``config.max_skipped`` are not finite, or a checkpoint cannot be
        written.
      Stopped: after SIGTERM, SIGINT or the time limit, with the state saved. Only with a workdir.
    """
    began = time.perf_counter()
    require(0 <= max_minutes < 1e6, f"max_minutes must be 0 or more, got {max_minutes}.")
    require(
        not max_minutes or workdir is not None,
        "max_minutes without a workdir would lose the run: give a workdir.",
    )
    require(
        not trackers.names(config.trackers) or workdir is not None,
        f"trackers={config.trackers} needs a workdir, which keeps the id of the run there.",
    )
    stop = StopRequest(max_minutes=max_minutes) if workdir is not None else None
    devices = Devices(config.mapping, config.devices)
    devices.check_batch(config.batch_size)
    encoding.check_micro_batches(config, devices.count)
    config = with_saved_crops(config, workdir)
    given, dataset = dataset, dataset or sources.load(config.data)
    split = train_split(config, dataset)
    config, cropping = choose_crops(config, split.images)
    config, opened = open_weights(config, workdir)
    method, durations = prepare(config, dataset)
    shapes = state_shapes(method, config, split.images.shape[1:])
    check_measured(shapes, config)
    like = devices.placed(shapes, axes_of(shapes, config, devices.count))
    data = None
    if workdir is not None or jax.process_count() > 1:
        same = "data: give each the same files in the same order"
        require_agreement(identity.outline(dataset), same)
        share = shared if jax.process_count() > 1 else None
        if given:
            data = identity.of_dataset(given, share)
        else:
            data = sources.identify(config.data, dataset, share)
        require_agreement(data.digest, same)
    require_agreement(
        f"{config.data.crops} {config.data.resampler}",
        "data.crops or data.resampler: install the same packages on each, or set both fields",
    )
    labels = dataset.coarse(split.labels)
    strata = mixture.strata(dataset, split, imbalance.by_class(config.data.sampling, labels))
    feed = make_feed(config, split, labels, devices, cropping)
    with contextlib.ExitStack() as stack:
        stack.callback(feed.close)
        checkpointer = writer = None
        if workdir is not None:  # opened last, so that a bad config leaves no files behind
            stack.enter_context(stop)
            about = {"config": config.to_dict(), "data": _about(dataset, split, data)}
            checkpointer = _open_folder(stack, workdir, config, durations, resume, about, data)
        saved = checkpointer.latest_step() if checkpointer else None
        start = saved or 0
        progress = ProgressLine(
            config.method,
            total=durations.total,
            start=start,
            batch_size=config.batch_size,
            quiet=quiet or jax.process_index() > 0,
        )
        stack.callback(progress.close)
        _report_start(devices, feed, dataset, split, workdir, saved, quiet)
        if method.fill is not None:
            _report_memory(config, labels, quiet, strata)
        compilers = Compilers()
        stack.callback(compilers.close)
        made = method, config, devices, feed, like
        step, fill, filling = step_program(*made), fill_program(*made), None
        # Everything is compiled at once, in the order in which it is needed.
        if saved is None:
            initial = compilers.submit(init_state, method, config, split.images)
            filling = compilers.submit(fill.compile) if method.fill else None
        stepping = compilers.submit(step.compile) if start < durations.total else None
        if saved is not None:
            state = checkpointer.restore(saved, like)
        else:
            state = progress.wait("initialising", initial)
            if opened is not None:
                state = from_weights(state, opened)
            state = place_state(state, config, devices)
        if filling is not None:
            progress.wait("compiling", filling)
            state = fill_memory(state, fill.run, feed, config, stop)
        if workdir is not None and jax.process_index() == 0:
            tracking = Trackers(config.trackers, workdir, config.to_dict())
            also = stack.enter_context(tracking).write
            writer = MetricWriter(workdir, resumed_step=start, also=also)
            stack.callback(writer.close)
        log = Log(
            writer,
            progress,
            batch_size=config.batch_size,
            max_skipped=config.max_skipped,
            warnings=_warnings,
        )
        stack.callback(log.close)
        monitor = _make_monitor(method.encoder, config, dataset, split)
        monitor_compiled = None
        if stepping is not None:
            progress.wait("compiling", stepping)
            monitor_compiled = compilers.submit(
                lambda: features.lower(
                    method.encoder,
                    *measured(shapes, config.evaluated_weights),
                    split.images.shape[1:],
                ).compile()
            )
        compiling = progress.spent["compiling"]
        starting = time.perf_counter() - began - compiling
        log.begin(start, startup_seconds=starting, compile_seconds=compiling)
        between = log, progress, monitor, monitor_compiled, checkpointer, stop
        loop = Loop(config, durations, *between, strata)
        try:
            state = train_steps(state, start, step.run, devices, feed, loop)
        except TooManySkipped as error:
            raise _not_finite(error, config, workdir) from error
    history = log.history if workdir is None else read_metrics(workdir)
    return Trained(method.encoder, state, history, config.evaluated_weights)


def train_split(config: ml_collections.ConfigDict, dataset: Dataset) -> sources.Split:
    """Selects the examples that a config trains on.

    With ``data.long_tail`` these are a long-tailed draw, see ``imbalance.long_tailed``. With
    ``data.pretrain_limit`` = n they are the first n of a shuffle that depends only on the seed. So
    all methods get the same images, a larger n includes the images of a smaller one, and the spread
    over seeds includes the choice of images. With ``data.wrong_labels`` some of their labels are
    replaced, see ``labels.with_wrong_labels``; which ones depends on the seed, too.

    Raises:
      InputError: for an unknown part, a draw that is not possible, or a limit that is negative or
        above the number of examples.
    """
    parts = {"train": dataset.train, "trainval": dataset.trainval}
    require(
        config.data.train_on in parts,
        f"data.train_on must be one of {sorted(parts)}, got {config.data.train_on!r}.",
    )
    require(
        not dataset.trainval.multi_label,
        f"{dataset.name} has several labels per image: use it to measure transfer, not for "
        "pre-training.",
    )
    split = imbalance.long_tailed(parts[config.data.train_on], config.data)
    limit = config.data.pretrain_limit
    require(
        0 <= limit <= len(split.ids),
        f"data.pretrain_limit must lie between 0 (all) and "
        f"{len(split.ids)}, the number of images of {config.data.train_on}, got {limit}.",
    )
    if limit:
        rows = np.random.default_rng(config.seed).permutation(len(split.ids))[:limit]
        split = split.take(np.sort(rows))
    if not (wrong := config.data.wrong_labels):
        return split
    require(
        not len(config.data.sources),
        f"data.wrong_labels {wrong} is for a single set, but data.sources names several.",
    )
    return split._replace(
        labels=with_wrong_labels(split.labels, wrong, dataset.coarse, config.seed)
    )


def with_saved_crops(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike | None
) -> ml_collections.ConfigDict:
    """Replaces an automatic choice of crops by the one that was made when the run started."""
    resumes = workdir is not None and checkpoint.newest(workdir) is not None
    saved = workdirs.read_config(workdir) if resumes else None
    config = config.copy_and_resolve_references()
    for name, before in EARLIER.items():
        if saved and config.data[name] == "auto":
            config.data[name] = saved.data.get(name, before)
    return config


def choose_crops(
    config: ml_collections.ConfigDict, images: np.ndarray | Pictures
) -> tuple[ml_collections.ConfigDict, crops.Cropping | None]:
    """Decides whether views are taken from whole pictures, see ``crops.choose``.

    Returns:
      The config with this choice, and the views that the host takes, or None.

    Raises:
      InputError: as ``crops.choose``.
    """
    views = encoding.cropped_views(config, images.shape[1])
    cropping = crops.choose(config.data, images, views, seed=config.seed)
    config = config.copy_and_resolve_references()
    crops.settle(config.data, cropping)
    return config, cropping


class Durations(NamedTuple):
    """The config's durations in steps; 0 means never."""

    total: int
    log: int
    knn: int
    checkpoint: int


def prepare(config: ml_collections.ConfigDict, dataset: Dataset) -> tuple[Method, Durations]:
    """Makes a config's method and durations, after checking the config against the data."""
    split = train_split(config, dataset)
    method, durations = prepare_for(
        config,
        n_examples=len(split.ids),
        classes=len(dataset.coarse.names),
        label_sources=mixture.label_sources(dataset),
        source_shares=mixture.shares(dataset, split),
    )
    _check_image_size(method.encoder.backbone, config, dataset.train.images)
    if config.probe.labels:
        labels_of, names = _labels(config.probe.labels, dataset)
        method = probing.probed(method, config, labels_of(split.labels), len(names), AXIS)
    return method, durations


def _labels(kind: str, dataset: Dataset) -> tuple[Callable, Sequence[str]]:
    """The function from labels of a dataset to those of a kind, coarse or fine, and their names."""
    if kind == "coarse":
        return dataset.coarse, dataset.coarse.names
    return lambda labels: labels, dataset.class_names


def prepare_for(
    config: ml_collections.ConfigDict,
    *,
    n_examples: int,
    classes: int,
    label_sources: np.ndarray | None = None,
    source_shares: tuple[float, ...] = (1.0,),
) -> tuple[Method, Durations]:
    """Makes a config's method and durations for a training set that need not be loaded.

    Args:
      config: the pre-training config.
      n_examples: number of training examples.
      classes: number of classes to train on.
      label_sources, source_shares: as in ``methods.Setup``.

    Raises:
      InputError: for an invalid config.
    """
    old_names.check(config)
    check_numbers(config)
    parts.check(config)
    probing.check(config)
    rw_sam.check(config)
    require(
        config.evaluated_weights in WEIGHTS,
        f"evaluated_weights must be one of {WEIGHTS}, got {config.evaluated_weights!r}.",
    )
    require(0 <= config.seed < 2**31, f"seed must lie in 0 … 2147483647, got {config.seed}.")
    for name in "views", "knn_k", "keep_checkpoints":
        require(config[name] >= 1, f"{name} must be at least 1, got {config[name]}.")
    for name in "local_views", "max_skipped":
        require(config[name] >= 0, f"{name} must not be negative, got {config[name]}.")
    parallel.most_steps(config.steps_per_call, resident=True)
    augment.check(config.augment)
    augment.check(config.key_augment)
    augment.check(config.local_augment)

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
            _make_optimizer(config.optimizer, schedule, total, steps),
            steps,
            AXIS,
            label_sources,
            source_shares,
        )
    )
    return method, Durations(
        total, *(steps(d) for d in (config.log_every, config.knn_every, config.checkpoint_every))
    )


def _make_optimizer(config, schedule, total, steps):
    """Makes the optimizer, with ``freeze_for`` in steps."""
    held = steps(config.freeze_for) if config.freeze_for else LARGEST
    return optimizers.make_optimizer(
        config, schedule, total_steps=total, freeze_steps=held if config.freeze else 0
    )


def check_numbers(config: ml_collections.ConfigDict, prefix: str = "") -> None:
    """Raises InputError for a float that is not finite, or an integer beyond int32.

    Args:
      config: a ConfigDict; nested ones are checked too.
      prefix: of the fields' names in error messages.
    """
    for name, value in config.items():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(part, "items"):
                check_numbers(part, f"{prefix}{name}.")
            elif isinstance(part, float):
                require(math.isfinite(part), f"{prefix}{name} must be finite, got {part}.")
            elif isinstance(part, int):
                require(
                    abs(part) <= LARGEST, f"{prefix}{name} must lie within ±{LARGEST}, got {part}."
                )


def _check_image_size(network, config, images) -> None:
    """Raises InputError if a ViT's learnt positions do not match the size of the views."""
    side = config.augment.crop_size or images.shape[1]
    learnt = getattr(network, "positions", "") == "learnt"
    require(
        not learnt or side == network.image_size,
        f"this ViT's positions are for images of "
        f"{learnt and network.image_size} pixels, but views have {side}: set "
        f"model.options.image_size to {side}, and model.options.patch to a divisor of it.",
    )


def init_state(method: Method, config: ml_collections.ConfigDict, images: np.ndarray) -> TrainState:
    """Initial state, which depends only on the config, its seed and the shape of the images.

    It is computed on the host's CPU if JAX has it, as an accelerator's compiler takes long over
    programs with so many random arrays. For the same reason the program is hardly optimised.
    """
    try:
        cpu, options = jax.local_devices(backend="cpu")[0], {"xla_backend_optimization_level": 1}
    except RuntimeError:  # excluded by JAX_PLATFORMS
        cpu, options = None, None
    with jax.default_device(cpu):
        sample = np.zeros(_sample_shape(config, images.shape[1:]), np.float32)
        init = jax.jit(method.init, compiler_options=options)
        return init(jax.random.key(config.seed), sample)


def state_shapes(
    method: Method, config: ml_collections.ConfigDict, image: tuple[int, ...]
) -> TrainState:
    """Shapes of the state, for images [height, width, channels]; allocates nothing."""
    sample = jax.ShapeDtypeStruct(_sample_shape(config, image), jnp.float32)
    return jax.eval_shape(method.init, jax.random.key(0), sample)


def _sample_shape(config, image) -> tuple[int, ...]:
    side = config.augment.crop_size
    return (1, side, side, image[2]) if side else (1, *image)


def check_measured(state: TrainState, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if the weights to measure are a target's, and the state has none."""
    require(
        config.evaluated_weights == "online" or state.target is not None,
        f"evaluated_weights target needs a target encoder, but method {config.method} has none: "
        "set weight_ema, such as 0.999, or evaluated_weights to online.",
    )


def open_weights(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike | None
) -> tuple[ml_collections.ConfigDict, weights.Opened | None]:
    """Opens ``config.model.weights``, unless the run in ``workdir`` resumes from a checkpoint.

    Returns:
      The config with the normalisation that belongs to the weights (a resumed run keeps its own),
      and the weights, or None.

    Raises:
      InputError: for a file that cannot be read, or whose tensors do not match the network's.
    """
    if not config.model.weights:
        return config, None
    if workdir is not None and checkpoint.newest(workdir) is not None:
        saved, opened = workdirs.read_config(workdir), None
        normalisation = saved.model.get("normalisation", "") if saved else ""
    else:
        path, network = config.model.weights, models.make_backbone(config.model)
        opened = weights.open_file(
            path, weights.read(path), config.model, network=network, quiet=jax.process_index() > 0
        )
        normalisation = opened.model.normalisation
    config = config.copy_and_resolve_references()
    config.model.normalisation = config.model.normalisation or normalisation
    return config, opened


def from_weights(state: TrainState, opened: weights.Opened) -> TrainState:
    """Replaces the backbone's variables by those of a file, in the target encoder too.

    Heads keep their initial parameters; a classifier in the file is ignored.
    """
    parts = {"params": opened.imported.params, "batch_stats": opened.imported.batch_stats}

    def started(holder):
        return holder.replace(
            **{
                name: {**getattr(holder, name), "backbone": copy(part)}
                for name, part in parts.items()
                if jax.tree.leaves(part)
            }
        )

    state = started(state)
    return state if state.target is None else state.replace(target=started(state.target))


def place_state(
    state: TrainState, config: ml_collections.ConfigDict, devices: Devices
) -> TrainState:
    """Places the state on the devices, sharded as the config asks."""
    return devices.place(state, axes_of(state, config, devices.count))


def axes_of(state: TrainState, config: ml_collections.ConfigDict, devices: int) -> TrainState:
    """Axes along which the arrays of a state are sharded over ``devices`` devices.

    Returns:
      A tree like ``state``, with an axis per array; None for a replicated array.

    Raises:
      InputError: if the memory does not divide over the devices, no parameter does, or
        ``config.mapping`` is "pmap".
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


class Loop(NamedTuple):
    """The host's tasks between steps: logging, monitoring, saving and stopping.

    Attributes:
      config: the pre-training config.
      durations: the intervals of these tasks, in steps.
      log: receives the metrics.
      progress: shows what the host is doing.
      monitor: TrainState → row of metrics, with "knn".
      monitor_compiled: to wait for before the monitor's first use.
      checkpointer: None without a workdir.
      stop: None without a workdir.
      strata: parts of the data that are drawn by weight, or None.
    """

    config: ml_collections.ConfigDict
    durations: Durations
    log: Log
    progress: ProgressLine
    monitor: Callable[[TrainState], dict[str, float]]
    monitor_compiled: Future | None
    checkpointer: Checkpointer | None
    stop: StopRequest | None
    strata: feeds.Strata | None


def fill_program(
    method: Method,
    config: ml_collections.ConfigDict,
    devices: Devices,
    feed: ResidentFeed | StreamedFeed | Undecoded,
    like: TrainState,
) -> Program:
    """Makes the program (state, data, rows) → (state with the keys of the rows, an output)."""

    def one_batch(state, data, rows):
        return method.fill(state, feed.gather(data, rows)), jnp.zeros(())  # an output to wait for

    shapes = like, devices.placed(feed.data, None), feed.shapes(_any_rows(config))
    return Program(devices.map(one_batch, like=like), shapes)


def step_program(
    method: Method,
    config: ml_collections.ConfigDict,
    devices: Devices,
    feed: ResidentFeed | StreamedFeed | Undecoded,
    like: TrainState,
) -> Program:
    """Makes the program of ``most_steps`` steps: (state, data, rows) → (state, metrics).

    If there can be several, data are (data, number of steps) and rows are stacked, see
    ``parallel.several_steps``.
    """
    guard = guarded(method.step, max_skipped=config.max_skipped)

    def one_step(state, data, rows):
        state, metrics = guard(state, feed.gather(data, rows))
        if method.chance is not None:  # beside the loss, to tell whether it has learnt anything
            metrics = metrics | {"chance_loss": jnp.float32(method.chance)}
        return state, metrics

    most, data, rows = most_steps(config, devices, feed), feed.data, _any_rows(config)
    if most > 1:
        one_step, data = parallel.several_steps(one_step), (data, np.int32(1))
        rows = parallel.stack_rows([rows], most)
    shapes = like, devices.placed(data, None), feed.shapes(rows)
    return Program(devices.map(one_step, like=like), shapes)


def guarded(step: Callable, *, max_skipped: int) -> Callable:
    """Wraps ``step``; discards updates that contain NaN or infinity.

    Up to ``max_skipped`` such steps are skipped: the state is kept, except that ``step`` and
    ``skipped`` increase by one. At the next such step the state is frozen as it was before that
    step, with ``skipped = max_skipped + 1``, however many steps follow before the host reads it.

    Parameters, moments and target are not read again if the metrics have "gradient_norm", which is
    finite only if the gradient is, and no entry of it is above 1.8e19. From such a gradient, finite
    parameters and a finite learning rate, no optimizer makes anything that is not finite. Reading
    them would add a sixth to the memory traffic of a small network's step on TPUs, as the selection
    between the new state and the old could not be a part of the optimizer's own pass. Reading
    biases and scales alone would make XLA fuse the step differently on CPUs, and so change bits.

    Args:
      step: (state, batch) → (state, metrics with "loss" and, optionally, "gradient_norm").
      max_skipped: number of steps that may be skipped; 0 freezes the state at the first.

    Returns:
      A step (state, batch) → (state, metrics with "skipped").
    """

    def run(state, batch):
        new, metrics = step(state, batch)
        checked, norm = new, metrics.get("gradient_norm", 0.0)
        if "gradient_norm" in metrics:
            checked = new.replace(params=None, opt_state=None)
            if new.target is not None:
                checked = checked.replace(target=new.target.replace(params=None))
        sound = _all_finite((checked, metrics["loss"], jnp.asarray(norm)))
        sound = sound & (state.skipped <= max_skipped)
        one_too_many = state.skipped >= max_skipped
        kept = state.replace(
            step=state.step + jnp.where(one_too_many, 0, 1),
            skipped=jnp.minimum(state.skipped + 1, max_skipped + 1),
        )
        state = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, kept)
        return state, metrics | {"skipped": state.skipped.astype(jnp.float32)}

    return run


def _all_finite(tree: Any):
    """Whether all floating-point values are finite, on all devices."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
    # All devices must agree, as each keeps or discards its own copy of the state.
    return jax.lax.pmin(finite.astype(jnp.int32), AXIS) == 1


def _any_rows(config) -> feeds.Rows:
    """Rows of the shape of a step's, of which programs are compiled."""
    return feeds.Rows(*np.zeros((2, config.batch_size), np.int32))


def most_steps(
    config: ml_collections.ConfigDict,
    devices: Devices,
    feed: ResidentFeed | StreamedFeed | Undecoded,
) -> int:
    """Maximum number of steps in one call of ``step_program``."""
    asked, platform = config.steps_per_call, devices.platform
    return parallel.most_steps(asked, resident=feed.resident, platform=platform)


def fill_memory(
    state: TrainState,
    fill: Callable,
    feed: ResidentFeed | StreamedFeed,
    config: ml_collections.ConfigDict,
    stop: StopRequest | None = None,
) -> TrainState:
    """Fills the memory with real keys, so that no update uses random ones.

    A queue gets as many whole batches as fit into it, with each example at most once; a bank gets
    all examples.
    """
    batches = (
        -(-feed.n // config.batch_size)
        if config.memory_kind == "bank"
        else min(config.memory, feed.n) // config.batch_size
    )
    every = (
        rows_of_step(i, config.batch_size, n=feed.n, seed=config.seed)._replace(
            epoch=np.full(config.batch_size, FILL_EPOCH, np.int32)
        )
        for i in range(batches)
    )
    placed = feed.batches(every)
    for _ in range(batches):
        _stop_before_steps(stop, 0)
        state, done = fill(state, feed.data, next(placed))
        feed.pace(done)
    return state


def train_steps(
    state: TrainState,
    start: int,
    advance: Callable,
    devices: Devices,
    feed: ResidentFeed | StreamedFeed,
    loop: Loop,
) -> TrainState:
    """Runs the steps from ``start`` to the end and returns the final state.

    Raises:
      Stopped: if the run has to stop earlier; the state is saved.
      TooManySkipped: if more steps than ``config.max_skipped`` were not finite.
    """
    config, durations, log, progress, monitor, monitor_compiled, checkpointer, stop, strata = loop
    # Processes agree on stopping every ``agree_every`` steps, so calls must end there too.
    agree_every = durations.log or 10
    borders = (durations.total, agree_every, durations.knn, durations.checkpoint)
    most = most_steps(config, devices, feed)

    def rows_of(steps):
        order = {"n": feed.n, "seed": config.seed, "strata": strata}
        rows = [rows_of_step(i, config.batch_size, **order) for i in steps]
        return rows[0] if most == 1 else parallel.stack_rows(rows, most)

    def due(every: int, step: int) -> bool:
        return step == durations.total or bool(every and step % every == 0)

    score = checkpointer.score(start) if checkpointer and start else None
    if start < durations.total:
        _stop_before_steps(stop, start)
    every_call = functools.partial(parallel.call_spans, start, durations.total, most, borders)
    step = start

    def batches():
        try:
            yield from feed.batches(map(rows_of, every_call()))
        except RunError:  # an image cannot be read: what was trained until here is kept
            if checkpointer and step > start and jax.process_count() == 1:
                log.sync(state)
                checkpointer.save(step, state, score=score, final=True)
            raise

    for steps, rows in zip(every_call(), batches()):
        # The trip count is an array, so that one compiled program serves every number of steps.
        data = feed.data if most == 1 else (feed.data, devices.replicate(np.int32(len(steps))))
        state, metrics = advance(state, data, rows)
        feed.pace(metrics)
        step = steps.stop
        if due(durations.log, step):
            metrics = {**metrics, **feed.timing()}
            log.later(step, metrics, state)  # read one row late, so that the host does not wait
        if due(durations.knn, step):
            log.flush(state)
            progress.wait("compiling", monitor_compiled)
            jax.block_until_ready(metrics)  # what follows is not the time of steps
            with progress.doing("evaluating"):
                row = monitor(state)
            score = row["knn"]
            log.now(step, row)
        reason = ""
        if stop:
            save_seconds = checkpointer.longest_save
            reason = stop.reason(step, agree_every=agree_every, save_seconds=save_seconds)
        last = step == durations.total
        if checkpointer and (reason or due(durations.checkpoint, step)):
            log.check(metrics, state)  # raises if the guard froze the state at an earlier step
            log.sync(state)  # rows must be on disk first: a resumed run does not log them again
            with progress.doing("saving"):
                checkpointer.save(step, state, score=score, final=bool(reason or last))
        if reason and not last:
            raise Stopped(step, reason)
    return state


def _stop_before_steps(stop, done: int) -> None:
    reason = stop.before_steps() if stop else ""
    if reason:
        raise Stopped(done, reason)


def _warnings(row: dict[str, float]) -> list[str]:
    return geometry.collapse_warnings(row) + feeds.warnings(row)


def _make_monitor(encoder, config, dataset, train):
    """Makes the monitor: accuracy of kNN, and of the probe if there is one.

    kNN measures on the labels of pre-training ("knn") and, if asked, on the fine ones ("knn_fine"):
    of several sources on each, among its own images ("knn/SOURCE"), and the mean over them.
    The monitor classifies validation images if the run does not train on them, else training
    images, each excluded from its own neighbours.
    """
    asked_of = dataset.validation if config.data.train_on == "train" else train

    def some(split):
        return {
            name: part.take(np.arange(min(len(part.ids), MONITOR_EXAMPLES)))
            for name, part in dataset.by_source(split).items()
        }

    banks, queries = some(train), some(asked_of)
    kinds = {"knn": dataset.coarse, **({"knn_fine": lambda x: x} if config.knn_fine else {})}

    def monitor(state) -> dict[str, float]:
        features = Trained(encoder, state, [], config.evaluated_weights).features
        known, asked = (
            {source: features(split.images) for source, split in splits.items()}
            for splits in (banks, queries)
        )
        row = {}
        for name, labels_of in kinds.items():
            found = {}
            for source, bank in banks.items():
                predicted = knn_classify(
                    known[source],
                    labels_of(bank.labels),
                    asked[source],
                    k=config.knn_k,
                    train_ids=bank.ids,
                    test_ids=queries[source].ids,
                )
                right = predicted == labels_of(queries[source].labels)
                found[f"{name}/{source}".rstrip("/")] = float(np.mean(right))
            row |= found | {name: float(np.mean(list(found.values())))}
        if state.probe is not None:
            of_probe = _labels(config.probe.labels, dataset)[0]
            labels = np.concatenate([of_probe(split.labels) for split in queries.values()])
            predicted = probing.predict(state.probe, np.concatenate(list(asked.values())))
            row["probe"] = float(np.mean(predicted == labels))
        return row | geometry.spread(np.concatenate(list(known.values())))

    return monitor


def _open_folder(stack, workdir, config, durations, resume, about, data) -> Checkpointer:
    """Claims the workdir for this run until ``stack`` closes, and returns its Checkpointer."""
    earlier = defaults.get_config()
    earlier.data.update(EARLIER)
    changes = workdirs.check(
        workdir, config, earlier.to_dict(), data, resume=resume, unread=unread(config)
    )
    finished = changes.config and (checkpoint.newest(workdir) or 0) >= durations.total
    require(
        not finished,
        f"{os.fspath(workdir)!r} holds a finished run whose config differs from this one "
        f"in {'; '.join(changes.config)}: choose another workdir.",
    )
    folder = writable_folder(workdir, option="workdir")
    if jax.process_index() == 0:
        stack.enter_context(workdirs.hold_lock(folder))
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


def _about(dataset, split, data) -> dict[str, Any]:
    """Description of the training images, stored in each checkpoint."""
    of_sources = {name: len(x.ids) for name, x in dataset.by_source(split).items() if name}
    return {
        "name": dataset.name,
        "identity": data.digest,
        "kind": data.kind,
        "images": len(split.ids),
        "shape": list(split.images.shape[1:]),
        "classes": list(dataset.coarse.names),
        **({"sources": of_sources} if of_sources else {}),
    }


def _report_start(devices, feed, dataset, split, workdir, saved, quiet) -> None:
    """Prints the devices and how images are fed, and stores the names of broken files."""
    if jax.process_index() > 0:
        return
    if not quiet:
        tell(f"jaxpt: {devices.about}. {feed.about} {mixture.about(dataset, split)}".rstrip())
        if saved is not None:
            tell(f"jaxpt: resuming from step {saved:,}.")
    if workdir is not None and dataset.broken:
        epath.Path(workdir, BROKEN).write_text("\n".join(dataset.broken) + "\n")


def _report_memory(config, labels: np.ndarray, quiet: bool, strata=None) -> None:
    """Prints how many keys of a class the memory holds, and warns if LOOK's k exceeds that."""
    if jax.process_index() > 0:
        return
    drawn = np.ones(len(labels))
    if strata is not None and config.memory_kind == "queue":
        for members, quota in zip(strata.members, strata.quotas):
            drawn[members] = quota / len(members)
    counts = np.bincount(labels, drawn)
    classes = np.count_nonzero(counts)
    size = config.memory if config.memory_kind == "queue" else len(labels)
    mean, least = size / classes, size * counts[counts > 0].min() / len(labels)
    if not quiet:
        tell(
            f"jaxpt: the memory holds {size:,} keys, about {mean:,.0f} of each of {classes:,} "
            f"classes ({least:,.0f} of the rarest)."
        )
    if config.method == "look" and config.look.k > mean:
        print(
            f"jaxpt: warning: look.k is {config.look.k:,}, but the memory holds only about "
            f"{mean:,.0f} keys of a class, so at most {mean / config.look.k:.0%} of the neighbours "
            "can share the label of a query, and no loss can be 0: lower look.k or enlarge the "
            "memory.",
            file=sys.stderr,
            flush=True,
        )


def _not_finite(error: TooManySkipped, config, workdir) -> RunError:
    """Saves the state before the step that was not finite, and makes the error to raise."""
    step = int(error.state.step)
    text = (
        f"the loss or a gradient is not finite at step {step + 1}: lower "
        "optimizer.learning_rate, set optimizer.clip_norm, or check the labels and the "
        "temperature"
    )
    if config.max_skipped:
        text += f"; max_skipped={config.max_skipped} such steps were skipped before"
    if workdir is None:
        return RunError(text + ".")
    folder = writable_folder(os.path.join(workdir, NOT_FINITE), option="workdir")
    if jax.process_index() == 0 and (folder / checkpoint.FOLDER).exists():
        (folder / checkpoint.FOLDER).rmtree()
    try:
        dump = Checkpointer(folder, keep=1, about={"config": config.to_dict()})
        dump.save(step, error.state, final=True)
        dump.close()
    except RunError as failed:
        return RunError(f"{text}. The state before it could not be saved: {failed}")
    return RunError(
        f"{text}. The state before it is saved in {os.fspath(folder)!r}: "
        f"jaxpt replay {os.fspath(workdir)} shows which arrays are not finite."
    )
