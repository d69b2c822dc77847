"""A disk that is full for a while: told in one sentence, nothing torn, nothing lost."""

import resource
import subprocess
import time

import jax
import numpy as np
import pytest

from jaxpt import cli, pretrain
from jaxpt.train import checkpoint
from jaxpt.train.metrics import FILE, read_metrics

COMMAND = [
    "pretrain",
    "--config=pretrain/digits.py:cross_entropy",
    "--config.data.limit=120",
    "--config.batch_size=30",
    "--config.devices=1",
    "--config.duration=12 steps",
    "--config.log_every=1 steps",
    "--config.knn_every=0 steps",
    "--config.checkpoint_every=2 steps",
    "--config.model.options.widths=(8,)",
    "--config.model.options.strides=(4,)",
]
SENTENCE = "could not be written under '"
FULL = ("no space left on the disk", "No space left on device", "File too large")


class SmallDisk:
    """A file system of its own, to be filled."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self):
        with open(self.folder / "filling", "wb", buffering=0) as file:
            for size in 1 << 16, 1:
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    pass

    def free(self):
        (self.folder / "filling").unlink(missing_ok=True)


class Quota:
    """Needs no mount: no file of the process may grow any more."""

    def __init__(self, folder):
        self.folder, self._former = folder, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._former[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._former)


@pytest.fixture(params=["mounted", "limited"])
def disk(request, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited":
        disk = Quota(folder)
        yield disk
        disk.free()
        return
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip(f"nothing can be mounted here: {mount.stderr.decode().strip()}")
    disk = SmallDisk(folder)
    yield disk
    disk.free()
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run with room enough."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main([*COMMAND, f"--workdir={folder}"]) == 0
    return folder


@pytest.fixture
def at_step(monkeypatch):
    """Has things done when a step begins."""
    rows_of_step, doings = pretrain.rows_of_step, {}

    def rows(step, *args, **kwargs):
        doings.get(step + 1, lambda: None)()
        return rows_of_step(step, *args, **kwargs)

    monkeypatch.setattr(pretrain, "rows_of_step", rows)
    return doings


def fill_after(disk, workdir, step):
    """Fills the disk once the checkpoint of a step, which is written meanwhile, is whole."""

    def fill():
        until = time.monotonic() + 60
        while checkpoint.newest(workdir) != step:
            assert time.monotonic() < until
            time.sleep(0.01)
        disk.fill()

    return fill


def assert_same_end(a, b):
    states = [jax.tree.leaves(checkpoint.read_arrays(folder, 12)) for folder in (a, b)]
    for x, y in zip(*states, strict=True):
        np.testing.assert_array_equal(x, y)
    rows = [
        [(row["step"], row.get("loss"), row.get("knn")) for row in read_metrics(folder)]
        for folder in (a, b)
    ]
    assert rows[0] == rows[1]


def assert_no_torn_line(folder):
    assert all(
        line.startswith('{"step": ') and line.endswith("}\n")
        for line in (folder / FILE).read_text().splitlines(keepends=True)
    )


def told(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if SENTENCE in line]
    assert all(any(words in line for words in FULL) for line in lines)
    return lines


def test_the_run_stops_and_the_same_command_goes_on(disk, whole, at_step, capsys):
    workdir = disk.folder / "run"
    at_step[5] = fill_after(disk, workdir, 4)
    assert cli.main([*COMMAND, f"--workdir={workdir}"]) == 1
    (sentence,) = told(capsys)
    assert sentence.startswith("jaxpt pretrain: the checkpoint of step 6 ")
    assert sentence.endswith(
        "the latest whole one is of step 4: make room, then start the same command again."
    )
    assert checkpoint.newest(workdir) == 4
    assert_no_torn_line(workdir)
    at_step.clear()
    disk.free()
    assert cli.main([*COMMAND, f"--workdir={workdir}"]) == 0
    assert told(capsys) == []
    assert_same_end(whole, workdir)


def test_or_it_goes_on_and_saves_when_there_is_room_again(disk, whole, at_step, capsys):
    workdir = disk.folder / "run"
    at_step[5], at_step[11] = fill_after(disk, workdir, 4), disk.free
    seen = []
    at_step[10] = lambda: seen.append((checkpoint.newest(workdir), assert_no_torn_line(workdir)))
    assert cli.main([*COMMAND, "--config.stop_on_save_failure=false", f"--workdir={workdir}"]) == 0
    sentences = told(capsys)
    assert len(sentences) in (2, 3)  # of steps 6, 8 and, told late, 10
    assert all(
        s.endswith("is of step 4. The run continues and tries again at the next save.")
        for s in sentences
    )
    assert seen == [(4, None)]
    assert_same_end(whole, workdir)


def test_a_last_checkpoint_that_fails_is_status_1_in_any_case(disk, at_step, capsys):
    workdir = disk.folder / "run"
    at_step[12] = fill_after(disk, workdir, 10)
    assert cli.main([*COMMAND, "--config.stop_on_save_failure=false", f"--workdir={workdir}"]) == 1
    (sentence,) = told(capsys)
    assert "the checkpoint of step 12 " in sentence and "is of step 10: make room" in sentence
    assert checkpoint.newest(workdir) == 10


def test_a_disk_that_is_full_from_the_start(disk, capsys):
    workdir = disk.folder / "run"
    disk.fill()
    assert cli.main([*COMMAND, f"--workdir={workdir}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("jaxpt pretrain: ") and "cannot be written" in said
    assert not (workdir / "config.json").exists()
