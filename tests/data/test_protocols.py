"""The table of protocols, those without TensorFlow, and the rules that make splits and labels."""

import hashlib
import json
import pathlib
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

from jaxpt.data import protocols, small_sets, sources
from jaxpt.data.dataset import Split, assemble, limited
from jaxpt.data.decode import Framing, Reading
from jaxpt.data.protocols import ARCHIVES, PROTOCOLS, TRANSFER12, VTAB1K
from jaxpt.data.tfds import DIFFICULT, PRESENT, TASKS
from jaxpt.errors import InputError


class TestTable:
    def test_suites(self):
        # Kornblith et al. 2019, table 1; Zhai et al. 2019, table 1.
        assert set(TRANSFER12) == {
            "food101",
            "cifar10",
            "cifar100",
            "birdsnap",
            "sun397",
            "cars",
            "aircraft",
            "voc07",
            "dtd",
            "pets",
            "caltech101",
            "flowers102",
        }
        assert len(VTAB1K) == 19 and all(name.startswith("vtab_") for name in VTAB1K)
        assert set(PROTOCOLS) == {
            *TRANSFER12,
            *VTAB1K,
            "eurosat",
            "imagenet",
            "digits",
            "fashion_mnist",
        }

    def test_metrics(self):
        metrics = {name: protocol.metric for name, protocol in PROTOCOLS.items()}
        assert {name for name, metric in metrics.items() if metric == "mean_per_class"} == {
            "aircraft",
            "caltech101",
            "flowers102",
            "pets",
        }
        assert {name for name, metric in metrics.items() if metric == "voc07_map"} == {"voc07"}
        assert set(metrics.values()) == {"top1", "mean_per_class", "voc07_map"}

    def test_official_validation_where_the_transfer_sets_have_it(self):
        assert {name for name in TRANSFER12 if PROTOCOLS[name].validation} == {
            "aircraft",
            "dtd",
            "flowers102",
            "voc07",
        }

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_is_consistent(self, name):
        protocol = PROTOCOLS[name]
        sizes = protocol.sizes
        assert protocol.task in TASKS and {"trainval", "test"} <= set(sizes)
        assert ("train" in sizes) == ("validation" in sizes) == bool(protocol.validation)
        if protocol.validation:
            assert sizes["train"] + sizes["validation"] == sizes["trainval"]
        kind, _, source = protocol.source.partition(":")
        assert kind in ("tfds", "archive", "digits", "fashion_mnist")
        if kind == "archive":
            assert source in ARCHIVES and protocol.get
        assert json.loads(json.dumps(protocol._asdict())) == protocol._asdict()  # fits a record

    def test_framing(self):
        resized = {name: (p.resize, p.crop) for name, p in PROTOCOLS.items()}
        assert all(resized[name] == (224, 224) for name in (*TRANSFER12, "eurosat", "imagenet"))
        assert all(resized[name] == (224, 0) for name in VTAB1K)
        assert resized["digits"] == resized["fashion_mnist"] == (0, 0)

    @pytest.mark.parametrize(
        "name, image_size, expected",
        [
            ("dtd", 0, Framing(224, 224)),
            ("dtd", 32, Framing(32, 32)),
            ("vtab_dtd", 0, Framing(224, 0)),
            ("vtab_dtd", 32, Framing(32, 0)),
            ("digits", 0, None),
            ("digits", 16, Framing(16, 16)),
        ],
    )
    def test_framing_at_another_size(self, name, image_size, expected):
        assert protocols._framing(PROTOCOLS[name], image_size) == expected

    @pytest.mark.parametrize("name", VTAB1K)
    def test_vtab_is_800_and_200(self, name):
        protocol = PROTOCOLS[name]
        assert protocol.sizes == {
            "train": 800,
            "validation": 200,
            "trainval": 1000,
            "test": protocol.sizes["test"],
        }
        assert protocol.train == "train[:800]"

    def test_vtab_validation_begins_after_vtabs_share_of_train(self):
        begins = {name.removeprefix("vtab_"): PROTOCOLS[name].validation for name in VTAB1K}
        shares = {
            "caltech101": (3_060, 90),
            "cifar100": (50_000, 90),
            "svhn": (73_257, 90),
            "pets": (3_680, 80),
            "eurosat": (27_000, 60),
            "resisc45": (31_500, 60),
            "clevr_count": (70_000, 90),
            "clevr_distance": (70_000, 90),
            "dsprites_position": (737_280, 80),
            "dsprites_orientation": (737_280, 80),
        }
        for name, (n, percent) in shares.items():
            first = n * percent // 100
            assert begins.pop(name) == f"train[{first}:{first + 200}]"
        assert {begins.pop(f"smallnorb_{task}") for task in ("azimuth", "elevation")} == {
            "test[0:200]"
        }
        assert set(begins.values()) == {"validation[0:200]"} and len(begins) == 7

    def test_unknown(self):
        with pytest.raises(InputError, match=r"must be one of aircraft, birdsnap.*got 'cifar'"):
            protocols.load("cifar")

    def test_negative_size(self):
        with pytest.raises(InputError, match="image_size must not be negative, got -1"):
            protocols.load("digits", image_size=-1)


class TestDigits:
    def test_is_the_source_of_that_name(self):
        found = protocols.load("digits", label_map="parity")
        config = {
            "source": "digits",
            "path": "",
            "image_size": 32,
            "label_map": "parity",
            "limit": 0,
        }
        expected = sources.load(ml_collections.ConfigDict(config))
        assert found.name == expected.name and found.coarse == expected.coarse
        for part in "train", "validation", "trainval", "test":
            for ours, theirs in zip(getattr(found, part)[:3], getattr(expected, part)[:3]):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype

    def test_limit_takes_the_sources_choice(self):
        config = {
            "source": "protocol:digits",
            "path": "",
            "image_size": 32,
            "label_map": "fine",
            "limit": 300,
        }
        expected = sources.load(ml_collections.ConfigDict(config))
        found = protocols.load("digits", limit=300)
        np.testing.assert_array_equal(found.trainval.ids, expected.trainval.ids)
        np.testing.assert_array_equal(found.trainval.images, expected.trainval.images)
        np.testing.assert_array_equal(found.trainval.labels, expected.trainval.labels)
        assert len(found.test.ids) == 597

    def test_another_size(self):
        found = protocols.load("digits", image_size=16)
        assert found.test.images.shape == (597, 16, 16, 1)
        small = protocols.load("digits")
        # Each pixel became about 2 × 2.
        means = found.test.images.reshape(597, 8, 2, 8, 2).mean((2, 4))
        assert np.abs(means - small.test.images[..., 0]).mean() < 25

    def test_wrong_size_names_both_numbers(self, monkeypatch):
        monkeypatch.setitem(
            PROTOCOLS, "digits", PROTOCOLS["digits"]._replace(sizes={"trainval": 1200, "test": 600})
        )
        with pytest.raises(InputError, match="digits: test has 597 examples, but .* 600"):
            protocols.load("digits")

    def test_wrong_number_of_classes(self, monkeypatch):
        monkeypatch.setitem(PROTOCOLS, "digits", PROTOCOLS["digits"]._replace(classes=11))
        with pytest.raises(InputError, match="digits has 10 classes, but the protocol 11"):
            protocols.load("digits")


@pytest.mark.extras
@pytest.mark.skipif(
    not pathlib.Path(small_sets.FASHION_MNIST_DIR).is_dir(),
    reason="dataset-fashion-mnist is not installed",
)
def test_fashion_mnist():
    found = protocols.load("fashion_mnist", limit=500)
    assert found.test.images.shape == (10_000, 28, 28, 1) and len(found.trainval.ids) == 500


class TestByConfig:
    def load(self, source, **changes):
        config = {"source": source, "path": "", "image_size": 8, "label_map": "fine", "limit": 0}
        return sources.load(ml_collections.ConfigDict(config | changes))

    @pytest.mark.parametrize("prefix", ["", "protocol:"])
    def test_names_reach_the_protocols_with_every_field(self, prefix, monkeypatch):
        seen = {}
        monkeypatch.setattr(
            protocols, "load", lambda name, **fields: seen.update(fields, name=name)
        )
        self.load(
            prefix + "aircraft",
            path="there",
            image_size=64,
            limit=9,
            try_gcs=True,
            background="black",
            exif_orientation=False,
        )
        assert Reading.of(seen.pop("framing")) == Reading((0, 0, 0), False)
        assert seen == {
            "name": "aircraft",
            "path": "there",
            "image_size": 64,
            "limit": 9,
            "label_map": "fine",
            "try_gcs": True,
            "keep": 2048 * 2**20,
        }

    def test_unknown_names_what_there_is(self):
        with pytest.raises(
            InputError,
            match=r"one of \['digits'.*tfds:NAME, grain:MODULE:FUNCTION or a protocol "
            r"\(aircraft.*vtab_svhn\), got 'protocol:dogs'",
        ):
            self.load("protocol:dogs")

    def test_archive_that_is_not_there(self):
        with pytest.raises(InputError, match=r"cars cannot be downloaded: set data\.path"):
            self.load("cars")


def test_reading_digits_and_fashion_mnist_imports_no_tensorflow():
    code = (
        "import sys; from jaxpt.data import protocols, sources; protocols.load('digits'); "
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'tensorflow_datasets') "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestEurosatRule:
    def names(self):
        classes = {
            "AnnualCrop": 3000,
            "Forest": 3000,
            "HerbaceousVegetation": 3000,
            "Highway": 2500,
            "Industrial": 2500,
            "Pasture": 2000,
            "PermanentCrop": 2500,
            "Residential": 3000,
            "River": 2500,
            "SeaLake": 3000,
        }
        names = [f"{name}_{i}.jpg" for name, n in classes.items() for i in range(1, n + 1)]
        return np.array(names), np.repeat(np.arange(10), list(classes.values()))

    def test_sizes_are_70_percent_of_every_class(self):
        names, labels = self.names()
        mask = protocols.eurosat_trainval(names, labels)
        assert mask.sum() == 18_900 and (~mask).sum() == 8_100
        np.testing.assert_allclose(np.bincount(labels[mask]) / np.bincount(labels), 0.7)

    def test_is_this_choice(self):
        names, labels = self.names()
        chosen = "\n".join(sorted(names[protocols.eurosat_trainval(names, labels)]))
        assert hashlib.sha256(chosen.encode()).hexdigest() == (
            "ff5882f515d3587c80efc9f4dd17edc90f7f6b98f7907a766f7ea40557cf7737"
        )

    def test_order_does_not_matter(self):
        names, labels = self.names()
        order = np.random.default_rng(0).permutation(len(names))
        np.testing.assert_array_equal(
            protocols.eurosat_trainval(names[order], labels[order]),
            protocols.eurosat_trainval(names, labels)[order],
        )

    def test_by_hand(self):
        names = [f"River_{i}.jpg" for i in range(10)]
        by_digest = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        mask = protocols.eurosat_trainval(names, [3] * 10)
        assert {name for name, inside in zip(names, mask) if inside} == set(by_digest[:7])


class TestTasks:
    def label(self, task, **example):
        return TASKS[task].label(example)

    def test_dsprites(self):
        assert [self.label("x_position", label_x_position=x) for x in (0, 1, 2, 30, 31)] == [
            0,
            0,
            1,
            15,
            15,
        ]
        # floor(value / 2.5), as VTAB groups 40 orientations into 16.
        found = [self.label("orientation", label_orientation=o) for o in range(40)]
        assert found == [int(o / 2.5) for o in range(40)] and set(found) == set(range(16))
        assert TASKS["x_position"].white == TASKS["orientation"].white == 1

    def test_smallnorb(self):
        assert self.label("azimuth", label_azimuth=17, label_elevation=3) == 17
        assert self.label("elevation", label_azimuth=17, label_elevation=3) == 3

    def test_clevr_count(self):
        assert [self.label("count", objects={"size": np.zeros(n)}) for n in (3, 4, 10)] == [0, 1, 7]

    @pytest.mark.parametrize(
        "distance, label",
        [
            (0.1, 0),
            (7.99, 0),
            (8.0, 0),
            (8.01, 1),
            (8.6, 2),
            (9.4, 3),
            (9.9, 4),
            (10.0, 4),
            (10.1, 5),
            (99.0, 5),
        ],
    )
    def test_clevr_distance(self, distance, label):
        coordinates = np.array([[0, 0, 120.0], [5, 5, distance], [9, 9, 110.0]])
        assert self.label("closest_object", objects={"pixel_coords": coordinates}) == label

    @pytest.mark.parametrize(
        "types, depths, label",
        [
            ([0], [7.9], 0),
            ([1], [8.0], 0),
            ([2], [8.1], 1),
            ([0, 1], [30.0, 19.0], 1),
            ([0], [21.0], 2),
            ([3, 4], [1.0, 2.0], 3),
            ([3, 0], [1.0, 50.0], 2),
            ([], [], 3),
        ],
    )
    def test_kitti(self, types, depths, label):
        location = np.zeros((len(types), 3))
        location[:, 2] = depths
        objects = {"type": np.array(types, int), "location": location}
        assert self.label("closest_vehicle", objects=objects) == label

    def test_voc(self):
        found = self.label("voc", labels=np.array([2, 5, 19]), labels_no_difficult=np.array([5]))
        assert found.dtype == np.uint8 and found.shape == (20,)
        assert found[5] == PRESENT == 1 and found.sum() == 1 + 2 * 2
        assert found[2] == found[19] == DIFFICULT == 2

    def test_classes_of_the_protocols(self):
        for name, protocol in PROTOCOLS.items():
            assert TASKS[protocol.task].classes in (0, protocol.classes), name


class TestDataset:
    def split(self, n, multi=False):
        images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
        labels = np.eye(3, dtype=np.uint8)[np.arange(n) % 3] if multi else np.arange(n) % 3
        return Split(
            images, labels, np.arange(n, dtype=np.int32), labels.astype(bool) if multi else None
        )

    def test_official_validation_is_a_view(self):
        found = assemble("x", ("a", "b", "c"), self.split(10), self.split(4), n_train=7)
        np.testing.assert_array_equal(found.train.ids, np.arange(7))
        np.testing.assert_array_equal(found.validation.ids, [7, 8, 9])
        assert np.shares_memory(found.train.images, found.trainval.images)
        assert np.shares_memory(found.validation.images, found.trainval.images)

    def test_take_of_several_labels(self):
        taken = self.split(6, multi=True).take(np.array([5, 1]))
        assert taken.multi_label and taken.labels.shape == taken.difficult.shape == (2, 3)
        np.testing.assert_array_equal(taken.difficult.argmax(1), [2, 1])
        assert not self.split(6).multi_label and self.split(6).take(slice(2)).difficult is None

    def test_limited(self):
        np.testing.assert_array_equal(limited(5, 0), np.arange(5))
        assert len(limited(5, 9)) == 5 and set(limited(9, 3)) < set(limited(9, 6))
        assert (np.diff(limited(100, 50)) > 0).all()
        # Records of limited runs count on this draw.
        np.testing.assert_array_equal(
            limited(12, 4), sorted(np.random.default_rng(0).permutation(12)[:4])
        )
