"""A workdir on an object store: everything but orbax, against a folder that stands in for it.

The stand-in is fsspec's file system on a folder behind ``gs://``; latencies, permissions and
retries of a real store are not in it, nor orbax's own writing (tensorstore's gcs driver).
"""

import json
import pathlib

import pytest
from etils import epath
from etils.epath import backend as backends
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from jaxpt.configs.pretrain import defaults, digits
from jaxpt.errors import InputError
from jaxpt.train import lock
from jaxpt.train import workdir as workdirs
from jaxpt.train.metrics import MetricWriter, read_metrics

RUN = "gs://bucket/runs/a"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The folder behind gs://."""
    folder = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))

    class Store(backends._FileSystemSpecBackend):
        def fs(self, path):
            return folder

    monkeypatch.setattr(type(epath.Path(RUN)), "_backend", Store())
    monkeypatch.setattr(lock, "SETTLES_IN", 0.0)
    return pathlib.Path(tmp_path, "gs:", "bucket", "runs", "a")


def test_config_and_its_changes(store):
    assert workdirs.read_config(RUN) is None
    workdirs.claim(workdirs.make(RUN), digits.get_config(), [])
    workdirs.claim(RUN, digits.get_config(), ["k (1 there, 2 here)"])
    assert json.loads((store / "config.json").read_text())["method"] == "look"
    assert len((store / workdirs.CHANGES).read_text().splitlines()) == 1
    assert {path.name for path in store.iterdir()} == {"config.json", workdirs.CHANGES}
    config = digits.get_config()
    config.seed = 5
    with pytest.raises(InputError, match=r"'gs://bucket/runs/a' holds a run .* seed \(0 there, 5"):
        workdirs.check_config(RUN, config, defaults.get_config().to_dict(), resume=True)


def test_one_run_has_it(store):
    folder = workdirs.make(RUN)
    with lock.hold(folder):
        text = (store / lock.FILE).read_text()
        assert text.startswith(lock._me())
        assert lock._read(folder / lock.FILE)[0] == lock._me()
    assert not (store / lock.FILE).exists()


def test_rows_are_written_at_checkpoints_and_gone_on_with(store):
    workdirs.make(RUN)
    for resumed in 0, 4:
        writer = MetricWriter(RUN, resumed_step=resumed)
        for step in 2, 4, 6:
            if step > resumed:
                writer.write(step, {"from": resumed})
        writer.sync()
        assert read_metrics(RUN)[-1] == {"step": 6, "from": resumed}
        writer.close()
    assert [row["from"] for row in read_metrics(RUN)] == [0, 0, 4]
    assert [path.name for path in store.iterdir()] == ["metrics.jsonl"]  # no event files


def test_a_store_that_is_away_is_told_once_and_ends_nothing(store, monkeypatch, capsys):
    workdirs.make(RUN)
    writer = MetricWriter(RUN, resumed_step=0)
    writer.write(2, {})

    def away(path, text):
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(RUN)), "write_text", away)
        writer.sync()
        writer.sync()
    assert capsys.readouterr().err.count("cannot be written (away): rows wait") == 1
    writer.close()
    assert [row["step"] for row in read_metrics(RUN)] == [2]
