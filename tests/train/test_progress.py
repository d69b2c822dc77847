"""Where a run's progress is told, and how often."""

import builtins
import types

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
    for step, values in (1, {}), (2, {"loss": 0.5}), (4, {"loss": 0.25}), (4, {"knn": 0.75}):
        clock.seconds += 6
        line.show(step, values)
    line.close()


def test_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    told(clock)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "look 2/4  loss 0.500  2 images/s  12 s left",
        "look 4/4  kNN 0.750  2 images/s  0 s left",
    ]
    assert said.out == ""


def test_in_a_notebook_it_goes_among_what_the_cell_prints(clock, capsys, monkeypatch):
    class ZMQInteractiveShell:  # of this name are those of notebooks
        pass

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    told(clock)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and said.err == ""


def test_quiet_is_quiet(clock, capsys):
    told(clock, quiet=True)
    assert capsys.readouterr() == ("", "")
