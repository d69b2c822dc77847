"""Transfer end to end on real digits: from checkpoints on disk to records."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxpt import backbones, finetune, pretrain, records, transfer
from jaxpt.configs.pretrain import digits
from jaxpt.configs.transfer import bit, defaults
from jaxpt.errors import InputError
from jaxpt.data import sources
from jaxpt.evaluation import suites

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A short run, with batch statistics to carry over."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    config = digits.get_config("look")
    config.update(duration="5 epochs", knn_every="0 steps", devices=1)
    config.model.norm = "batch"
    pretrain.run(config, str(folder), quiet=True)
    return str(folder)


def short(**changes):
    config = defaults.get_config()
    config.update(seeds=(0,), duration="6 epochs", devices=1, **changes)
    return config


def lasting(found):
    """Records without the day and the machine."""
    passing = ("date", "revision", "device", "packages", "python")
    return [{k: v for k, v in record.items() if k not in passing} for record in found]


def test_measures_once_and_writes_records(workdir, tmp_path):
    out = tmp_path / "records.jsonl"
    found = transfer.run(short(), [workdir], out)
    assert [(r["label"], r["evaluator"]) for r in found] == [
        ("look", "frozen"),
        ("look", "finetune"),
    ]
    frozen, finetuned = (record["values"] for record in found)
    assert frozen["fine_knn"] > 0.8 and frozen["fine_linear"] > 0.8  # chance is 0.1
    assert frozen["coarse_knn"] > frozen["fine_knn"]  # the coarse labels are pre-training's
    assert finetuned.keys() == {
        "fine_finetune",
        "finetune_validation",
        "learning_rate",
        "weight_decay",
    }
    assert finetuned["fine_finetune"] > 0.8
    assert finetuned["learning_rate"] in short().learning_rates
    before = out.read_text()
    assert transfer.run(short(), [workdir], out) == records.read(out)
    assert out.read_text() == before


def quick(monkeypatch):
    """Fine-tuning and frozen measurements that take no time; returns the calls."""
    calls = []

    def fake(task, *, seed):
        calls.append((task.backbone.label, seed))
        return finetune.Finetuned(
            0.9, 0.8, 1e-3, 1e-4, [{"learning_rate": 1e-3, "weight_decay": 1e-4, "validation": 0.8}]
        )

    monkeypatch.setattr(transfer, "finetune", fake)
    monkeypatch.setattr(suites, "frozen", lambda *args, **kwargs: {"fine_knn": 0.5})
    return calls


def test_the_fine_tuned_network_is_kept_as_a_run(workdir, tmp_path):
    config = short(frozen=False, learning_rates=(1e-3,))
    config.duration, config.data.shots = "2 steps", 5
    (record,) = transfer.run(config, [workdir], tmp_path / "out.jsonl", keep=tmp_path / "kept")
    (folder,) = (tmp_path / "kept").iterdir()
    kept = backbones.open_backbone(folder)
    assert (kept.label, kept.method, kept.seed) == ("look fine-tuned", "finetune", 0)
    assert kept.made["data"]["images"] == 50 and kept.config.data.label_map == "fine"
    # Its features and its classifier have the accuracy that was recorded.
    test = sources.load(kept.config.data).test
    features = kept.features(test.images)
    logits = features @ kept.classifier["Dense_0"]["kernel"] + kept.classifier["Dense_0"]["bias"]
    accuracy = np.mean(np.argmax(logits, axis=1) == test.labels)
    assert accuracy == pytest.approx(record["values"]["fine_finetune"], abs=1e-9)
    start = backbones.open_backbone(workdir)
    assert kept.checkpoint != start.checkpoint
    # It is measured and fine-tuned like any other run, on the set that it was fine-tuned on.
    again = short(finetune=False)
    (frozen,) = transfer.run(again, [folder], tmp_path / "again.jsonl")
    assert frozen["label"] == "look fine-tuned" and frozen["values"]["fine_knn"] > 0.5


def test_shots_are_of_every_class_and_differ_between_seeds(workdir):
    dataset = sources.load(digits.get_config().data)
    drawn = finetune.few(dataset, 5, 0)
    assert np.bincount(drawn.trainval.labels).tolist() == [5] * 10
    assert np.bincount(drawn.validation.labels).tolist() == [1] * 10
    assert sorted([*drawn.train.ids, *drawn.validation.ids]) == drawn.trainval.ids.tolist()
    np.testing.assert_array_equal(drawn.test.ids, dataset.test.ids)
    assert finetune.few(dataset, 5, 1).trainval.ids.tolist() != drawn.trainval.ids.tolist()
    assert finetune.few(dataset, 5, 0).train.ids.tolist() == drawn.train.ids.tolist()
    with pytest.raises(InputError, match="data.shots must be 0 .* or at least 2"):
        finetune.few(dataset, 1, 0)


def test_everything_is_checked_before_anything_is_trained(workdir, tmp_path, monkeypatch):
    calls = quick(monkeypatch)
    config = short()
    config.data.path = str(tmp_path / "nowhere")
    config.data.source = "folder"
    with pytest.raises(InputError, match="neither a folder nor a list"):
        transfer.run(config, [workdir], tmp_path / "out.jsonl")
    assert not calls and not (tmp_path / "out.jsonl").exists()


def test_scratch_beside_a_run_has_its_network_and_its_set(workdir, tmp_path, monkeypatch):
    quick(monkeypatch)
    found = transfer.run(short(frozen=False), ["scratch:1", workdir], tmp_path / "out.jsonl")
    assert [record["label"] for record in found] == ["scratch", "look"]
    assert found[0]["data_config"] == found[1]["data_config"]
    assert found[0]["model"]["name"] == "small_cnn" and found[0]["model"]["norm"] == "batch"


def test_a_record_says_what_it_is_of(workdir, tmp_path, monkeypatch):
    quick(monkeypatch)
    config = short()
    config.seeds = (0, 5)
    frozen, first, second = transfer.run(config, [f"mine={workdir}"], tmp_path / "out.jsonl")
    opened = backbones.open_backbone(workdir)
    for record in frozen, first, second:
        assert (record["label"], record["method"], record["seed"]) == ("mine", "look", 0)
        assert (record["data"], record["part"], record["step"]) == ("digits", "test", 50)
        assert record["checkpoint"] == opened.checkpoint
        assert record["config"] == json.loads(json.dumps(opened.config.to_dict()))
        assert record["data_config"]["source"] == "digits"
        assert record["data_config"]["label_map"] == "halves"
        assert {"device", "packages", "date", "revision"} <= record.keys()
    assert (first["finetune_seed"], second["finetune_seed"]) == (0, 5)
    assert frozen["protocol"] == suites.FROZEN_PROTOCOL
    protocol = first["protocol"]["finetune"]
    assert tuple(protocol["learning_rates"]) == (1e-3, 3e-3) and protocol["batch_size"] == 120
    assert not {"seeds", "devices", "data"} & protocol.keys()
    assert first["details"]["sweep"] == [
        {"learning_rate": 1e-3, "weight_decay": 1e-4, "validation": 0.8}
    ]
    assert len({r["key"] for r in (frozen, first, second)}) == 3


def test_what_is_known_is_not_made_again(workdir, tmp_path, monkeypatch):
    calls = quick(monkeypatch)
    out = tmp_path / "out.jsonl"
    transfer.run(short(), [workdir], out)
    more = short()
    more.update(seeds=(1, 0), devices=8)
    assert [r.get("finetune_seed") for r in transfer.run(more, [workdir], out)] == [None, 1, 0]
    transfer.run(short(label_smoothing=0.1), [workdir], out)
    transfer.run(short(), [f"other={workdir}"], out)
    assert calls == [("look", 0), ("look", 1), ("look", 0), ("other", 0)]
    # Frozen features do not depend on how fine-tuning is done.
    assert [r["evaluator"] for r in records.read(out)] == [
        "frozen",
        "finetune",
        "finetune",
        "finetune",
        "frozen",
        "finetune",
    ]


def test_another_checkpoint_is_measured_anew(workdir, tmp_path, monkeypatch):
    quick(monkeypatch)
    opened = backbones.open_backbone(workdir)
    for checkpoint in "a", "b", "a":
        monkeypatch.setattr(
            backbones,
            "open_backbone",
            lambda *args, c=checkpoint, **kwargs: opened.__class__(
                **{**vars(opened), "checkpoint": c}
            ),
        )
        transfer.run(short(finetune=False), [workdir], tmp_path / "out.jsonl")
    assert [r["checkpoint"] for r in records.read(tmp_path / "out.jsonl")] == ["a", "b"]


def test_scratch_and_workdir_side_by_side_on_a_set_of_their_own(workdir, tmp_path, monkeypatch):
    quick(monkeypatch)
    config = short(frozen=False)
    config.data.update(source="digits", limit=300)
    config.model.update(name="small_cnn")
    found = transfer.run(config, ["scratch:4", workdir], tmp_path / "out.jsonl")
    assert [(r["label"], r["method"], r["seed"], r["config"] is None) for r in found] == [
        ("scratch", "scratch", 4, True),
        ("look", "look", 0, False),
    ]
    assert [r["data_config"]["label_map"] for r in found] == ["fine", "fine"]
    assert found[0]["model"]["name"] == "small_cnn" and found[1]["model"] is None
    assert found[0]["data_config"]["limit"] == 300


@pytest.mark.parametrize("module", [defaults, bit])
def test_the_smoke_variants_run(module, workdir, tmp_path):
    config = module.get_config("smoke")
    config.update(devices=1, frozen=False)
    (record,) = transfer.run(config, [workdir], tmp_path / "out.jsonl")
    assert 0 <= record["values"]["fine_finetune"] <= 1
    protocol = record["protocol"]["finetune"]
    assert protocol["duration"] == "3 steps" and protocol["mixup"] == 0.0
    assert protocol["crop"] == (8 if module is bit else 0)


def test_unknown_variants_are_refused():
    for module in defaults, bit:
        with pytest.raises(InputError, match="variant 'large' is unknown"):
            module.get_config("large")


def test_killed_and_resumed_it_writes_the_same_results(workdir, tmp_path):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    config = defaults.get_config("smoke")
    config.update(seeds=(0, 1, 2), devices=1, frozen=False, learning_rates=(1e-3, 1e-2))
    config.data.shots, config.head.name, config.minimax_entropy = 5, "covariance", 0.1
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jaxpt.cli",
            "transfer",
            workdir,
            f"--out={resumed}",
            "--config=transfer/defaults.py:smoke",
            "--config.seeds=(0,1,2)",
            "--config.devices=1",
            "--config.frozen=False",
            "--config.learning_rates=(0.001,0.01)",
            "--config.data.shots=5",
            "--config.head.name=covariance",
            "--config.minimax_entropy=0.1",
        ]
    )
    deadline = time.monotonic() + 300
    while not (resumed.exists() and resumed.read_text().endswith("\n")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = records.read(resumed)
    assert 1 <= len(before) <= 3
    for out in resumed, whole:
        transfer.run(config, [workdir], out)
    assert lasting(records.read(resumed)) == lasting(records.read(whole))
    assert records.read(resumed)[: len(before)] == before


def test_colour_images_are_not_for_a_network_of_grey_ones(workdir, tmp_path):
    path = tmp_path / "colour.npz"
    rng = np.random.default_rng(0)
    np.savez(
        path,
        **{
            f"{part}_{kind}": values
            for part in ("train", "test")
            for kind, values in (
                ("images", rng.integers(0, 256, (40, 8, 8, 3), np.uint8)),
                ("labels", np.arange(40) % 2),
            )
        },
    )
    config = short(frozen=False)
    config.data.update(source="npz", path=str(path))
    with pytest.raises(InputError, match="takes images of 1 channel, but these have 3"):
        transfer.run(config, [workdir], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_checkpoint_is_named_before_anything_is_written(workdir, tmp_path):
    with pytest.raises(InputError, match="no pre-training run in"):
        transfer.run(short(), [workdir, str(tmp_path / "nowhere")], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "backbones_", "message"),
    [
        ({"frozen": False, "finetune": False}, [], "nothing to do"),
        ({"seeds": ()}, [], "seeds is empty"),
        ({"learning_rates": ()}, [], "learning_rates is empty"),
        ({"batch_size": 0}, [], "batch_size must be at least 1"),
        ({}, ["scratch"], "set model.name to one of"),
        ({"model.name": "small_cnn"}, ["scratch"], "scratch has no pre-training set"),
        (
            {"model.name": "small_cnn", "model.normalisation": "cifar"},
            ["scratch"],
            "model.normalisation must be one of",
        ),
        ({}, ["weights.pth"], "no file 'weights.pth'"),
    ],
)
def test_bad_configs_are_refused(changes, backbones_, message, tmp_path):
    config = short()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=message):
        transfer.run(config, backbones_, tmp_path / "out.jsonl")
    assert not pathlib.Path(tmp_path / "out.jsonl").exists()
