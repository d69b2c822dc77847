import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import InputError
from jaxpt.evaluation.features import extract, extract_layers
from jaxpt.models import Classifier, Encoder, ResNet18, SmallCNN
from jaxpt.train.parallel import Devices

pytestmark = pytest.mark.usefixtures("unoptimised")


class Moments(nn.Module):
    """Features that can be worked out by hand: mean and largest pixel, and whether it trains."""

    @nn.compact
    def __call__(self, images, train):
        flat = images.reshape(len(images), -1)
        return jnp.stack([flat.mean(1), flat.max(1), jnp.full(len(images), train)], axis=1), {}


class Negation(nn.Module):
    """A head whose output cannot be taken for features."""

    def __call__(self, features, train):
        return -features


def images(n, size=8):
    return np.random.default_rng(n).integers(256, size=(n, size, size, 1), dtype=np.uint8)


@pytest.mark.parametrize("n", [1, 4, 10])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_every_image_is_featured_once_and_in_order_by_the_backbone(n, batch_size):
    x, encoder = images(n), Encoder(Moments(), Negation())
    features = extract(encoder, {}, {}, x, batch_size=batch_size)
    flat = x.reshape(n, -1) / 127.5 - 1
    expected = np.stack([flat.mean(axis=1), flat.max(axis=1), np.zeros(n)], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(features, np.ndarray) and features.dtype == np.float32
    output = extract(encoder, {}, {}, x, batch_size=batch_size, what="output")
    np.testing.assert_array_equal(output, -features)


def test_batch_norm_uses_running_statistics_so_neighbors_in_the_batch_do_not_matter():
    encoder = Encoder(SmallCNN(widths=(8, 8), strides=(2, 2), norm="batch"), Classifier(2))
    x = images(7)
    variables = jax.jit(encoder.init, static_argnums=2)(
        jax.random.key(0), x.astype(np.float32), False
    )
    stats = jax.tree.map(lambda s: s + 0.5, variables["batch_stats"])
    together = extract(encoder, variables["params"], stats, x, batch_size=4)
    alone = np.concatenate(
        [extract(encoder, variables["params"], stats, x[i : i + 1], batch_size=4) for i in range(7)]
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    fresh = extract(encoder, variables["params"], variables["batch_stats"], x, batch_size=4)
    assert together.shape == (7, 8) and not np.allclose(together, fresh)


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="no images"):
        extract(Encoder(Moments(), Negation()), {}, {}, images(0))
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        extract(Encoder(Moments(), Negation()), {}, {}, images(3), batch_size=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: x / np.float32(255), r"float32 from 0 to .*: pass np.round\(images \* 255\)"),
        (lambda x: x / 127.5 - 1, r"pass np.round\(\(images \+ 1\) \* 127.5\)"),
        (lambda x: x.astype(np.int64), r"int64 from .* to .*: pass np.round\(images\)"),
        (lambda x: x[..., 0], r"got \[3, 8, 8\]: pass images\[..., None\]"),
        (lambda x: x[0], r"got \[8, 8, 1\]: pass images\[None\]"),
        (lambda x: x.transpose(0, 3, 1, 2), r"\[3, 1, 8, 8\]: pass images.transpose"),
        (list, "got a list: pass np.stack"),
    ],
)
def test_images_that_would_be_misread_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        extract(Encoder(Moments()), {}, {}, make(images(3)))


@pytest.fixture(scope="module")
def network():
    """A network with batch statistics, and its variables."""
    encoder = Encoder(
        SmallCNN(widths=(8, 16), strides=(1, 2), norm="sync_batch", axis_name="batch")
    )
    variables = jax.jit(encoder.init, static_argnums=2)(
        jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32), False
    )
    return encoder, variables["params"], variables["batch_stats"]


@pytest.mark.parametrize("n", [1, 8, 37])
def test_eight_devices_give_the_bits_of_one_whatever_the_size_of_the_set(n, network):
    one, three, eight = (
        extract(*network, images(n), batch_size=2, devices=Devices(limit=limit))
        for limit in (1, 3, 8)
    )
    assert one.shape == (n, 16) and isinstance(eight, np.ndarray)
    np.testing.assert_array_equal(one, eight)
    np.testing.assert_array_equal(one, three)
    np.testing.assert_allclose(extract(*network, images(n), batch_size=2), one, rtol=1e-6)
    layers = [
        extract_layers(*network, images(n), batch_size=2, devices=Devices(limit=limit))
        for limit in (1, 8)
    ]
    jax.tree.map(np.testing.assert_array_equal, *layers)


def test_layers_are_averaged_over_positions_from_first_to_last(network):
    x = images(5)
    encoder, params, stats = network
    layers = extract_layers(*network, x, batch_size=2)
    _, raw = encoder.backbone.apply(
        {"params": params["backbone"], "batch_stats": stats["backbone"]},
        x / np.float32(127.5) - 1,
        False,
    )
    assert list(layers) == list(raw) == ["layer1", "layer2"]
    for name, layer in layers.items():
        assert layer.dtype == np.float32
        np.testing.assert_allclose(layer, raw[name].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layers["layer2"], extract(*network, x, batch_size=2), rtol=1e-5)


def test_layers_keep_their_order_where_the_alphabet_has_another():
    encoder = Encoder(ResNet18(stem="small", width=8, norm="group"))
    params = jax.eval_shape(
        lambda: encoder.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), False)["params"]
    )
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
    x = np.zeros((2, 8, 8, 3), np.uint8)
    layers = extract_layers(encoder, params, {}, x, batch_size=2)
    assert list(layers) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert {name: x.shape for name, x in layers.items()}["stage3"] == (2, 32)
