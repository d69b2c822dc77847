"""A workdir on an object store, against a folder that stands in for one (``object_store.py``).

Latencies, permissions and retries of a real store are not in it.
"""

import hashlib
import json
import subprocess
import sys

import jax
import numpy as np
import object_store
import pytest
from etils import epath
from jaxpt.configs.pretrain import defaults, digits

from jaxpt import pretrain
from jaxpt.errors import InputError
from jaxpt.files import writable_folder
from jaxpt.train import workdir as workdirs
from jaxpt.train.metrics import MetricWriter, read_metrics

RUN = "gs://bucket/runs/a"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The folder behind gs://."""
    monkeypatch.setattr(type(epath.Path(RUN)), "_backend", object_store.backend(tmp_path))
    monkeypatch.setattr(workdirs, "SETTLES_IN", 0.0)
    return tmp_path / "bucket" / "runs" / "a"


def test_config_and_its_changes(store):
    assert workdirs.read_config(RUN) is None
    workdirs.claim(writable_folder(RUN), digits.get_config())
    workdirs.claim(RUN, digits.get_config(), workdirs.Changes(["k (1 there, 2 here)"]))
    assert json.loads((store / "config.json").read_text())["method"] == "look"
    assert len((store / workdirs.CHANGES).read_text().splitlines()) == 1
    assert {path.name for path in store.iterdir()} == {"config.json", workdirs.CHANGES}
    config = digits.get_config()
    config.seed = 5
    with pytest.raises(InputError, match=r"'gs://bucket/runs/a' holds a run .* seed \(0 there, 5"):
        workdirs.check(RUN, config, defaults.get_config().to_dict(), resume=True)


def test_one_run_has_it(store):
    folder = writable_folder(RUN)
    with workdirs.hold_lock(folder):
        text = (store / workdirs.LOCK).read_text()
        assert text.startswith(workdirs._me())
        assert workdirs._read_lease(folder / workdirs.LOCK)[0] == workdirs._me()
    assert not (store / workdirs.LOCK).exists()


def test_rows_are_written_at_checkpoints_and_gone_on_with(store):
    writable_folder(RUN)
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
    writable_folder(RUN)
    writer = MetricWriter(RUN, resumed_step=0)
    writer.write(2, {})

    def away(path, target):
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(RUN)), "replace", away)
        writer.sync()
        writer.sync()
    assert capsys.readouterr().err.count("cannot be written (away): rows are kept") == 1
    writer.close()
    assert [row["step"] for row in read_metrics(RUN)] == [2]


def config():
    found = digits.get_config("look")
    found.update(
        duration="6 steps",
        log_every="1 steps",
        knn_every="0 steps",
        devices=1,
        checkpoint_every="2 steps",
        memory=120,
    )
    found.data.limit = 200
    found.look.k = 5
    found.model.options.unlock()
    found.model.options.update(widths=(8,), strides=(4,))
    return found


def digest_of(state):
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


# In processes of their own, for tensorstore asks where a store is served only once.
PROGRAM = """
import os, pathlib, sys
import object_store
from jaxpt import pretrain
from jaxpt.train import checkpoint, workdir
sys.path.insert(0, "faults")
from test_remote import RUN, config, digest_of

folder, dies_at = pathlib.Path(sys.argv[1]), int(sys.argv[2])
object_store.stand_in(folder)
workdir.SETTLES_IN, workdir.EXPIRES_AFTER = 0.0, 0.5
write = checkpoint._write_manifest

def write_or_die(path, about):
    if about["step"] == dies_at:
        os._exit(9)
    write(path, about)

checkpoint._write_manifest = write_or_die
with object_store.served(folder):
    trained = pretrain.run(config(), RUN, quiet=True)
print(digest_of(trained.state))
"""


@pytest.mark.slow
def test_a_run_that_dies_on_a_store_goes_on_with_the_same_bits(tmp_path):
    def run(dies_at=0):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(dies_at)],
            text=True,
            cwd=object_store.__file__.rpartition("/")[0],
            capture_output=True,
            timeout=200,
        )

    died = run(dies_at=6)
    assert died.returncode == 9, died.stderr
    checkpoints = tmp_path / "bucket" / "runs" / "a" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {"2", "4", "6"}
    changed = next(path for path in sorted(checkpoints.glob("4/d/*")))
    changed.write_bytes(changed.read_bytes()[:-1])
    resumed = run()
    assert resumed.returncode == 0, resumed.stderr
    assert "step 6 is damaged: it has no manifest.json" in resumed.stderr
    assert "step 4 is damaged" in resumed.stderr and "that of step 2 is used" in resumed.stderr
    whole = pretrain.run(config(), quiet=True)
    assert resumed.stdout.strip() == digest_of(whole.state)
    assert {path.name for path in (checkpoints.parent / "damaged").iterdir()} == {"4", "6"}
