"""Every method on real digits, and one step of each against the same step written by hand."""

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

METHODS = ("look", "nca", "sup_con", "cross_entropy")
WITH_MEMORY = ("look", "nca")
BATCH, IMAGES, STEPS = 60, 300, 40
RUN = {
    "data.label_map": "fine", "data.limit": IMAGES, "batch_size": BATCH, "devices": 1,
    "duration": f"{STEPS} steps", "log_every": "1 steps", "knn_every": f"{STEPS} steps",
    "optimizer.learning_rate": 3e-3, "temperature": 0.1, "k": 10, "k_warmup": "20 steps",
    # LOOK's is never full, so what it was filled with stays; NCA's is overwritten many times.
    "memory": 3000}
MEMORY_OF_NCA = 250


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", RUN).data)


def config_of(method, changes):
    config = digits.get_config(method)
    config.model.options.unlock()
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module", params=METHODS)
def trained(request, dataset):
    config = config_of(request.param, RUN)
    if request.param == "nca":
        config.memory = MEMORY_OF_NCA
    result = pretrain.run(config, quiet=True, dataset=dataset)
    return types.SimpleNamespace(method=request.param, config=config, state=result.state,
                                 losses=[row["loss"] for row in result.history if "loss" in row],
                                 history=result.history, features=result.features)


class TestTraining:
    def test_loss_falls(self, trained):
        assert len(trained.losses) == STEPS and int(trained.state.step) == STEPS
        assert np.mean(trained.losses[-5:]) < 0.8 * np.mean(trained.losses[:5])

    def test_neighbours_share_their_class_far_above_chance(self, trained):
        assert trained.history[-1]["knn"] > 0.1 + 0.75  # ten classes

    def test_features_do_not_collapse(self, trained, dataset):
        features = trained.features(dataset.trainval.images)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        together = np.zeros(IMAGES, int)  # one class: the rank of all features
        assert effective_rank(unit, together) > 5
        assert unit.var(axis=0).sum() > 0.1  # 0 where all point one way, 1 where they cancel out
        assert effective_rank(unit, dataset.trainval.labels) > 3

    def test_a_memory_belongs_to_look_and_nca_alone(self, trained):
        has = trained.method in WITH_MEMORY
        assert (trained.state.memory is not None) == (trained.state.target is not None) == has

    def test_logged_k_comes_down_from_the_whole_memory(self, trained):
        if trained.method != "look":
            assert all("k" not in row for row in trained.history)
            return
        k = [row["k"] for row in trained.history if "k" in row]
        assert k[0] == 3000 and k[10] == pytest.approx(np.sqrt(3000 * 10), abs=0.5)
        assert k[20:] == [10] * (STEPS - 20) and k == sorted(k, reverse=True)


class TestMemory:
    @pytest.fixture(autouse=True)
    def only_with_memory(self, trained):
        if trained.method not in WITH_MEMORY:
            pytest.skip("has no memory")

    def expected_ids(self, trained, dataset):
        """The example of every slot, -1 where none was written."""
        size = trained.config.memory
        n_fill = min(size, IMAGES) // BATCH * BATCH
        filled, seen = (dataset.trainval.ids[batch_at(0, n, n=IMAGES, seed=0)[0]]
                        for n in (n_fill, STEPS * BATCH))
        ids = np.full(size, -1)
        for position, example in enumerate([*filled, *seen]):
            ids[position % size] = example
        return ids

    def test_holds_the_last_keys_in_their_slots(self, trained, dataset):
        ids = self.expected_ids(trained, dataset)
        np.testing.assert_array_equal(trained.state.memory.ids, ids)
        np.testing.assert_array_equal(trained.state.memory.valid, ids >= 0)

    def test_labels_are_those_of_the_ids(self, trained, dataset):
        label_of = dict(zip(dataset.trainval.ids, dataset.trainval.labels))
        labels = [label_of.get(i, -1) for i in self.expected_ids(trained, dataset)]
        np.testing.assert_array_equal(trained.state.memory.labels, labels)

    def test_keys_are_unit_vectors(self, trained):
        lengths = np.linalg.norm(trained.state.memory.keys, axis=1)
        np.testing.assert_allclose(lengths, trained.state.memory.valid, atol=1e-5)

    def test_was_filled_before_the_first_update_with_every_example_once(self, trained, dataset):
        if trained.method == "nca":
            pytest.skip("its first keys are overwritten")
        filled = jax.tree.map(lambda x: np.asarray(x)[:IMAGES], trained.state.memory._replace(
            cursor=np.zeros(IMAGES)))
        assert sorted(filled.ids) == sorted(dataset.trainval.ids)
        # The same keys by hand, from the encoder as it was initialised.
        method, _ = pretrain.prepare(trained.config, dataset)
        state = pretrain.init_state(method, trained.config, dataset.trainval.images)
        batch = batch_of(dataset, np.searchsorted(dataset.trainval.ids, filled.ids),
                         epoch=pretrain.FILL_EPOCH)
        keys, _ = jax.jit(lambda target: encoding.target_keys(
            method.encoder, target, batch, trained.config))(state.target)
        np.testing.assert_allclose(filled.keys, keys, atol=1e-4)


def batch_of(dataset, rows, *, epoch=0, seed=0):
    split = dataset.trainval.take(np.asarray(rows))
    return Batch(split.images, dataset.coarse(split.labels), split.ids,
                 np.full(len(rows), epoch, np.int32), np.int32(seed))


# ---- One step by hand ----------------------------------------------------------------------

HAND = RUN | {
    "batch_size": 8, "memory": 24, "k": 5, "k_warmup": "0 steps", "ema": 0.5, "views": 2,
    "temperature": 0.2, "label_smoothing": 0.1, "duration": "1 steps",
    "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.0,
    "model.options": {"widths": (8,), "strides": (2,)},
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
    state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    # A classifier starts at zero, where all its losses are alike.
    rng = np.random.default_rng(0)
    state = state.replace(params=moved(state.params, rng, 0.3))
    if method.fill is None:
        return state
    keys = rng.normal(size=(20, config.model.projector.dim))
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    ids = np.concatenate([batch.id[:4], dataset.trainval.ids[100:116]])
    return state.replace(
        target=Target(moved(state.target.params, rng, 0.3), state.target.batch_stats),
        memory=memory.push(state.memory, jnp.asarray(keys, jnp.float32),
                           jnp.asarray(rng.integers(0, 10, 20)), jnp.asarray(ids)))


def moved(params, rng, size):
    return jax.tree.map(lambda p: np.float32(p + size * rng.normal(size=p.shape)), params)


def step_of(name, dataset, **changes):
    """One step of a method, and what went into it and came out."""
    config = config_of(name, HAND | changes)
    method, _ = pretrain.prepare(config, dataset)
    batch = batch_of(dataset, range(8), epoch=3, seed=5)
    before = some_state(method, config, dataset, batch)
    after, metrics = jax.jit(over_one_device(method.step))(before, batch)

    @jax.jit
    def ingredients(state):
        images, labels, ids = encoding.query_views(config, batch)
        outputs, _, _ = models.encode(method.encoder, state.params, state.batch_stats, images,
                                      train=True)
        keys = None
        if state.target:
            keys, _ = encoding.target_keys(method.encoder, state.target, batch, config)
        return outputs, labels, ids, keys

    outputs, labels, ids, keys = jax.device_get(ingredients(before))
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
        images, labels, ids = jax.jit(lambda: encoding.query_views(config, batch))()
        by_hand = jax.jit(lambda: [draw_view(config.augment, batch, view=v) for v in (0, 1)])()
        np.testing.assert_allclose(images, np.concatenate(by_hand), atol=1e-5)
        np.testing.assert_array_equal(labels, [*batch.label, *batch.label])
        np.testing.assert_array_equal(ids, [*batch.id, *batch.id])

    def test_keys_are_made_from_a_view_of_their_own(self, look_step):
        queries = oracles.unit(look_step.outputs)
        same_encoder = look_step.before.target.replace(params=look_step.before.params)
        keys, _ = jax.jit(lambda target: encoding.target_keys(
            look_step.method.encoder, target, look_step.batch, look_step.config))(same_encoder)
        for view in queries[:8], queries[8:]:
            assert np.abs(view - keys).max(axis=1).min() > 1e-3


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

        @jax.jit
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

        loss, gradient = jax.jit(jax.value_and_grad(loss_of))(s.before.params)
        # The loss does depend on the target, through its keys ...
        assert abs(float(loss) - float(s.metrics["loss"])) > 1e-3
        # ... but is not differentiated through them.
        assert not any(np.any(g) for g in jax.tree.leaves(gradient))


def assert_close(a, b, atol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


class TestTargetNorm:
    """BatchNorm in the target encoder: by the key batch, or by its running statistics."""

    @pytest.fixture(scope="class")
    def keys_of(self, dataset):
        def keys_of(target_norm, rows):
            config = config_of("look", HAND | {"model.norm": "batch", "target_norm": target_norm})
            method, _ = pretrain.prepare(config, dataset)
            state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
            keys, stats = jax.jit(lambda target: encoding.target_keys(
                method.encoder, target, batch_of(dataset, rows), config))(state.target)
            changed = [np.any(a != b) for a, b in zip(
                jax.tree.leaves(stats), jax.tree.leaves(state.target.batch_stats), strict=True)]
            return np.asarray(keys), changed

        return keys_of

    def test_running_statistics_leave_no_trace_of_the_rest_of_the_batch(self, keys_of):
        (together, changed), (apart, _) = (keys_of("running", rows)
                                           for rows in ([0, 1, 2, 3], [0, 7, 8, 9]))
        np.testing.assert_allclose(together[0], apart[0], atol=1e-5)
        assert not any(changed)

    def test_the_batch_s_own_statistics_do_and_move_the_running_ones(self, keys_of):
        (together, changed), (apart, _) = (keys_of("batch", rows)
                                           for rows in ([0, 1, 2, 3], [0, 7, 8, 9]))
        assert np.abs(together[0] - apart[0]).max() > 0.01
        assert changed and all(changed)


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
        (METHODS, {"optimizer.warmup": "2 steps"}, r"warm-up of 2 steps is longer than the 1"),
        (METHODS, {"data.train_on": "test"}, r"train_on must be one of .*got 'test'"),
    ])
    def test_a_value_that_makes_no_sense_is_named(self, methods, changes, message, dataset):
        for method in methods:
            with pytest.raises(InputError, match=message):
                pretrain.prepare(config_of(method, HAND | changes), dataset)
