"""What users of data loaders complain of: none of it happens here.

Batches that are dropped or padded, and epochs that are miscounted: ``test_order.py`` and
``test_feed.py``. Memory that grows: ``test_streaming.py`` and ``benchmarks/input.py``.
"""

import errno
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import AUGMENT, RUN, config_of
from sklearn.datasets import load_sample_images
from xla_flags import xla_flags

from jaxpt import pretrain
from jaxpt.data import feed as feeds
from jaxpt.data import folder as folders
from jaxpt.data import sources
from jaxpt.data.feed import make_feed, patiently, rows_of_step
from jaxpt.errors import InputError, RunError
from jaxpt.train import checkpoint
from jaxpt.train.parallel import Devices

IMAGES, BATCH, STEPS = 16, 4, 6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(IMAGES):
        label = tmp_path / "photos" / "ab"[i % 2]
        label.mkdir(parents=True, exist_ok=True)
        photographs[i % 2].resize((60 + i, 48)).save(label / f"{i:02}.jpg")
    return tmp_path / "photos"


def config(folder, **changes):
    data = {"data.source": "folder", "data.path": str(folder), "data.image_size": 8}
    return config_of(
        "cross_entropy",
        RUN
        | data
        | {
            "data.crops": "whole",
            "data.limit": 0,
            "augment": AUGMENT | {"crop_area": (0.2, 1.0)},
            "batch_size": BATCH,
            "duration": f"{STEPS} steps",
            "knn_every": "0 steps",
            "checkpoint_every": "100 steps",
        }
        | changes,
    )


def batches_of(cfg, steps=STEPS):
    split = sources.load(cfg.data).trainval
    cfg, cropping = pretrain.choose_crops(cfg, split.images)
    feed = make_feed(cfg, split, split.labels, Devices(limit=1), cropping)
    rows = (rows_of_step(i, BATCH, n=feed.n, seed=0) for i in range(steps))
    try:
        yield from feed.batches(rows)
    finally:
        feed.close()


def test_an_unreadable_file_stops_the_run_which_goes_on_to_the_same_bits(folder, tmp_path):
    cfg = config(folder)
    cfg.data.resampler = "pillow"
    whole = jax.device_get(pretrain.run(cfg, quiet=True).state)

    # The file is read in the second pass as in the first, when it is sound.
    split = sources.load(cfg.data).trainval
    at = rows_of_step(STEPS - 1, BATCH, n=IMAGES, seed=0).index[1]
    file = split.images.files[at]
    shutil.copy(file, tmp_path / "sound.jpg")
    seen, encoded = [], type(split.images).encoded

    def truncated(self, position):
        seen.append(self.places[position])
        if self.places[position] == file and seen.count(file) > 1:
            os.truncate(file, 500)
        return encoded(self, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(split.images), "encoded", truncated)
        with pytest.raises(
            RunError, match=rf"{file} cannot be read .*start the same command again"
        ):
            pretrain.run(cfg, str(tmp_path / "run"), quiet=True)
    assert checkpoint.newest(tmp_path / "run") == STEPS - 1
    shutil.copy(tmp_path / "sound.jpg", file)
    resumed = jax.device_get(pretrain.run(cfg, str(tmp_path / "run"), quiet=True).state)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@pytest.mark.slow
def test_with_two_processes_it_stops_both_and_the_latest_checkpoint_counts(folder, tmp_path):
    cfg = config(folder, **{"devices": 0, "checkpoint_every": "5 steps"})
    file = pathlib.Path(sources.load(cfg.data).trainval.images.files[3])
    sound, run = file.read_bytes(), tmp_path / "run"
    (tmp_path / "config.py").write_text(CONFIG.format(cfg.to_json()))

    def launched(steps):
        command = ["launch", "--processes=2", "--devices-per-process=1", "pretrain"]
        command += [f"--config={tmp_path}/config.py", f"--workdir={run}"]
        return subprocess.Popen(
            [sys.executable, "-m", "jaxpt.cli", *command, f"--config.duration={steps} steps"],
            env=os.environ | {"XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )

    stopped = launched(1_000_000)
    try:
        while not checkpoint.newest(run):
            assert stopped.poll() is None, stopped.communicate()[1]
            time.sleep(0.2)
        os.truncate(file, len(sound) // 2)  # read again in every pass, of four steps
        said = stopped.communicate(timeout=120)[1]
    finally:
        stopped.kill()
    assert stopped.returncode == 1
    assert f"{file} cannot be read" in said and "start the same command again" in said
    file.write_bytes(sound)
    reached = checkpoint.newest(run)
    again = launched(reached + 2)
    assert again.communicate(timeout=240)[1].count("cannot be read") == again.returncode == 0
    assert reached % 5 == 0 and checkpoint.newest(run) == reached + 2


CONFIG = """
import json
import ml_collections


def get_config():
    return ml_collections.ConfigDict(json.loads({!r}))
"""


def test_workers_do_not_die_in_silence(folder, monkeypatch):
    cfg = config(folder)
    batches = batches_of(cfg)
    next(batches)

    def out_of_memory(*args, **kwargs):
        raise MemoryError("in a thread")

    monkeypatch.setattr(feeds.Cropping, "take", out_of_memory)
    with pytest.raises(MemoryError, match="in a thread"):
        list(batches)


EXIT = """
import sys, time
from jaxpt.data import crops
sys.path.insert(0, sys.argv[2])
import test_complaints as t
take = crops.Cropping.take
crops.Cropping.take = lambda *args, **kwargs: (time.sleep(0.25), take(*args, **kwargs))[1]
cfg = t.config(sys.argv[1])
cfg.data.update(workers=1, prefetch=512)
for batch in t.batches_of(cfg, steps=10_000):
    sys.exit(7)  # 511 batches of a second each are still to be decoded
"""


def test_no_hang_at_exit(folder):
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(folder), here],
        env=os.environ | {"XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        timeout=200,
    )
    assert done.returncode == 7


class TestAFileSystemThatFailsToAnswer:
    @pytest.fixture(autouse=True)
    def waits(self, monkeypatch):
        waited = []
        monkeypatch.setattr(feeds.time, "sleep", waited.append)
        return waited

    def failing(self, times, number):
        left = [times]

        def read():
            if left[0]:
                left[0] -= 1
                raise InputError("x cannot be read.") from OSError(number, "no answer")
            return "read"

        return read

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
    def test_is_asked_again(self, number, waits):
        assert patiently(self.failing(3, number)) == "read"
        assert waits == [1, 5, 25]

    def test_at_last_it_is_an_error(self):
        with pytest.raises(InputError, match="x cannot be read"):
            patiently(self.failing(4, errno.EIO))

    def test_a_file_that_is_missing_is_an_error_at_once(self, waits):
        with pytest.raises(InputError, match="x cannot be read"):
            patiently(self.failing(1, errno.ENOENT))
        assert not waits


def test_nothing_is_decoded_before_it_is_needed(folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(folders, "open_image", never)
    monkeypatch.setattr(Image.Image, "load", never)
    dataset = sources.load(config(folder).data)
    assert dataset.trainval.images.shape == (IMAGES, 8, 8, 3)


def test_a_run_says_that_its_devices_wait(folder, tmp_path, monkeypatch, capsys):
    take = feeds.Cropping.take
    slow = lambda *args, **kwargs: (feeds.time.sleep(0.1), take(*args, **kwargs))[1]  # noqa: E731
    monkeypatch.setattr(feeds.Cropping, "take", slow)
    cfg = config(folder, **{"data.workers": 1})
    rows = pretrain.run(cfg, quiet=True).history
    assert [row["waited"] for row in rows if "loss" in row][-1] == 1
    assert "the devices waited for images (100% of the latest steps)" in capsys.readouterr().err
    assert feeds.warnings({"waited": 0.1}) == feeds.warnings({}) == []
