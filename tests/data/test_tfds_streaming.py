"""Sets of tfds that stay in their files: the same images, labels and batches as in memory."""

import functools
import os
import pathlib
import shutil

import jax
import ml_collections
import numpy as np
import pytest
from data.tfds_fakes import make_builder
from PIL import Image
from small_runs import RUN, config_of

from jaxpt import pretrain
from jaxpt.data import decode, identity, protocols, sources
from jaxpt.data.feed import StreamedFeed, Streaming, make_feed, rows_of_step
from jaxpt.data.pictures import Pictures
from jaxpt.data.protocols import Protocol
from jaxpt.data.tfds import TASKS, Records
from jaxpt.errors import InputError, RunError
from jaxpt.train.parallel import Devices

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("importlib_resources")  # tfds needs it, and does not ask for it
pytestmark = pytest.mark.extras

IMAGES, TEST, SHARDS, BATCH = 50, 9, 3, 12
FORMATS = "tfrecord", "array_record"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """For each format the data_dir of the set ``local_pictures``: JPEG and PNG, several shapes."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = []
    for i in range(IMAGES + TEST):
        files.append(str(root / f"{i:02}.{('jpg', 'png')[i % 2]}"))
        Image.fromarray(rng.integers(0, 256, (9 + i % 4, 12 - i % 5, 3), np.uint8)).save(files[-1])
    labels = np.arange(IMAGES + TEST) % 3
    splits = {"train": (files[:IMAGES], labels[:IMAGES]), "test": (files[IMAGES:], labels[IMAGES:])}
    builder = make_builder("LocalPictures", splits, (None, None, 3), lambda path: path)
    data_dirs = {form: tmp_path_factory.mktemp(form) for form in FORMATS}
    for form, data_dir in data_dirs.items():
        builder(data_dir=data_dir, file_format=form).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=SHARDS)
        )
        assert len(shards(data_dir)) == SHARDS
    return data_dirs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own_copy(prepared, tmp_path):
    """A copy of the TFRecord set that a test may damage."""
    return shutil.copytree(prepared["tfrecord"], tmp_path / "copy")


def shards(data_dir):
    return sorted(pathlib.Path(data_dir).glob("local_pictures/1.0.0/*-train.*"))


def data(path, resident="no", **changes):
    return {
        "data.source": "tfds:local_pictures",
        "data.path": str(path),
        "data.image_size": 8,
        "data.label_map": "fine",
        "data.limit": 0,
        "data.resident": resident,
        **{f"data.{name}": value for name, value in changes.items()},
    }


def load(path, resident="no", **changes):
    fields = data(path, resident, **changes).items()
    return sources.load(
        ml_collections.ConfigDict({name.removeprefix("data."): value for name, value in fields})
    )


def same_sets(one, other):
    for part in "trainval", "train", "validation", "test":
        for a, b in zip(getattr(one, part)[:3], getattr(other, part)[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def identify(path, **changes):
    fields = data(path, **changes).items()
    return sources.identify(
        ml_collections.ConfigDict({name.removeprefix("data."): value for name, value in fields})
    )


def test_the_identity_is_of_the_record_files(prepared, own_copy, monkeypatch):
    monkeypatch.setattr("jaxpt.data.tfds.Records", None)  # no example is read
    known = identify(prepared["tfrecord"])
    assert known.parts["training"].counts == (IMAGES,) and known.parts["test"].counts == (TEST,)
    assert identify(own_copy, resident="yes") == known == type(known).from_json(known.to_json())
    assert identify(own_copy, train_split="train[:5]").digest != known.digest
    assert identify(own_copy, limit=5).digest != known.digest
    file = shards(own_copy)[1]
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    assert identity.differences(known, identify(own_copy)) == {
        "training": ["the record files of training differ"]
    }


class TestImages:
    @pytest.mark.parametrize("form", FORMATS)
    def test_are_those_in_memory_by_either_format(self, form, prepared):
        expected = load(prepared["tfrecord"], "yes")  # read by tf.data
        assert isinstance(expected.trainval.images, np.ndarray)
        found = load(prepared[form])
        assert isinstance(found.trainval.images, Pictures) and len(found.test.ids) == TEST
        same_sets(found, expected)
        same_sets(load(prepared[form], "yes"), expected)

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("split", ["train[10%:70%]", "train[3:5]", "train[30:]+test"])
    def test_of_slices(self, split, form, prepared):
        same_sets(
            *(load(prepared[form], resident, train_split=split) for resident in ("yes", "no"))
        )

    def test_size_decides(self, prepared):
        one = load(prepared["tfrecord"], "auto", resident_limit_mb=1).trainval.images
        other = load(prepared["tfrecord"], "auto", resident_limit_mb=0).trainval.images
        assert isinstance(one, np.ndarray) and isinstance(other, Pictures)

    def test_of_a_protocol(self, prepared, monkeypatch):
        split = Protocol(
            "tfds:local_pictures:1.*.*",
            10,
            {"train": 20, "validation": 30, "trainval": 50, "test": TEST},
            train="train[30:]",
            validation="train[:30]",
            resize=8,
            crop=0,
        )
        monkeypatch.setitem(protocols.PROTOCOLS, "local", split)
        for limit in 0, 33:
            found, expected = (
                protocols.load("local", path=str(prepared["array_record"]), limit=limit, keep=keep)
                for keep in (0, None)
            )
            assert isinstance(found.test.images, Pictures)
            same_sets(found, expected)


class TestTraining:
    @pytest.mark.parametrize("form", FORMATS)
    def test_batches_are_those_of_a_resident_set_from_any_step_on_any_devices(self, form, prepared):
        def batches(resident, devices, start):
            config = config_of(
                "cross_entropy", RUN | {"batch_size": BATCH} | data(prepared[form], resident)
            )
            split = sources.load(config.data).trainval
            feed = make_feed(config, split, split.labels, Devices(limit=devices))
            assert isinstance(feed, StreamedFeed) == (resident == "no")
            rows = (rows_of_step(i, BATCH, n=feed.n, seed=0) for i in range(start, 10))
            found = [
                jax.device_get(feed.gather(feed.data, placed)) for placed in feed.batches(rows)
            ]
            feed.close()
            return found

        expected = batches("yes", 1, 0)
        for devices, start in (1, 0), (2, 3), (2, 9):
            jax.tree.map(
                np.testing.assert_array_equal, batches("no", devices, start), expected[start:]
            )

    def test_a_run_ends_as_the_resident_one(self, prepared):
        def run(resident):
            config = config_of(
                "cross_entropy",
                RUN
                | {"batch_size": BATCH, "duration": "5 steps", "knn_every": "5 steps"}
                | data(prepared["tfrecord"], resident),
            )
            return pretrain.run(config, quiet=True)

        one, other = run("yes"), run("no")
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            one.state.params,
            other.state.params,
        )
        assert one.history[-1]["knn"] == other.history[-1]["knn"]


class TestEveryExampleIsReadOnce:
    @pytest.mark.parametrize("form", FORMATS)
    def test_and_remembered_until_a_file_changes(self, form, prepared, tmp_path, monkeypatch):
        copy = shutil.copytree(prepared[form], tmp_path / "copy")
        labels = []
        task = TASKS["label"]
        label = task.label
        monkeypatch.setitem(
            TASKS,
            "label",
            task._replace(label=functools.wraps(label)(lambda x: (labels.append(x), label(x))[1])),
        )
        first = load(copy)
        assert len(labels) == IMAGES + TEST
        load(copy)
        assert len(labels) == IMAGES + TEST
        os.utime(shards(copy)[1])
        again = load(copy)
        assert len(labels) == 2 * IMAGES + TEST
        same_sets(again, first)

    def test_a_damaged_memory_is_made_anew(self, prepared):
        first = load(prepared["tfrecord"])
        for file in (pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "jaxpt" / "tfds").iterdir():
            file.write_bytes(file.read_bytes()[:100])
        same_sets(load(prepared["tfrecord"]), first)

    def test_a_broken_image_is_named_when_it_is_decoded(self, own_copy):
        shard = shards(own_copy)[0]
        content = shard.read_bytes()
        shard.write_bytes(content.replace(b"\x89PNG", b"\x89GNP", 1))
        images = load(own_copy).trainval.images
        with pytest.raises(
            InputError,
            match=r"local_pictures, train, example \d+ cannot be read "
            "as an image",
        ):
            np.asarray(images)


class TestDamagedFiles:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda x: x[:-5],
            lambda x: x + b"12345",
            lambda x: b"",
            lambda x: x[:1] + b"\xff" + x[2:],
        ],
    )
    def test_tfrecord(self, spoil, own_copy):
        shard = shards(own_copy)[1]
        shard.write_bytes(spoil(shard.read_bytes()))
        with pytest.raises(InputError, match=f"{shard.name} is damaged: it should hold 1[67] "):
            load(own_copy)

    def test_array_record(self, prepared, tmp_path):
        shard = shards(shutil.copytree(prepared["array_record"], tmp_path / "copy"))[1]
        shard.write_bytes(shard.read_bytes()[:2000])
        with pytest.raises(InputError, match=r"local_pictures, train, example \d+ cannot be read"):
            load(tmp_path / "copy")

    def test_a_file_that_is_not_there(self, own_copy):
        shards(own_copy)[2].unlink()
        with pytest.raises(InputError, match="00002-of-00003 cannot be read .* on this machine"):
            load(own_copy)

    def test_one_that_vanishes_during_a_run_ends_it(self, own_copy):
        split = load(own_copy).trainval
        feed = StreamedFeed(split, split.labels, 0, Devices(limit=1), Streaming(BATCH, 1, 1))
        batches = feed.batches(rows_of_step(i, BATCH, n=IMAGES, seed=0) for i in range(50))
        next(batches)
        for shard in shards(own_copy):
            shard.unlink()
        with pytest.raises(
            RunError,
            match=r"train, example \d+ cannot be read .*No such file.* "
            "start the same command again",
        ):
            list(batches)
        feed.close()

    def test_another_format(self, prepared, monkeypatch):
        builder = tfds.builder("local_pictures", data_dir=prepared["tfrecord"])
        monkeypatch.setattr(type(builder.info), "file_format", tfds.core.FileFormat.RIEGELI)
        with pytest.raises(InputError, match="is prepared as riegeli files: only tfrecord and"):
            Records(builder, "train", ("image",))


def test_memory_is_refused_only_for_what_is_decoded(prepared, monkeypatch):
    monkeypatch.setattr(decode.os, "sysconf", lambda name: 10)
    with pytest.raises(InputError, match="GiB of memory"):
        load(prepared["tfrecord"], "yes")
    assert len(load(prepared["tfrecord"]).trainval.ids) == IMAGES
