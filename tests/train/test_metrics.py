"""Rows of numbers: whole lines whatever happens, each once, and none lost before a checkpoint."""

import errno
import os
import struct
import types

import jax.numpy as jnp
import pytest

from jaxpt.evaluation.geometry import collapse_warnings
from jaxpt.train import metrics
from jaxpt.train.metrics import ONCE, Log, MetricWriter, read_metrics


class NoProgress:
    """Shows nothing; its clock moves when a test says so."""

    def __init__(self):
        self.clock = types.SimpleNamespace(now=0.0, seconds=lambda: self.clock.now)

    def show(self, step, values):
        pass


def log_of(writer=None):
    """A log of steps of ten images."""
    settings = {"batch_size": 10, "max_skipped": 0, "warnings": collapse_warnings}
    return Log(writer, NoProgress(), **settings)


def events_in(folder):
    """(step, name, value) of each scalar in all event files, and the steps of session starts."""
    from tensorboardX.proto.event_pb2 import Event

    scalars, starts = [], []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = struct.unpack("<Q", data[at : at + 8])[0]
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):
                starts.append(event.step)
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return scalars, starts


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path):
    writer = MetricWriter(tmp_path, resumed_step=0)
    writer.write(2, {"loss": 0.5, "knn": 1.0})
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 0.5, "knn": 1.0}]
    assert events_in(tmp_path) == ([(2, "loss", 0.5), (2, "knn", 1.0)], [1])
    writer.close()


def test_a_resumed_run_writes_its_rows_again(tmp_path):
    for resumed in 0, 4:
        writer = MetricWriter(tmp_path, resumed_step=resumed)
        for step in range(resumed + 2, 8, 2):
            writer.write(step, {"from": resumed})
        writer.close()
    assert [(row["step"], row["from"]) for row in read_metrics(tmp_path)] == [
        (2, 0),
        (4, 0),
        (6, 4),
    ]
    assert sorted(events_in(tmp_path)[1]) == [1, 5]


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 6, "lo', b"\xff\xfe\n", b"nonsense\n", b"[1]\n", b'{"loss": 1}\n', b"{}\n", b"\n"],
)
def test_what_is_no_row_is_dropped(damage, tmp_path):
    good = b'{"step": 2}\n'
    for text in good + damage, damage + b"\n" * (not damage.endswith(b"\n")) + good:
        (tmp_path / metrics.FILE).write_bytes(text)
        assert read_metrics(tmp_path) == [{"step": 2}]
        MetricWriter(tmp_path, resumed_step=9).close()
        assert (tmp_path / metrics.FILE).read_bytes() == good


class Full:
    """A disk that takes so many bytes more."""

    def __init__(self, monkeypatch):
        self.room = 10**9
        monkeypatch.setattr(metrics, "open", self.open, raising=False)

    def open(self, *args, **kwargs):
        file, disk = open(*args, **kwargs), self

        class Limited:
            def __enter__(self):
                return self

            def __exit__(self, *exception):
                file.close()

            def tell(self):
                return file.tell()

            def write(self, data):
                if disk.room == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                written = file.write(data[: disk.room])
                disk.room -= written
                return written

        return Limited()


@pytest.mark.parametrize("room", [0, 1, 11, 12, 13])
def test_rows_wait_while_the_disk_is_full_and_no_line_is_torn(room, tmp_path, monkeypatch, capsys):
    disk = Full(monkeypatch)
    writer = MetricWriter(tmp_path, resumed_step=0)
    writer.write(1, {})
    disk.room = room
    for step in 2, 3, 4:
        writer.write(step, {})
        lines = (tmp_path / metrics.FILE).read_text().splitlines(keepends=True)
        assert all(line.endswith("}\n") for line in lines)
    assert len(read_metrics(tmp_path)) < 4
    disk.room = 10**9
    writer.write(5, {})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "metrics.jsonl' cannot be written (No space left on device): rows are kept" in said


def test_the_old_rows_stay_where_they_cannot_be_written_anew(tmp_path, monkeypatch, capsys):
    (tmp_path / metrics.FILE).write_text('{"step": 1}\n')

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(metrics.epath.Path(tmp_path)), "replace", full)
    writer = MetricWriter(tmp_path, resumed_step=5)
    assert read_metrics(tmp_path) == [{"step": 1}] and "rows are kept" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    writer.close()


@pytest.mark.parametrize("broken", ["write", "__init__", "close"])
def test_tensorboard_cannot_end_a_run(broken, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics.EventFile, broken, full)
    writer = MetricWriter(tmp_path, resumed_step=0)
    for step in range(1, 31):  # more than any queue holds
        writer.write(step, {"loss": 1.0})
    writer.close()
    assert len(read_metrics(tmp_path)) == 30


def test_an_object_store_gets_all_rows_at_once(tmp_path, monkeypatch):
    writer = MetricWriter(tmp_path, resumed_step=0)
    writer._remote = True
    monkeypatch.setattr(MetricWriter, "ROWS", 3)
    counts = []
    for step in range(1, 8):
        writer.write(step, {})
        counts.append(len(read_metrics(tmp_path)))
    assert counts == [0, 0, 3, 3, 3, 6, 6]
    writer.sync()
    assert len(read_metrics(tmp_path)) == 7
    writer.close()


def test_a_log_writes_one_row_late_but_all_before_a_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path, resumed_step=0)
    log = log_of(writer)
    log.begin(0)
    done = [jnp.float32(loss) for loss in (1.0, 2.0)]
    log.later(2, {"loss": done[0], "skipped": 0.0}, None)
    assert read_metrics(tmp_path) == []
    log.later(4, {"loss": done[1], "skipped": 0.0}, None)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2]
    log.sync(None)
    assert [row["step"] for row in read_metrics(tmp_path)] == [2, 4]
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0]
    assert log.history == []  # a writer keeps them, so memory does not
    log.sync(None)
    writer.close()
    assert len(read_metrics(tmp_path)) == 2 and os.listdir(tmp_path)


def test_a_rate_is_that_since_the_row_before():
    """Even where the host looks later than the devices were done, and after a resume."""
    log = log_of()
    clock = log._progress.clock
    clock.now = 100.0
    log.begin(50, startup_seconds=7.0, compile_seconds=3.0)
    for step, seconds in (60, 110.0), (70, 112.0), (90, 113.0):
        clock.now = seconds
        log.later(step, {"loss": jnp.float32(0.5), "skipped": 0.0}, None)
        log._watch.submit(int).result()  # the time of this row is taken
    clock.now = 1000.0
    log.flush(None)
    assert [row["images_per_second"] for row in log.history] == [10.0, 50.0, 200.0]
    assert log.history[0].items() >= {"startup_seconds": 7.0, "compile_seconds": 3.0}.items()
    assert not set(log.history[1]) & set(ONCE)


def test_a_warning_is_given_once(capsys):
    log = log_of()
    for step, spread in (1, 0.5), (2, 0.001), (3, 0.002), (4, 0.5):
        log.now(step, {"feature_spread": spread})
    for step in 5, 6:
        log.now(step, {"zero_loss": 0.99 + step / 1000})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("jaxpt: warning at step 2: the features of all images are nearly")
    assert said[1].startswith("jaxpt: warning at step 5: ") and "have no loss" in said[1]
