"""Where a run's progress is told, and how often."""

import builtins
import types
from concurrent import futures

import pytest

from jaxpt.train import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told to."""
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.seconds)
    return now


def told(clock, *, quiet=False):
    line = progress.ProgressLine("look", total=4, start=0, batch_size=10, quiet=quiet)
    first = {"startup_seconds": 9.0, "compile_seconds": 200.0}
    for step, values in (
        (1, {"loss": 0.75, "images_per_second": 0.1, **first}),
        (2, {"loss": 0.625, "images_per_second": 5.0}),
        (3, {"loss": 0.5, "images_per_second": 5.0}),
        (4, {"loss": 0.25, "images_per_second": 5.0}),
        (4, {"knn": 0.75, "images_per_second": 5.0}),
    ):
        clock.seconds += 6
        line.show(step, values)
    line.close()


def test_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    told(clock)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "look: the first step came after 9 s of start-up and 3 min of compilation.",
        "look 2/4  loss 0.625  5 images/s  4 s left",
        "look 4/4  loss 0.250  5 images/s  0 s left",
        "look 4/4  kNN 0.750  5 images/s  0 s left",
    ]
    assert said.out == ""


def test_in_a_notebook_it_goes_among_what_the_cell_prints(clock, capsys, monkeypatch):
    class ZMQInteractiveShell:  # of this name are those of notebooks
        pass

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    told(clock)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4 and said.err == ""


def test_quiet_is_quiet(clock, capsys):
    told(clock, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_the_clock_stands_still_while_the_host_is_busy(clock):
    line = progress.ProgressLine("look", total=4, start=0, batch_size=10, quiet=True)
    began = line.clock.seconds()
    clock.seconds += 3
    with line.doing("evaluating"):
        clock.seconds += 20
        assert line.host_task() == "evaluating … 20 s"
        assert line.clock.seconds() - began == 3
    assert line.host_task() == ""
    clock.seconds += 4
    with line.doing("evaluating"):
        clock.seconds += 500
    assert line.clock.seconds() - began == 7
    assert line.spent["evaluating"] == 520


def test_a_long_wait_shows_its_seconds(clock, capsys, monkeypatch):
    future = futures.Future()

    def passing(waited_for, timeout):
        clock.seconds += timeout
        if clock.seconds > 130:
            future.set_result("compiled")

    monkeypatch.setattr(progress.futures, "wait", passing)
    line = progress.ProgressLine("look", total=4, start=0, batch_size=10, quiet=False)
    assert line.wait("compiling", future) == "compiled"
    line.close()
    assert capsys.readouterr().err.splitlines() == [
        f"look: compiling … {seconds} s" for seconds in (10, 20, 30)
    ]


def test_durations():
    said = [progress.duration(seconds) for seconds in (0.4, 119, 121, 7199, 9000)]
    assert said == ["0 s", "119 s", "2 min", "120 min", "2.5 h"]
