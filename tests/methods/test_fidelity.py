"""Toy checks that methods are what their sources say, and what a run can watch while it trains."""

import functools
import importlib
import json
import math
import pathlib

import head_references as references
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs

from jaxpt import losses, methods, models, pretrain
from jaxpt.errors import InputError
from jaxpt.methods import look
from jaxpt.ops.similarity import unit_vectors
from jaxpt.train.parallel import AXIS

pytestmark = pytest.mark.usefixtures("exact_products")

BARLOW = {
    "augment": small_runs.AUGMENT | {"noise": 0.2},
    "batch_size": 20,
    "duration": "1000 steps",
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (16, 16), "dim": 16},
    "optimizer.name": "lars",
    "optimizer.late_rate": True,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.learning_rate": 1.0,
}
FACTOR = 0.0048 / 0.2  # of the rates of vectors and of matrices


def after_100_steps(config, dataset):
    method, _ = pretrain.prepare(config, dataset)
    batch = small_runs.batch_of(dataset, range(20))
    state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    step = jax.jit(small_runs.over_one_device(method.step))
    start = state.params
    for _ in range(100):
        state, _ = step(state, batch)
    return start, state.params


def reference(config, dataset):
    """The same by LARS with two groups of parameters, written out as in the authors' main.py."""
    method = methods.make_method(
        methods.Setup(config, 10, 300, optax.sgd(1.0), lambda text: 1000, AXIS)
    )
    batch = small_runs.batch_of(dataset, range(20))
    state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    step = jax.jit(small_runs.over_one_device(method.step))
    momenta = jax.tree.map(lambda p: np.zeros(p.shape), state.params)
    for i in range(100):
        rate = 0.5 * (1 + math.cos(math.pi * i / 1000))
        new, _ = step(state, batch)

        def descended(p, after, mu, rate=rate):
            gradient, group = p - after, rate * (FACTOR if p.ndim == 1 else 1.0)
            if p.ndim > 1:
                gradient = gradient + 1e-4 * p
                gradient = gradient * 0.001 * jnp.linalg.norm(p) / jnp.linalg.norm(gradient)
            mu = 0.9 * mu + gradient
            return p - group * mu, mu

        pairs = jax.tree.map(descended, state.params, new.params, momenta)
        params, momenta = (
            jax.tree.map(lambda pair, i=i: pair[i], pairs, is_leaf=lambda x: isinstance(x, tuple))
            for i in (0, 1)
        )
        state = new.replace(params=params)
    return state.params


def scales(params):
    return np.concatenate(
        [
            np.asarray(p)
            for path, p in jax.tree_util.tree_leaves_with_path(params)
            if jax.tree_util.keystr(path).endswith("['scale']")
        ]
    )


def test_barlow_twins_moves_batch_norm_as_its_code_does(dataset):
    config = small_runs.config_of("barlow_twins", small_runs.RUN | BARLOW)
    one_group = after_100_steps(config, dataset)[1]
    config.optimizer.vector_rate = FACTOR
    start, found = after_100_steps(config, dataset)
    wanted = scales(reference(config, dataset))
    moved = np.abs(wanted - scales(start)).max()
    assert moved > 1e-3
    assert np.abs(scales(found) - wanted).max() < 0.1 * moved
    assert np.abs(scales(one_group) - wanted).max() > 5 * moved  # what one rate for all would do


def test_dino_measures_its_teacher(train, dataset):
    run, images = train("dino"), dataset.trainval.images[:50]
    student, teacher = (
        pretrain.Trained(None, run.state, [], weights) for weights in ("online", "target")
    )
    encoder, _ = pretrain.prepare(run.config, dataset)
    student, teacher = (x._replace(encoder=encoder.encoder) for x in (student, teacher))
    assert run.config.evaluated_weights == "target"
    np.testing.assert_array_equal(run.features(images), teacher.features(images))
    assert np.abs(student.features(images) - teacher.features(images)).max() > 1e-3


SHORT = {"duration": "12 steps", "knn_every": "6 steps", "look.k_warmup": "0 steps"}


def short(method, dataset, **changes):
    config = small_runs.config_of(method, small_runs.RUN | SHORT | changes)
    return pretrain.run(config, quiet=True, dataset=dataset)


class TestAveragedWeights:
    def test_are_an_average_of_the_online_ones_which_do_not_notice(self, dataset):
        plain = short("cross_entropy", dataset)
        with_average = short("cross_entropy", dataset, weight_ema=0.5, evaluated_weights="target")
        small_runs.assert_close(plain.state.params, with_average.state.params, atol=0)
        online, target = with_average.state, with_average.state.target
        distances = [
            float(np.abs(a - b).max())
            for a, b in zip(
                jax.tree.leaves(target.params), jax.tree.leaves(online.params), strict=True
            )
        ]
        assert 0 < max(distances) < 0.2
        images = dataset.trainval.images[:10]
        assert np.abs(plain.features(images) - with_average.features(images)).max() > 1e-4

    @pytest.mark.parametrize("method", small_runs.METHODS)
    def test_every_method_has_them_or_a_target_of_its_own(self, method, dataset):
        """Shapes of a step with ``weight_ema``, whose target is what measurements open."""
        config = small_runs.config_of(method, small_runs.HAND | {"evaluated_weights": "target"})
        image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)

        def first_state():
            made, _ = pretrain.prepare(config, dataset)
            return made, jax.eval_shape(made.init, jax.random.key(0), image)

        made, state = first_state()
        if state.target is None:
            with pytest.raises(InputError, match=f"method {method} has none: set weight_ema"):
                pretrain.check_measured(state, config)
            config.weight_ema = 0.9
            made, state = first_state()
            batch = small_runs.batch_of(dataset, range(8))
            after, _ = jax.eval_shape(small_runs.over_one_device(made.step), state, batch)
            assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
        pretrain.check_measured(state, config)
        assert state.target.params.keys() == {"backbone", "head"}
        shapes = jax.tree.map(lambda x: x.shape, state.target.params)
        assert shapes == {
            name: jax.tree.map(lambda x: x.shape, state.params[name]) for name in shapes
        }

    @pytest.mark.parametrize(
        "method, changes, message",
        [
            ("cross_entropy", {"evaluated_weights": "target"}, "cross_entropy has none: set weig"),
            ("look", {"weight_ema": 0.9}, "method look has a target encoder.*set weight_ema to 0"),
            ("look", {"weight_ema": 1.0}, r"weight_ema must be at least 0 and below 1, got 1\.0"),
            ("look", {"evaluated_weights": "best"}, "evaluated_weights must be one of .*'best'"),
            ("look", {"probe.labels": "all"}, "probe.labels must be one of .*'all'"),
            ("look", {"probe.labels": "fine", "probe.learning_rate": 0.0}, "must be positive"),
        ],
    )
    def test_what_cannot_be_is_refused(self, method, changes, message, dataset):
        with pytest.raises(InputError, match=message):
            short(method, dataset, **changes)


class TestWatching:
    def test_probe_and_fine_neighbours_do_not_change_the_run(self, dataset):
        labels = {"data.label_map": "halves", "duration": "40 steps"}
        coarse = pretrain.sources.load(small_runs.config_of("look", small_runs.RUN | labels).data)
        plain = short("look", coarse, **labels)
        watch = {"probe.labels": "fine", "probe.learning_rate": 0.03, "knn_fine": True}
        watched = short("look", coarse, **labels, **watch)
        # Two programs, whose sums XLA may order differently.
        small_runs.assert_close(plain.state.params, watched.state.params, atol=1e-5)
        assert watched.state.probe.params["Dense_0"]["kernel"].shape[1] == 10
        losses = [row["probe_loss"] for row in watched.history if "probe_loss" in row]
        assert losses[0] == pytest.approx(math.log(10), rel=1e-5) and losses[-1] < 0.9 * losses[0]
        last = watched.history[-1]
        assert last["probe"] > 0.2  # of ten classes
        assert last["knn_fine"] < last["knn"]

    def test_the_loss_without_signal_is_beside_it(self, dataset):
        rows = short("moco_v2", dataset).history
        assert rows[0]["chance_loss"] == pytest.approx(math.log(251), rel=1e-5)

    def test_the_loss_without_signal_of_every_method(self, dataset):
        """Two views of 8 images, 10 classes, 24 keys, 12 prototypes, outputs of 6 dimensions."""
        logarithms = {
            "cross_entropy": 10,
            "sup_con": 15,
            "simclr": 15,
            "moco_v3": 8,
            "nn_clr": 8,
            "nca": 10,
            "t_rex": 10,
            "sup_moco": 25,
            "grafit": 25,
            "mask_con": 25,
            "moco_v2": 25,
            "exemplar": 1 + 24 * 0.9,
            "dino": 12,
        }
        wanted = {name: math.log(n) for name, n in logarithms.items()}
        wanted["moco_v3"] *= 4 * 0.2
        wanted |= {"byol": 4, "simsiam": 1, "barlow_twins": 6, "vicreg": 25}
        wanted |= {"spread": 0.5 * math.log(15), "look": look.chance_of(5, 10)}
        found = {}
        for method in small_runs.METHODS:
            config = small_runs.config_of(method, small_runs.HAND)
            found[method] = pretrain.prepare(config, dataset)[0].chance
        assert found == pytest.approx(wanted)


class TestKeysPerClass:
    def test_looks_chance_is_that_of_random_neighbours(self):
        rng = np.random.default_rng(0)
        found = rng.binomial(20, 0.1, size=100_000)
        by_hand = np.where(found > 0, np.log(20 / np.maximum(found, 1)), np.log(21))
        assert look.chance_of(20, 10) == pytest.approx(by_hand.mean(), rel=0.01)
        assert look.chance_of(5, 1) == 0

    def test_a_run_says_how_many_keys_of_a_class_it_has(self, dataset, capsys):
        labels = np.repeat(np.arange(10), [46] + [6] * 9)
        config = small_runs.config_of("look", small_runs.RUN | {"look.k": 10, "memory": 250})
        pretrain._report_memory(config, labels, quiet=False)
        assert capsys.readouterr().err == (
            "jaxpt: the memory holds 250 keys, about 25 of each of 10 classes (15 of the rarest).\n"
        )
        config.look.k = 50
        pretrain._report_memory(config, labels, quiet=True)
        assert "only about 25 keys of a class, so at most 50% of" in capsys.readouterr().err


class Heads:
    """The heads of a method's ImageNet recipe, with narrow layers and the parameters of the
    reference; they are applied to the two views one after the other."""

    def __init__(self, method):
        page = importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}")
        config = page.get_config().model
        config.update(norm="batch", dtype="float32")
        config.projector.hidden = (references.HIDDEN,) * len(config.projector.hidden)
        config.predictor.hidden = (references.HIDDEN,)
        config.projector.dim = references.DIM
        self.projector, self.predictor = (
            self._filled(make(config), inputs)
            for make, inputs in (
                (models.make_projector, references.FEATURES),
                (models.make_predictor, references.DIM),
            )
        )

    def _filled(self, head, inputs):
        params = head.init(jax.random.key(0), np.zeros((2, inputs)), True)["params"]
        layers = len(head.hidden) + 1
        order = [(f"{kind}_{i}", name) for i in range(layers) for kind, name in PARAMETERS]
        present = [(layer, name) for layer, name in order if name in params.get(layer, {})]
        for k, (layer, name) in enumerate(present):
            shape = params[layer][name].shape
            scale = name == "scale"
            values = waves(shape[::-1], k, 0.2 if scale else 0.5, 1.0 if scale else 0.0)
            params[layer][name] = values.T
        assert sum(map(len, params.values())) == len(present)
        return lambda x: head.apply({"params": params}, x, True, mutable=["batch_stats"])[0]


PARAMETERS = [("Dense", "kernel"), ("Dense", "bias"), ("BatchNorm", "scale"), ("BatchNorm", "bias")]


def waves(shape, *formula):
    return np.reshape(references.wave(math.prod(shape), *formula), shape).astype(np.float32)


def loss_of(method):
    """The loss of the recipe's heads on the features of the reference, by jaxpt."""
    heads, rows, dim = Heads(method), references.ROWS, references.DIM
    x1, x2 = (waves((rows, references.FEATURES), shift) for shift in (0.3, 1.1))
    keys = waves((references.KEYS, dim), 2.2)
    z1, z2 = heads.projector(x1), heads.projector(x2)
    if method == "nn_clr":
        return jnp.sum(z1**2 * waves((rows, dim), 5.5))
    if method == "moco_v2":
        return jnp.mean(losses.info_nce(z1, z2, keys, temperature=0.2))
    if method == "barlow_twins":
        return losses.barlow_twins(z1, z2)
    if method == "vicreg":
        return losses.vicreg(z1, z2)
    if method == "t_rex":
        labels = np.arange(references.KEYS) % 4
        return jnp.mean(losses.prototype_softmax(z1, keys, labels[:rows], labels, classes=4))
    if method == "dino":
        rows_of = unit_vectors(waves((references.PROTOTYPES, dim), 3.3))
        outputs = jnp.stack([unit_vectors(z) @ rows_of.T for z in (z1, z2)])
        return jnp.mean(losses.dino(outputs, outputs, waves((references.PROTOTYPES,), 4.4, 0.1)))
    p1, p2 = heads.predictor(z1), heads.predictor(z2)
    both = (p1, z2), (p2, z1)
    if method == "moco_v3":
        return 2 * sum(jnp.mean(losses.info_nce(p, z, temperature=1.0)) for p, z in both)
    factor = {"byol": 1.0, "simsiam": 0.25}[method]
    return factor * sum(jnp.mean(losses.cosine_regression(p, z)) for p, z in both)


def preact_loss():
    """Cross-entropy of the features of a ResNet-preact-14 of 4 channels, as in the reference."""
    network = models.PreactResNet(depth=14, width=4)
    images = waves((4, 1, 8, 8), 6.6).transpose(0, 2, 3, 1)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, True))["params"]
    blocks = [f"stage{stage}_block{i}" for stage in (1, 2, 3) for i in (1, 2)]
    norm = lambda name: [(name, "scale"), (name, "bias")]  # noqa: E731
    layers = [*norm("norm1"), ("conv1", "kernel"), *norm("norm2"), ("conv2", "kernel")]
    layers.append(("conv_shortcut", "kernel"))
    order = [("conv_stem", "kernel"), *((b, *layer) for b in blocks for layer in layers)]
    params, k = {}, 0
    for path in [*order, *norm("norm_last")]:
        here = functools.reduce(lambda tree, name: tree.get(name, {}), path, shapes)
        if here == {}:
            continue  # no shortcut convolution
        scale, shape = path[-1] == "scale", here.shape
        torch_shape = shape if len(shape) == 1 else (shape[3], shape[2], *shape[:2])
        values = waves(torch_shape, k, 0.2 if scale else 0.5, 1.0 if scale else 0.0)
        values = values if len(shape) == 1 else values.transpose(2, 3, 1, 0)
        part = functools.reduce(lambda tree, name: tree.setdefault(name, {}), path[:-1], params)
        part[path[-1]] = values
        k += 1
    (features, _), _ = network.apply({"params": params}, images, True, mutable=["batch_stats"])
    return jnp.mean(losses.cross_entropy(features, jnp.arange(4)))


STORED = json.loads((pathlib.Path(references.__file__).with_suffix(".json")).read_text())


@pytest.mark.parametrize("method", STORED)
def test_heads_and_loss_are_those_of_the_published_code(method):
    found = preact_loss() if method == "resnet_preact" else loss_of(method)
    assert float(found) == pytest.approx(STORED[method], rel=2e-4)
