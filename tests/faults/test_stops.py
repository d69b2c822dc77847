"""The command's own ends: statuses and sentences of limits, signals and a folder that is taken."""

import json
import os
import signal

import pytest
from etils import epath

from jaxpt import cli, pretrain
from jaxpt.train import checkpoint
from jaxpt.train import workdir as workdirs
from jaxpt.train.stopping import STATUS

COMMAND = [
    "pretrain",
    "--config=pretrain/digits.py:look",
    "--config.data.limit=120",
    "--config.batch_size=30",
    "--config.devices=1",
    "--config.duration=9 steps",
    "--config.knn_every=0 steps",
    "--config.checkpoint_every=0 steps",
    "--config.memory=60",
    "--config.model.options.widths=(8,)",
    "--config.model.options.strides=(4,)",
    "--config.look.k=5",
]


@pytest.fixture
def calls(monkeypatch):
    """Has things done when rows are drawn for the n-th time: twice for the memory, then a step."""
    rows_of_step, doings, count = pretrain.rows_of_step, {}, [0]

    def rows(*args, **kwargs):
        count[0] += 1
        doings.get(count[0], lambda: None)()
        return rows_of_step(*args, **kwargs)

    monkeypatch.setattr(pretrain, "rows_of_step", rows)
    return doings


def run(capsys, tmp_path, *more):
    status = cli.main([*COMMAND, f"--workdir={tmp_path}", *more])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxpt ")]
    return status, said


def test_a_signal_in_the_memory_fill_is_heard_there(calls, tmp_path, capsys):
    calls[1] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    calls[3] = lambda: pytest.fail("a step was made")
    assert run(capsys, tmp_path) == (
        STATUS,
        [
            "jaxpt pretrain: stopped by SIGTERM before the first step: the same command starts "
            f"it again: {tmp_path}"
        ],
    )
    assert checkpoint.newest(tmp_path) is None


def test_a_signal_in_a_step_saves_it_and_the_same_command_goes_on(calls, tmp_path, capsys):
    calls[6] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert run(capsys, tmp_path) == (
        STATUS,
        [
            "jaxpt pretrain: stopped by SIGINT at step 4: the state is saved, the same command "
            f"resumes from there: {tmp_path}"
        ],
    )
    assert checkpoint.newest(tmp_path) == 4
    assert run(capsys, tmp_path) == (0, [])
    assert checkpoint.newest(tmp_path) == 9


def test_a_time_limit_saves(calls, tmp_path, capsys, monkeypatch):
    from jaxpt.train import stopping

    now, monotonic = [0.0], stopping.time.monotonic
    monkeypatch.setattr(stopping.time, "monotonic", lambda: monotonic() + now[0])
    calls[8] = lambda: now.__setitem__(0, 3600.0)
    status, said = run(capsys, tmp_path, "--max-minutes=60")
    assert status == STATUS and "stopped by the limit of 60 minutes at step 6: the" in said[0]
    assert checkpoint.newest(tmp_path) == 6


def test_a_taken_folder_is_refused_and_left_alone(tmp_path, capsys):
    with workdirs.hold_lock(epath.Path(tmp_path)):
        status, said = run(capsys, tmp_path)
        assert status == 2 and len(said) == 1
        assert f"is in use by {workdirs._me()}: two runs" in said[0]
        assert [path.name for path in tmp_path.iterdir()] == [workdirs.LOCK]


def test_a_checkpoint_of_another_format_is_refused(tmp_path, capsys):
    assert run(capsys, tmp_path) == (0, [])
    file = tmp_path / "checkpoints" / "9" / "manifest.json"
    content = json.loads(file.read_text()) | {"format": 7}
    del content["sha256"]
    file.write_text(json.dumps(content | {"sha256": checkpoint._manifest_sum(content)}))
    status, said = run(capsys, tmp_path)
    assert status == 2 and len(said) == 1
    assert "is a checkpoint of format 7, but this version of jaxpt reads format 1: use" in said[0]
