"""The transfer loop end to end on real digits, from checkpoints on disk."""

import jax
import numpy as np
import pytest

from jaxpt import pretrain, records, transfer
from jaxpt.configs.pretrain import digits
from jaxpt.configs.transfer import defaults
from jaxpt.data import sources
from jaxpt.errors import InputError


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(workdir, what was trained) of a short run, with batch statistics to carry over."""
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    config = digits.get_config("look")
    config.update(duration="5 epochs", knn_every="0 steps", devices=1)
    config.model.norm = "batch"
    return str(workdir), pretrain.run(config, str(workdir), quiet=True)


def short():
    config = defaults.get_config()
    config.update(seeds=(0,), duration="6 epochs", devices=1)
    return config


def test_the_loaded_backbone_is_the_trained_one(pretrained):
    workdir, trained = pretrained
    loaded = transfer.load_backbone(workdir, classes=10, channels=1)
    images = sources.load(loaded.config.data).test.images
    np.testing.assert_array_equal(loaded.features(images), trained.features(images))
    assert loaded.step == int(trained.state.step) == 50


def test_measures_once_and_writes_records(pretrained, tmp_path):
    workdir, _ = pretrained
    out = tmp_path / "records.jsonl"
    found = transfer.run(short(), [workdir], out)
    assert [record["label"] for record in found] == ["frozen", "finetune seed 0"]
    frozen, finetuned = (record["values"] for record in found)
    assert frozen["fine_knn"] > 0.8 and frozen["fine_linear"] > 0.8  # chance is 0.1
    assert finetuned["finetune"] > 0.8
    assert finetuned["learning_rate"] in short().learning_rates
    assert {"device", "packages", "date", "protocol", "config", "transfer"} <= found[0].keys()
    before = out.read_text()
    assert transfer.run(short(), [workdir], out) == records.read(out)
    assert out.read_text() == before


def test_fine_tuning_starts_from_the_checkpoint_and_leaves_it_alone(pretrained):
    workdir, _ = pretrained
    loaded = transfer.load_backbone(workdir, classes=10, channels=1)
    before = jax.tree.map(np.array, loaded.params)
    dataset = sources.load(loaded.config.data)
    config = short()
    # At a learning rate of zero nothing may change, so a zero classifier says class 0 throughout.
    config.update(learning_rates=(0.0,), duration="1 steps", warmup="0 steps")
    devices = transfer.Devices("shard_map", 1)
    still = transfer.finetune(config, loaded, dataset, devices, seed=0)["finetune"]
    assert still == np.mean(dataset.test.labels == 0)
    jax.tree.map(np.testing.assert_array_equal, before, loaded.params)


def test_test_labels_decide_nothing(pretrained):
    workdir, _ = pretrained
    loaded = transfer.load_backbone(workdir, classes=10, channels=1)
    dataset = sources.load(loaded.config.data)
    shuffled = dataset._replace(test=dataset.test._replace(
        labels=np.roll(dataset.test.labels, 1)))
    devices = transfer.Devices("shard_map", 1)
    config = short()
    config.update(duration="1 epochs", warmup="0 steps")
    honest, blind = (transfer.finetune(config, loaded, d, devices, seed=0)
                     for d in (dataset, shuffled))
    assert honest["finetune_validation"] == blind["finetune_validation"]
    assert honest["learning_rate"] == blind["learning_rate"]
    assert honest["finetune"] != blind["finetune"]


def test_images_with_other_channels_are_refused_by_name_and_shape(pretrained):
    with pytest.raises(InputError, match=r"kernel.*\(3, 3, 1, 16\).*\(3, 3, 3, 16\)"):
        transfer.load_backbone(pretrained[0], classes=10, channels=3)


def test_a_missing_checkpoint_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="no pre-training run in"):
        transfer.run(short(), [str(tmp_path / "nowhere")], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"frozen": False, "finetune": False}, "nothing to do"),
    ({"seeds": ()}, "seeds is empty"),
    ({"learning_rates": ()}, "learning_rates is empty"),
])
def test_bad_configs_are_refused(changes, message, tmp_path):
    config = short()
    config.update(changes)
    with pytest.raises(InputError, match=message):
        transfer.run(config, [], tmp_path / "out.jsonl")
