"""One step of each method against the same step written by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from small_runs import (
    AUGMENT,
    HAND,
    assert_close,
    batch_of,
    config_of,
    over_one_device,
    some_state,
    step_of,
)

from jaxpt import losses, models, pretrain
from jaxpt.data.augment import draw_view
from jaxpt.errors import InputError
from jaxpt.methods import encoding, look, updating
from jaxpt.ops import memory
from jaxpt.train.parallel import AXIS
from jaxpt.train.state import Target

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")


@pytest.fixture(scope="module")
def look_step(dataset):
    return step_of("look", dataset)


@pytest.fixture(scope="module")
def info_nce_step(dataset):
    return step_of("look", dataset, **{"look.own_view": 1.0}, ema=0.0)


class TestViews:
    def test_views_0_and_1_follow_one_another(self, dataset):
        config = config_of("look", HAND)
        batch = batch_of(dataset, range(8), epoch=3)
        images = jax.jit(lambda: encoding.view_images(config, batch)[0])()
        by_hand = jax.jit(lambda: [draw_view(config.augment, batch, view=v) for v in (0, 1)])()
        np.testing.assert_allclose(images, np.concatenate(by_hand), atol=1e-5)
        assert np.abs(by_hand[0] - by_hand[1]).max() > 0.1

    def test_small_crops_come_after_the_large_ones(self, dataset):
        config = config_of("look", HAND | {"local_views": 3, "local_augment.crop_size": 6})
        batch = batch_of(dataset, range(8))
        large, small = jax.eval_shape(lambda: encoding.view_images(config, batch))
        assert (large.shape, small.shape) == ((16, 8, 8, 1), (24, 6, 6, 1))
        method, _ = pretrain.prepare(config, dataset)
        state = some_state(method, config, dataset, batch)
        queries = jax.jit(
            lambda: encoding.queries(method.encoder, state.params, state, batch, config)
        )()
        assert queries.output.shape == (40, 6)
        np.testing.assert_array_equal(queries.labels, np.tile(batch.label, 5))
        np.testing.assert_array_equal(queries.ids, np.tile(batch.id, 5))

    def test_small_crops_that_are_no_crops_are_views_like_the_others(self, dataset):
        still = {"augment": AUGMENT, "key_augment": AUGMENT, "local_augment": AUGMENT}
        losses = [
            float(step_of("look", dataset, views=1, local_views=1, **still).metrics["loss"]),
            float(step_of("look", dataset, views=2, local_views=0, **still).metrics["loss"]),
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    def test_views_may_have_batch_norm_statistics_of_their_own(self, dataset):
        config = config_of("byol", HAND | {"model.norm": "batch", "separate_views": True})
        method, _ = pretrain.prepare(config, dataset)
        batch = batch_of(dataset, range(8))
        state = jax.jit(method.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))

        @jax.jit
        def outputs():
            images, stats, by_hand = encoding.global_images(config, batch), state.batch_stats, []
            for view in jnp.split(images, 2):
                encoded = models.encode(method.encoder, state.params, stats, view, train=True)
                stats = encoded.batch_stats
                by_hand.append(encoded.output)
            together = models.encode(
                method.encoder, state.params, state.batch_stats, images, train=True
            )
            queries = encoding.queries(method.encoder, state.params, state, batch, config)
            targets = encoding.target_outputs(
                method.encoder, state.target, encoding.apart(images, config), config
            )
            return queries, targets, (jnp.concatenate(by_hand), stats), together.output

        queries, targets, (wanted, stats), together = outputs()
        assert_close(queries.output, wanted)
        assert_close(queries.batch_stats, stats)
        assert_close(targets[0], wanted)  # the target starts as a copy
        assert np.abs(together - wanted).max() > 1e-3

    def test_the_other_view(self):
        np.testing.assert_array_equal(encoding.other_view(np.arange(6)), [3, 4, 5, 0, 1, 2])

    def test_keys_are_made_from_a_view_of_their_own(self, look_step):
        s = look_step
        same_encoder = s.before.target.replace(params=s.before.params)
        keys = jax.jit(
            lambda: encoding.target_keys(s.method.encoder, same_encoder, s.batch, s.config)[0]
        )()
        queries = oracles.unit(s.outputs)
        for view in queries[:8], queries[8:]:
            assert np.abs(view - keys).max() > 1e-3


class TestLossOfAStep:
    """On two views, and for LOOK and NCA against the memory as it was before the step."""

    def neighbours(self, s):
        m = jax.device_get(s.before.memory)
        return (s.outputs, m.keys, s.labels, m.labels), {
            "query_ids": s.ids,
            "key_ids": m.ids,
            "key_mask": m.valid,
            "temperature": 0.2,
        }

    def test_look(self, look_step):
        arrays, options = self.neighbours(look_step)
        values, missing, purity = oracles.look(*arrays, k=5, **options)
        assert float(look_step.metrics["loss"]) == pytest.approx(values.mean(), rel=1e-4)
        assert 0 < missing.mean() < 1  # both kinds of query are there
        assert int(look_step.metrics["k"]) == 5

    def test_nca(self, dataset):
        step = step_of("nca", dataset)
        arrays, options = self.neighbours(step)
        values, _, _ = oracles.nca(*arrays, **options)
        assert float(step.metrics["loss"]) == pytest.approx(values.mean(), rel=1e-4)

    def test_look_with_the_own_view_alone_is_info_nce(self, info_nce_step):
        s = info_nce_step
        m = jax.device_get(s.before.memory)
        values = oracles.info_nce(
            s.outputs,
            np.tile(s.keys, (2, 1)),
            m.keys,
            query_ids=s.ids,
            key_ids=m.ids,
            key_mask=m.valid,
            temperature=0.2,
        )
        assert float(s.metrics["loss"]) == pytest.approx(values.mean(), rel=1e-4)

    def test_sup_con(self, dataset):
        step = step_of("sup_con", dataset)
        values = oracles.sup_con(step.outputs, step.labels, temperature=0.2)
        assert float(step.metrics["loss"]) == pytest.approx(values.mean(), rel=1e-4)

    def test_cross_entropy(self, dataset):
        step = step_of("cross_entropy", dataset)
        values = oracles.cross_entropy(step.outputs, step.labels, label_smoothing=0.1)
        assert float(step.metrics["loss"]) == pytest.approx(values.mean(), rel=1e-4)
        right = np.mean(step.outputs.argmax(1) == step.labels)
        assert float(step.metrics["accuracy"]) == pytest.approx(right)


def memory_of(s):
    """(keys, labels, ids and mask as keywords) of the memory before the step."""
    m = jax.device_get(s.before.memory)
    return m.keys, m.labels, {"key_ids": m.ids, "key_mask": m.valid}


def against_memory(loss, **options):
    """Of a loss of queries, own keys and memory."""

    def expected(s):
        keys, labels, of_keys = memory_of(s)
        return loss(
            s.outputs,
            np.tile(s.keys, (2, 1)),
            keys,
            s.labels,
            labels,
            query_ids=s.ids,
            temperature=0.2,
            **of_keys,
            **options,
        )

    return expected


def moco_v2(s):
    keys, _, of_keys = memory_of(s)
    return losses.info_nce(
        s.outputs, np.tile(s.keys, (2, 1)), keys, query_ids=s.ids, temperature=0.2, **of_keys
    )


def nn_clr(s):
    keys, _, of_keys = memory_of(s)
    views = [(s.outputs[:8], s.predictions[8:]), (s.outputs[8:], s.predictions[:8])]
    return np.stack(
        [
            losses.nn_clr(
                outputs, predictions, keys, query_ids=s.batch.id, temperature=0.2, **of_keys
            )
            for outputs, predictions in views
        ]
    )


def swapped(rows):
    return np.concatenate([rows[8:], rows[:8]])


# The values whose mean a step's loss is.
EXPECTED = {
    "sup_moco": against_memory(losses.sup_moco),
    "exemplar": against_memory(losses.exemplar),
    "mask_con": against_memory(losses.mask_con, target_temperature=0.05, weight=1.0),
    "grafit": against_memory(losses.grafit, weight=0.5),
    "moco_v2": moco_v2,
    "nn_clr": nn_clr,
    "spread": lambda s: losses.spread(s.outputs, s.labels, s.ids, temperature=0.2, weight=0.5),
    "simclr": lambda s: losses.nt_xent(s.outputs, s.ids, temperature=0.2),
    "byol": lambda s: 2 * losses.cosine_regression(s.predictions, swapped(s.targets)),
    "simsiam": lambda s: 0.5 * losses.cosine_regression(s.predictions, swapped(s.outputs)),
    "moco_v3": lambda s: (  # each query against the targets of the other view
        0.8
        * np.stack(
            [
                losses.info_nce(s.predictions[:8], s.targets[8:], temperature=0.2),
                losses.info_nce(s.predictions[8:], s.targets[:8], temperature=0.2),
            ]
        )
    ),
    "barlow_twins": lambda s: losses.barlow_twins(s.outputs[:8], s.outputs[8:]),
    "vicreg": lambda s: losses.vicreg(s.outputs[:8], s.outputs[8:]),
    "dino": lambda s: losses.dino(
        s.outputs.reshape(2, 8, -1),
        s.targets.reshape(2, 8, -1),
        s.before.centre,
        student_temperature=0.2,
        teacher_temperature=0.04,
    ),
    "t_rex": lambda s: losses.cosine_softmax(
        s.outputs, s.before.params["prototypes"], s.labels, temperature=0.2
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_loss_of_a_step_is_the_loss_of_its_views(name, dataset):
    step = step_of(
        name, dataset, **({"t_rex.prototypes_from": "learnt"} if name == "t_rex" else {})
    )
    expected = np.mean(np.asarray(EXPECTED[name](step)))
    assert float(step.metrics["loss"]) == pytest.approx(float(expected), rel=1e-4)
    if name == "dino":
        centre = losses.move_centre(
            step.before.centre, step.targets.reshape(2, 8, -1), momentum=0.9
        )
        np.testing.assert_allclose(step.after.centre, centre, atol=1e-5)


def test_the_prototypes_of_t_rex_are_those_of_the_memory(dataset):
    step = step_of("t_rex", dataset)
    keys, labels, of_keys = memory_of(step)
    plain = losses.prototype_softmax(
        step.outputs,
        keys,
        step.labels,
        labels,
        classes=10,
        key_mask=of_keys["key_mask"],
        temperature=0.2,
    )
    expected = losses.prototype_softmax(
        step.outputs,
        keys,
        step.labels,
        labels,
        classes=10,
        query_ids=step.ids,
        **of_keys,
        temperature=0.2,
    )
    assert float(step.metrics["loss"]) == pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert abs(float(np.mean(expected) - np.mean(plain))) > 1e-2  # own keys are left out


class TestUpdateOfAStep:
    def test_step_counts(self, look_step):
        assert int(look_step.after.step) == int(look_step.before.step) + 1

    def test_target_moves_by_the_ema_towards_the_updated_encoder(self, look_step):
        half = jax.tree.map(
            lambda t, p: 0.5 * t + 0.5 * p, look_step.before.target.params, look_step.after.params
        )
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
            images = encoding.global_images(s.config, s.batch)
            queries = models.encode(s.method.encoder, params, {}, images, train=True).output
            queries = queries / jnp.linalg.norm(queries, axis=1, keepdims=True)
            own = jnp.sum(queries * np.tile(s.keys, (2, 1)), axis=1) / 0.2
            others = jnp.where(negatives, queries @ s.before.memory.keys.T / 0.2, -jnp.inf)
            everything = jnp.concatenate([own[:, None], others], axis=1)
            return jnp.mean(jax.nn.logsumexp(everything, axis=1) - own)

        expected = jax.tree.map(
            lambda p, g: p - 0.1 * g, s.before.params, gradient(s.before.params)
        )
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


class TestTargetTemperature:
    """DINO's, which may be warmed up."""

    @pytest.mark.parametrize("warmup, wanted", [("0 steps", 0.05), ("4 steps", 0.04)])
    def test_starts_where_it_should(self, warmup, wanted, dataset):
        changes = {
            "dino.target_temperature": 0.05,
            "dino.target_temperature_start": 0.04,
            "dino.target_temperature_warmup": warmup,
        }
        s = step_of("dino", dataset, **changes)
        views, targets = (x.reshape(2, 8, -1) for x in (s.outputs, s.targets))
        expected = losses.dino(
            views, targets, s.before.centre, student_temperature=0.2, teacher_temperature=wanted
        )
        assert float(s.metrics["loss"]) == pytest.approx(float(np.mean(expected)), rel=1e-4)


class TestTargetNorm:
    """BatchNorm in the target encoder: by the key batch, or by its running statistics."""

    @pytest.mark.parametrize("target_norm", ["running", "batch"])
    def test_whether_keys_depend_on_the_batch_and_move_the_statistics(self, target_norm, dataset):
        config = config_of("look", HAND | {"model.norm": "batch", "target_norm": target_norm})
        method, _ = pretrain.prepare(config, dataset)
        shapes = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))).target
        rng = np.random.default_rng(0)
        target = Target(
            jax.tree.map(lambda x: rng.normal(size=x.shape), shapes.params),
            jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape), shapes.batch_stats),
        )
        keys_of = jax.jit(lambda batch: encoding.target_keys(method.encoder, target, batch, config))
        (together, stats), (apart, _) = (
            keys_of(batch_of(dataset, rows)) for rows in ([0, 1, 2, 3], [0, 7, 8, 9])
        )
        by_batch = target_norm == "batch"
        assert (np.abs(together[0] - apart[0]).max() > 1e-3) == by_batch
        changed = [
            np.any(np.abs(a - b) > 1e-3)
            for a, b in zip(
                jax.tree.leaves(stats), jax.tree.leaves(target.batch_stats), strict=True
            )
        ]
        assert changed == [by_batch] * 2  # a mean and a variance

    def test_running_statistics_follow_those_of_the_online_encoder(self, dataset):
        step = step_of("look", dataset, **{"model.norm": "batch", "target_norm": "running"})
        online, before = step.after.batch_stats, step.before.target.batch_stats
        half = jax.tree.map(lambda t, o: 0.5 * t + 0.5 * o, before, online)
        assert_close(step.after.target.batch_stats, half)
        assert max(np.abs(x).max() for x in jax.tree.leaves(online)) > 1e-2


class TestKSchedule:
    def k_at(self, step, *, k=10, k_warmup):
        config = config_of("look", {"look.k": k, "look.k_warmup": k_warmup})
        return look.k_schedule(config, lambda text: int(text.split()[0]), 1000)(jnp.asarray(step))

    def test_without_warmup_k_is_constant(self):
        for step in 0, 1, 1000:
            k = self.k_at(step, k_warmup="0 steps")
            assert isinstance(k, int) and k == 10

    def test_goes_geometrically_from_the_whole_memory_to_k(self):
        k = [int(self.k_at(step, k_warmup="100 steps")) for step in range(0, 131, 10)]
        assert k[0] == 1000 and k[5] == 100 and k[10:] == [10, 10, 10, 10]
        np.testing.assert_allclose(k[:11], 1000 * 0.01 ** (np.arange(11) / 10), atol=0.51)
        assert k == sorted(k, reverse=True)

    def test_a_k_beyond_the_memory_stays(self):
        k = [int(self.k_at(step, k=5000, k_warmup="100 steps")) for step in (0, 50, 100)]
        assert k == [5000] * 3


class TestKOfLabels:
    def k_of(self, labels, valid=None):
        labels = jnp.asarray(labels)
        valid = jnp.ones(labels.shape, bool) if valid is None else jnp.asarray(valid)
        of = memory.create(len(labels), 2)._replace(labels=labels, valid=valid)
        return look.k_of_labels(jnp.int32(10), jnp.arange(4), of, 4).tolist()

    def test_equally_frequent_classes_have_k(self):
        assert self.k_of([0, 1, 2, 3] * 3) == [10] * 4

    def test_k_is_in_proportion_to_the_keys_of_the_class(self):
        assert self.k_of([0] * 3 + [1] * 2 + [2]) == [15, 10, 5, 1]  # no key: still one neighbour

    def test_empty_slots_do_not_count(self):
        assert self.k_of([0, 1, 2, 3, -1, -1, 0], [1, 1, 1, 1, 0, 0, 0]) == [10] * 4


class TestEma:
    def test_rises_on_a_cosine_to_its_end(self, dataset):
        config = config_of("byol", HAND | {"ema": 0.5, "ema_end": 1.0, "duration": "10 steps"})
        method, _ = pretrain.prepare(config, dataset)
        state = some_state(method, config, dataset, batch_of(dataset, range(8)))
        setup = types.SimpleNamespace(
            config=config, steps=lambda text: int(text.split()[0]), axis_name=AXIS
        )

        def share_of_old(step):
            there = jax.tree.map(jnp.ones_like, state.target)
            online = jax.tree.map(jnp.zeros_like, state.params)
            moved = over_one_device(lambda s, _: updating.follow(setup, s, {}))(
                state.replace(step=jnp.int32(step), target=there, params=online), jnp.zeros(1)
            )
            return float(jax.tree.leaves(moved.target.params)[0].ravel()[0])

        expected = [0.5, 1 - 0.25 * (1 + np.cos(0.2 * np.pi)), 0.75, 1.0]
        assert [share_of_old(step) for step in (0, 2, 5, 10)] == pytest.approx(expected, abs=1e-6)


class TestApproximateNeighbours:
    def test_the_step_is_the_exact_one_where_nothing_is_missed(self, look_step, dataset):
        step = step_of("look", dataset, **{"look.neighbors": "approximate"})
        assert float(step.metrics["recall"]) == 1 and "recall" not in look_step.metrics
        assert_close(step.after, look_step.after)

    def test_what_is_missed_is_missing_from_the_loss_and_told(self, dataset, monkeypatch):
        def all_but_the_best(values, k, *, recall_target):
            assert recall_target == look.RECALL
            found, place = jax.lax.top_k(values, min(k + 1, values.shape[1]))
            return found[:, 1:], place[:, 1:]

        exact = step_of("look", dataset, **{"look.k": 4})
        monkeypatch.setattr(jax.lax, "approx_max_k", all_but_the_best)
        step = step_of("look", dataset, **{"look.neighbors": "approximate", "look.k": 4})
        assert float(step.metrics["recall"]) == pytest.approx(3 / 4)
        assert abs(float(step.metrics["loss"]) - float(exact.metrics["loss"])) > 1e-3

    @pytest.mark.parametrize(
        "change",
        [
            {"look.gate": 1.0},
            {"look.k_by_class": True},
            {"look.k_warmup": "2 steps"},
            {"look.neighbors": "near"},
        ],
    )
    def test_what_it_cannot_be_with(self, change, dataset):
        config = config_of("look", HAND | {"look.neighbors": "approximate"} | change)
        with pytest.raises(InputError, match="neighbors"):
            pretrain.prepare(config, dataset)
