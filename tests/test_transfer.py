"""The transfer loop end to end on real digits, from checkpoints on disk."""

import types

import jax
import numpy as np
import pytest

from jaxpt import models, pretrain, records, transfer
from jaxpt.configs.pretrain import digits
from jaxpt.configs.transfer import defaults
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.evaluation import measure


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
    assert frozen["coarse_knn"] > frozen["fine_knn"]  # the coarse labels are pre-training's
    assert finetuned["finetune"] > 0.8
    assert finetuned["learning_rate"] in short().learning_rates
    assert {"device", "packages", "date", "protocol", "config", "transfer"} <= found[0].keys()
    before = out.read_text()
    assert transfer.run(short(), [workdir], out) == records.read(out)
    assert out.read_text() == before


def test_a_newer_checkpoint_is_measured_anew(pretrained, tmp_path, monkeypatch):
    workdir, _ = pretrained
    loaded = transfer.load_backbone(workdir, classes=10, channels=1)
    monkeypatch.setattr(transfer, "load_backbone", lambda *args, **kwargs: loaded)
    monkeypatch.setattr(measure, "frozen", lambda *args, **kwargs: {})
    config = short()
    config.finetune = False
    for step in 50, 51, 50:
        monkeypatch.setattr(transfer, "open_run", lambda workdir, step=step: (loaded.config, step))
        transfer.run(config, [workdir], tmp_path / "records.jsonl")
    assert [record["step"] for record in records.read(tmp_path / "records.jsonl")] == [50, 51]


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
    state = transfer._train(config, loaded, dataset.train, devices, 0.0, seed=0)
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state.params))


def test_the_rate_is_chosen_on_validation_and_refitted_on_all_training_data(monkeypatch):
    dataset = sources.load(digits.get_config().data)
    trained = []
    scores = {(0.1, "validation"): 0.5, (0.2, "validation"): 0.7, (0.3, "validation"): 0.6,
              (0.2, "test"): 0.4}

    def name_of(split):
        return next(name for name in dataset._fields if getattr(dataset, name) is split)

    def train(config, pretrained, split, devices, rate, seed):
        trained.append((name_of(split), rate, seed))
        return rate

    monkeypatch.setattr(transfer, "_train", train)
    monkeypatch.setattr(transfer, "_accuracy",
                        lambda rate, encoder, split: scores[rate, name_of(split)])
    config = short()
    config.learning_rates = (0.1, 0.2, 0.3)
    found = transfer.finetune(config, types.SimpleNamespace(encoder=None), dataset, None, seed=4)
    assert found == {"finetune": 0.4, "finetune_validation": 0.7, "learning_rate": 0.2}
    assert trained == [("train", 0.1, 4), ("train", 0.2, 4), ("train", 0.3, 4),
                       ("trainval", 0.2, 4)]


def test_fine_tuning_on_eight_devices_equals_one_and_the_seed_counts():
    config, dataset = digits.get_config(), sources.load(digits.get_config().data)
    encoder = models.Encoder(models.make_backbone(config.model, axis_name=transfer.AXIS),
                             models.Classifier(10))
    start = transfer.Pretrained(config, 0, encoder, *models.init(
        encoder, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)))
    fine = short()
    fine.optimizer.name = "sgd"
    fine.update(duration="3 steps", warmup="0 steps")
    one, eight, other = (
        jax.device_get(transfer._train(fine, start, dataset.train, transfer.Devices(
            "shard_map", devices), 0.1, seed=seed).params)
        for devices, seed in ((1, 0), (8, 0), (8, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), one, eight)
    assert np.abs(eight["head"]["Dense_0"]["kernel"]
                  - other["head"]["Dense_0"]["kernel"]).max() > 1e-3


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
