"""rwSAM: weights by density, the step uphill, and the whole step of a method."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from small_runs import HAND, assert_close, batch_of, config_of, over_one_device, some_state

from jaxpt import pretrain
from jaxpt.errors import InputError
from jaxpt.methods import METHODS, encoding, rw_sam
from jaxpt.ops import memory

pytestmark = pytest.mark.usefixtures("unoptimised")

WHOLE_BATCH = ("barlow_twins", "vicreg")  # methods without a loss per image
ON = {"rw_sam.rho": 0.5, "rw_sam.alpha": 0.7, "rw_sam.bandwidth": 0.4, "rw_sam.features": 24}


def some_latest(width, ids, size=24, filled=20, seed=0):
    """A partly filled memory of features, with those of ``ids`` among them."""
    keys = oracles.unit(np.random.default_rng(seed).normal(size=(filled, width)) + 0.5)
    ids = np.concatenate([ids, np.arange(500, 500 + filled - len(ids))]).astype(np.int32)
    return memory.push(memory.create(size, width), jnp.float32(keys), jnp.zeros(filled, int), ids)


def weights_by_hand(features, ids, latest, alpha, bandwidth):
    """The same in loops, in float64."""
    keys = np.float64(latest.keys)[np.asarray(latest.valid)]
    of = np.asarray(latest.ids)[np.asarray(latest.valid)]
    squares = [np.sum((a - b) ** 2) for a in keys for b in keys]  # with each one's own, 0
    h = bandwidth * np.sqrt(np.mean(squares))
    found = []
    for row, i in zip(oracles.unit(np.float64(features)), ids):
        kernel = [1.0]
        kernel += [np.exp(-np.sum((row - k) ** 2) / (2 * h**2)) for k, j in zip(keys, of) if i != j]
        found.append(np.mean(kernel) ** -alpha)
    return np.array(found)


class TestWeights:
    @pytest.mark.parametrize("alpha, bandwidth", [(0.7, 0.4), (1.0, 0.25), (2.0, 1.5)])
    def test_against_loops(self, alpha, bandwidth):
        ids = np.array([3, 7, 500, 9], np.int32)
        features = 5 * np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
        latest = some_latest(6, ids[:2])
        found = rw_sam.weights(features, ids, latest, alpha=alpha, bandwidth=bandwidth)
        expected = weights_by_hand(features, ids, latest, alpha, bandwidth)
        np.testing.assert_allclose(found, expected, rtol=2e-5)
        assert np.ptp(expected) > 0.05

    def test_without_features_all_weigh_the_same(self):
        empty = memory.create(8, 5)
        found = rw_sam.weights(jnp.ones((3, 5)), jnp.arange(3), empty, alpha=1.0, bandwidth=0.25)
        np.testing.assert_array_equal(found, 1)

    def test_the_rare_weigh_more(self):
        """Ninety features in one place, ten in another: the weights tell the shares."""
        keys = jnp.repeat(jnp.eye(2), jnp.array([90, 10]), axis=0, total_repeat_length=100)
        latest = memory.push(memory.create(100, 2), keys, jnp.zeros(100, int), jnp.arange(100))
        often, rare = rw_sam.weights(
            jnp.eye(2), jnp.array([0, 99]), latest, alpha=1.0, bandwidth=0.1
        )
        # Both leave out their own earlier features and count themselves.
        assert (float(often), float(rare)) == pytest.approx((100 / 90, 100 / 10))

    def test_collapsed_features_are_safe(self):
        keys = jnp.ones((8, 3)) / np.sqrt(3)
        latest = memory.push(memory.create(8, 3), keys, jnp.zeros(8, int), jnp.arange(8))
        features = jnp.array([[1.0, 1, 1], [1, 0, 0], [0, 0, 0]])
        found = rw_sam.weights(features, jnp.arange(9, 12), latest, alpha=1.0, bandwidth=0.25)
        assert np.all(np.isfinite(found)) and np.all((found >= 1) & (found <= 9 + 1e-5))


PARAMS = {"a": jnp.array([0.5, -1.5, 2.0]), "b": jnp.array([0.3])}


def cost(params):
    return jnp.sum(params["a"] ** 4) + jnp.sin(params["b"][0] * params["a"][0]), "about"


def other_cost(params):
    return jnp.sum(params["b"] ** 2), "about the other"


def perturbed(uphill, rho, params=PARAMS):
    """Gradient of ``cost`` over an axis of length one, and the auxiliary results."""
    found = []

    def run(params):
        gradients = (jax.grad(f, has_aux=True) for f in (cost, uphill))
        gradient, about = rw_sam.perturbed(*gradients, rho=rho, axis_name="batch")(params)
        found.append(about)
        return gradient

    mapped = jax.vmap(run, in_axes=None, axis_size=1, axis_name="batch")
    return jax.tree.map(lambda x: x[0], mapped(params)), found[0]


class TestStepUphill:
    def test_the_gradient_is_that_at_the_end_of_a_step_of_length_rho(self):
        direction = jax.grad(lambda p: cost(p)[0])(PARAMS)
        norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(direction)))
        above = jax.tree.map(lambda p, g: p + 0.2 * g / norm, PARAMS, direction)
        found, about = perturbed(cost, 0.2)
        assert_close(found, jax.grad(lambda p: cost(p)[0])(above))
        assert about == "about"

    def test_the_step_follows_the_other_function(self):
        found, about = perturbed(other_cost, 0.2)
        expected = jax.grad(lambda p: cost(p)[0])({**PARAMS, "b": PARAMS["b"] + 0.2})
        assert_close(found, expected)
        assert about == "about the other"

    def test_rho_0_changes_no_bit(self):
        plain = jax.vmap(jax.grad(lambda p: cost(p)[0]), in_axes=None, axis_size=1)(PARAMS)
        jax.tree.map(
            np.testing.assert_array_equal,
            perturbed(cost, 0.0)[0],
            jax.tree.map(lambda x: x[0], plain),
        )

    def test_no_direction_no_step(self):
        flat = {"a": PARAMS["a"], "b": jnp.zeros(1)}
        assert_close(perturbed(other_cost, 0.2, flat)[0], jax.grad(lambda p: cost(p)[0])(flat))


@pytest.fixture(scope="module")
def stepped(dataset):
    """A step of cross-entropy with BatchNorm and some latest features, plain and with rwSAM."""
    found = {}
    for name, changes in {"plain": {}, "rwSAM": ON, "still": ON | {"rw_sam.rho": 1e-46}}.items():
        config = config_of("cross_entropy", HAND | {"model.norm": "batch"} | changes)
        method, _ = pretrain.prepare(config, dataset)
        batch = batch_of(dataset, range(8), epoch=3, seed=5)
        before = some_state(method, config, dataset, batch)
        if name != "plain":
            before = before.replace(latest=some_latest(8, batch.id[:4]))
        found[name] = before, *jax.jit(over_one_device(method.step))(before, batch)
    return config, method, batch, found


class TestStep:
    def test_parameters_follow_the_gradient_above(self, stepped):
        config, method, batch, found = stepped
        before, after, _ = found["rwSAM"]

        @jax.jit
        def by_hand(weights):
            def losses(params):
                state = before.replace(params=params)
                queries = encoding.queries(method.encoder, params, state, batch, config)
                targets = 0.9 * jax.nn.one_hot(queries.labels, 10) + 0.01  # smoothing 0.1
                return -jnp.sum(targets * jax.nn.log_softmax(queries.output), axis=1)

            def weighted(params):
                return jnp.mean(jnp.tile(weights, 2) * losses(params))

            uphill = jax.grad(weighted)(before.params)
            norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(uphill)))
            above = jax.tree.map(lambda p, g: p + 0.5 * g / norm, before.params, uphill)
            gradient = jax.grad(lambda p: jnp.mean(losses(p)))(above)
            return jax.tree.map(lambda p, g: p - 0.1 * g, before.params, gradient)

        @jax.jit
        def features():
            queries = encoding.queries(method.encoder, before.params, before, batch, config)
            return queries.features[:8]

        weights = weights_by_hand(features(), batch.id, before.latest, 0.7, 0.4)
        assert_close(after.params, by_hand(weights.astype(np.float32)))
        for others in np.ones(8), weights[::-1]:  # the step tells weights apart
            with pytest.raises(AssertionError):
                assert_close(after.params, by_hand(others.astype(np.float32)))
        slots = np.arange(20, 28) % 24
        assert_close(after.latest.keys[slots], oracles.unit(features()))
        np.testing.assert_array_equal(after.latest.ids[slots], batch.id)

    def test_statistics_and_loss_are_those_before_the_step_uphill(self, stepped):
        _, _, _, found = stepped
        (_, plain, of_plain), (_, with_it, of_it) = found["plain"], found["rwSAM"]
        jax.tree.map(np.testing.assert_array_equal, plain.batch_stats, with_it.batch_stats)
        assert jax.tree.leaves(plain.batch_stats)
        np.testing.assert_array_equal(of_plain["loss"], of_it["loss"])
        assert of_plain["gradient_norm"] != of_it["gradient_norm"]

    def test_a_step_uphill_of_length_0_is_the_plain_step_to_the_bit(self, stepped):
        _, _, _, found = stepped
        (_, plain, of_plain), (_, still, of_still) = found["plain"], found["still"]
        assert plain.latest is None and still.latest is not None
        jax.tree.map(np.testing.assert_array_equal, plain, still.replace(latest=None))
        jax.tree.map(np.testing.assert_array_equal, of_plain, of_still)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_such_steps_or_says_why_not(name, dataset):
    changes = HAND | {"local_views": int("crops" in METHODS[name].reads)}
    changes |= {"rw_sam.rho": 0.1, "rw_sam.alpha": 0.0}
    batch = batch_of(dataset, range(8))
    for alpha in (0.0, 0.5):
        config = config_of(name, changes | {"rw_sam.alpha": alpha})
        if alpha and name in WHOLE_BATCH:
            with pytest.raises(InputError, match=f"method {name} has one loss for the whole batch"):
                pretrain.prepare(config, dataset)
            continue
        method, _ = pretrain.prepare(config, dataset)
        state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        assert (state.latest is not None) == (alpha > 0)
        after, _ = jax.eval_shape(over_one_device(method.step), state, batch)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rw_sam.rho": -0.1}, "rw_sam.rho must not be negative, got -0.1"),
        ({"rw_sam.alpha": -1.0}, "rw_sam.alpha must not be negative"),
        ({"rw_sam.bandwidth": 0.0}, "rw_sam.bandwidth must be positive, got 0"),
        ({"rw_sam.rho": 0.1, "rw_sam.features": 7}, "must hold at least one batch, 8, got 7"),
    ],
)
def test_settings_out_of_range_are_refused(changes, words, dataset):
    with pytest.raises(InputError, match=words):
        pretrain.prepare(config_of("look", HAND | {"batch_size": 8} | changes), dataset)
