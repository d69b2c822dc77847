"""Protocols that go through TensorFlow Datasets: names, splits and sizes by the installed tfds."""

import inspect
import io
import pathlib
import re
import unittest.mock

import numpy as np
import pytest
from data.tfds_fakes import fake_examples, png, write_metadata

from jaxpt.data import protocols
from jaxpt.data.decode import Framing
from jaxpt.data.protocols import PROTOCOLS
from jaxpt.data.tfds import TASKS, open_builder, read
from jaxpt.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("tensorflow")
pytestmark = pytest.mark.extras

# The splits of every set as published, with their sizes; see the sources in protocols.py.
RAW = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "food101": {"train": 75_750, "validation": 25_250},
    "voc": {"train": 2_501, "validation": 2_510, "test": 4_952},
    "dtd": {"train": 1_880, "validation": 1_880, "test": 1_880},
    "oxford_iiit_pet": {"train": 3_680, "test": 3_669},
    "caltech101": {"train": 3_060, "test": 6_084},
    "oxford_flowers102": {"train": 1_020, "validation": 1_020, "test": 6_149},
    "eurosat": {"train": 27_000},
    "imagenet2012": {"train": 1_281_167, "validation": 50_000},
    "svhn_cropped": {"train": 73_257, "test": 26_032},
    "sun397": {"train": 76_128, "validation": 10_875, "test": 21_750},
    "patch_camelyon": {"train": 262_144, "validation": 32_768, "test": 32_768},
    "resisc45": {"train": 31_500},
    "diabetic_retinopathy_detection": {"train": 35_126, "validation": 10_906, "test": 42_670},
    "clevr": {"train": 70_000, "validation": 15_000},
    "dmlab": {"train": 65_550, "validation": 22_628, "test": 22_735},
    "kitti": {"train": 6_347, "validation": 423, "test": 711},
    "dsprites": {"train": 3 * 6 * 40 * 32 * 32},
    "smallnorb": {"train": 24_300, "test": 24_300},
}
OF_TFDS = {
    name: protocol for name, protocol in PROTOCOLS.items() if protocol.source.startswith("tfds:")
}
SOURCES = sorted({protocol.source.removeprefix("tfds:") for protocol in OF_TFDS.values()})
SMALL = {"train": 12, "validation": 8, "test": 6}  # of the shrunken sets below


def base(source):
    return re.split("[/:]", source)[0]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Metadata of every set in its published sizes."""
    data_dir = tmp_path_factory.mktemp("full")
    for source in SOURCES:
        write_metadata(data_dir, source, RAW[base(source)])
    return str(data_dir)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("small")
    for source in SOURCES:
        write_metadata(data_dir, source, SMALL)
    return str(data_dir)


def shrunken(protocol):
    """The protocol with slices that a set of SMALL sizes has."""

    def split(text):
        return re.sub(r"\[.*", "[2:6]", text)

    if protocol.split_rule:
        return protocol._replace(sizes={"trainval": 8, "test": 4})
    small = protocol._replace(
        train=split(protocol.train),
        test=split(protocol.test),
        validation=split(protocol.validation),
    )
    counts = {
        part: 4 if "[" in getattr(small, part) else SMALL.get(getattr(small, part), 0)
        for part in ("train", "validation", "test")
    }
    return small._replace(sizes={**counts, "trainval": counts["train"] + counts["validation"]})


@pytest.mark.parametrize("name", sorted(set(OF_TFDS) - {"eurosat"}))
def test_splits_and_classes_of_the_published_sets(name, full):
    """Slices are counted by tfds; the number of classes is that of its features."""
    opened = protocols._open(name, OF_TFDS[name], full, False)
    assert len(opened.class_names) == OF_TFDS[name].classes == len(set(opened.class_names))
    expected = OF_TFDS[name].sizes
    assert {part: opened.sizes[part] for part in expected} == expected
    known = protocols.identify(name, path=full)
    assert known.classes == opened.class_names
    counts = {part: sum(known.parts[part].counts) for part in known.parts}
    assert counts == {"training": expected["trainval"], "test": expected["test"]}


# Their builders look into the download before they name their splits; these are read in the code.
NAMES_IN_CODE = {"cifar10", "cifar100", "imagenet2012", "kitti", "resisc45"}


@pytest.mark.parametrize("source", SOURCES)
def test_tfds_makes_these_splits(source, tmp_path):
    """The splits that the installed tfds' own code makes, without a download."""
    builder = tfds.builder(source, data_dir=tmp_path)
    wanted = set(RAW[base(source)])
    if base(source) in NAMES_IN_CODE:
        code = "".join(
            inspect.getsource(cls)
            for cls in type(builder).__mro__
            if cls.__module__.endswith((base(source), "cifar", "dataset_builder"))
            and not cls.__module__.endswith("core.dataset_builder")
        )
        assert all(f"Split.{name.upper()}" in code or f'"{name}"' in code for name in wanted)
        return
    nowhere = pathlib.Path("/nowhere")
    manager = unittest.mock.MagicMock(manual_dir=nowhere)
    for method in "download_and_extract", "download", "extract":
        getattr(manager, method).side_effect = lambda urls, **_: (
            {key: nowhere for key in urls} if isinstance(urls, dict) else nowhere
        )
    made = builder._split_generators(manager)
    names = set(made) if isinstance(made, dict) else {str(split.name) for split in made}
    assert wanted <= names and names - wanted <= {"extra", "sample", "test"}


def test_sun397_sizes_are_those_of_the_lists_that_tfds_ships():
    folder = pathlib.Path(tfds.__file__).parent / "image_classification"
    for short, split in ("tr", "train"), ("va", "validation"), ("te", "test"):
        lines = (folder / f"sun397_tfds_{short}.txt").read_text().split()
        assert len(lines) == RAW["sun397"][split]


def kitti_boxes(split, i):
    """A car and a nearer tram; random boxes would have their corners in any order."""

    def both(first, second):
        return np.array([first, second], np.float32)

    return {
        "objects": {
            "alpha": both(0, 1),
            "bbox": both([0, 0, 1, 1], [0, 0, 1, 1]),
            "dimensions": both([1, 1, 1], [1, 1, 1]),
            "location": both([0, 0, 7 + i], [0, 0, 2]),
            "occluded": np.array([0, 1]),
            "rotation_y": both(0, 0),
            "truncated": both(0, 0),
            "type": np.array([0, 6]),
        }
    }


@pytest.mark.parametrize("name", sorted(set(OF_TFDS) - {"eurosat"}))
def test_loads_fake_examples(name, small, monkeypatch):
    """From encoded examples of the set's own features to a Dataset."""
    protocol = shrunken(OF_TFDS[name])
    monkeypatch.setitem(PROTOCOLS, name, protocol)
    with fake_examples(small, kitti_boxes if "kitti" in name else None):
        found = protocols.load(name, image_size=16)
    assert found.name == name and len(found.class_names) == protocol.classes
    for part in "trainval", "test":
        split, n = getattr(found, part), protocol.sizes[part]
        assert split.images.shape == (n, 16, 16, 3) and split.images.dtype == np.uint8
        np.testing.assert_array_equal(split.ids, np.arange(n))
        if name == "voc07":
            assert split.labels.shape == (n, 20) and split.labels.dtype == np.uint8
        else:
            assert split.labels.shape == (n,) and split.labels.dtype == np.int32
            assert 0 <= split.labels.min() and split.labels.max() < protocol.classes
    if protocol.validation:
        n = protocol.sizes["train"]
        np.testing.assert_array_equal(found.train.ids, np.arange(n))
        np.testing.assert_array_equal(found.validation.ids, np.arange(n, len(found.trainval.ids)))
        assert len(found.validation.ids) == protocol.sizes["validation"]


def test_nested_features_reach_the_task(small, monkeypatch):
    """KITTI: the car is 7 + i metres away, of the classes −8, −20, further and none."""
    monkeypatch.setitem(
        PROTOCOLS,
        "vtab_kitti_distance",
        shrunken(OF_TFDS["vtab_kitti_distance"])._replace(test="validation", sizes={"test": 8}),
    )
    with fake_examples(small, kitti_boxes):
        found = protocols.load("vtab_kitti_distance", image_size=8)
    np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("name", ["vtab_dsprites_position", "vtab_dsprites_orientation"])
def test_dsprites_ones_are_white(name, small, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, name, shrunken(OF_TFDS[name]))
    with fake_examples(small, lambda split, i: {"image": np.ones((64, 64, 1), np.uint8)}):
        assert (protocols.load(name, image_size=8).test.images == 255).all()


class TestVoc:
    def load(self, small, monkeypatch, changes, **options):
        monkeypatch.setitem(PROTOCOLS, "voc07", shrunken(OF_TFDS["voc07"]))
        with fake_examples(small, changes):
            return protocols.load("voc07", image_size=8, **options)

    def test_multi_hot_and_difficult(self, small, monkeypatch):
        def changes(split, i):
            return {"labels": [0, i % 3 + 3, 19], "labels_no_difficult": [i % 3 + 3]}

        found = self.load(small, monkeypatch, changes)
        for split in found.train, found.validation, found.test:
            place = split.ids if split is not found.validation else split.ids - 12
            expected = np.zeros((len(place), 20))
            expected[np.arange(len(place)), place % 3 + 3] = 1
            np.testing.assert_array_equal(split.labels, expected)
            assert split.difficult.dtype == bool and split.multi_label
            np.testing.assert_array_equal(
                split.difficult.sum(0), [len(place)] + [0] * 18 + [len(place)]
            )

    def test_the_metric_takes_them(self, small, monkeypatch):
        from jaxpt.evaluation import voc07_map

        found = self.load(
            small,
            monkeypatch,
            lambda split, i: {
                "labels": list(range(20)) if i < 2 else [4],
                "labels_no_difficult": list(range(20)) if i < 2 else [],
            },
        ).test
        scores = found.labels + np.where(found.difficult, 9.0, 0.0)
        assert voc07_map(scores, found.labels, difficult=found.difficult) == 1
        assert voc07_map(scores, found.labels) < 1

    def test_classes_are_the_challenges(self, full):
        names = protocols._open("voc07", OF_TFDS["voc07"], full, False).class_names
        assert names[:3] == ("aeroplane", "bicycle", "bird") and names[-1] == "tvmonitor"

    def test_no_label_map_but_fine(self, small, monkeypatch):
        with pytest.raises(InputError, match=r"label_map 'parity' .*voc07 has several"):
            self.load(small, monkeypatch, None, label_map="parity")

    def test_is_not_for_pretraining(self, small, monkeypatch):
        import ml_collections
        from jaxpt import pretrain

        found = self.load(small, monkeypatch, None)
        config = ml_collections.ConfigDict({"data": {"train_on": "train"}})
        with pytest.raises(InputError, match="voc07 has several labels per image"):
            pretrain.train_split(config, found)


class TestEurosat:
    def load(self, tmp_path, monkeypatch, sizes, **options):
        """12 images of two classes, in the order of tfds; image i has the grey 20 · i."""
        names = [f"{('Forest', 'River')[i % 2]}_{i}.jpg" for i in range(12)]
        monkeypatch.setitem(PROTOCOLS, "eurosat", OF_TFDS["eurosat"]._replace(sizes=sizes))
        write_metadata(tmp_path, "eurosat/rgb:2.*.*", {"train": 12})

        def changes(split, i):
            return {"filename": names[i], "label": i % 2, "image": io.BytesIO(png(20 * i, 64, 64))}

        with fake_examples(tmp_path, changes):
            return names, protocols.load("eurosat", image_size=8, **options)

    def test_parts_are_the_rules(self, tmp_path, monkeypatch):
        names, found = self.load(tmp_path, monkeypatch, {"trainval": 8, "test": 4})
        mask = protocols.eurosat_trainval(names, np.arange(12) % 2)
        greys = 20 * np.arange(12)
        np.testing.assert_array_equal(found.trainval.images[:, 0, 0, 0], greys[mask])
        np.testing.assert_array_equal(found.test.images[:, 0, 0, 0], greys[~mask])
        np.testing.assert_array_equal(found.trainval.labels, (np.arange(12) % 2)[mask])
        assert found.class_names[1] == "Forest" and len(found.class_names) == 10

    def test_limit(self, tmp_path, monkeypatch):
        _, found = self.load(tmp_path / "a", monkeypatch, {"trainval": 8, "test": 4})
        _, limited = self.load(tmp_path / "b", monkeypatch, {"trainval": 8, "test": 4}, limit=5)
        assert len(limited.trainval.ids) == 5 and len(limited.test.ids) == 4
        np.testing.assert_array_equal(
            limited.trainval.images, found.trainval.images[limited.trainval.ids]
        )

    def test_another_size(self, tmp_path, monkeypatch):
        with pytest.raises(InputError, match="eurosat: trainval has 8 .* protocol 18,900"):
            self.load(tmp_path, monkeypatch, OF_TFDS["eurosat"].sizes)


class TestLimit:
    @pytest.mark.parametrize("limit", [1, 7, 15])
    def test_takes_the_same_examples_that_the_whole_set_has(self, limit, small, monkeypatch):
        monkeypatch.setitem(PROTOCOLS, "dtd", shrunken(OF_TFDS["dtd"]))
        with fake_examples(small):
            whole = protocols.load("dtd", image_size=8)
            found = protocols.load("dtd", image_size=8, limit=limit)
        assert len(found.trainval.ids) == limit
        assert set(found.train.ids) == {i for i in found.trainval.ids if i < 12}
        np.testing.assert_array_equal(
            found.trainval.images, whole.trainval.images[found.trainval.ids]
        )
        np.testing.assert_array_equal(
            found.trainval.labels, whole.trainval.labels[found.trainval.ids]
        )
        np.testing.assert_array_equal(found.test.images, whole.test.images)


class TestWrongSizes:
    def test_by_metadata(self, small):
        with pytest.raises(InputError, match="dtd: train has 12 examples, but the protocol 1,880"):
            protocols.load("dtd", path=small)

    @pytest.mark.parametrize("n", [3, 7])
    def test_by_what_is_really_there(self, n, small, monkeypatch):
        monkeypatch.setitem(PROTOCOLS, "dtd", shrunken(OF_TFDS["dtd"]))
        builder = open_builder("dtd:3.*.*", small)
        with (
            fake_examples(small),
            pytest.raises(InputError, match=f"dtd: test holds 6 examples, but {n} were expected"),
        ):
            read(builder, [("test", n)], TASKS["label"], Framing.centre(8))


def test_another_set_in_the_prepared_folder(small):
    folder = tfds.builder("dtd", data_dir=small).data_dir
    with pytest.raises(InputError, match="holds the dataset 'dtd', not 'cifar10'"):
        protocols.load("cifar10", path=str(folder))


def test_a_prepared_folder_is_read(small, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "dtd", shrunken(OF_TFDS["dtd"]))
    folder = tfds.builder("dtd", data_dir=small).data_dir
    opened = protocols._open("dtd", PROTOCOLS["dtd"], str(folder), False)
    assert opened.sizes == {"train": 12, "validation": 8, "trainval": 20, "test": 6}


def test_what_must_be_fetched_by_hand_is_said(tmp_path):
    with pytest.raises(InputError, match=r"resisc45.* cannot be prepared .*NWPU-RESISC45\.rar"):
        protocols.load("vtab_resisc45", path=str(tmp_path))
