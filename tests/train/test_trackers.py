"""Experiment trackers get every row, and whatever they do, the run goes on."""

import threading

import pytest
import small_runs

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.train import trackers
from jaxpt.train.metrics import read_metrics
from jaxpt.train.trackers import Session, Trackers

pytestmark = pytest.mark.usefixtures("unoptimised")


class Fake:
    """A tracker that remembers what it got."""

    def __init__(self):
        self.rows, self.ends, self.abouts = [], [], []

    def open(self, about):
        self.abouts.append(about)
        return Session(lambda step, row: self.rows.append((step, row)), self.ends.append, "here")


@pytest.fixture
def use(monkeypatch):
    """Makes the tracker "wandb" one that is opened by a function."""

    def replace(opening):
        monkeypatch.setitem(trackers._OPEN, "wandb", opening)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: True)

    return replace


def test_names_are_checked(monkeypatch):
    assert trackers.names("") == []
    with pytest.raises(InputError, match="must be among wandb, mlflow, .* got 'comet'"):
        trackers.names("comet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"mlflow needs .*: pip install 'jaxpt\[mlflow\]'"):
        trackers.names("mlflow")


def test_rows_arrive_in_order_with_the_config_and_the_end(use, tmp_path, capsys):
    fake = Fake()
    use(fake.open)
    with Trackers("wandb, wandb", tmp_path, {"seed": 3, "look": {"k": 20}, "options": {}}) as open_:
        for step in range(50):
            open_.write(step, {"loss": 1.0})
    assert [step for step, _ in fake.rows] == list(range(50)) and fake.ends == [True]
    (about,) = fake.abouts
    assert about.config == {"seed": 3, "look.k": 20, "options": {}}
    assert about.saved_id("wandb") is None
    about.save_id("wandb", "abc")
    assert about.saved_id("wandb") == "abc"
    assert "wandb: here" in capsys.readouterr().err
    with pytest.raises(KeyError), Trackers("wandb", tmp_path, {}):
        raise KeyError
    assert fake.ends == [True, False]


def fail(*args):
    raise OSError("no network")


@pytest.mark.parametrize(
    "opening", [fail, lambda about: Session(fail, fail, ""), lambda about: Session(print, fail, "")]
)
def test_a_failure_is_reported_once(use, tmp_path, capsys, opening):
    use(opening)
    with Trackers("wandb", tmp_path, {}) as open_:
        for step in range(3):
            open_.write(step, {})
    told = capsys.readouterr().err
    assert told.count("wandb gets no more rows (OSError: no network); the run goes on.") == 1


def test_a_tracker_that_hangs_is_left_behind(use, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(trackers, "WAITING_ROWS", 5)
    waits = threading.Event()
    use(lambda about: waits.wait())
    with Trackers("wandb", tmp_path, {}) as open_:
        for step in range(9):
            open_.write(step, {})
    assert capsys.readouterr().err.count("(5 rows wait for it)") == 1
    with Trackers("wandb", tmp_path, {}):
        pass
    assert "has not taken all rows" in capsys.readouterr().err
    waits.set()


def test_a_run_sends_the_rows_of_its_file_and_outlives_its_tracker(use, tmp_path):
    config = small_runs.config_of(
        "cross_entropy", {"duration": "4 steps", "knn_every": "0 steps", "trackers": "wandb"}
    )
    with pytest.raises(InputError, match="trackers=wandb needs a workdir"):
        use(fail)
        pretrain.run(config)
    dataset, fake = sources.load(config.data), Fake()
    pretrain.run(config, tmp_path / "fails", quiet=True, dataset=dataset)
    use(fake.open)
    pretrain.run(config, tmp_path / "works", quiet=True, dataset=dataset)
    rows = read_metrics(tmp_path / "works")
    assert [{"step": step} | row for step, row in fake.rows] == rows and rows
    assert [r.get("loss") for r in rows] == [
        r.get("loss") for r in read_metrics(tmp_path / "fails")
    ]


@pytest.mark.extras
def test_mlflow_in_files(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for start in 0, 2:  # resumed once
        with Trackers("mlflow", tmp_path, {"seed": 3, "look": {"k": 20}}) as open_:
            for step in range(start, start + 3):
                open_.write(step, {"loss": 1.0 / (step + 1)})
    assert "warning" not in capsys.readouterr().err
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("jaxpt").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.run_name == tmp_path.name and run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "look.k": "20"}
    found = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert found == {step: 1.0 / (step + 1) for step in range(5)}


@pytest.mark.extras
def test_wandb_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    for name in "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME":
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with Trackers("wandb", tmp_path, {}):
        pass
    assert "no login: run `wandb login`" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in 0, 2:
        with Trackers("wandb", tmp_path, {"look": {"k": 20}}) as open_:
            for step in range(start, start + 3):
                open_.write(step, {"loss": 0.5})
    assert "warning" not in capsys.readouterr().err
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    (run_id,) = {file.stem for file in files}
    saved = (tmp_path / "wandb_run.txt").read_text().strip()
    assert len(files) == 2 and run_id == f"run-{saved}"
    assert all(b"loss" in file.read_bytes() and b"look" in file.read_bytes() for file in files)
