import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxpt import models
from jaxpt.errors import InputError
from jaxpt.models import resnet
from jaxpt.models.layers import compute_dtype, make_norm
from jaxpt.models.resnet import BasicBlock, Bottleneck, ResNet

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")


SMALL = {"widths": (8, 8), "strides": (1, 2)}


def backbone(name, *, norm="batch", dtype="float32", axis_name=None, **options):
    config = ml_collections.ConfigDict(
        {"name": name, "norm": norm, "dtype": dtype, "options": options}
    )
    return models.make_backbone(config, axis_name=axis_name)


def shapes_of(net, *image_shape):
    """Shapes and dtypes of (variables, (features, intermediates)); nothing is computed."""
    images = jnp.zeros((2, *image_shape))
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), images, False))
    outputs = jax.eval_shape(
        lambda v: net.apply(v, images, True, mutable=["batch_stats"])[0], variables
    )
    return variables, outputs


def initial(net, images):
    return jax.jit(lambda: net.init(jax.random.key(0), images, False))()


def run(net, variables, images, train=False):
    return jax.jit(lambda v, x: net.apply(v, x, train))(variables, images)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


class TestShapes:
    @pytest.mark.parametrize(
        "shape, sides",
        [((8, 8, 1), (8, 4, 4, 2)), ((28, 28, 1), (28, 14, 14, 7)), ((32, 32, 3), (32, 16, 16, 8))],
    )
    def test_small_cnn(self, shape, sides):
        _, (features, stages) = shapes_of(backbone("small_cnn"), *shape)
        assert features.shape == (2, 64) and features.dtype == jnp.float32
        assert {name: x.shape for name, x in stages.items()} == {
            f"layer{i + 1}": (2, side, side, width)
            for i, (side, width) in enumerate(zip(sides, (16, 32, 32, 64)))
        }

    def test_small_cnn_of_other_widths_and_strides(self):
        net = backbone("small_cnn", widths=[8, 24], strides=[2, 2])  # lists, as JSON gives them
        _, (features, stages) = shapes_of(net, 12, 8, 3)
        assert features.shape == (2, 24) and stages["layer2"].shape == (2, 3, 2, 24)

    @pytest.mark.parametrize("name, expansion", [("resnet18", 1), ("resnet50", 4)])
    @pytest.mark.parametrize("stem, side, stem_side", [("small", 32, 32), ("imagenet", 64, 16)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_resnet(self, name, expansion, stem, side, stem_side, channels):
        net = backbone(name, stem=stem, width=8)
        variables, (features, stages) = shapes_of(net, side, side, channels)
        dim = 8 * 8 * expansion
        assert features.shape == (2, dim) and features.dtype == jnp.float32
        expected = {"stem": (2, stem_side, stem_side, 8)} | {
            f"stage{i + 1}": (2, stem_side >> i, stem_side >> i, 8 * 2**i * expansion)
            for i in range(4)
        }
        assert {stage: x.shape for stage, x in stages.items()} == expected
        kernel = variables["params"]["conv_stem"]["kernel"]
        assert kernel.shape == ((3, 3) if stem == "small" else (7, 7)) + (channels, 8)


class TestMLP:
    NET = {"widths": [16, 8], "image_size": 4}  # lists, as JSON gives them

    def test_without_norm_it_is_the_formula_and_freezes_from_below(self):
        net = backbone("mlp", norm="none", **self.NET)
        images = np.random.default_rng(0).normal(size=(5, 4, 4, 3)).astype(np.float32)
        params = initial(net, images)["params"]
        params = jax.tree.map(lambda p: p + 0.1, params)
        features, layers = run(net, {"params": params}, images)
        x = images.reshape(5, -1)
        for name in "layer1", "layer2":
            x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
            np.testing.assert_allclose(layers[name], x, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(features, layers["layer2"])
        half = net.clone(frozen=1)
        slopes = jax.jit(jax.grad(lambda p: jnp.sum(half.apply({"params": p}, images, True)[0])))(
            params
        )
        moved = {name: bool(np.any(layer["kernel"])) for name, layer in slopes.items()}
        assert moved == {"layer1": False, "layer2": True}

    def test_a_norm_takes_the_place_of_biases(self):
        variables, _ = shapes_of(backbone("mlp", norm="batch", **self.NET), 4, 4, 1)
        assert variables["params"]["layer1"].keys() == {"kernel"}
        assert variables["batch_stats"].keys() == {"norm1", "norm2"}

    def test_other_sizes_are_refused(self):
        with pytest.raises(InputError, match="takes images of 4×4 pixels, got 4×5"):
            shapes_of(backbone("mlp", norm="none", **self.NET), 4, 5, 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_convolutions_of_the_smallest_images_are_those_of_lax(kernel, stride):
    rng = np.random.default_rng(kernel)
    weights = rng.normal(size=(kernel, kernel, 4, 8)).astype(np.float32)
    options = {"padding": [(kernel // 2, kernel // 2)] * 2, "strides": (stride, stride)}
    net = nn.Conv(8, (kernel, kernel), use_bias=False, **options)

    def value(convolve, weights, images):
        of = net.clone(conv_general_dilated=convolve)
        return jnp.sum(jnp.sin(of.apply({"params": {"kernel": weights}}, images)))

    for side in (1, 2, 3, 5):
        images = rng.normal(size=(3, side, side + 1, 4)).astype(np.float32)
        found, wanted = (
            jax.jit(jax.value_and_grad(functools.partial(value, of), (0, 1)))(weights, images)
            for of in (resnet.convolve, None)
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, wanted)


def lowered(function, platform, *shapes):
    """The program of ``function`` for a platform, as text."""
    arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    return jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


class TestFormsOfGpus:
    """What the stem of a ResNet computes on GPUs, beside the plain operations."""

    @pytest.mark.parametrize("padding", [(0, 0), (0, 1), (2, 1), (3, 3)])
    @pytest.mark.parametrize("kernel", [2, 3, 5, 7])
    def test_convolutions_of_blocks_are_those_of_pixels(self, kernel, padding):
        rng = np.random.default_rng(kernel)
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "padding": [padding, (1, 2)]}
        plain = functools.partial(jax.lax.conv_general_dilated, window_strides=(2, 2), **options)
        blocks = functools.partial(resnet._convolve_blocks, **options)

        def value(convolve, weights, images):
            return jnp.sum(jnp.sin(convolve(images, weights)))

        for channels in 1, 3, 4:
            images = rng.normal(size=(2, 12, 8, channels)).astype(np.float32)
            weights = rng.normal(size=(kernel, kernel, channels, 5)).astype(np.float32)
            assert blocks(images, weights).shape == plain(images, weights).shape
            found, wanted = (
                jax.jit(jax.value_and_grad(functools.partial(value, of), (0, 1)))(weights, images)
                for of in (blocks, plain)
            )
            jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, wanted)

    def test_only_gpus_convolve_blocks_and_only_of_few_channels_and_even_sides(self):
        net = nn.Conv(
            5, (7, 7), strides=2, use_bias=False, conv_general_dilated=resnet.convolve, padding=3
        )

        def channels(platform, *shape):
            text = lowered(
                lambda images, kernel: net.apply({"params": {"kernel": kernel}}, images),
                platform,
                (2, *shape),
                (7, 7, shape[-1], 5),
            )
            (line,) = (line for line in text.splitlines() if "stablehlo.convolution" in line)
            return int(line.rsplit("(tensor<2x", 1)[1].split("xf32", 1)[0].split("x")[-1])

        assert channels("cuda", 32, 32, 3) == 16
        assert channels("cpu", 32, 32, 3) == channels("tpu", 32, 32, 3) == 3
        assert channels("cuda", 32, 31, 3) == 3
        assert channels("cuda", 32, 32, 8) == 8

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
    @pytest.mark.parametrize("sides", [(8, 8), (7, 10), (9, 5), (1, 2)])
    def test_the_gradient_of_the_pool_is_that_of_a_scatter(self, sides, dtype):
        rng = np.random.default_rng(sum(sides))
        gaussian = rng.normal(size=(3, *sides, 4))
        # The last two have many ties: their slope goes to the first of a window.
        for x in gaussian, np.round(gaussian), np.maximum(gaussian, 0):
            x = jnp.asarray(x, dtype)
            slopes = rng.integers(-9, 9, resnet._pool(x).shape).astype(np.float32)
            found, wanted = (
                jax.jit(jax.value_and_grad(lambda x, of=of: jnp.sum(of(x) * slopes)))(x)
                for of in (resnet._max_pool_of_gpus, resnet._pool)
            )
            jax.tree.map(np.testing.assert_array_equal, found, wanted)

    def test_only_gpus_gather_the_gradient_of_the_pool(self):
        slope = jax.grad(lambda x: jnp.sum(resnet.max_pool(x) ** 2))
        scatters = {
            platform: "select_and_scatter" in lowered(slope, platform, (2, 8, 8, 3))
            for platform in ("cpu", "tpu", "cuda")
        }
        assert scatters == {"cpu": True, "tpu": True, "cuda": False}


class TestParameterCounts:
    """Those of torchvision's networks without their classifiers."""

    @pytest.mark.parametrize(
        "name, parameters", [("resnet50", 23_508_032), ("resnet18", 11_176_512)]
    )
    def test_imagenet_stem(self, name, parameters):
        variables, _ = shapes_of(backbone(name), 64, 64, 3)
        assert count(variables["params"]) == parameters

    def test_running_statistics_are_a_mean_and_a_variance_per_channel(self):
        variables, _ = shapes_of(backbone("resnet18"), 64, 64, 3)
        assert count(variables["batch_stats"]) == 2 * 4800  # torchvision: 20 layers, 4,800 channels


class TestDtype:
    @pytest.mark.parametrize(
        "name, options", [("small_cnn", {}), ("resnet18", {"stem": "small", "width": 8})]
    )
    @pytest.mark.parametrize("norm", ["batch", "group"])
    def test_bf16_computes_in_bf16_with_float32_parameters(self, name, options, norm):
        net = backbone(name, norm=norm, dtype="bfloat16", **options)
        variables, (features, stages) = shapes_of(net, 16, 16, 3)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert {x.dtype for x in stages.values()} == {jnp.dtype("bfloat16")}
        assert features.dtype == jnp.float32

    def test_bf16_is_close_to_float32(self, images):
        narrow, wide = (
            backbone("small_cnn", norm="group", dtype=d, **SMALL) for d in ("bfloat16", "float32")
        )
        variables = initial(wide, images)
        a, b = (np.asarray(run(net, variables, images)[0]) for net in (narrow, wide))
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert 1e-5 < difference < 0.02  # 8 bits of mantissa, and really less than float32 has

    def test_projector_gives_float32(self):
        head = models.Projector((16,), 4, dtype=compute_dtype("bfloat16"))
        variables, output = shapes_of_head(head)
        assert output.dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def test_unknown(self):
        with pytest.raises(InputError, match="float32 or bfloat16, got 'float16'"):
            backbone("small_cnn", dtype="float16")


@pytest.fixture(scope="module")
def images():
    # Each image has its own brightness and contrast, so that parts of the batch have statistics
    # that differ from those of the whole.
    rng = np.random.default_rng(0)
    scale, offset = np.linspace(0.2, 2, 16), np.linspace(-1, 2, 16)
    x = rng.normal(size=(16, 8, 8, 1)) * scale[:, None, None, None] + offset[:, None, None, None]
    return jnp.asarray(x, jnp.float32)


class TestBatchNorm:
    def features(self, norm, images, mesh=None):
        """(features, running statistics) of one training pass, split over a mesh if given."""
        net = functools.partial(backbone, "small_cnn", norm=norm, **SMALL)
        variables = initial(net(), images)

        def forward(x, axis_name=None):
            (features, _), changed = net(axis_name=axis_name).apply(
                variables, x, True, mutable=["batch_stats"]
            )
            return features, changed["batch_stats"]

        if mesh is None:
            return jax.jit(forward)(images)
        mapped = jax.shard_map(
            lambda x: forward(x, "shard"),
            mesh=mesh,
            in_specs=P("shard"),
            out_specs=(P("shard"), P()),
            check_vma=False,
        )
        return jax.jit(mapped)(images)

    @pytest.fixture
    def whole(self, images):
        return self.features("batch", images)

    def test_synchronised_over_devices_equals_one_device(self, images, mesh, whole):
        features, stats = self.features("sync_batch", images, mesh)
        np.testing.assert_allclose(features, whole[0], rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(whole[1])):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    def test_per_device_differs(self, images, mesh, whole):
        features, _ = self.features("batch", images, mesh)
        assert np.abs(features - whole[0]).max() > 0.1

    def test_per_device_is_each_part_alone(self, images, mesh):
        features, _ = self.features("batch", images, mesh)
        alone, _ = self.features("batch", images[6:8])
        np.testing.assert_allclose(features[6:8], alone, rtol=1e-4, atol=1e-5)

    def test_running_statistics_move_a_tenth_towards_the_batch(self, images, whole):
        variables = initial(backbone("small_cnn", norm="batch", **SMALL), images)
        convolved = jax.lax.conv_general_dilated(
            images,
            variables["params"]["Conv_0"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        moved = whole[1]["BatchNorm_0"]
        np.testing.assert_allclose(moved["mean"], 0.1 * convolved.mean((0, 1, 2)), atol=1e-5)
        np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * convolved.var((0, 1, 2)), rtol=1e-4)

    def test_evaluation_uses_running_statistics(self, images):
        net = backbone("small_cnn", norm="batch", **SMALL)
        variables = initial(net, images)
        together, alone = (run(net, variables, x)[0] for x in (images, images[3:4]))
        np.testing.assert_allclose(together[3:4], alone, rtol=1e-5, atol=1e-6)


class TestGroupNorm:
    def test_is_the_same_in_training_and_evaluation(self, images):
        net = backbone("small_cnn", norm="group", **SMALL)
        variables = initial(net, images)
        assert set(variables) == {"params"}  # there are no running statistics
        evaluated, trained = (run(net, variables, images, train)[0] for train in (False, True))
        np.testing.assert_array_equal(evaluated, trained)

    def test_knows_no_batch(self, images):
        net = backbone("small_cnn", norm="group", **SMALL)
        variables = initial(net, images)
        together, alone = (run(net, variables, x, True)[0] for x in (images, images[3:4]))
        np.testing.assert_allclose(together[3:4], alone, rtol=1e-4, atol=1e-5)

    def test_groups_have_eight_channels(self):
        x = jax.random.normal(jax.random.key(0), (2, 3, 3, 16)) * jnp.arange(1, 17)
        layer = make_norm("group", train=True, axis_name=None, dtype=jnp.float32)()
        y, _ = layer.init_with_output(jax.random.key(0), x)
        groups = np.asarray(y).reshape(2, 9, 2, 8)
        np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(groups.std((1, 3)), 1, atol=1e-3)
        # Single channels are not normalised: their scales within a group stay apart.
        assert np.ptp(np.asarray(y).std((1, 2)), axis=1).min() > 0.5

    @pytest.mark.parametrize(
        "net, images",
        [
            (backbone("small_cnn", norm="group", widths=(16, 12), strides=(1, 2)), (1, 8, 8, 1)),
            (backbone("resnet18", norm="group", stem="small", width=12), (1, 8, 8, 1)),
            (models.Projector((12,), 4, norm="group"), (1, 8)),
        ],
    )
    def test_widths_that_do_not_divide(self, net, images):
        with pytest.raises(InputError, match="norm group needs .* multiples of 8, got .*12"):
            net.init(jax.random.key(0), jnp.zeros(images), False)


def test_residual_blocks_start_as_the_identity():
    net = ResNet((2,), BasicBlock, stem="small", width=8)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    _, stages = run(net, initial(net, images), images)
    # Both blocks keep width and stride, so all that comes out of the stem passes through.
    np.testing.assert_array_equal(stages["stage1"], stages["stem"])
    assert np.abs(stages["stem"]).max() > 0.1


def test_residual_blocks_may_start_as_torchvisions_do():
    images = jnp.zeros((1, 8, 8, 3))
    for zero_init, wanted in (True, 0), (False, 1):
        net = ResNet((1, 1, 1, 1), BasicBlock, stem="small", width=8, zero_init=zero_init)
        block = initial(net, images)["params"]["stage1_block1"]
        np.testing.assert_array_equal(block["norm2"]["scale"], wanted)
        np.testing.assert_array_equal(block["norm1"]["scale"], 1)


def test_a_preactivation_resnet_has_the_depth_it_is_named_by():
    net = backbone("resnet_preact", depth=14)
    variables, (features, stages) = shapes_of(net, 28, 28, 1)
    kernels = [x for x in jax.tree.leaves(variables["params"]) if x.ndim == 4]
    assert len(kernels) == 14 - 1 + 2  # the classifier is not here; two shortcuts are
    assert features.shape == (2, 64) and stages["stage3"].shape == (2, 7, 7, 64)
    with pytest.raises(InputError, match="depth must be 6n \\+ 2, such as 20, got 18"):
        shapes_of(backbone("resnet_preact", depth=18), 28, 28, 1)


def test_bottlenecks_start_as_their_shortcut():
    net = ResNet((1,), Bottleneck, stem="small", width=8)
    block = initial(net, jnp.zeros((1, 4, 4, 1)))["params"]["stage1_block1"]
    np.testing.assert_array_equal(block["norm3"]["scale"], np.zeros(32))
    np.testing.assert_array_equal(block["norm1"]["scale"], np.ones(8))


def test_bottlenecks_stride_in_the_3x3_convolution():
    """Version 1.5, as torchvision has it; no shape or count of parameters would tell."""
    net, images = backbone("resnet50", stem="small", width=8), jnp.zeros((2, 16, 16, 3))
    _, inside = jax.eval_shape(
        lambda: net.init_with_output(
            jax.random.key(0),
            images,
            False,
            capture_intermediates=True,
            mutable=["params", "batch_stats", "intermediates"],
        )
    )
    block = inside["intermediates"]["stage2_block1"]
    assert [block[f"conv{i}"]["__call__"][0].shape[1] for i in (1, 2, 3)] == [16, 8, 8]


def shapes_of_head(head):
    return jax.eval_shape(
        lambda: head.init_with_output(jax.random.key(0), jnp.zeros((2, 5)), False)
    )[::-1]


class TestHeads:
    def test_projector_layers(self):
        head = models.Projector((16, 8), 4, norm="batch")
        variables, output = shapes_of_head(head)
        kernels = [variables["params"][f"Dense_{i}"]["kernel"].shape for i in range(3)]
        assert kernels == [(5, 16), (16, 8), (8, 4)]
        assert "bias" not in variables["params"]["Dense_0"]  # the norm after it has one
        assert output.shape == (2, 4)

    def test_projector_without_hidden_layers_is_linear(self):
        head = models.Projector((), 4)
        variables = initial(head, jnp.ones((1, 5)))
        a, b = jnp.arange(5.0)[None], jnp.array([[2.0, -1, 0, 3, 1]])
        total = head.apply(variables, a + b, False)
        np.testing.assert_allclose(
            total, head.apply(variables, a, False) + head.apply(variables, b, False), atol=1e-5
        )

    def test_classifier_starts_at_zero(self):
        head = models.Classifier(3)
        output, variables = head.init_with_output(jax.random.key(0), jnp.ones((2, 5)), True)
        np.testing.assert_array_equal(output, np.zeros((2, 3)))
        assert count(variables) == 5 * 3 + 3

    def test_make_projector_follows_the_config(self):
        config = ml_collections.ConfigDict(
            {"norm": "group", "dtype": "bfloat16", "projector": {"hidden": [16, 24], "dim": 7}}
        )
        head = models.make_projector(config, axis_name="batch")
        assert (head.hidden, head.dim, head.norm, head.axis_name) == ((16, 24), 7, "group", "batch")
        assert head.dtype == jnp.bfloat16

    def test_projector_of_no_width(self):
        config = ml_collections.ConfigDict(
            {"norm": "group", "dtype": "float32", "projector": {"hidden": (16,), "dim": 0}}
        )
        with pytest.raises(InputError, match=r"projector\.dim must be at least 1, got 0"):
            models.make_projector(config)


class TestEncoder:
    def test_gives_head_output_features_and_changed_statistics(self, images):
        encoder = models.Encoder(
            backbone("small_cnn", norm="batch", widths=(8,), strides=(2,)), models.Projector((), 3)
        )
        params, stats = jax.jit(lambda: models.init(encoder, jax.random.key(0), images))()
        assert set(params) == {"backbone", "head"}
        encoded = models.encode(encoder, params, stats, images, train=False)
        output, features = encoded.output, encoded.features
        assert output.shape == (16, 3) and features.shape == (16, 8)
        head = params["head"]["Dense_0"]
        np.testing.assert_allclose(output, features @ head["kernel"] + head["bias"], atol=1e-5)
        assert encoded.batch_stats is stats and encoded.prediction is None
        changed = models.encode(encoder, params, stats, images, train=True).batch_stats
        before, after = (
            np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (stats, changed)
        )
        assert before.shape == after.shape and np.abs(before - after).max() > 0.01

    def test_without_batch_norm_there_are_no_statistics(self, images):
        encoder = models.Encoder(backbone("small_cnn", norm="group"), models.Classifier(2))
        params, stats = jax.eval_shape(lambda: models.init(encoder, jax.random.key(0), images))
        assert not stats
        encoded = jax.eval_shape(
            lambda p: models.encode(encoder, p, stats, images, train=True), params
        )
        assert not encoded.batch_stats

    def test_a_predictor_takes_the_output_of_the_head(self, images):
        encoder = models.Encoder(
            backbone("small_cnn", norm="group", widths=(8,), strides=(2,)),
            models.Projector((), 3, norm="group"),
            models.Projector((), 3, norm="group"),
        )
        params, stats = jax.jit(lambda: models.init(encoder, jax.random.key(0), images))()
        encoded = models.encode(encoder, params, stats, images, train=False)
        last = params["predictor"]["Dense_0"]
        np.testing.assert_allclose(
            encoded.prediction, encoded.output @ last["kernel"] + last["bias"], atol=1e-5
        )
        without = models.encode(encoder.clone(predictor=None), params, stats, images, train=False)
        np.testing.assert_array_equal(without.output, encoded.output)
        assert without.prediction is None


class TestHeadsOfMethods:
    def test_prototype_head_gives_cosines(self):
        head = models.PrototypeHead(models.Projector((), 4, norm="group"), 5)
        x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
        params = head.init(jax.random.key(0), x, False)["params"]
        projected = x @ params["projector"]["Dense_0"]["kernel"]
        rows = np.asarray(params["prototypes"])
        cosines = (
            projected
            / np.linalg.norm(projected, axis=1, keepdims=True)
            @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
        )
        np.testing.assert_allclose(head.apply({"params": params}, x, False), cosines, atol=1e-5)

    def test_mlp_classifier_starts_at_zero_behind_a_projector(self):
        head = models.MlpClassifier(models.Projector((16,), 4, norm="group"), 5)
        x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
        variables = head.init(jax.random.key(0), x, False)
        assert set(variables["params"]) == {"projector", "Classifier_0"}
        np.testing.assert_array_equal(head.apply(variables, x, False), np.zeros((3, 5)))


class TestBadConfigs:
    def test_unknown_network(self):
        with pytest.raises(InputError, match=r"resnet18.*resnet50.*small_cnn.*got 'vgg'"):
            backbone("vgg")

    @pytest.mark.parametrize(
        "name, option", [("small_cnn", "stem"), ("resnet50", "widths"), ("resnet18", "norm")]
    )
    def test_unknown_option(self, name, option):
        config = ml_collections.ConfigDict(
            {"name": name, "norm": "group", "dtype": "float32", "options": {option: "small"}}
        )
        with pytest.raises(InputError, match=rf"model\.options of {name}: .*'{option}'"):
            models.make_backbone(config)

    @pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
    def test_unknown_norm(self, name):
        with pytest.raises(InputError, match=r"norm must be one of .*'group'.*got 'layer'"):
            shapes_of(backbone(name, norm="layer"), 8, 8, 1)

    def test_groups_by_number(self):
        for kind, groups in ("group32", 32), ("group4", 4):
            assert make_norm(kind, train=True, axis_name=None, dtype=None)().num_groups == groups
        with pytest.raises(InputError, match=r"norm must be one of .*'groupN'.*got 'group0'"):
            make_norm("group0", train=True, axis_name=None, dtype=None)
        with pytest.raises(InputError, match="widths that are multiples of 3, got"):
            shapes_of(backbone("resnet18", norm="group3", width=8), 8, 8, 1)

    def test_unknown_stem(self):
        with pytest.raises(InputError, match=r"stem must be one of .*got 'big'"):
            shapes_of(backbone("resnet18", stem="big", width=8), 8, 8, 1)

    def test_widths_and_strides_of_other_lengths(self):
        with pytest.raises(InputError, match=r"\(8, 16\) and \(1,\)"):
            shapes_of(backbone("small_cnn", widths=(8, 16), strides=(1,)), 8, 8, 1)


class TestRemat:
    """Blocks that are computed again: the same function of the same parameters, in less memory."""

    IMAGES = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)

    def value_and_gradient(self, remat):
        net = backbone("resnet18", norm="group", stem="small", width=8, remat=remat)
        shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), self.IMAGES)

        def loss(params, images):
            return jnp.sum(net.apply({"params": params}, images, True)[0] ** 2)

        return jax.value_and_grad(loss), shapes["params"]

    def test_values_gradients_and_names_are_the_same(self):
        (plain, shapes), (again, shapes_again) = map(self.value_and_gradient, (False, True))
        assert shapes == shapes_again
        rng = np.random.default_rng(0)
        params, images = jax.tree.map(
            lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32),
            (shapes, self.IMAGES),
        )
        for a, b in zip(
            *(jax.tree.leaves(jax.jit(f)(params, images)) for f in (plain, again)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())

    def test_less_waits_for_the_backward_pass(self):
        """By JAX's account: XLA's CPU compiler undoes it, its temporaries stay."""

        def kept(remat):
            net = backbone("resnet18", norm="group", stem="small", width=8, remat=remat)
            params = self.value_and_gradient(remat)[1]
            _, pullback = jax.eval_shape(
                lambda params, images: jax.vjp(
                    lambda p: net.apply({"params": p}, images, True)[0], params
                ),
                params,
                self.IMAGES,
            )
            return sum(x.size for x in jax.tree.leaves(pullback))

        parameters = sum(x.size for x in jax.tree.leaves(self.value_and_gradient(False)[1]))
        assert kept(True) - parameters < 0.5 * (kept(False) - parameters)

    def test_a_network_without_blocks_refuses_it(self):
        config = ml_collections.ConfigDict(
            {"name": "small_cnn", "norm": "group", "remat": True, "dtype": "float32", "options": {}}
        )
        with pytest.raises(
            InputError, match="model.remat needs a network of blocks, got True for small_cnn"
        ):
            models.make_backbone(config)
