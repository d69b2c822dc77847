"""The step that broke, made again."""

import re

import pytest
from small_runs import config_of

from jaxpt import cli, pretrain
from jaxpt.cli import replay
from jaxpt.data import sources
from jaxpt.errors import InputError, RunError
from jaxpt.train import checkpoint

pytestmark = pytest.mark.usefixtures("unoptimised")

TINY = {
    "data.limit": 120,
    "batch_size": 30,
    "devices": 1,
    "duration": "8 steps",
    "knn_every": "0 steps",
    "checkpoint_every": "0 steps",
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (), "dim": 4},
    "look.k": 5,
    "memory": 60,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e30,
}


@pytest.mark.parametrize("method, norm", [("cross_entropy", "group"), ("look", "sync_batch")])
def test_shows_the_step_what_broke_and_the_images(method, norm, tmp_path):
    config = config_of(method, TINY | {"model.norm": norm})
    dataset = sources.load(config.data)
    with pytest.raises(RunError, match=r"not finite at step \d+") as stopped:
        pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    step = int(re.search(r"at step (\d+)", str(stopped.value))[1])
    lines = replay.run(tmp_path).splitlines()
    assert lines[0] == f"step {step} repeated, from {tmp_path}/not_finite"
    assert any(re.match(r"  loss +\S+$", line) for line in lines)
    assert any(re.match(r"not finite after the step: [1-9]\d* of \d+ arrays$", x) for x in lines)
    assert any("params" in line and " values" in line for line in lines)
    images = [re.match(r"  image (\d+) \((\d)\): (\S+)$", line) for line in lines[-replay.SHOWN :]]
    assert all(images)
    shown = {int(m[1]): m[2] for m in images}
    labels = dict(zip(dataset.trainval.ids.tolist(), dataset.trainval.labels.tolist()))
    assert all(dataset.class_names[labels[image]] == name for image, name in shown.items())
    lengths = [float(m[3]) for m in images]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_nothing_to_replay_is_one_sentence(folder, tmp_path, capsys):
    assert cli.main(["replay", str(tmp_path / folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "holds nothing to replay: no run there stopped" in said
    with pytest.raises(InputError):
        replay.run(tmp_path)


def test_a_run_of_an_older_version_lacks_fields(tmp_path, monkeypatch):
    with pytest.raises(RunError):
        pretrain.run(config_of("cross_entropy", TINY), tmp_path, quiet=True)
    about = checkpoint.about

    def of_an_older_version(workdir, step):
        found = about(workdir, step)
        for name in "cross_entropy", "micro_batches", "memory_sharding":
            del found["config"][name]
        return found

    monkeypatch.setattr(checkpoint, "about", of_an_older_version)
    assert replay.run(tmp_path).startswith("step ")
