"""Runs that stream their images: over two processes, and stopped and gone on with at any step."""

import json
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import AUGMENT, RUN, config_of
from xla_flags import xla_flags

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.data.feed import IN_FLIGHT, StreamedFeed, rows_of_step
from jaxpt.methods.encoding import KEY_VIEW
from jaxpt.errors import RunError

IMAGES, BATCH, STEPS = 50, 12, 5  # the fifth batch ends one pass and begins the next


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of several shapes, JPEG and PNG, in three classes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        label = root / "abc"[i % 3]
        label.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (9 + i % 4, 12 - i % 5, 3), np.uint8)
        Image.fromarray(pixels).save(label / f"{i:02}.{('jpg', 'png')[i % 2]}")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def config(folder, **changes):
    return config_of(
        "look",
        RUN
        | {
            "data.source": "folder",
            "data.path": str(folder),
            "data.image_size": 8,
            "data.limit": 0,
            "data.resident": "no",
            "batch_size": BATCH,
            "memory": 36,
            "duration": f"{STEPS} steps",
            "knn_every": "0 steps",
            "look.k_warmup": "0 steps",
            "checkpoint_every": "1 steps",
            "keep_checkpoints": 9,
        }
        | changes,
    )


def same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Views from whole pictures: random crops of queries and keys.
WHOLE = {
    "data.crops": "whole",
    "data.resampler": "pillow",
    "augment": AUGMENT | {"crop_area": (0.2, 1.0)},
    "key_augment": AUGMENT | {"crop_area": (0.5, 1.0)},
}


@pytest.mark.slow
@pytest.mark.parametrize("crops", [{}, WHOLE], ids=["square", "whole"])
def test_a_streamed_run_stopped_after_any_step_ends_as_if_it_were_not(
    crops, folder, tmp_path, monkeypatch
):
    def run(workdir, **changes):
        return jax.device_get(
            pretrain.run(config(folder, **crops | changes), str(workdir), quiet=True).state
        )

    def until(step, source, name):  # a copy as if killed there
        workdir = shutil.copytree(tmp_path / source, tmp_path / name)
        for later in range(step + 1, STEPS + 1):
            shutil.rmtree(workdir / "checkpoints" / str(later))
        return workdir

    paced, pace = [], StreamedFeed.pace
    monkeypatch.setattr(
        StreamedFeed, "pace", lambda self, done: (paced.append(done), pace(self, done))
    )
    whole = run(tmp_path / "whole")
    assert len(paced) == 36 // BATCH + STEPS  # while the memory is filled, too
    for step in range(1, STEPS):
        same_bits(whole, run(until(step, "whole", f"after {step}"), **{"data.workers": step}))
    if crops:
        return
    # Where the images lie may change on the way, and changes rounding at most: the step is
    # another program.
    resident = run(tmp_path / "resident", **{"data.resident": "yes"})
    went_on = run(until(2, "resident", "went on streamed"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), resident, went_on)


PROGRAM = """
import json, os, pathlib, shutil, sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import ml_collections, numpy as np
from jaxpt import pretrain
from jaxpt.data import feed as feeds, pictures, sources
from jaxpt.data.feed import rows_of_step
from jaxpt.errors import InputError
from jaxpt.train.parallel import Devices, shared
folder, saved, config = sys.argv[3], sys.argv[4], json.loads(sys.argv[5])
config = ml_collections.ConfigDict(config)
dataset = sources.load(config.data)
read, decode = [], pictures.read_square
pictures.read_square = lambda path, *rest: (read.append(str(path)), decode(path, *rest))[1]
split = dataset.trainval

def batches(cropping):
    feed = feeds.make_feed(config, split, dataset.coarse(split.labels), Devices(), cropping)
    rows = (rows_of_step(i, config.batch_size, n=feed.n, seed=config.seed) for i in range(5))
    own = {}
    for step, batch in enumerate(feed.batches(rows)):
        fields = batch._asdict()
        if cropping:
            fields |= fields.pop("image")
        own |= {f"{name} {step}": np.asarray(x.addressable_data(0)) for name, x in fields.items()}
    feed.close()
    return own

hashed, sha256 = [], pictures._sha256
pictures._sha256 = lambda stored: (hashed.append(str(stored)), sha256(stored))[1]
shares = [sources.identify(config.data, dataset, shared).digest, len(hashed)]
shares += [sources.identify(config.data, dataset, shared).digest, len(hashed)]
if jax.process_index() == 1:
    os.remove(hashed[0])  # of the share of one process: both must hear of it
try:
    os.environ["XDG_CACHE_HOME"] = saved + "/none"
    sources.identify(config.data, dataset, shared)
except InputError as error:
    shares += [str(error)]
if jax.process_index() == 1:
    shutil.copy(saved + "/copy.png", hashed[0])
pathlib.Path(saved, f"shares{sys.argv[2]}.json").write_text(json.dumps([*shares, hashed[0]]))
cropping = pretrain.choose_crops(config, split.images)[1]
np.savez(f"{saved}/crops{sys.argv[2]}.npz", **batches(cropping))
own = batches(None)
pictures.read_square = decode
np.savez(f"{saved}/batches{sys.argv[2]}.npz", read=read, **own)
trained = pretrain.run(config, quiet=True, dataset=dataset)
if jax.process_index() == 0:
    leaves = [np.asarray(x.addressable_data(0)) for x in jax.tree.leaves(trained.state.params)]
    np.savez(f"{saved}/params.npz", *leaves)
"""


@pytest.mark.slow
def test_two_processes_read_their_own_rows_and_train_as_one_does(folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    two = config(folder, devices=2, **{"optimizer.name": "sgd"}, **WHOLE)
    environment = os.environ | {"XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"}
    first_of_second = sources.load(two.data).trainval.images.files[IMAGES // 2]
    shutil.copy(first_of_second, tmp_path / "copy.png")
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                address,
                str(i),
                str(folder),
                str(tmp_path),
                two.to_json(),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors

    dataset = sources.load(two.data)
    expected = sources.identify(two.data).digest
    for i in range(2):
        digest, read, again, read_again, error, file = json.loads(
            (tmp_path / f"shares{i}.json").read_text()
        )
        assert digest == again == expected and read == read_again == IMAGES // 2
        assert first_of_second in error and (file == first_of_second) == (i == 1)
    split = dataset.trainval
    rows = [rows_of_step(step, BATCH, n=IMAGES, seed=two.seed) for step in range(STEPS)]
    cropping = pretrain.choose_crops(two, split.images)[1]
    for i in range(2):
        with np.load(tmp_path / f"crops{i}.npz") as own:
            for step, (index, epoch) in enumerate(rows):
                for place, at in enumerate(range(i * BATCH // 2, (i + 1) * BATCH // 2)):
                    taken = cropping.take(
                        split.images, index[at], epoch=epoch[at], example=split.ids[index[at]]
                    )
                    assert sorted(taken) == [0, KEY_VIEW]
                    for view, crop in taken.items():
                        np.testing.assert_array_equal(own[f"{view} {step}"][place], crop)
        half = slice(i * BATCH // 2, (i + 1) * BATCH // 2)
        with np.load(tmp_path / f"batches{i}.npz") as own:
            expected = [split.images.places[row] for step in rows for row in step.index[half]]
            assert sorted(own["read"]) == sorted(expected)
            for step, (index, epoch) in enumerate(rows):
                at = index[half]
                for name, value in {
                    "image": np.asarray(split.images)[at],
                    "id": split.ids[at],
                    "index": at,
                    "label": dataset.coarse(split.labels)[at],
                    "epoch": epoch[half],
                }.items():
                    np.testing.assert_array_equal(own[f"{name} {step}"], value)

    alone = pretrain.run(two, quiet=True, dataset=dataset).state.params
    with np.load(tmp_path / "params.npz") as saved:
        for x, name in zip(jax.tree.leaves(alone), saved.files, strict=True):
            np.testing.assert_allclose(x, saved[name], atol=1e-5)


GROWTH = """
import pathlib, sys, time
import jax, numpy as np
from jaxpt.data import feed as feeds, sources
from jaxpt.data.decode import Framing
from jaxpt.data.pictures import Pictures
from jaxpt.data.feed import rows_of_step
from jaxpt.train.parallel import Devices

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

def stream(n, batch_size, steps):
    files = [sys.argv[1]] * n
    split = sources.Split(Pictures(files, Framing.centre(256), 3), np.zeros(n, np.int32),
                          np.arange(n, dtype=np.int32))
    streaming = feeds.Streaming(batch_size, workers=2, prefetch=2)
    feed = feeds.StreamedFeed(split, split.labels, 0, Devices(limit=1), streaming)
    program = jax.jit(lambda data, rows: feed.gather(data, rows).image[:, 0, 0, 0].sum())
    rows = (rows_of_step(i, batch_size, n=n, seed=0) for i in range(steps))
    for i, batch in enumerate(feed.batches(rows)):
        feed.pace(program(feed.data, batch))
        time.sleep(0 if i else 2)  # time for whatever would be decoded too early
    feed.close()

stream(4, 4, 4)
before = peak()
stream(1600, 64, 25)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells the peak")
def test_host_memory_is_a_few_batches_whatever_the_set(tmp_path):
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / "one.png")
    output = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path / "one.png"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": xla_flags(), "JAX_PLATFORMS": "cpu"},
    ).stdout
    batch = 64 * 256 * 256 * 3 / 2**20  # 12 MiB; the set has 25 of them
    # Here the device's own batches are in the host's memory, too, and the allocator's reserve.
    bound = (2 + IN_FLIGHT + 1 + IN_FLIGHT + 1) * batch + 24
    assert 2 * batch < float(output) < bound < 25 * batch / 2


def test_a_broken_file_stops_the_run_by_name_when_it_is_met(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "b" / "01.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"b/01\.png cannot be read.*data\.broken=skip"):
        pretrain.run(config(copy, method="cross_entropy"), quiet=True)
