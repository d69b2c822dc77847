"""Opening a backbone: from a run's checkpoint or from scratch."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from jaxpt import backbones, pretrain
from jaxpt.configs.pretrain import digits, defaults
from jaxpt.data import sources
from jaxpt.errors import InputError

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(workdir, what was trained) of two steps, with batch statistics to carry over."""
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    config = digits.get_config("look")
    config.update(duration="2 steps", knn_every="0 steps", devices=1, seed=3, memory=240)
    config.model.norm = "batch"
    return str(workdir), pretrain.run(config, str(workdir), quiet=True)


@pytest.fixture(scope="module")
def images():
    return sources.load(digits.get_config().data).test.images[:40]


def test_a_run_gives_the_trained_backbone_and_says_what_it_is(pretrained, images):
    workdir, trained = pretrained
    opened = backbones.open_backbone(workdir)
    np.testing.assert_array_equal(opened.features(images), trained.features(images))
    assert (opened.label, opened.method, opened.seed, opened.step) == ("look", "look", 3, 2)
    assert opened.config.data.source == "digits"
    assert opened.params.keys() == opened.batch_stats.keys() == {"backbone"}
    assert len(opened.checkpoint) == 16
    assert opened.checkpoint == backbones.open_backbone(workdir).checkpoint
    assert opened.checkpoint == backbones.fingerprint((opened.params, opened.batch_stats))


def test_the_last_of_its_layers_are_its_features(pretrained, images):
    opened = backbones.open_backbone(pretrained[0])
    layers = opened.layers(images)
    assert [(name, x.shape[1]) for name, x in layers.items()] == [
        ("layer1", 16),
        ("layer2", 32),
        ("layer3", 32),
        ("layer4", 64),
    ]
    np.testing.assert_allclose(layers["layer4"], opened.features(images), rtol=1e-5, atol=1e-6)


def test_the_target_encoder_may_be_opened_instead(pretrained, images):
    workdir, trained = pretrained
    target = backbones.open_backbone(workdir, encoder="target")
    wanted = trained._replace(weights="target").features(images)
    np.testing.assert_array_equal(target.features(images), wanted)
    assert np.abs(wanted - trained.features(images)).max() > 1e-6
    assert (target.label, target.made["weights"]) == ("look (target)", "target")
    online = backbones.open_backbone(workdir, encoder="online")
    assert online.checkpoint == backbones.open_backbone(workdir).checkpoint != target.checkpoint


def test_a_run_says_which_encoder_it_is_measured_by(pretrained, tmp_path):
    """As a run of DINO does; one without a target has nothing to offer."""
    shutil.copytree(pretrained[0], tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"evaluated_weights": "target"}))
    opened = backbones.open_backbone(tmp_path / "run")
    assert opened.label == "look"
    assert opened.checkpoint == backbones.open_backbone(pretrained[0], encoder="target").checkpoint
    with pytest.raises(InputError, match="weights must be one of .*'best'"):
        backbones.open_backbone(pretrained[0], encoder="best")


def test_a_run_without_a_target_has_none_to_open(tmp_path):
    config = digits.get_config("cross_entropy")
    config.update(duration="1 steps", knn_every="0 steps", devices=1)
    config.data.limit = 120
    pretrain.run(config, str(tmp_path / "run"), quiet=True)
    with pytest.raises(InputError, match="has no target encoder: --weights=target is for methods"):
        backbones.open_backbone(tmp_path / "run", encoder="target")


def test_a_label_may_precede_the_source(pretrained, tmp_path):
    assert backbones.open_backbone(f"mine={pretrained[0]}").label == "mine"
    odd = tmp_path / "k=50"
    odd.symlink_to(pathlib.Path(pretrained[0]))
    assert backbones.open_backbone(odd).label == "look"
    assert backbones.open_backbone(f"a={odd}").label == "a"


def test_scratch_is_a_function_of_its_seed(images):
    model = defaults.get_config().model
    first, again, other = (
        backbones.open_backbone(s, model=model) for s in ("scratch", "scratch:0", "scratch:1")
    )
    assert first.checkpoint == again.checkpoint != other.checkpoint
    assert (other.label, other.method, other.seed) == ("scratch", "scratch", 1)
    assert first.config is None and first.step == 0
    colour = np.repeat(images, 3, axis=-1)
    np.testing.assert_array_equal(first.features(images), first.features(colour))


def test_the_fingerprint_sees_values_names_shapes_and_types():
    def of(tree):
        return backbones.fingerprint(tree)

    a = np.arange(6, dtype=np.float32)
    assert of({"a": a}) == of({"a": a.copy()})
    different = [
        {"a": a},
        {"b": a},
        {"a": a.reshape(2, 3)},
        {"a": a.astype(np.int32)},
        {"a": a.view(np.int32)},
        {"a": a[::-1]},
        {"a": a[:3], "b": a[3:]},
    ]
    assert len({of(tree) for tree in different}) == len(different)


def test_parameters_that_are_not_the_networks_are_all_named(pretrained):
    workdir, _ = pretrained
    opened = backbones.open_backbone(workdir)
    tree = jax.tree.map(np.array, (opened.params, opened.batch_stats))
    layer = tree[0]["backbone"]["Conv_0"]
    tree[0]["backbone"]["extra"] = layer.pop("kernel")
    with pytest.raises(InputError) as error:
        backbones._fitting(opened.encoder, tree, "here")
    assert "'extra'] has shape (3, 3, 1, 16), but the network needs None" in str(error.value)
    assert "'kernel'] has shape None, but the network needs (3, 3, 1, 16)" in str(error.value)


def test_a_checkpoint_of_another_network_is_refused(pretrained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(pathlib.Path(pretrained[0]) / "checkpoints")
    config = json.loads((pathlib.Path(pretrained[0]) / "config.json").read_text())
    config["model"]["options"] = {"widths": [16, 32, 32, 32], "strides": [1, 2, 1, 2]}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"Conv_3.*kernel.*\(3, 3, 32, 64\).*\(3, 3, 32, 32\)"):
        backbones.open_backbone(run)


def test_colour_images_are_not_for_a_network_of_grey_ones(pretrained, images):
    with pytest.raises(InputError, match="takes images of 1 channel, but these have 3"):
        backbones.open_backbone(pretrained[0]).features(np.repeat(images, 3, axis=-1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no pre-training run in 'nowhere'"),
        ("label=nowhere", "no pre-training run in 'nowhere'"),
        ("scratch", "set model.name"),
        ("scratch:x", "scratch:SEED"),
    ],
)
def test_bad_sources_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        backbones.open_backbone(source)


def test_a_backbone_is_a_value(pretrained):
    with pytest.raises(dataclasses.FrozenInstanceError):
        backbones.open_backbone(pretrained[0]).label = "other"
