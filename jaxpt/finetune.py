"""Fine-tuning of a backbone with a new head, with its own loop and train state.

The file first resolves settings (BiT's rule, checks of a config) and then defines the training.
"""

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jaxpt import losses, models
from jaxpt.backbones import Backbone
from jaxpt.data import augment, crops, mixup, protocols, sources
from jaxpt.data.crops import Cropping, View
from jaxpt.data.feed import Batch, gather, make_feed, rows_of_step
from jaxpt.data.pictures import Pictures
from jaxpt.errors import require
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.metrics import METRICS
from jaxpt.models.inputs import resize
from jaxpt.models.layers import stochastic_depth_key
from jaxpt.train import optimizer as optimizers
from jaxpt.train.parallel import AXIS, Devices

SCHEDULES = ("cosine", "steps")
UNSET = ("", -1)  # values of a field that is left to the rule
SMALL_AREA = 96 * 96  # pixels
SMALL, MEDIUM = 20_000, 500_000  # training examples
_CROP_STREAM = 1 << 20  # keeps the random keys of the crop apart from those of the views


class Settings(NamedTuple):
    """Settings chosen by the rule.

    Attributes:
      resize, crop: side in pixels of the square to which training images are resized, and of the
        random crop from it; evaluation resizes to ``crop``.
      duration, warmup: of training.
      mixup: α of mixup.
    """

    resize: int
    crop: int
    duration: str
    warmup: str
    mixup: float


def bit(*, examples: int, height: int, width: int) -> Settings:
    """BiT-HyperRule settings for a set of ``examples`` training images of the given pixel size."""
    resize, crop = (160, 128) if height * width < SMALL_AREA else (512, 480)
    if examples < SMALL:
        return Settings(resize, crop, "500 steps", "100 steps", 0.0)
    duration = "10000 steps" if examples < MEDIUM else "20000 steps"
    return Settings(resize, crop, duration, "500 steps", 0.1)


def resolve(
    config: ml_collections.ConfigDict, dataset: sources.Dataset, *, source: str = ""
) -> ml_collections.ConfigDict:
    """Returns a checked copy of the config with all fields set that it leaves open.

    An empty metric becomes that of the protocol named by ``source``, else top-1. The rule sets the
    fields that are "" or −1 and overrides no others. It depends on the number of training
    examples, including validation.

    Raises:
      InputError: as in ``check``.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    images = dataset.trainval.images
    rule = bit(examples=len(images), height=images.shape[1], width=images.shape[2])
    config.metric = config.metric or protocols.metric_of(source)
    check(config)
    for name, value in rule._asdict().items():
        if config[name] in UNSET:
            config[name] = value
    check(config)
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for invalid settings, and for unset ones without a rule."""
    models.make_head(config.head, classes=1)
    require(config.rule in ("", "bit"), f'rule must be "" or "bit", got {config.rule!r}.')
    unset = [name for name in Settings._fields if config[name] in UNSET]
    require(
        config.rule == "bit" or not unset,
        f'{", ".join(unset)} must be set: "" and -1 are allowed only with rule="bit".',
    )
    for name in "learning_rates", "weight_decays", "seeds":
        require(len(config[name]) > 0, f"{name} is empty: name at least one.")
    require(
        all(0 <= seed < 2**31 for seed in config.seeds),
        f"seeds must lie in 0 … 2147483647, got {tuple(config.seeds)}.",
    )
    finite = {
        "learning_rates": config.learning_rates,
        "weight_decays": config.weight_decays,
        "optimizer.clip_norm": [config.optimizer.clip_norm],
        "mixup": [config.mixup],
        "minimax_entropy": [config.minimax_entropy],
    }
    for name, values in finite.items():
        require(
            name in unset or all(0 <= value < math.inf for value in values),
            f"{name} must be finite and not negative, got {_shown(values)}.",
        )
    for name in "ema", "label_smoothing":
        require(
            0 <= config[name] < 1, f"{name} must be at least 0 and below 1, got {config[name]}."
        )
    augment.check(config.augment)
    require(config.augment.crop_size == 0, "augment.crop_size must be 0: set crop instead.")
    require(
        {"resize", "crop"} & {*unset}
        or 0 < config.crop <= config.resize
        or config.crop == config.resize == 0,
        f"crop must lie between 1 and resize, or both be 0, got {config.crop} of {config.resize}.",
    )
    for name, value, known in (
        ("metric", config.metric or "top1", sorted(METRICS)),
        ("schedule.name", config.schedule.name, SCHEDULES),
    ):
        require(value in known, f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _shown(values):
    return tuple(values) if len(values) > 1 else values[0]


@flax.struct.dataclass
class FinetuneState:
    """Train state of fine-tuning.

    Attributes:
      rate: float32 scalar, the peak learning rate; it is part of the state so that one compiled
        step serves all rates.
      params, batch_stats: variables of backbone and head.
      opt_state: state of the optimizer.
      average: exponential moving averages of (params, batch_stats), or None.
    """

    rate: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None


class Finetuned(NamedTuple):
    """Result of fine-tuning.

    Attributes:
      accuracy: accuracy on test, in the config's metric.
      validation: validation accuracy of the chosen setting after training on train.
      learning_rate, weight_decay: the chosen setting.
      sweep: learning_rate, weight_decay and validation accuracy of each setting; the accuracy is
        None if the loss did not stay finite.
      variables: (params, batch_stats) of backbone and head, host arrays, after the training on
        train + validation.
      steps: of that training.
    """

    accuracy: float
    validation: float
    learning_rate: float
    weight_decay: float
    sweep: list[dict[str, float | None]]
    variables: tuple[Any, Any] | None = None
    steps: int = 0


class Task:
    """A backbone with a new head, a set, and the compiled training steps.

    Attributes:
      config: config of fine-tuning, as returned by ``resolve``.
      backbone: the ``Backbone`` to start from; it is not modified.
      dataset, devices: data and devices of the training.
      cropping: the view that the host takes from whole pictures; None for square images.
      say: receives sentences on the progress.
      encoder: the backbone, with its lowest parts frozen, and the head.
      frozen: number of frozen parts.

    Raises:
      InputError: for a multi-label set, a network whose parts cannot be frozen, a bad head, images
        that the network or the head does not take, or minimax entropy without unlabelled images.
    """

    def __init__(
        self,
        config,
        backbone: Backbone,
        dataset: sources.Dataset,
        devices: Devices,
        cropping: Cropping | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        require(
            dataset.trainval.labels.ndim == 1,
            f"{dataset.name} has several labels per image: fine-tuning takes one.",
        )
        self.config, self.backbone, self.dataset, self.devices = config, backbone, dataset, devices
        self.cropping, self.say = cropping, say
        self.frozen = (
            optimizers.count_depths(backbone.params) if config.freeze == -1 else config.freeze
        )
        network = backbone.encoder.backbone
        if self.frozen:
            require(
                hasattr(network, "frozen"),
                f"{type(network).__name__} has no parts that can be frozen: set freeze to 0.",
            )
            network = network.clone(frozen=self.frozen)
        self.encoder = backbone.encoder.clone(
            backbone=network,
            size=config.crop,
            head=models.make_head(config.head, len(dataset.class_names)),
        )
        shape = dataset.trainval.images.shape[1:]
        jax.eval_shape(  # raises if the network or the head does not take such images
            lambda key: models.init(self.encoder, key, jnp.zeros((1, *shape))), jax.random.key(0)
        )
        require(
            not config.minimax_entropy
            or len(self.labelled(0).trainval.ids) < len(dataset.trainval.ids),
            f"minimax_entropy {config.minimax_entropy} needs images without labels, but all "
            f"{len(dataset.trainval.ids):,} training images of {dataset.name} have one: set "
            "data.shots or data.labelled_share, or minimax_entropy to 0.",
        )
        self._prepared = {}

    def labelled(self, seed: int) -> sources.Dataset:
        """The set with only the labelled training images that the config draws for the seed."""
        data = self.config.data
        return few(self.dataset, data.shots, seed, share=data.labelled_share)

    def variables(self, seed: int):
        """Initial (params, batch_stats): those of the backbone, and a head drawn from the seed."""
        # Copies, because the step donates its state and the next run starts from the same arrays.
        params, stats = jax.tree.map(np.array, (self.backbone.params, self.backbone.batch_stats))
        sample = models.sample(self.encoder.backbone, self.encoder.channels)
        variables = {"params": params, "batch_stats": stats}
        _, given = jax.eval_shape(
            lambda: self.encoder.apply(variables, sample, False, method="given")
        )
        head = jax.jit(lambda key: self.encoder.head.init(key, jnp.zeros(given.shape), False))(
            jax.random.key(seed)
        )
        return params | {"head": jax.device_get(head["params"])}, stats

    def prepared(self, decay: float, n_examples: int, gathers=(gather,)):
        """Returns (optimizer with peak learning rate 1, number of steps, compiled step).

        The result is cached and serves all rates and seeds.
        """
        key = decay, n_examples, gathers
        if key not in self._prepared:
            optimizer, total = self._optimizer(decay, n_examples)

            def step(state, data, rows):
                batches = [make(*of) for make, *of in zip(gathers, data, rows["batches"])]
                return _step(self, optimizer, state, batches, rows["share"])

            step_fn = self.devices.map(step)
            self._prepared[key] = optimizer, total, step_fn
        return self._prepared[key]

    def _optimizer(self, decay, n_examples):
        config = self.config
        total, warmup = (
            optimizers.steps(d, batch_size=config.batch_size, n_examples=n_examples)
            for d in (config.duration, config.warmup)
        )
        require(total >= 1, f"duration {config.duration!r} is less than one step.")
        chosen = ml_collections.ConfigDict(
            config.optimizer.to_dict() | {"learning_rate": 1.0, "weight_decay": decay}
        )
        if config.schedule.name == "cosine":
            schedule = optimizers.learning_rate(chosen, total_steps=total, warmup_steps=warmup)
        else:
            schedule = optimizers.step_decay(
                1.0,
                total_steps=total,
                warmup_steps=warmup,
                at=config.schedule.at,
                factor=config.schedule.factor,
            )
        factors = optimizers.layer_rates(
            self.variables(0)[0], decay=config.layer_decay, frozen=self.frozen
        )
        return optax.chain(
            optimizers.make_optimizer(chosen, schedule), optimizers.scale_by_depth(factors)
        ), total


def few(dataset: sources.Dataset, shots: int, seed: int, *, share: float = 1.0) -> sources.Dataset:
    """Draws the training images of each class whose labels are used.

    A fifth of the images of a class, but at least one of two or more, are for validation.

    Args:
      dataset: the set.
      shots: images per class, or all of a smaller class; 0 leaves it to ``share``.
      seed: of the draw.
      share: share of the images of each class, but at least two; 1 returns the set as it is.

    Raises:
      InputError: for a single shot, which leaves nothing for validation, a share outside (0, 1],
        shots and a share together, or a multi-label set.
    """
    require(
        0 < share <= 1, f"data.labelled_share must be above 0 and at most 1 (all), got {share}."
    )
    if not shots and share == 1:
        return dataset
    require(
        shots == 0 or share == 1,
        f"set data.shots or data.labelled_share, not both, got {shots} and {share}.",
    )
    require(
        shots >= 2 or share < 1,
        f"data.shots must be 0 (all) or at least 2, one of them for validation, got {shots}.",
    )
    labels = dataset.trainval.labels
    name = "data.shots" if shots else "data.labelled_share"
    require(labels.ndim == 1, f"{name} needs one label per image, {dataset.name} has several.")
    chosen, held_out = np.zeros((2, len(labels)), bool)
    for label in np.unique(labels):
        drawn = np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label))
        drawn = drawn[: shots or max(2, round(share * len(drawn)))]
        chosen[drawn] = True
        held_out[
            drawn[: max(1, round(sources.VALIDATION_SHARE * len(drawn))) * (len(drawn) > 1)]
        ] = True
    return dataset._replace(
        train=dataset.trainval.take(chosen & ~held_out),
        validation=dataset.trainval.take(held_out),
        trainval=dataset.trainval.take(chosen),
    )


def unlabelled(dataset: sources.Dataset, drawn: sources.Dataset) -> sources.Split:
    """The training images of a set that ``few`` did not draw; their labels are −1."""
    rest = dataset.trainval.take(~np.isin(dataset.trainval.ids, drawn.trainval.ids))
    return rest._replace(labels=np.full(len(rest.ids), -1, np.int32))


def finetune(task: Task, *, seed: int) -> Finetuned:
    """Fine-tunes on the fine labels with each setting of the sweep and tests the best one once.

    Each pair of learning rate and weight decay is trained on train and scored on validation. The
    best setting (the first among equals) is trained on train + validation from the start, and
    tested.

    Args:
      task: backbone, set and config.
      seed: seed of the head, the order of images and their augmentation, and the draw of
        ``data.shots`` or ``data.labelled_share``.

    Returns:
      a ``Finetuned``.

    Raises:
      InputError: if the loss does not stay finite for any setting, or in the final training.
    """
    config, sweep = task.config, []
    dataset = task.labelled(seed)
    # With minimax entropy, each training also sees the images that were not drawn.
    rest = [unlabelled(task.dataset, dataset)] if config.minimax_entropy else []
    settings = list(itertools.product(config.weight_decays, config.learning_rates))
    also = "".join(f" and {len(split.ids):,} without labels" for split in rest)
    task.say(f"fine-tuning with seed {seed} on {len(dataset.trainval.ids):,} images{also}")
    for place, (decay, rate) in enumerate(settings, 1):
        began = time.perf_counter()
        state = train(task, dataset.train, *rest, rate=rate, decay=decay, seed=seed)
        score = None if state is None else accuracy(task, state, dataset.validation)
        sweep.append({"learning_rate": rate, "weight_decay": decay, "validation": score})
        task.say(
            f"fine-tuned with learning rate {rate:g}, weight decay {decay:g} "
            f"({place} of {len(settings) + 1} trainings, {time.perf_counter() - began:.0f} s): "
            f"validation {'not finite' if score is None else f'{score:.3f}'}"
        )
    best = max(sweep, key=lambda s: -1.0 if s["validation"] is None else s["validation"])
    rate, decay = best["learning_rate"], best["weight_decay"]
    state = (
        None
        if best["validation"] is None
        else train(task, dataset.trainval, *rest, rate=rate, decay=decay, seed=seed)
    )
    require(
        state is not None,
        f"the loss does not stay finite at a learning rate of {rate}: lower learning_rates.",
    )
    return Finetuned(
        accuracy(task, state, dataset.test),
        best["validation"],
        rate,
        decay,
        sweep,
        jax.device_get(state.average or (state.params, state.batch_stats)),
        optimizers.steps(
            config.duration, batch_size=config.batch_size, n_examples=len(dataset.trainval.ids)
        ),
    )


def train(
    task: Task, split: sources.Split, *rest: sources.Split, rate: float, decay: float, seed: int
) -> FinetuneState | None:
    """Trains on a split; returns None if the last loss or the final state is not finite.

    Args:
      task: backbone, set and config.
      split: labelled images.
      *rest: at most one split of unlabelled images, for minimax entropy. Each step takes
        ``batch_size`` images of either split.
      rate, decay: peak learning rate and weight decay.
      seed: as in ``finetune``.
    """
    config, devices, splits = task.config, task.devices, (split, *rest)
    feeds = [_feed(task, split, seed) for split in splits]
    optimizer, total, step_fn = task.prepared(
        decay, len(split.ids), tuple(feed.gather for feed in feeds)
    )
    params, stats = task.variables(seed)
    average = jax.tree.map(np.array, (params, stats)) if config.ema else None
    state = devices.replicate(
        FinetuneState(np.float32(rate), params, stats, optimizer.init(params), average)
    )

    def rows(n):
        return (rows_of_step(step, config.batch_size, n=n, seed=seed) for step in range(total))

    with contextlib.ExitStack() as stack:
        for feed in feeds:
            stack.enter_context(contextlib.closing(feed))
        data = [feed.data for feed in feeds]
        batches = zip(*(feed.batches(rows(feed.n)) for feed in feeds))
        for step, found in enumerate(batches):
            share = None
            if config.mixup:
                drawn = mixup.draw_share(
                    config.batch_size, alpha=config.mixup, seed=seed, step=step
                )
                share = devices.split(drawn)
            state, metrics = step_fn(state, data, {"batches": list(found), "share": share})
            for feed in feeds:
                feed.pace(metrics)
    # A non-finite update persists in the state, so one check at the end is enough.
    made = jax.device_get((metrics["loss"], state.params, state.batch_stats, state.average))
    return state if all(np.isfinite(x).all() for x in jax.tree.leaves(made)) else None


def _feed(task, split: sources.Split, seed: int):
    config = ml_collections.ConfigDict(
        {"data": {}, "seed": seed, "batch_size": task.config.batch_size}
    )
    cropping = task.cropping and task.cropping._replace(seed=seed)
    return make_feed(config, split, split.labels, task.devices, cropping)


def choose_cropping(
    config: ml_collections.ConfigDict,
    data: ml_collections.ConfigDict,
    images: np.ndarray | Pictures,
) -> Cropping | None:
    """The view that the host takes from whole pictures for training; None for square images.

    Args:
      config: config of fine-tuning, as returned by ``resolve``.
      data: the data config; ``crops`` and ``resampler`` as in pre-training.
      images: of the training part.

    Raises:
      InputError: as ``crops.choose``.
    """
    window = config.crop / config.resize if config.crop < config.resize else 0.0
    area = tuple(config.augment.crop_area)
    interpolation = augment.Settings(**config.augment).crop_interpolation
    size, window = config.crop or images.shape[1], window if area == (1, 1) else 0.0
    view = View(area, size, window, interpolation)
    return crops.choose(data, images, {0: view}, seed=0)


def _step(task, optimizer, state, batches: list[Batch], share):
    config = task.config

    def loss_of(params):
        total, stats = 0.0, state.batch_stats
        for objective, batch in zip(OBJECTIVES, batches):
            loss, stats = objective(task, (params, stats), batch, share)
            total += loss
        return total, stats

    (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # Each device has an equal share of the batch, so the mean over devices is that of the batch.
    loss, stats, gradients = jax.lax.pmean((loss, stats, gradients), AXIS)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # The optimizer has peak rate 1; the actual rate is part of the state (see FinetuneState).
    params = jax.tree.map(lambda p, u: p + state.rate * u, state.params, updates)
    # In this form the average of a constant stays equal to it, bit for bit.
    average = state.average and jax.tree.map(
        lambda old, new: old + (1 - config.ema) * (new - old), state.average, (params, stats)
    )
    return FinetuneState(state.rate, params, stats, opt_state, average), {"loss": loss}


def _supervised(task, variables, batch: Batch, share):
    """Mean cross-entropy of labelled images, and the batch statistics after them."""
    config = task.config
    images, others = training_images(config, batch), None
    if share is not None:
        images = mixup.mix(share, images, mixup.next_example(images, len(images), AXIS))
        others = mixup.next_example(batch.label, len(images), AXIS)
    encoded = _encode(task, variables, images, batch)

    def loss(labels):
        return losses.cross_entropy(encoded.output, labels, label_smoothing=config.label_smoothing)

    # Cross-entropy is linear in the target, so mixing losses equals mixing labels.
    each = loss(batch.label) if share is None else mixup.mix(share, loss(batch.label), loss(others))
    return jnp.mean(each), encoded.batch_stats


def _minimax_entropy(task, variables, batch: Batch, share):
    """Mean entropy of unlabelled images times its weight, and the batch statistics after them."""
    del share  # only labelled images are mixed
    params, stats = variables
    # The features minimise the entropy, which draws images to the prototypes of the classes; the
    # classifier maximises it, which keeps its prototypes amid all images, not only labelled ones.
    head = models.map_classifier(losses.reverse_gradient, params["head"])
    params = params | {"head": head}
    encoded = _encode(task, (params, stats), training_images(task.config, batch), batch)
    loss = task.config.minimax_entropy * jnp.mean(losses.entropy(encoded.output))
    return loss, encoded.batch_stats


OBJECTIVES = (_supervised, _minimax_entropy)  # of the splits of ``train``, in their order


def _encode(task, variables, images, batch: Batch):
    # The key derives from the batch, so that it differs between steps and between devices.
    key = stochastic_depth_key(batch)
    return models.encode(task.encoder, *variables, images, train=True, key=key)


def training_images(config: ml_collections.ConfigDict, batch: Batch) -> jax.Array:
    """Augmented images, float32 in −1 … 1, resized and randomly cropped if ``config.crop`` is set.

    The host has already done so if it takes the view from whole pictures.

    The position of the crop is a function of (seed, epoch, example id), like all augmentation.
    """
    images = augment.draw_view(config.augment, batch, view=0)
    if not config.crop or isinstance(batch.image, dict):
        return images
    root = jax.random.fold_in(jax.random.key(batch.seed), _CROP_STREAM)

    def crop(image, example, epoch):
        key = jax.random.fold_in(jax.random.fold_in(root, epoch), example)
        top, left = jax.random.randint(key, (2,), 0, config.resize - config.crop + 1)
        return jax.lax.dynamic_slice(
            image, (top, left, 0), (config.crop, config.crop, image.shape[-1])
        )

    return jax.vmap(crop)(resize(images, config.resize), batch.id, batch.epoch)


def accuracy(task: Task, state: FinetuneState, split: sources.Split) -> float:
    """The config's metric over each image exactly once; uses the averaged weights if any."""
    variables = state.average or (state.params, state.batch_stats)
    params, stats = jax.device_get(variables)
    logits = extract(
        task.encoder, params, stats, split.images, what="output", batch_size=task.config.batch_size
    )
    require(
        bool(np.isfinite(logits).all()),
        "the fine-tuned network's outputs are not finite: lower learning_rates.",
    )
    return METRICS[task.config.metric](np.argmax(logits, axis=1), split.labels)
