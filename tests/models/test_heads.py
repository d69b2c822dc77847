"""Heads of pre-training, with every setting and as recipes have them, and of fine-tuning."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxpt.configs.pretrain import defaults, recipes
from jaxpt.configs.pretrain.imagenet import barlow_twins, dino, moco_v2, moco_v3, simsiam, t_rex

from jaxpt import models
from jaxpt.errors import InputError
from jaxpt.models.heads import covariance_sqrt

pytestmark = pytest.mark.usefixtures("exact_products")


def layers(head, features=6):
    """The parameters of a head by layer, as {"Dense_0": {"kernel": shape, …}, …}."""
    x = np.ones((4, features), np.float32)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), x, True))["params"]
    return jax.tree.map(lambda p: p.shape, shapes)


def projector_of(page, variant=""):
    config = page.get_config(variant).model
    config.projector.update(hidden=(8,) * len(config.projector.hidden), dim=4)
    config.predictor.update(hidden=(8,) * len(config.predictor.hidden))
    return models.make_projector(config), models.make_predictor(config)


MATRIX = {"kernel": (6, 8), "bias": (8,)}
NORM = {"scale": (8,), "bias": (8,)}


class TestHeadsOfRecipes:
    def test_moco_v2_has_two_matrices_with_biases_and_no_norm(self):
        head = layers(projector_of(moco_v2)[0])
        assert head == {"Dense_0": MATRIX, "Dense_1": {"kernel": (8, 4), "bias": (4,)}}

    def test_barlow_twins_has_no_bias_and_no_last_norm(self):
        head = layers(projector_of(barlow_twins)[0])
        assert [sorted(head[name]) for name in ("Dense_0", "Dense_1", "Dense_2")] == [
            ["kernel"]
        ] * 3
        assert head["BatchNorm_1"] == NORM and "BatchNorm_2" not in head

    def test_simsiam_and_moco_v3_end_in_a_norm_without_parameters(self):
        for page in simsiam, moco_v3:
            projector, _ = projector_of(page)
            assert projector.last_norm == "plain"
            head = layers(projector)
            assert head[f"Dense_{len(projector.hidden)}"] == {"kernel": (8, 4)}
            assert f"BatchNorm_{len(projector.hidden)}" not in head  # nothing to learn in it
        assert projector_of(moco_v3)[1].last_norm == "none"
        assert projector_of(moco_v3, "vit_s16")[1].last_norm == "plain"

    def test_dino_has_gelu_and_no_norm(self):
        projector, _ = projector_of(dino)
        assert projector.activation == "gelu" and len(projector.hidden) == 2
        assert sorted(layers(projector)) == ["Dense_0", "Dense_1", "Dense_2"]

    def test_t_rex_has_three_hidden_layers_and_t_rex_star_one(self):
        for variant, hidden in ("", 3), ("star", 1):
            projector, _ = projector_of(t_rex, variant)
            assert len(projector.hidden) == hidden and projector.unit_input

    def test_every_head_is_of_a_method_and_of_known_fields(self):
        fields = {
            f"model.{part}.{name}"
            for part in ("projector", "predictor")
            for name in defaults.get_config().model[part]
        }
        for method, head in recipes.HEADS.items():
            assert head.keys() <= fields | {"separate_views"}, method


class TestProjector:
    def apply(self, x, **settings):
        head = models.Projector((8,), 8, **settings)
        variables = head.init(jax.random.key(1), x, True)
        out, _ = head.apply(variables, x, True, mutable=["batch_stats"])
        return np.asarray(out), variables["params"]

    def test_without_norm_it_is_the_formula(self):
        x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        for activation, f in {
            "relu": lambda a: np.maximum(a, 0),
            "gelu": lambda a: a * np.vectorize(lambda b: 0.5 * (1 + math.erf(b / 2**0.5)))(a),
        }.items():
            out, p = self.apply(x, norm="none", bias=True, activation=activation, init_std=0.5)
            first, last = p["Dense_0"], p["Dense_1"]
            hidden = f(x @ first["kernel"] + first["bias"])
            np.testing.assert_allclose(out, hidden @ last["kernel"] + last["bias"], atol=1e-5)
        assert 0.3 < np.std(first["kernel"]) < 0.7

    def test_a_plain_last_norm_standardises_the_output(self):
        x = np.random.default_rng(0).normal(3, 2, size=(64, 5)).astype(np.float32)
        out, _ = self.apply(x, last_norm="plain", last_bias=False)
        np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(out.std(0), 1, atol=1e-3)

    def test_with_unit_input_the_length_of_features_does_not_matter(self):
        x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        a, b = (self.apply(x * f, norm="none", unit_input=True)[0] for f in (1, 7))
        np.testing.assert_allclose(a, b, atol=1e-5)

    @pytest.mark.parametrize(
        "changes, message",
        [
            (
                {"activation": "tanh"},
                r"projector\.activation must be one of relu, gelu, got 'tanh'",
            ),
            ({"last_norm": "batch"}, r"projector\.last_norm must be one of none, plain.*'batch'"),
            ({"norm": "none", "last_norm": "plain"}, r"projector\.last_norm plain needs a kind"),
            ({"init_std": -1.0}, r"projector\.init_std must not be negative, got -1"),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes, message):
        config = defaults.get_config().model
        config.projector.update(changes)
        with pytest.raises(InputError, match=message):
            models.make_projector(config)

    def test_a_section_of_an_earlier_version_is_the_head_it_was(self):
        config = defaults.get_config().model
        now = models.make_projector(config)
        config.projector = {"hidden": (128,), "dim": 64}
        assert models.make_projector(config) == now


class TestPrototypeHead:
    def test_outputs_are_cosines_times_the_norms(self):
        x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        head = models.PrototypeHead(models.Projector((), 4, norm="none"), 7, learnt_norms=True)
        params = head.init(jax.random.key(0), x, True)["params"]
        plain = models.PrototypeHead(models.Projector((), 4, norm="none"), 7)
        cosines = plain.apply(
            {"params": {k: params[k] for k in ("projector", "prototypes")}}, x, True
        )
        assert np.abs(cosines).max() <= 1 + 1e-6
        params["norms"] = 2 * params["norms"]
        np.testing.assert_allclose(head.apply({"params": params}, x, True), 2 * cosines, rtol=1e-6)


def test_the_spinal_head_is_the_papers_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7)).astype(np.float32)
    head = models.SpinalClassifier(width=4, classes=2)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32),
        head.init(jax.random.key(0), x, False)["params"],
    )

    def layer(name, *inputs):
        p = params[name]
        return np.maximum(np.concatenate(inputs, axis=1) @ p["kernel"] + p["bias"], 0)

    a, b = x[:, :3], x[:, 3:]
    h1 = layer("Dense_0", a)
    h2 = layer("Dense_1", b, h1)
    h3 = layer("Dense_2", a, h2)
    h4 = layer("Dense_3", b, h3)
    out = params["Classifier_0"]["Dense_0"]
    wanted = np.concatenate([h1, h2, h3, h4], axis=1) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(
        head.apply({"params": params}, x, False), wanted, rtol=1e-4, atol=1e-5
    )


def by_eigenvalues(x):
    """Square roots of the covariances of matrices, by NumPy's eigendecomposition."""
    covariances = [np.cov(one, rowvar=False, bias=True) for one in np.asarray(x, np.float64)]
    values, vectors = np.linalg.eigh(covariances)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None] @ vectors.swapaxes(1, 2)


def activations(rows, columns, batch=5):
    """Maps as after a ReLU, with correlated channels."""
    rng = np.random.default_rng((rows, columns))
    x = rng.normal(size=(batch, rows, columns)) @ rng.normal(size=(columns, columns))
    return np.maximum(x / np.sqrt(columns), 0).astype(np.float32)


class TestCovarianceRoot:
    # More rows than columns, as many, and fewer: then the covariance is singular.
    @pytest.mark.parametrize(("rows", "columns"), [(50, 4), (16, 16), (4, 12)])
    def test_the_root_is_numpys(self, rows, columns):
        x = activations(rows, columns)
        np.testing.assert_allclose(covariance_sqrt(x), by_eigenvalues(x), atol=1e-5)

    @pytest.mark.parametrize(("iterations", "error"), [(5, 0.036), (10, 0.0048), (24, 0.000017)])
    def test_the_error_is_at_most_what_is_documented(self, iterations, error):
        small = np.logspace(-6, 0, 400)
        sides = np.stack([small, np.sqrt(1 - small**2)], axis=1)  # singular values
        x = np.sqrt(2) * np.stack([-sides, sides], axis=1)[:, :, :, None] * np.eye(2)
        x = x.reshape(400, 4, 2)  # rows ± √2 s₁ e₁, ± √2 s₂ e₂
        found = covariance_sqrt(x, iterations)
        worst = np.abs(found - sides[:, :, None] * np.eye(2)).max()
        assert 0.9 * error < worst <= error

    def test_the_root_scales_and_ignores_the_mean(self):
        x = activations(9, 4)
        root = covariance_sqrt(x)
        for scale in 1e-30, 1e30:
            np.testing.assert_allclose(covariance_sqrt(scale * x), scale * root, rtol=1e-5)
        np.testing.assert_allclose(covariance_sqrt(x + 2), root, atol=1e-5)
        assert not np.any(covariance_sqrt(np.ones((2, 3, 3))))

    def test_bfloat16_is_computed_in_float32(self):
        x = jnp.asarray(activations(9, 4), jnp.bfloat16)
        np.testing.assert_array_equal(covariance_sqrt(x), covariance_sqrt(x.astype(jnp.float32)))

    def test_the_gradient_is_that_of_the_root_and_finite_for_singular_matrices(self):
        weights = np.random.default_rng(0).normal(size=(4, 4))
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * covariance_sqrt(x))))
        x = activations(12, 4, batch=1)
        step = 1e-6 * np.random.default_rng(1).normal(size=x.shape)
        high, low = (np.sum(weights * by_eigenvalues(y)) for y in (x + step, x - step))
        assert np.sum(gradient(x) * step) == pytest.approx((high - low) / 2, rel=1e-3)
        for singular in np.repeat(x[:, :3], 4, axis=1), np.ones((1, 12, 4), np.float32):
            found = gradient(singular)
            assert np.isfinite(found).all() and np.abs(found).max() < 10

    def test_no_iteration_is_refused(self):
        with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
            covariance_sqrt(np.ones((1, 2, 2)), 0)


@pytest.mark.parametrize(("width", "temperature"), [(8, 0.0), (5, 0.0), (8, 0.1)])
def test_the_covariance_head_classifies_numpys_root(width, temperature):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(3, 4, 5, 8)), 0).astype(np.float32)
    head = models.CovarianceClassifier(width, 6, temperature=temperature)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32),
        head.init(jax.random.key(0), maps, True)["params"],
    )
    wanted = []
    for x in maps.reshape(3, 20, 8).astype(np.float64):
        x = x @ params["Dense_0"]["kernel"] if width < 8 else x
        x = by_eigenvalues(x[None])[0][np.triu_indices(width)]
        last = params["Classifier_0"]["Dense_0"]
        if temperature:
            wanted.append(x @ last["kernel"] / np.linalg.norm(x) / temperature)
        else:
            wanted.append(x @ last["kernel"] + last["bias"])
    found = head.apply({"params": params}, maps, True)
    np.testing.assert_allclose(found, wanted, atol=1e-5 / (temperature or 1))


def test_the_covariance_head_takes_the_iterations_it_is_given():
    maps = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    few, many = (models.CovarianceClassifier(4, 3, iterations=n) for n in (1, 24))
    params = jax.tree.map(jnp.ones_like, many.init(jax.random.key(0), maps, True))
    last = params["params"]["Classifier_0"]["Dense_0"]
    root = covariance_sqrt(maps, 1)[:, *np.triu_indices(4)]
    np.testing.assert_allclose(
        few.apply(params, maps, True), root @ last["kernel"] + last["bias"], atol=1e-5
    )
    assert np.any(np.abs(few.apply(params, maps, True) - many.apply(params, maps, True)) > 1e-3)
