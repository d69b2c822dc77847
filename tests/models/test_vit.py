"""Vision transformers and ConvNeXts: what weights of others do not tell."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from jaxpt import models
from jaxpt.errors import InputError
from jaxpt.models import layers
from jaxpt.train import optimizer as optimizers

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")

VIT = models.ViT(8, 3, 2, patch=8, image_size=32)
CONVNEXT = models.ConvNeXt((1, 1), (8, 8))
NETWORKS = {
    "vit": VIT,
    "convnext": CONVNEXT,
    "mobilenet": models.MobileNetV2(((1, 8, 1, 1), (2, 8, 2, 2)), stem=8, last=16, norm="group"),
}
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)


@functools.cache
def drawn(network):
    """Variables that are nowhere zero, and of which no branch is negligible."""
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0.3, 0.3, x.shape).astype(np.float32), shapes)


def features(network, variables, images, train=False, **more):
    return jax.jit(lambda v, x: network.apply(v, x, train, **more)[0])(variables, images)


@pytest.mark.parametrize("kind", NETWORKS)
def test_blocks_computed_again_are_the_same_function(kind):
    network, params = NETWORKS[kind], drawn(NETWORKS[kind])

    def gradient(network):
        return jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, IMAGES, True)[0] ** 2)))(params)

    for a, b in zip(
        *(jax.tree.leaves(gradient(network.clone(remat=remat))) for remat in (False, True)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("kind", NETWORKS)
def test_parts_freeze_from_the_stem_upwards(kind):
    network, params = NETWORKS[kind], drawn(NETWORKS[kind])
    depths = optimizers.depths({"backbone": params["params"]})["backbone"]
    parts = optimizers.count_depths({"backbone": params["params"]})
    assert parts == {"vit": 4, "convnext": 3, "mobilenet": 4}[kind]
    for frozen in 2, parts:
        gradients = jax.jit(
            jax.grad(lambda p: jnp.sum(network.clone(frozen=frozen).apply(p, IMAGES, True)[0] ** 2))
        )(params)["params"]
        for name, part in gradients.items():
            (depth,) = set(jax.tree.leaves(depths[name]))
            assert (float(optax.tree.norm(part)) > 0) == (depth >= frozen), (name, frozen)


class TestStochasticDepth:
    def test_a_branch_is_left_out_of_its_share_of_the_examples(self):
        layer, x = layers.StochasticDepth(0.25), jnp.ones((4000, 2, 3))
        y = np.asarray(layer.apply({}, x, rngs={layers.STOCHASTIC_DEPTH: jax.random.key(0)}))
        assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
        assert np.ptp(y, axis=(1, 2)).max() == 0  # an example's branch is there or not
        assert abs((y == 0).mean() - 0.25) < 0.03
        np.testing.assert_array_equal(layer.apply({}, x), x)  # without a key

    def test_rates_rise_with_depth(self):
        np.testing.assert_allclose(layers.drop_rates(0.2, 3), [0, 0.1, 0.2])
        assert layers.drop_rates(0.2, 1) == [0]

    @pytest.mark.parametrize("network", [VIT, CONVNEXT], ids=["vit", "convnext"])
    def test_it_draws_in_training_with_a_key_alone(self, network):
        encoder = models.Encoder(network.clone(drop_path=0.5))
        params = {"backbone": drawn(network)["params"]}

        def run(train, key):
            return jax.jit(
                lambda p: models.encode(encoder, p, {}, IMAGES, train=train, key=key).features
            )(params)

        plain = features(network, drawn(network), IMAGES)
        for train, key in (False, None), (False, jax.random.key(0)), (True, None):
            np.testing.assert_allclose(run(train, key), plain, rtol=1e-5, atol=1e-5)
        first, again, other = (run(True, jax.random.key(seed)) for seed in (0, 0, 4))
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - plain).max() > 1e-3 and np.abs(first - other).max() > 1e-3

    def test_no_two_steps_or_devices_have_the_same_key(self):
        batches = [
            ml_collections.ConfigDict({"seed": s, "epoch": np.array([e]), "id": np.array([i])})
            for s, e, i in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
        keys = [jax.random.key_data(layers.stochastic_depth_key(b)).tolist() for b in batches]
        assert len(set(map(tuple, keys))) == 4


class TestPositions:
    def test_fixed_ones_are_sines_and_cosines_of_column_and_row(self):
        network = VIT.clone(positions="sincos")
        table = network.fixed_positions((2, 3), 1)
        assert table.shape == (1, 7, 8)
        np.testing.assert_array_equal(table[0, 0], np.zeros(8))
        row, column = 1, 2
        wanted = [
            f(place / 10_000 ** (i / 2))
            for place in (column, row)
            for f in (np.sin, np.cos)
            for i in (0, 1)
        ]
        np.testing.assert_allclose(table[0, 1 + row * 3 + column], wanted, rtol=1e-5)
        variables = drawn(network)
        assert "positions" not in variables["params"]

    @pytest.mark.parametrize("shape", [(48, 48), (16, 40)])
    def test_images_of_other_sizes_see_resized_ones(self, shape):
        images = np.resize(IMAGES, (2, *shape, 3))
        positions = drawn(VIT)["params"]["positions"]
        found = features(VIT, drawn(VIT), images)
        grid = shape[0] // 8, shape[1] // 8
        if grid[0] == grid[1]:  # as a network for that size computes with those put in
            variables = {
                "params": drawn(VIT)["params"]
                | {"positions": models.vit.resize_positions(positions, (4, 4), grid)}
            }
            wanted = features(VIT.clone(image_size=shape[0]), variables, images)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert found.shape == (2, 8) and np.isfinite(found).all()


def test_the_class_token_and_the_mean_are_other_features():
    mean = VIT.clone(pool="mean")
    params = drawn(VIT)["params"]
    without = {name: part for name, part in params.items() if name != "cls_token"} | {
        "positions": params["positions"][:, 1:]
    }
    _, tokens = mean.apply({"params": without}, IMAGES, False)
    assert tokens["block3"].shape == (4, 16, 8)
    x = np.asarray(tokens["block3"]).mean(1)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        features(mean, {"params": without}, IMAGES),
        x * params["norm"]["scale"] + params["norm"]["bias"],
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (VIT.clone(pool="max"), "pool must be one of .*got 'max'"),
        (VIT.clone(positions="none"), "positions must be one of .*got 'none'"),
        (VIT.clone(heads=3), "heads must divide the width 8, got 3"),
        (VIT.clone(image_size=30), "image_size must be a multiple of the patch's 8 pixels, got 30"),
        (VIT.clone(patch=16, image_size=48), r"multiples of the patch's 16 pixels, got 40×32"),
        (VIT.clone(drop_path=1.0), "drop_path must be at least 0 and below 1, got 1.0"),
        (CONVNEXT.clone(drop_path=-0.1), "drop_path must be at least 0 and below 1, got -0.1"),
        (CONVNEXT.clone(blocks=(1,)), r"got \(1,\) and \(8, 8\)"),
    ],
)
def test_what_cannot_be_is_refused(network, message):
    with pytest.raises(InputError, match=message):
        network.init(jax.random.key(0), np.zeros((1, 40, 32, 3), np.float32), False)


def test_a_convnext_refuses_images_that_it_would_shrink_to_nothing():
    with pytest.raises(InputError, match="at least 8 pixels, got 7×12"):
        CONVNEXT.init(jax.random.key(0), np.zeros((1, 7, 12, 3), np.float32), False)


@pytest.mark.parametrize("name", ["vit_ti16", "convnext_tiny"])
def test_by_name_they_take_bfloat16_and_no_norm(name):
    network = models.make_backbone(
        ml_collections.ConfigDict(
            {"name": name, "norm": "batch", "dtype": "bfloat16", "options": {}, "remat": True}
        )
    )
    variables, (found, stages) = (
        jax.eval_shape(f)
        for f in (
            lambda: network.init(jax.random.key(0), models.sample(network, 3), False),
            lambda: network.init_with_output(jax.random.key(0), models.sample(network, 3), False)[
                0
            ],
        )
    )
    assert network.remat and found.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(stages)} == {jnp.dtype("bfloat16")}


def test_moco_v3s_initialisation_has_the_limits_of_its_code():
    """√(6 / (inputs + outputs)) of query, key and value each, and of a patch as one vector."""
    network = models.ViT(32, 1, 2, patch=8, image_size=32, initialisation="xavier")
    params = jax.jit(lambda: network.init(jax.random.key(0), IMAGES, False))()["params"]
    block = params["block1"]
    for kernel, limit in (
        (block["qkv"]["kernel"], 6 / (32 + 32)),
        (block["proj"]["kernel"], 6 / (32 + 32)),
        (block["fc1"]["kernel"], 6 / (32 + 128)),
        (block["fc2"]["kernel"], 6 / (128 + 32)),
        (params["patch_embed"]["kernel"], 6 / (3 * 8 * 8 + 32)),
    ):
        assert 0.97 * limit**0.5 < np.abs(kernel).max() <= limit**0.5 * (1 + 1e-6)
    assert np.abs(params["cls_token"]).max() < 1e-5
    with pytest.raises(InputError, match="initialisation must be one of .*'he'"):
        models.ViT(8, 1, 2, image_size=32, patch=8, initialisation="he").init(
            jax.random.key(0), IMAGES, False
        )
