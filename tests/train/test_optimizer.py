import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from jaxpt import models
from jaxpt.errors import InputError
from jaxpt.train.optimizer import (
    OPTIMIZERS,
    count_depths,
    depths,
    layer_rates,
    learning_rate,
    make_optimizer,
    steps,
)
from jaxpt.train.parts import ELEMENTWISE, Part

pytestmark = pytest.mark.usefixtures("unoptimised")


class TestSteps:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("100 steps", 100),
            ("1 step", 1),
            ("0 steps", 0),
            ("  7   steps ", 7),
            ("7steps", 7),
            ("2 epochs", 20),
            ("1 epoch", 10),
            ("0.5 epochs", 5),
            ("1.26 epochs", 13),
            ("0 epochs", 0),
            ("240 examples", 2),
            ("1 example", 0),
            ("170 examples", 1),
            ("190 examples", 2),
        ],
    )
    def test_units(self, text, expected):
        found = steps(text, batch_size=120, n_examples=1200)
        assert found == expected and isinstance(found, int)

    def test_an_epoch_need_not_be_a_whole_number_of_batches(self):
        assert steps("3 epochs", batch_size=100, n_examples=150) == 4  # 4.5, to the even one
        assert steps("4 epochs", batch_size=100, n_examples=150) == 6

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "soon",
            "60",
            "epochs",
            "-3 steps",
            "3 hours",
            "1e3 steps",
            "3 steps or so",
            "3,5 epochs",
            "steps 3",
            "nan epochs",
        ],
    )
    def test_text_that_is_no_duration(self, text):
        with pytest.raises(InputError, match=f"a duration reads like .*got {text!r}"):
            steps(text, batch_size=120, n_examples=1200)


class TestLearningRate:
    @staticmethod
    def schedule(total, warmup, peak=0.2):
        config = ml_collections.ConfigDict({"learning_rate": peak})
        found = jax.vmap(learning_rate(config, total_steps=total, warmup_steps=warmup))
        return np.asarray(found(jnp.arange(total + 6)))

    def test_linear_warmup_then_cosine_to_zero(self):
        rates = self.schedule(50, 10)
        np.testing.assert_allclose(rates[:11], 0.02 * np.arange(11), atol=1e-6)
        share = np.arange(41) / 40
        np.testing.assert_allclose(rates[10:51], 0.1 * (1 + np.cos(np.pi * share)), atol=1e-6)
        np.testing.assert_allclose(rates[50:], 0, atol=1e-7)

    def test_without_warmup_the_first_step_has_the_full_rate(self):
        rates = self.schedule(50, 0)
        np.testing.assert_allclose(rates[[0, 25, 50]], [0.2, 0.1, 0], atol=1e-6)

    def test_ends_at_a_share_of_the_rate_or_drops(self):
        config = ml_collections.ConfigDict({"learning_rate": 0.2, "final_rate": 0.1})
        assert float(learning_rate(config, total_steps=50, warmup_steps=10)(50)) == pytest.approx(
            0.02
        )
        config = ml_collections.ConfigDict(
            {"learning_rate": 1.0, "drop_at": (0.5, 0.8), "drop_factor": 0.1}
        )
        dropping = learning_rate(config, total_steps=10, warmup_steps=0)
        np.testing.assert_allclose(
            [dropping(i) for i in (0, 4, 6, 9)], [1, 1, 0.1, 0.01], rtol=1e-5
        )

    def test_warmup_longer_than_training(self):
        with pytest.raises(InputError, match="warm-up of 51 steps .* 50 steps"):
            self.schedule(50, 51)


def optimizer(name, *, rate=0.1, momentum=0.0, weight_decay=0.0, **more):
    config = ml_collections.ConfigDict(
        {"name": name, "momentum": momentum, "weight_decay": weight_decay} | more
    )
    return make_optimizer(config, optax.constant_schedule(rate))


def descend(chosen, params, gradient_of, n):
    """The parameters after each of n updates."""

    @jax.jit
    def update(params, state):
        updates, state = chosen.update(gradient_of(params), state, params)
        return optax.apply_updates(params, updates), state

    state, path = chosen.init(params), []
    for _ in range(n):
        params, state = update(params, state)
        path.append(jax.device_get(params))
    return path


PARAMS = {
    "kernel": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32),
    "bias": np.array([1.0, -1.0], np.float32),
    "scale": np.float32(2.0),
}


def no_gradient(params):
    return jax.tree.map(jnp.zeros_like, params)


class TestOptimizers:
    # LARS moves a matrix by a thousandth of its length, times the rate, whatever the gradient;
    # vectors take plain steps, so one rate does not suit both.
    @pytest.mark.parametrize(
        "name, rate, keys",
        [
            ("sgd", 0.02, ["kernel", "bias", "scale"]),
            ("adamw", 0.1, ["kernel", "bias", "scale"]),
            ("lars", 10.0, ["kernel"]),
            ("lars", 0.02, ["bias", "scale"]),
        ],
    )
    def test_lowers_a_quadratic_to_its_minimum(self, name, rate, keys):
        goal = {key: PARAMS[key] for key in keys}
        start = jax.tree.map(lambda p: p + 1, goal)

        def distance(params):
            return sum(
                jnp.sum((p - g) ** 2)
                for p, g in zip(jax.tree.leaves(params), jax.tree.leaves(goal))
            )

        path = descend(optimizer(name, rate=rate, momentum=0.5), start, jax.grad(distance), 120)
        assert distance(path[0]) < distance(start)
        assert distance(path[-1]) < 0.02 * distance(start)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_weight_decay_shrinks_matrices_and_leaves_the_rest(self, name):
        rate = 100.0 if name == "lars" else 0.1
        after = descend(optimizer(name, rate=rate, weight_decay=0.5), PARAMS, no_gradient, 1)[0]
        # SGD and AdamW: 1 − rate·decay; LARS: a thousandth of the length per unit of rate.
        shrunk = 1 - 100 * 0.001 if name == "lars" else 1 - 0.1 * 0.5
        np.testing.assert_allclose(after["kernel"], shrunk * PARAMS["kernel"], rtol=1e-5)
        np.testing.assert_array_equal(after["bias"], PARAMS["bias"])
        np.testing.assert_array_equal(after["scale"], PARAMS["scale"])

    @pytest.mark.parametrize(
        "name, sharded", [*((n, False) for n in OPTIMIZERS), *((n, True) for n in ELEMENTWISE)]
    )
    def test_weight_decay_leaves_a_vits_token_and_positions(self, name, sharded):
        """Whole, or as the pieces of one device."""
        params = {
            "backbone": {
                part: Part(np.ones((1, 2, 2), np.float32), 2, "batch")
                if sharded
                else np.ones((1, 2, 2), np.float32)
                for part in ("cls_token", "positions", "kernel")
            }
        }
        after = descend(optimizer(name, rate=0.1, weight_decay=0.5), params, no_gradient, 1)[0]
        kept = {
            part: bool((jax.tree.leaves(x)[0] == 1).all()) for part, x in after["backbone"].items()
        }
        assert kept == {"cls_token": True, "positions": True, "kernel": False}

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_without_weight_decay_nothing_moves_by_itself(self, name):
        after = descend(optimizer(name), PARAMS, no_gradient, 1)[0]
        for key in PARAMS:
            np.testing.assert_array_equal(after[key], PARAMS[key])

    @pytest.mark.parametrize("name", ["sgd", "lars"])
    def test_momentum_adds_up(self, name):
        path = descend(
            optimizer(name, rate=0.1, momentum=0.9),
            {"bias": PARAMS["bias"]},
            lambda params: jax.tree.map(jnp.ones_like, params),
            3,
        )
        steps_taken = -np.diff([PARAMS["bias"][0], *(p["bias"][0] for p in path)])
        np.testing.assert_allclose(steps_taken, [0.1, 0.19, 0.271], rtol=1e-4)

    def test_lars_scales_matrices_but_not_vectors(self):
        after = descend(
            optimizer("lars", rate=1.0),
            PARAMS,
            lambda params: jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), params),
            1,
        )[0]
        moved = np.linalg.norm(after["kernel"] - PARAMS["kernel"])
        assert moved == pytest.approx(1e-3 * np.linalg.norm(PARAMS["kernel"]), rel=1e-3)
        np.testing.assert_allclose(after["bias"], PARAMS["bias"] - 1e-3, rtol=1e-5)

    def test_follows_the_schedule(self):
        config = ml_collections.ConfigDict({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0})
        chosen = make_optimizer(config, lambda step: jnp.array([0.5, 0.25, 0.0])[step])
        path = descend(
            chosen, {"bias": PARAMS["bias"]}, lambda params: jax.tree.map(jnp.ones_like, params), 3
        )
        np.testing.assert_allclose([p["bias"][0] for p in path], [0.5, 0.25, 0.25])

    def test_vectors_may_have_a_rate_of_their_own(self):
        after = descend(
            optimizer("sgd", rate=0.1, vector_rate=0.5),
            PARAMS,
            lambda params: jax.tree.map(jnp.ones_like, params),
            1,
        )[0]
        moved = {key: float(np.mean(PARAMS[key] - after[key])) for key in PARAMS}
        assert moved == pytest.approx({"kernel": 0.1, "bias": 0.05, "scale": 0.05})

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_weight_decay_may_reach_vectors(self, name):
        chosen = optimizer(name, rate=0.1, weight_decay=0.5, decay_vectors=True)
        after = descend(chosen, PARAMS, no_gradient, 1)[0]
        np.testing.assert_allclose(after["bias"], 0.95 * PARAMS["bias"], rtol=1e-5)

    def test_weight_decay_follows_a_cosine(self):
        config = ml_collections.ConfigDict(
            {"name": "sgd", "momentum": 0.0, "weight_decay": 0.04, "weight_decay_end": 0.4}
        )
        chosen = make_optimizer(config, optax.constant_schedule(1.0), total_steps=4)
        path = descend(chosen, {"kernel": PARAMS["kernel"]}, no_gradient, 5)
        sizes = [p["kernel"][0, 0] for p in path]
        shrunk = [1 - a / b for a, b in zip(sizes, [1.0, *sizes])]
        half = 0.5 * (1 + np.cos(np.pi * np.arange(5) / 4))
        np.testing.assert_allclose(shrunk, 0.4 + (0.04 - 0.4) * half, rtol=1e-4)

    def test_the_predictor_may_keep_its_rate(self):
        config = ml_collections.ConfigDict(
            {
                "name": "sgd",
                "momentum": 0.0,
                "weight_decay": 0.0,
                "learning_rate": 0.5,
                "constant_predictor": True,
            }
        )
        chosen = make_optimizer(config, lambda step: jnp.array([0.5, 0.25, 0.0])[step])
        params = {"head": {"bias": np.zeros(1)}, "predictor": {"bias": np.zeros(1)}}
        path = descend(chosen, params, lambda p: jax.tree.map(jnp.ones_like, p), 3)
        for part, wanted in ("head", [-0.5, -0.75, -0.75]), ("predictor", [-0.5, -1.0, -1.5]):
            np.testing.assert_allclose([p[part]["bias"][0] for p in path], wanted)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_held_parameters_rest_and_then_start_afresh(self, name):
        config = ml_collections.ConfigDict(
            {"name": name, "momentum": 0.9, "weight_decay": 0.5, "freeze": ("prototypes",)}
        )
        chosen = make_optimizer(config, optax.constant_schedule(0.1), freeze_steps=2)
        params = {"head": {"prototypes": PARAMS["kernel"]}, "bias": PARAMS["bias"]}
        path = descend(chosen, params, lambda p: jax.tree.map(jnp.ones_like, p), 3)
        for p in path[:2]:
            np.testing.assert_array_equal(p["head"]["prototypes"], PARAMS["kernel"])
        assert np.all(path[0]["bias"] != PARAMS["bias"])
        if name == "sgd":  # no momentum and no decay was gathered meanwhile
            first = PARAMS["kernel"] - 0.1 * (1 + 0.5 * PARAMS["kernel"])
            np.testing.assert_allclose(path[2]["head"]["prototypes"], first, rtol=1e-5)
        with pytest.raises(InputError, match="no module or parameter 'prototypes'; it has bias"):
            chosen.init({"bias": PARAMS["bias"]})

    def test_each_array_may_be_clipped_by_its_own_norm(self):
        gradients = {"a": np.array([3.0, 4.0]), "b": np.array([0.6, 0.8])}
        for each, wanted in (True, {"a": 1.0, "b": 1.0}), (False, {"a": 0.98, "b": 0.196}):
            chosen = optimizer("sgd", rate=1.0, clip_norm=1.0, clip_each=each)
            start = jax.tree.map(np.zeros_like, gradients)
            after = descend(chosen, start, lambda _: gradients, 1)[0]
            lengths = {key: float(np.linalg.norm(x)) for key, x in after.items()}
            assert lengths == pytest.approx(wanted, rel=2e-3)

    def test_late_lars_is_the_formula_of_barlow_twins_code(self):
        """μ ← m·μ + η·‖p‖/‖g‖·g for matrices, μ ← m·μ + g for vectors; p ← p − rate·μ."""
        rates = np.array([1.0, 3.0, 2.0], np.float32)
        config = ml_collections.ConfigDict(
            {
                "name": "lars",
                "momentum": 0.9,
                "weight_decay": 0.1,
                "late_rate": True,
                "vector_rate": 0.25,
            }
        )
        chosen = make_optimizer(config, lambda step: jnp.asarray(rates)[step])
        gradients = {"kernel": np.array([[0.3, -0.1], [0.2, 0.5]]), "bias": np.array([0.1, -0.4])}
        start = {key: PARAMS[key] for key in gradients}
        path = descend(chosen, start, lambda _: gradients, 3)
        p, mu = {k: v.astype(float) for k, v in start.items()}, dict.fromkeys(start, 0.0)
        for rate, found in zip(rates, path):
            for key, factor in ("kernel", 1.0), ("bias", 0.25):
                g = gradients[key]
                if key == "kernel":
                    g = g + 0.1 * p[key]
                    g = g * 0.001 * np.linalg.norm(p[key]) / np.linalg.norm(g)
                mu[key] = 0.9 * mu[key] + g
                p[key] = p[key] - rate * factor * mu[key]
                np.testing.assert_allclose(found[key], p[key], rtol=1e-5)

    def test_unknown(self):
        with pytest.raises(InputError, match=r"optimizer\.name must be one of .*got 'adam'"):
            optimizer("adam")


class TestDepths:
    """How deep each part of a network lies, and what rate that gives it."""

    def test_depths_of_known_networks(self):
        names = {"conv_stem": 0, "norm_stem": 0, "stage1_block2": 1, "stage4_block1": 4}
        tree = {"backbone": {name: {"w": 0} for name in names}, "head": {"w": 0}}
        wanted = {
            "backbone": {name: {"w": depth} for name, depth in names.items()},
            "head": {"w": 5},
        }
        assert depths(tree) == wanted
        assert count_depths(tree) == 5
        cnn = {"backbone": {"Conv_0": 0, "BatchNorm_0": 0, "Conv_3": 0}, "head": 0}
        assert depths(cnn) == {"backbone": {"Conv_0": 0, "BatchNorm_0": 0, "Conv_3": 3}, "head": 4}
        vit = {
            "backbone": dict.fromkeys(["embedding", "pos_embed", "block0", "block11", "norm"], 0)
        }
        assert list(depths(vit)["backbone"].values()) == [0, 0, 0, 11, 11]

    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            (
                "vit_ti16",
                {
                    "patch_embed": 0,
                    "cls_token": 0,
                    "positions": 0,
                    "block1": 1,
                    "block12": 12,
                    "norm": 12,
                },
            ),
            (
                "convnext_tiny",
                {
                    "conv_stem": 0,
                    "norm_stem": 0,
                    "stage1_block1": 1,
                    "stage2_norm": 2,
                    "stage2_conv": 2,
                    "stage3_block9": 3,
                    "norm": 4,
                },
            ),
            (
                "mobilenet_v2",
                {
                    "conv_stem": 0,
                    "norm_stem": 0,
                    "block1": 1,
                    "block17": 17,
                    "conv_last": 17,
                    "norm_last": 17,
                },
            ),
        ],
    )
    def test_depths_of_our_networks(self, name, wanted):
        network = models.BACKBONES[name]()
        params = jax.eval_shape(
            lambda: network.init(jax.random.key(0), models.sample(network, 3), False)
        )["params"]
        found = {
            part: set(jax.tree.leaves(of_part))
            for part, of_part in depths({"backbone": params})["backbone"].items()
        }
        assert {part: found[part] for part in wanted} == {part: {d} for part, d in wanted.items()}
        assert set.union(*found.values()) == set(range(max(wanted.values()) + 1))

    def test_rates_fall_towards_the_images(self):
        tree = {"backbone": {"Conv_0": 0, "Conv_1": 0, "Conv_2": 0}, "head": 0}
        assert layer_rates(tree, decay=0.5, frozen=1) == {
            "backbone": {"Conv_0": 0.0, "Conv_1": 0.25, "Conv_2": 0.5},
            "head": 1.0,
        }
