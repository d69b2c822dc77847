"""Every method on real digits, and one step of each against the same step written by hand."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from jaxpt import memory, models, pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.data.augment import draw_view
from jaxpt.data.batch import Batch
from jaxpt.data.order import batch_at
from jaxpt.errors import InputError
from jaxpt.evaluation.geometry import effective_rank
from jaxpt.methods import encoding, look
from jaxpt.train.parallel import AXIS
from jaxpt.train.state import Target

# What is compiled here runs once: optimising it would take longer than running it.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

METHODS = ("look", "nca", "sup_con", "cross_entropy")
WITH_MEMORY = ("look", "nca")
BATCH, IMAGES, STEPS = 60, 300, 80
AUGMENT = {"shift": 0, "flip": False, "contrast": 0.0, "brightness": 0.0, "noise": 0.0,
           "erase": 0.0}
# Small, so that compiling is quick; the learning rate suits so few steps.
RUN = {
    "data.label_map": "fine", "data.limit": IMAGES, "batch_size": BATCH, "devices": 1,
    "duration": f"{STEPS} steps", "log_every": "1 steps", "knn_every": f"{STEPS} steps",
    "augment": AUGMENT | {"shift": 1}, "key_augment": AUGMENT | {"shift": 1},
    "model.norm": "batch", "model.options": {"widths": (16, 32), "strides": (2, 1)},
    "model.projector": {"hidden": (32,), "dim": 16}, "optimizer.learning_rate": 1e-2,
    "temperature": 0.1, "k": 10, "k_warmup": "20 steps", "ema": 0.9,
    "memory": 250}  # no multiple of the batch: batches wrap round its end
OF_METHOD = {"look": {"memory": IMAGES + BATCH * STEPS},  # so that what it was filled with stays
             "cross_entropy": {"optimizer.learning_rate": 3e-2}}  # it has no temperature


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", RUN).data)


def config_of(method, changes):
    config = digits.get_config(method)
    config.model.options.unlock()
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def train(dataset):
    """Trains with a method, once for all tests."""

    @functools.cache
    def train(method):
        config = config_of(method, RUN | OF_METHOD.get(method, {}))
        result = pretrain.run(config, quiet=True, dataset=dataset)
        return types.SimpleNamespace(
            method=method, config=config, state=result.state, features=result.features,
            history=result.history, losses=[row["loss"] for row in result.history
                                            if "loss" in row])

    return train


@pytest.fixture(params=METHODS)
def trained(request, train):
    return train(request.param)


@pytest.fixture(params=WITH_MEMORY)
def remembering(request, train):
    return train(request.param)


class TestTraining:
    def test_loss_falls(self, trained):
        assert len(trained.losses) == STEPS and int(trained.state.step) == STEPS
        assert np.mean(trained.losses[-5:]) < 0.8 * np.mean(trained.losses[:5])

    def test_neighbours_share_their_class_far_above_chance(self, trained):
        assert trained.history[-1]["knn"] > 0.1 + 0.6  # ten classes

    def test_features_do_not_collapse(self, trained, dataset):
        features = trained.features(dataset.trainval.images)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        together = np.zeros(IMAGES, int)  # one class: the rank of all features
        assert effective_rank(unit, together) > 5
        assert unit.var(axis=0).sum() > 0.03  # 0 where all point one way; none is negative
        assert effective_rank(unit, dataset.trainval.labels) > 3

    def test_a_memory_belongs_to_look_and_nca_alone(self, trained):
        has = trained.method in WITH_MEMORY
        assert (trained.state.memory is not None) == (trained.state.target is not None) == has

    def test_logged_k_comes_down_from_the_whole_memory(self, train):
        k = [row["k"] for row in train("look").history if "k" in row]
        assert k[0] == 5100 and k[10] == pytest.approx(np.sqrt(5100 * 10), abs=0.5)
        assert k[20:] == [10] * (STEPS - 20) and k == sorted(k, reverse=True)


class TestMemory:
    def expected_ids(self, config, dataset):
        """The example of every slot: what was written last where fill and steps wrap round."""
        filled, seen = (dataset.trainval.ids[batch_at(0, n, n=IMAGES, seed=0)[0]]
                        for n in (min(config.memory, IMAGES) // BATCH * BATCH, STEPS * BATCH))
        ids = np.full(config.memory, -1)
        for position, example in enumerate([*filled, *seen]):
            ids[position % config.memory] = example
        return ids

    def test_holds_the_last_keys_in_their_slots(self, remembering, dataset):
        ids = self.expected_ids(remembering.config, dataset)
        np.testing.assert_array_equal(remembering.state.memory.ids, ids)
        assert remembering.state.memory.valid.all()

    def test_labels_are_those_of_the_ids(self, remembering, dataset):
        label_of = dict(zip(dataset.trainval.ids, dataset.trainval.labels))
        ids = self.expected_ids(remembering.config, dataset)
        np.testing.assert_array_equal(remembering.state.memory.labels,
                                      [label_of[i] for i in ids])

    def test_keys_are_unit_vectors(self, remembering):
        lengths = np.linalg.norm(remembering.state.memory.keys, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_was_filled_with_real_keys_before_the_first_update(self, train, dataset):
        look = train("look")
        filled = jax.tree.map(lambda x: np.asarray(x)[:IMAGES],
                              look.state.memory._replace(cursor=np.zeros(IMAGES)))
        assert sorted(filled.ids) == sorted(dataset.trainval.ids)  # every example once
        # The same keys by hand, from the encoder as it was initialised, batch by batch as there.
        method, _ = pretrain.prepare(look.config, dataset)
        first = pretrain.init_state(method, look.config, dataset.trainval.images)
        target_keys = jit(lambda target, batch: encoding.target_keys(
            method.encoder, target, batch, look.config)[0])
        for start in range(0, IMAGES, BATCH):
            rows = np.searchsorted(dataset.trainval.ids, filled.ids[start:start + BATCH])
            batch = batch_of(dataset, rows, epoch=pretrain.FILL_EPOCH)
            np.testing.assert_allclose(filled.keys[start:start + BATCH],
                                       target_keys(first.target, batch), atol=1e-4)


def batch_of(dataset, rows, *, epoch=0, seed=0):
    split = dataset.trainval.take(np.asarray(rows))
    return Batch(split.images, dataset.coarse(split.labels), split.ids,
                 np.full(len(rows), epoch, np.int32), np.int32(seed))


# ---- One step by hand ----------------------------------------------------------------------

HAND = RUN | {
    "augment": AUGMENT | {"flip": True}, "key_augment": AUGMENT | {"flip": True},
    "batch_size": 8, "memory": 24, "k": 5, "k_warmup": "0 steps", "ema": 0.5, "views": 2,
    "temperature": 0.2, "label_smoothing": 0.1, "duration": "1 steps",
    "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.0,
    "model.norm": "group", "model.options": {"widths": (8,), "strides": (2,)},
    "model.projector": {"hidden": (), "dim": 6}}


def over_one_device(function):
    """A function of one device, with the axis that its collectives need, of length one."""

    def run(state, batch):
        out = jax.vmap(function, in_axes=(None, 0), axis_name=AXIS)(
            state, jax.tree.map(lambda x: jnp.asarray(x)[None], batch))
        return jax.tree.map(lambda x: x[0], out)

    return run


def some_state(method, config, dataset, batch):
    """A state in the middle of things: the target is not the online encoder, and the memory is
    partly filled, with keys of the batch's own examples among the others."""
    rng = np.random.default_rng(0)

    def some(params):
        return jax.tree.map(lambda p: np.float32(0.3 * rng.normal(size=p.shape)), params)

    shapes = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = state.replace(params=some(shapes.params))
    if method.fill is None:
        return state
    dim = config.model.projector.dim
    keys = oracles.unit(rng.normal(size=(20, dim)))
    ids = np.concatenate([batch.id[:4], dataset.trainval.ids[100:116]])
    return state.replace(
        target=state.target.replace(params=some(shapes.target.params)),
        memory=memory.push(memory.create(config.memory, dim), jnp.asarray(keys),
                           jnp.asarray(rng.integers(0, 10, 20)), jnp.asarray(ids)))


@functools.partial(jit, static_argnames="encoder")
def ingredients(encoder, params, batch):
    """Outputs, labels and ids of the queries."""
    images, labels, ids = encoding.query_views(config_of("look", HAND), batch)
    return models.encode(encoder, params, {}, images, train=True)[0], labels, ids


@functools.partial(jit, static_argnames="encoder")
def keys_of_batch(encoder, target, batch):
    return encoding.target_keys(encoder, target, batch, config_of("look", HAND))[0]


def step_of(name, dataset, **changes):
    """One step of a method, and what went into it and came out."""
    config = config_of(name, HAND | changes)
    method, _ = pretrain.prepare(config, dataset)
    batch = batch_of(dataset, range(8), epoch=3, seed=5)
    before = some_state(method, config, dataset, batch)
    after, metrics = jit(over_one_device(method.step))(before, batch)
    outputs, labels, ids = jax.device_get(ingredients(method.encoder, before.params, batch))
    keys = np.asarray(keys_of_batch(method.encoder, before.target, batch)) if method.fill else None
    return types.SimpleNamespace(config=config, method=method, batch=batch, before=before,
                                 after=after, metrics=metrics, outputs=outputs, labels=labels,
                                 ids=ids, keys=keys)


@pytest.fixture(scope="module")
def look_step(dataset):
    return step_of("look", dataset)


@pytest.fixture(scope="module")
def info_nce_step(dataset):
    return step_of("look", dataset, own_view=1.0, ema=0.0)


class TestViews:
    def test_query_views_are_views_0_and_1_one_after_the_other(self, dataset):
        config = config_of("look", HAND)
        batch = batch_of(dataset, range(8), epoch=3)
        images, labels, ids = jit(lambda: encoding.query_views(config, batch))()
        by_hand = jit(lambda: [draw_view(config.augment, batch, view=v) for v in (0, 1)])()
        np.testing.assert_allclose(images, np.concatenate(by_hand), atol=1e-5)
        assert np.abs(by_hand[0] - by_hand[1]).max() > 0.1
        np.testing.assert_array_equal(labels, [*batch.label, *batch.label])
        np.testing.assert_array_equal(ids, [*batch.id, *batch.id])

    def test_keys_are_made_from_a_view_of_their_own(self, look_step):
        queries = oracles.unit(look_step.outputs)
        same_encoder = look_step.before.target.replace(params=look_step.before.params)
        keys = keys_of_batch(look_step.method.encoder, same_encoder, look_step.batch)
        for view in queries[:8], queries[8:]:
            assert np.abs(view - keys).max() > 1e-3


class TestLossOfAStep:
    """On two views, and for LOOK and NCA against the memory as it was before the step."""

    def neighbours(self, s):
        m = jax.device_get(s.before.memory)
        return (s.outputs, m.keys, s.labels, m.labels), {
            "query_ids": s.ids, "key_ids": m.ids, "key_mask": m.valid, "temperature": 0.2}

    def test_look(self, look_step):
        arrays, options = self.neighbours(look_step)
        losses, missing, purity = oracles.look(*arrays, k=5, **options)
        assert float(look_step.metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-4)
        assert 0 < missing.mean() < 1  # both kinds of query are there
        assert int(look_step.metrics["k"]) == 5

    def test_nca(self, dataset):
        step = step_of("nca", dataset)
        arrays, options = self.neighbours(step)
        losses, _, _ = oracles.nca(*arrays, **options)
        assert float(step.metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-4)

    def test_look_with_the_own_view_alone_is_info_nce(self, info_nce_step):
        s = info_nce_step
        m = jax.device_get(s.before.memory)
        losses = oracles.info_nce(s.outputs, np.tile(s.keys, (2, 1)), m.keys, query_ids=s.ids,
                                  key_ids=m.ids, key_mask=m.valid, temperature=0.2)
        assert float(s.metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-4)

    def test_sup_con(self, dataset):
        step = step_of("sup_con", dataset)
        losses = oracles.sup_con(step.outputs, step.labels, temperature=0.2)
        assert float(step.metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-4)

    def test_cross_entropy(self, dataset):
        step = step_of("cross_entropy", dataset)
        losses = oracles.cross_entropy(step.outputs, step.labels, label_smoothing=0.1)
        assert float(step.metrics["loss"]) == pytest.approx(losses.mean(), rel=1e-4)
        right = np.mean(step.outputs.argmax(1) == step.labels)
        assert float(step.metrics["accuracy"]) == pytest.approx(right)


class TestUpdateOfAStep:
    def test_step_counts(self, look_step):
        assert int(look_step.after.step) == int(look_step.before.step) + 1

    def test_target_moves_by_the_ema_towards_the_updated_encoder(self, look_step):
        half = jax.tree.map(lambda t, p: 0.5 * t + 0.5 * p, look_step.before.target.params,
                            look_step.after.params)
        assert_close(look_step.after.target.params, half)
        with pytest.raises(AssertionError):  # the update was large enough to tell which encoder
            assert_close(look_step.before.params, look_step.after.params)

    def test_without_ema_the_target_is_the_updated_encoder(self, info_nce_step):
        assert_close(info_nce_step.after.target.params, info_nce_step.after.params, atol=0)

    def test_keys_of_the_batch_follow_those_in_the_memory(self, look_step):
        before, after = look_step.before.memory, look_step.after.memory
        slots = np.arange(20, 28) % 24  # 20 of 24 slots were written before
        np.testing.assert_allclose(after.keys[slots], look_step.keys, atol=1e-5)
        np.testing.assert_array_equal(after.labels[slots], look_step.batch.label)
        np.testing.assert_array_equal(after.ids[slots], look_step.batch.id)
        np.testing.assert_array_equal(after.keys[4:20], before.keys[4:20])
        assert after.valid.all() and int(after.cursor) == 4

    def test_encoder_follows_the_gradient_with_keys_and_positives_held_fixed(self, info_nce_step):
        s = info_nce_step
        negatives = s.before.memory.valid & (s.ids[:, None] != s.before.memory.ids)

        @jit
        @jax.grad
        def gradient(params):
            images, _, _ = encoding.query_views(s.config, s.batch)
            queries, _, _ = models.encode(s.method.encoder, params, {}, images, train=True)
            queries = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
            own = jnp.sum(queries * np.tile(s.keys, (2, 1)), axis=1) / 0.2
            others = jnp.where(negatives, queries @ s.before.memory.keys.T / 0.2, -jnp.inf)
            everything = jnp.concatenate([own[:, None], others], axis=1)
            return jnp.mean(jax.nn.logsumexp(everything, axis=1) - own)

        expected = jax.tree.map(lambda p, g: p - 0.1 * g, s.before.params,
                                gradient(s.before.params))
        assert_close(s.after.params, expected)

    def test_no_gradient_reaches_the_target(self, info_nce_step):
        s = info_nce_step

        def loss_of(target_params):
            state = s.before.replace(target=s.before.target.replace(params=target_params))
            return over_one_device(s.method.step)(state, s.batch)[1]["loss"]

        loss, gradient = jit(jax.value_and_grad(loss_of))(s.before.params)
        # The loss does depend on the target, through its keys ...
        assert abs(float(loss) - float(s.metrics["loss"])) > 1e-3
        # ... but is not differentiated through them.
        assert not any(np.any(g) for g in jax.tree.leaves(gradient))


def assert_close(a, b, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


class TestTargetNorm:
    """BatchNorm in the target encoder: by the key batch, or by its running statistics."""

    @pytest.mark.parametrize("target_norm", ["running", "batch"])
    def test_whether_keys_depend_on_the_batch_and_move_the_statistics(self, target_norm, dataset):
        config = config_of("look", HAND | {"model.norm": "batch", "target_norm": target_norm})
        method, _ = pretrain.prepare(config, dataset)
        shapes = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))).target
        rng = np.random.default_rng(0)
        target = Target(jax.tree.map(lambda x: rng.normal(size=x.shape), shapes.params),
                        jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape), shapes.batch_stats))
        keys_of = jit(lambda batch: encoding.target_keys(method.encoder, target, batch, config))
        (together, stats), (apart, _) = (keys_of(batch_of(dataset, rows))
                                         for rows in ([0, 1, 2, 3], [0, 7, 8, 9]))
        by_batch = target_norm == "batch"
        assert (np.abs(together[0] - apart[0]).max() > 1e-3) == by_batch
        changed = [np.any(np.abs(a - b) > 1e-3) for a, b in zip(
            jax.tree.leaves(stats), jax.tree.leaves(target.batch_stats), strict=True)]
        assert changed == [by_batch] * 2  # a mean and a variance


class TestKSchedule:
    def k_at(self, step, **changes):
        config = config_of("look", {"memory": 1000, "k": 10} | changes)
        return look.k_schedule(config, lambda text: int(text.split()[0]))(jnp.asarray(step))

    def test_without_warmup_k_is_constant(self):
        for step in 0, 1, 1000:
            k = self.k_at(step, k_warmup="0 steps")
            assert k.dtype == jnp.int32 and int(k) == 10

    def test_goes_geometrically_from_the_whole_memory_to_k(self):
        k = [int(self.k_at(step, k_warmup="100 steps")) for step in range(0, 131, 10)]
        assert k[0] == 1000 and k[5] == 100 and k[10:] == [10, 10, 10, 10]
        np.testing.assert_allclose(k[:11], 1000 * 0.01 ** (np.arange(11) / 10), atol=0.51)
        assert k == sorted(k, reverse=True)

    def test_a_k_beyond_the_memory_stays(self):
        k = [int(self.k_at(step, k=5000, k_warmup="100 steps")) for step in (0, 50, 100)]
        assert k == [5000] * 3


class TestBadConfigs:
    @pytest.mark.parametrize("method", METHODS)
    def test_the_configs_themselves_are_fine(self, method, dataset):
        pretrain.prepare(config_of(method, HAND), dataset)

    @pytest.mark.parametrize("methods, changes, message", [
        (["look"], {"method": "lok"}, r"method must be one of \[.*'look'.*got 'lok'"),
        (["look"], {"k": 0}, r"k must be a whole number of at least 1, got 0"),
        (["look"], {"k": -3}, r"k must be .*got -3"),
        (["look"], {"no_positive": "skip"}, r"no_positive must be one of .*got 'skip'"),
        (["look"], {"own_view": 1.5}, r"own_view must lie in 0 … 1, got 1\.5"),
        (["look"], {"own_view": -0.1}, r"own_view must lie in 0 … 1, got -0\.1"),
        (["look"], {"k_warmup": "soon"}, r"a duration reads like .*got 'soon'"),
        (WITH_MEMORY, {"memory": 7}, r"memory must hold at least one batch, 8, got 7"),
        (WITH_MEMORY, {"ema": 1.0}, r"ema must be at least 0 and below 1, got 1\.0"),
        (WITH_MEMORY, {"ema": -0.5}, r"ema must be .*got -0\.5"),
        (WITH_MEMORY, {"target_norm": "none"}, r"target_norm must be one of .*got 'none'"),
        (["look", "nca", "sup_con"], {"temperature": 0.0},
         r"temperature must be positive, got 0\.0"),
        (["cross_entropy"], {"label_smoothing": 1.0}, r"label_smoothing must be .*got 1\.0"),
        (["cross_entropy"], {"label_smoothing": -0.1}, r"label_smoothing must be .*got -0\.1"),
        (METHODS, {"views": 0}, r"views must be at least 1, got 0"),
        (METHODS, {"optimizer.name": "adam"}, r"optimizer\.name must be one of .*got 'adam'"),
        (METHODS, {"model.name": "vgg"}, r"model\.name must be one of .*got 'vgg'"),
        (METHODS, {"augment.noise": -1.0}, r"augment\.noise must not be negative"),
        (METHODS, {"key_augment.erase": 1.0}, r"augment\.erase must be below 1"),
        (METHODS, {"duration": "0 epochs"}, r"duration '0 epochs' is less than one step"),
        (METHODS, {"optimizer.warmup": "2 steps"}, r"warm-up of 2 steps .* 1 steps"),
        (METHODS, {"data.train_on": "test"}, r"train_on must be one of .*got 'test'"),
    ])
    def test_a_value_that_makes_no_sense_is_named(self, methods, changes, message, dataset):
        for method in methods:
            with pytest.raises(InputError, match=message):
                pretrain.prepare(config_of(method, HAND | changes), dataset)
