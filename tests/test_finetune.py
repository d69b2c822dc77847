"""Fine-tuning: what each part of it does, on real digits."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from jaxpt.configs.pretrain import digits
from jaxpt.configs.transfer import defaults

from jaxpt import backbones, finetune, models
from jaxpt.data import augment, sources
from jaxpt.data.crops import View
from jaxpt.data.feed import Batch, rows_of_step
from jaxpt.errors import InputError
from jaxpt.evaluation.features import extract
from jaxpt.train.parallel import Devices

pytestmark = pytest.mark.usefixtures("unoptimised")

MODEL = {
    "name": "small_cnn",
    "norm": "batch",
    "dtype": "float32",
    "normalisation": "",
    "options": {"widths": [8, 16, 16], "strides": [2, 1, 2]},
}
ONE = Devices("shard_map", 1)
STEPS = 4


def config_of(**changes):
    config = defaults.get_config()
    config.update(
        seeds=(0,),
        duration=f"{STEPS} steps",
        warmup="0 steps",
        batch_size=40,
        learning_rates=(1e-2,),
        weight_decays=(1e-2,),
        metric="top1",
    )
    config.augment.update(shift=0, contrast=0.0, noise=0.0)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


@pytest.fixture(scope="module")
def start():
    """A backbone whose running statistics are not what they are at first."""
    opened = backbones.open_backbone("scratch", model=ml_collections.ConfigDict(MODEL))
    stats = jax.tree.map(lambda x: x + np.float32(0.1), opened.batch_stats)
    return dataclasses.replace(opened, batch_stats=stats)


def task_of(start, dataset, devices=ONE, **changes):
    return finetune.Task(finetune.resolve(config_of(**changes), dataset), start, dataset, devices)


def trained(start, dataset, devices=ONE, *, rate=1e-2, decay=1e-2, seed=0, **changes):
    task = task_of(start, dataset, devices, **changes)
    drawn, rest = task.labelled(seed), []
    if task.config.minimax_entropy:
        rest = [finetune.unlabelled(dataset, drawn)]
    state = finetune.train(task, drawn.train, *rest, rate=rate, decay=decay, seed=seed)
    return jax.device_get(state)


PARTLY = {  # few labels, and all that makes more of them
    "data.shots": 5,
    "minimax_entropy": 0.5,
    "head.name": "covariance",
    "head.width": 4,
    "head.temperature": 0.2,
}


def norm_of_change(before, after):
    return {
        name: float(
            optax.tree.norm(
                jax.tree.map(lambda a, b: jnp.asarray(a - b), before[name], after[name])
            )
        )
        for name in before
    }


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        ("linear", {"kernel": (16, 10)}),
        ("mlp", {"Projector_0": (16, 12), "kernel": (12, 10)}),
        (
            "spinal",
            {
                "Dense_0": (8, 12),
                "Dense_1": (20, 12),
                "Dense_2": (20, 12),
                "Dense_3": (20, 12),
                "kernel": (48, 10),
            },
        ),
        ("covariance", {"Dense_0": (16, 12), "kernel": (78, 10)}),
    ],
)
def test_every_head_learns(head, layers, start, dataset):
    task = task_of(
        start,
        dataset,
        duration="200 steps",
        **{"head.name": head, "head.width": 12, "schedule.name": "cosine"},
    )
    params, _ = task.variables(seed=0)
    kernels = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params["head"])
        if leaf.ndim == 2
    }
    assert sorted(kernels.values()) == sorted(layers.values())
    state = finetune.train(task, dataset.train, rate=1e-2, decay=0.0, seed=0)
    assert finetune.accuracy(task, state, dataset.test) > 0.7  # chance is 0.1


def test_the_head_comes_from_the_seed(start, dataset):
    task = task_of(start, dataset, **{"head.name": "mlp"})
    first, again, other = (task.variables(seed)[0] for seed in (0, 0, 1))
    assert_equal(first, again)
    assert norm_of_change(first, other)["head"] > 0.1
    assert_equal(first["backbone"], start.params["backbone"])


@pytest.mark.parametrize("freeze", [0, 2, -1])
def test_frozen_parts_keep_parameters_and_statistics_to_the_bit(freeze, start, dataset):
    state = trained(
        start, dataset, freeze=freeze, ema=0.9, layer_decay=0.5, **{"optimizer.clip_norm": 1.0}
    )
    frozen = 3 if freeze == -1 else freeze
    averages = state.average
    for part, (before, after, average) in enumerate(
        zip((start.params, start.batch_stats), (state.params, state.batch_stats), averages)
    ):
        for i in range(3):
            names = [f"Conv_{i}", f"BatchNorm_{i}"] if part == 0 else [f"BatchNorm_{i}"]
            for name in names:
                old, new, mean = (tree["backbone"][name] for tree in (before, after, average))
                if i < frozen:
                    assert_equal(old, new)
                    assert_equal(old, mean)
                else:
                    assert norm_of_change(old, new).keys() == old.keys()
                    assert min(norm_of_change(old, new).values()) > 0


def test_frozen_parts_are_in_evaluation_mode(start, dataset):
    """All frozen: the head trains on just the features that evaluation will see."""
    task = task_of(start, dataset, freeze=-1)
    images = augment.to_float(jnp.asarray(dataset.test.images[:20]))
    params, stats = task.variables(0)
    encoded = models.encode(task.encoder, params, stats, images, train=True)
    np.testing.assert_allclose(
        encoded.features, start.features(dataset.test.images[:20]), rtol=1e-4, atol=1e-5
    )
    gradients = jax.jit(
        jax.grad(
            lambda p: jnp.sum(models.encode(task.encoder, p, stats, images, train=True).features)
        )
    )(params)
    assert optax.tree.norm(gradients["backbone"]) == 0  # so that clipping does not count them
    whole = models.encode(task_of(start, dataset).encoder, params, stats, images, train=True)
    assert np.abs(whole.features - encoded.features).max() > 0.1


def test_layer_decay_scales_every_update_of_the_step(start, dataset):
    """SGD without momentum: one step moves each part by its rate times the same gradient."""
    changes = {
        "duration": "1 steps",
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
        "head.name": "mlp",
    }  # whose first layer gets no gradient through the zero second
    plain, decayed, faster = (
        norm_of_change(task_of(start, dataset, **changes).variables(0)[0]["backbone"], state)
        for state in (
            trained(start, dataset, **changes, layer_decay=decay, rate=rate, decay=1.0).params[
                "backbone"
            ]
            for decay, rate in ((1.0, 1e-2), (0.5, 1e-2), (1.0, 2e-2))
        )
    )
    for i, factor in enumerate((0.125, 0.25, 0.5)):
        np.testing.assert_allclose(decayed[f"Conv_{i}"], factor * plain[f"Conv_{i}"], rtol=1e-3)
        np.testing.assert_allclose(faster[f"Conv_{i}"], 2 * plain[f"Conv_{i}"], rtol=1e-3)


def by_hand(task, split, *, rate, decay, seed=0, smoothing=0.0):
    """The parameters after every step of plain gradient descent, written out."""
    config = task.config
    params, stats = task.variables(seed)
    history = [(params, stats)]
    for step in range(STEPS):
        rows = rows_of_step(step, config.batch_size, n=len(split.ids), seed=seed)
        images = augment.to_float(jnp.asarray(split.images[rows.index]))
        targets = jax.nn.one_hot(split.labels[rows.index], 10)
        if config.mixup:
            share = np.random.default_rng((seed, step, 1)).beta(config.mixup, config.mixup)
            images = share * images + (1 - share) * np.roll(images, -1, axis=0)
            targets = share * targets + (1 - share) * np.roll(targets, -1, axis=0)
        targets = (1 - smoothing) * targets + smoothing / 10

        def loss(params, images=images, targets=targets, stats=stats):
            encoded = models.encode(task.encoder, params, stats, images, train=True)
            return (
                -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(encoded.output), axis=1)),
                encoded.batch_stats,
            )

        gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
        fall = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        params = jax.tree.map(
            lambda p, g, fall=fall: p - rate * fall * (g + decay * p * (p.ndim > 1)),
            params,
            gradients,
        )
        history.append((params, stats))
    return jax.device_get(history)


@pytest.mark.parametrize(("mix", "smoothing"), [(0.0, 0.0), (0.5, 0.2)])
def test_the_loop_is_gradient_descent_and_the_average_is_one(mix, smoothing, start, dataset):
    changes = {
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
        "mixup": mix,
        "ema": 0.7,
        "label_smoothing": smoothing,
    }
    task = task_of(start, dataset, **changes)
    state = jax.device_get(finetune.train(task, dataset.train, rate=0.1, decay=1e-2, seed=3))
    history = by_hand(task, dataset.train, rate=0.1, decay=1e-2, seed=3, smoothing=smoothing)
    close = dict(rtol=1e-3, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **close),
        (state.params, state.batch_stats),
        history[-1],
    )
    average = history[0]
    for now in history[1:]:
        average = jax.tree.map(lambda old, new: 0.7 * old + 0.3 * new, average, now)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), state.average, average)
    logits = extract(task.encoder, *average, dataset.test.images, what="output")
    assert finetune.accuracy(task, state, dataset.test) == np.mean(
        np.argmax(logits, axis=1) == dataset.test.labels
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_features_minimise_and_the_classifier_maximises_the_entropy(head, start, dataset):
    changes = {"optimizer.name": "sgd", "optimizer.momentum": 0.0, "data.shots": 5}
    changes |= {"minimax_entropy": 0.5, "head.name": head, "head.temperature": 0.1}
    task = task_of(start, dataset, **changes)
    labelled = task.labelled(3)
    rest = finetune.unlabelled(dataset, labelled)

    def loss(params, stats, images, targets, others, sign):
        first = models.encode(task.encoder, params, stats, images, train=True)
        then = models.encode(task.encoder, params, first.batch_stats, others, train=True)
        entropy = -jnp.sum(jax.nn.softmax(then.output) * jax.nn.log_softmax(then.output), 1)
        classified = -jnp.sum(targets * jax.nn.log_softmax(first.output), 1)
        return jnp.mean(classified) + sign * 0.5 * jnp.mean(entropy), then.batch_stats

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    params, stats = task.variables(3)
    for step in range(STEPS):
        known, unknown = (
            rows_of_step(step, 40, n=len(split.ids), seed=3).index
            for split in (labelled.train, rest)
        )
        given = (
            augment.to_float(jnp.asarray(labelled.train.images[known])),
            jax.nn.one_hot(labelled.train.labels[known], 10),
            augment.to_float(jnp.asarray(rest.images[unknown])),
        )
        gradients, after = gradient(params, stats, *given, 1.0)
        opposite, _ = gradient(params, stats, *given, -1.0)
        if head == "linear":
            gradients["head"] = opposite["head"]
        else:
            gradients["head"]["Classifier_0"] = opposite["head"]["Classifier_0"]
        fall = 0.5 * (1 + math.cos(math.pi * step / STEPS))
        params = jax.tree.map(lambda p, g, fall=fall: p - 0.1 * fall * g, params, gradients)
        stats = after
    state = finetune.train(task, labelled.train, rest, rate=0.1, decay=0.0, seed=3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        (state.params, state.batch_stats),
        (params, stats),
    )


def test_unlabelled_images_are_all_others_without_their_labels(dataset):
    drawn = finetune.few(dataset, 0, 1, share=0.1)
    wanted = [max(2, round(0.1 * n)) for n in np.bincount(dataset.trainval.labels)]
    assert np.bincount(drawn.trainval.labels).tolist() == wanted
    rest = finetune.unlabelled(dataset, drawn)
    assert sorted([*rest.ids, *drawn.trainval.ids]) == dataset.trainval.ids.tolist()
    np.testing.assert_array_equal(
        rest.images[:5], dataset.trainval.take(np.isin(dataset.trainval.ids, rest.ids)).images[:5]
    )
    assert set(rest.labels) == {-1}


def test_every_training_takes_the_images_without_labels(start, dataset, monkeypatch):
    changes = {"data.shots": 5, "minimax_entropy": 0.5, "learning_rates": (1e-3, 1e-2)}
    task, seen = task_of(start, dataset, **changes), []
    state = types.SimpleNamespace(average=None, params={}, batch_stats={})
    monkeypatch.setattr(
        finetune, "train", lambda task, *splits, **given: (seen.append(splits), state)[1]
    )
    monkeypatch.setattr(finetune, "accuracy", lambda *given: 0.5)
    finetune.finetune(task, seed=3)
    drawn = task.labelled(3)
    expected = finetune.unlabelled(dataset, drawn).ids
    assert [len(splits) for splits in seen] == [2, 2, 2]  # of two trials and the final training
    for (labelled, rest), own in zip(seen, (drawn.train, drawn.train, drawn.trainval)):
        np.testing.assert_array_equal(labelled.ids, own.ids)
        np.testing.assert_array_equal(rest.ids, expected)


def test_without_average_the_last_weights_are_tested(start, dataset):
    task = task_of(start, dataset)
    state = finetune.train(task, dataset.train, rate=1e-2, decay=0.0, seed=0)
    logits = extract(
        task.encoder,
        *jax.device_get((state.params, state.batch_stats)),
        dataset.test.images,
        what="output",
    )
    assert state.average is None
    assert finetune.accuracy(task, state, dataset.test) == np.mean(
        np.argmax(logits, axis=1) == dataset.test.labels
    )


def test_clipping_bounds_the_step(start, dataset):
    changes = {
        "duration": "1 steps",
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.0,
        "rate": 1.0,
        "decay": 0.0,
    }
    before = task_of(start, dataset).variables(0)[0]
    moved = [
        math.hypot(
            *norm_of_change(
                before, trained(start, dataset, **changes, **{"optimizer.clip_norm": clip}).params
            ).values()
        )
        for clip in (0.0, 0.05)
    ]
    assert moved[0] > 0.1
    np.testing.assert_allclose(moved[1], 0.05, rtol=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.3, "resize": 10, "crop": 8, "ema": 0.5}, PARTLY]
)
def test_eight_devices_equal_one_and_the_seed_counts(changes, start, dataset):
    changes = {"optimizer.name": "sgd", "head.name": "mlp"} | changes
    network = {**MODEL, "norm": "sync_batch"}
    start = dataclasses.replace(
        backbones.open_backbone("scratch", model=ml_collections.ConfigDict(network))
    )
    one, eight, other = (
        (state.params, state.batch_stats, state.average)
        for state in (
            trained(start, dataset, Devices("shard_map", n), rate=0.1, seed=seed, **changes)
            for n, seed in ((1, 0), (8, 0), (8, 1))
        )
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, eight)
    assert norm_of_change(other[0], eight[0])["backbone"] > 1e-3


@pytest.mark.parametrize("changes", [{"mixup": 0.3, "resize": 10, "crop": 8}, PARTLY])
def test_the_same_seed_gives_the_same_bits(changes, start, dataset):
    assert_equal(*(trained(start, dataset, **changes) for _ in range(2)))


def test_the_backbone_is_left_alone(start, dataset):
    before = jax.tree.map(np.array, (start.params, start.batch_stats))
    trained(start, dataset, ema=0.9)
    assert_equal(before, (start.params, start.batch_stats))


def test_crops_are_of_the_resized_image_and_anywhere_in_it():
    config = config_of(resize=12, crop=8)
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 6, 1), np.uint8)
    index = np.arange(200, dtype=np.int32)

    def crops(epoch):
        return np.asarray(
            jax.jit(
                lambda: finetune.training_images(
                    config,
                    Batch(
                        jnp.asarray(images),
                        index,
                        index,
                        index,
                        np.full(200, epoch, np.int32),
                        np.int32(0),
                    ),
                )
            )()
        )

    found = crops(0)
    large = np.asarray(
        jax.image.resize(augment.to_float(jnp.asarray(images)), (200, 12, 12, 1), "linear")
    )
    places = []
    for crop, image in zip(found, large):
        fits = [
            (t, left)
            for t in range(5)
            for left in range(5)
            if np.allclose(crop, image[t : t + 8, left : left + 8], atol=1e-5)
        ]
        places.append(fits[0])
        assert len(fits) == 1
    assert {t for t, _ in places} == {left for _, left in places} == set(range(5))
    assert len(set(places)) == 25
    assert np.abs(crops(1) - found).max() > 0.1


@pytest.fixture(scope="module")
def photographs():
    config = digits.get_config().data
    config.update(source="photographs", image_size=8, limit=32, label_map="fine")
    return sources.load(config)


class TestWholePictures:
    def data(self, **changes):
        config = defaults.get_config().data
        return ml_collections.ConfigDict(config.to_dict() | {"resampler": "pillow"} | changes)

    def test_views(self, photographs, dataset):
        images = photographs.train.images
        for changes, view in (
            ({"augment.crop_area": (0.08, 1.0)}, View((0.08, 1.0), 8)),
            ({"resize": 512, "crop": 480}, View((1.0, 1.0), 480, 480 / 512)),
            ({"augment.crop_area": (0.2, 1.0), "resize": 20, "crop": 16}, View((0.2, 1.0), 16)),
        ):
            cropping = finetune.choose_cropping(config_of(**changes), self.data(), images)
            assert cropping.views == {0: view}
            for squares in (
                finetune.choose_cropping(config_of(**changes), self.data(crops="square"), images),
                finetune.choose_cropping(config_of(**changes), self.data(), dataset.train.images),
            ):
                assert squares is None
        assert finetune.choose_cropping(config_of(), self.data(), images) is None

    def test_training_sees_them_and_is_the_same_on_any_devices(self, photographs):
        model = ml_collections.ConfigDict(MODEL | {"norm": "group"})
        start = backbones.open_backbone("scratch", model=model)
        changes = {"batch_size": 8, "duration": "2 steps", "mixup": 0.3, "resize": 12, "crop": 8}
        config = finetune.resolve(config_of(**changes), photographs)
        cropping = finetune.choose_cropping(config, self.data(), photographs.train.images)
        one, eight, square = (
            jax.device_get(
                finetune.train(
                    finetune.Task(config, start, photographs, Devices("shard_map", n), crops),
                    photographs.train,
                    rate=1e-2,
                    decay=0.0,
                    seed=0,
                ).params
            )
            for n, crops in ((1, cropping), (8, cropping), (1, None))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, eight)
        assert norm_of_change(one, square)["backbone"] > 1e-4


def test_evaluation_resizes_to_the_crop(start, dataset):
    task = task_of(start, dataset, resize=16, crop=12)
    state = finetune.train(task, dataset.train, rate=1e-2, decay=0.0, seed=0)
    images = jax.image.resize(
        augment.to_float(jnp.asarray(dataset.test.images)),
        (len(dataset.test.ids), 12, 12, 1),
        "linear",
    )
    encoder = task.encoder.clone(size=0)
    logits = models.encode(encoder, state.params, state.batch_stats, images, train=False).output
    assert finetune.accuracy(task, state, dataset.test) == np.mean(
        np.argmax(logits, axis=1) == dataset.test.labels
    )


def test_the_setting_is_chosen_on_validation_and_refitted_on_all(monkeypatch, dataset):
    done = []
    scores = {(0.1, 0.0): 0.5, (0.2, 0.0): 0.7, (0.1, 0.3): None, (0.2, 0.3): 0.7}

    def name_of(split):
        return next(name for name in dataset._fields if getattr(dataset, name) is split)

    def train(task, split, *, rate, decay, seed):
        done.append((name_of(split), rate, decay, seed))
        made = types.SimpleNamespace(setting=(rate, decay), average=None, params=0, batch_stats=0)
        return None if scores[rate, decay] is None else made

    def accuracy(task, state, split):
        done.append(name_of(split))
        return scores[state.setting] if name_of(split) == "validation" else 0.4

    monkeypatch.setattr(finetune, "train", train)
    monkeypatch.setattr(finetune, "accuracy", accuracy)
    task = finetune.Task.__new__(finetune.Task)
    task.dataset, task.say = dataset, lambda text: None
    task.config = config_of(learning_rates=(0.1, 0.2), weight_decays=(0.0, 0.3))
    found = finetune.finetune(task, seed=4)
    assert found[:5] == (
        0.4,
        0.7,
        0.2,
        0.0,
        [
            {"learning_rate": rate, "weight_decay": decay, "validation": scores[rate, decay]}
            for rate, decay in ((0.1, 0.0), (0.2, 0.0), (0.1, 0.3), (0.2, 0.3))
        ],
    )
    assert done == [
        ("train", 0.1, 0.0, 4),
        "validation",
        ("train", 0.2, 0.0, 4),
        "validation",
        ("train", 0.1, 0.3, 4),
        ("train", 0.2, 0.3, 4),
        "validation",
        ("trainval", 0.2, 0.0, 4),
        "test",
    ]
    scores = dict.fromkeys(scores)
    with pytest.raises(InputError, match="loss does not stay finite"):
        finetune.finetune(task, seed=4)


def test_a_rate_that_diverges_is_not_chosen(start, dataset):
    task = task_of(start, dataset, learning_rates=(1e30, 1e-3), **{"optimizer.name": "sgd"})
    found = finetune.finetune(task, seed=0)
    assert found.sweep[0]["validation"] is None and found.learning_rate == 1e-3


def test_a_last_step_that_breaks_the_parameters_counts_as_diverged(start, dataset):
    changes = {"duration": "1 steps", "warmup": "0 steps", "optimizer.name": "sgd"}
    assert trained(start, dataset, rate=np.inf, **changes) is None  # its loss is of before the step


def test_test_labels_decide_nothing(start, dataset):
    shuffled = dataset._replace(test=dataset.test._replace(labels=np.roll(dataset.test.labels, 1)))
    honest, blind = (
        finetune.finetune(task_of(start, d, learning_rates=(1e-2, 1e-3)), seed=0)
        for d in (dataset, shuffled)
    )
    assert honest[1:5] == blind[1:5] and honest.accuracy != blind.accuracy


def test_the_metric_is_the_configs(start, dataset):
    few = dataset.test.take(
        np.concatenate(
            [
                np.flatnonzero(dataset.test.labels == 0)[:1],
                np.flatnonzero(dataset.test.labels == 1)[:3],
            ]
        )
    )
    found = {}
    for metric in "top1", "mean_per_class":
        task = task_of(start, dataset, metric=metric)
        params, stats = task.variables(0)  # a zero classifier says class 0
        found[metric] = finetune.accuracy(task, finetune.FinetuneState(1.0, params, stats, ()), few)
    assert found == {"top1": 0.25, "mean_per_class": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (-1,)}, r"seeds must lie in 0 … 2147483647, got \(-1,\)"),
        ({"learning_rates": ()}, "learning_rates is empty"),
        ({"weight_decays": ()}, "weight_decays is empty"),
        ({"learning_rates": (-1e-3,)}, "learning_rates must be finite and not negative"),
        ({"weight_decays": (math.inf,)}, "weight_decays must be finite and not negative"),
        ({"optimizer.clip_norm": -1.0}, "optimizer.clip_norm must be finite and not negative"),
        ({"mixup": -1.0}, "mixup must be set: "),
        ({"mixup": math.nan}, "mixup must be finite"),
        ({"mixup": -0.5}, "mixup must be finite and not negative, got -0.5"),
        ({"duration": "", "crop": -1}, "crop, duration must be set: "),
        ({"rule": "vtab"}, 'rule must be "" or "bit", got \'vtab\''),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"crop": 8}, "crop must lie between 1 and resize, or both be 0, got 8 of 0"),
        ({"resize": 8}, "crop must lie between 1 and resize, or both be 0, got 0 of 8"),
        ({"resize": 8, "crop": 9}, "got 9 of 8"),
        ({"augment.crop_size": 8}, "set crop"),
        ({"augment.noise": -1.0}, "augment.noise"),
        ({"metric": "voc07_map"}, "metric must be one of mean_per_class, top1, got 'voc07_map'"),
        ({"schedule.name": "linear"}, "schedule.name must be one of cosine, steps"),
        ({"head.name": "cosine"}, "head.name must be one of"),
        ({"head.width": 0}, "head.width must be at least 1, got 0"),
        ({"head.iterations": 0}, "head.iterations must be at least 1, got 0"),
        ({"head.temperature": -0.1}, "head.temperature must be finite and not negative, got -0.1"),
        ({"minimax_entropy": -0.1}, "minimax_entropy must be finite and not negative, got -0.1"),
        (
            {"minimax_entropy": 0.1},
            "minimax_entropy 0.1 needs images without labels, but all 1,200 training images of "
            "digits have one: set data.shots or data.labelled_share",
        ),
        ({"minimax_entropy": 0.1, "data.shots": 500}, "needs images without labels"),
        ({"data.labelled_share": 0.0}, "data.labelled_share must be above 0 and at most 1"),
        ({"data.labelled_share": 0.5, "data.shots": 5}, "not both, got 5 and 0.5"),
        ({"head.name": "covariance", "resize": 2, "crop": 2}, "at least 2 positions, .* has 1"),
        ({"freeze": 4}, "freeze must lie between 0 and the 3 parts"),
        ({"freeze": -2}, "freeze must lie between 0 and the 3 parts"),
        ({"layer_decay": 0.0}, "layer_decay must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1"),
        ({"duration": "0 steps"}, "is less than one step"),
        ({"warmup": "4 steps"}, "leaves nothing"),
        ({"schedule.name": "steps", "warmup": "4 steps"}, "leaves nothing"),
        ({"schedule.name": "steps", "schedule.at": (0.5, 0.3)}, "schedule.at must be increasing"),
        ({"schedule.name": "steps", "schedule.at": (1.0,)}, "schedule.at must be increasing"),
        ({"schedule.name": "steps", "schedule.factor": 0.0}, "schedule.factor must be above 0"),
        ({"optimizer.name": "adam"}, "optimizer.name"),
    ],
)
def test_bad_settings_are_refused(changes, message, start, dataset):
    with pytest.raises(InputError, match=message):
        finetune.finetune(task_of(start, dataset, **changes), seed=0)


def test_sets_with_several_labels_an_image_are_refused(start, dataset):
    several = dataset._replace(
        trainval=dataset.trainval._replace(
            labels=np.zeros((len(dataset.trainval.ids), 10), np.uint8)
        )
    )
    with pytest.raises(InputError, match="several labels"):
        task_of(start, several)


def test_a_network_without_parts_cannot_be_frozen(start, dataset):
    odd = dataclasses.replace(start, encoder=start.encoder.clone(backbone=models.Classifier(3)))
    with pytest.raises(InputError, match="Classifier has no parts that can be frozen"):
        task_of(odd, dataset, freeze=1)
