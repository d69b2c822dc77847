"""Original archives' layouts, each with a handful of images of one grey a file."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jaxpt.data import identity, protocols
from jaxpt.errors import InputError


def save(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (grey, grey, grey)).save(path, quality=100)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def make_aircraft(root):
    """Two variants; image 1000 + i has grey 10 · i."""
    write(root / "variants.txt", ["707-320", "DC 3"])
    parts = {"train": [0, 1, 2], "val": [3, 4], "test": [5, 6, 7, 8]}
    for part, images in parts.items():
        write(
            root / f"images_variant_{part}.txt",
            [f"{1000 + i} {('707-320', 'DC 3')[i % 2]}" for i in images],
        )
        for i in images:
            save(root / "images" / f"{1000 + i}.jpg", 10 * i)


def make_cars(root):
    """Three classes; train image i has class i mod 3, test image i class (i + 1) mod 3."""
    (root / "devkit").mkdir(parents=True)
    savemat(
        root / "devkit" / "cars_meta.mat",
        {"class_names": np.array(["Acura RL", "BMW M3", "Eagle"], object)},
    )
    annotation = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    for folder, file, n, shift in (
        ("cars_train", "devkit/cars_train_annos.mat", 6, 0),
        ("cars_test", "cars_test_annos_withlabels.mat", 4, 1),
    ):
        cars = np.array([[(3, (i + shift) % 3 + 1, f"{i:05d}.jpg") for i in range(n)]], annotation)
        savemat(root / file, {"annotations": cars})
        for i in range(n):
            save(root / folder / f"{i:05d}.jpg", 20 * i + shift)


def make_sun397(root):
    classes = ["/a/abbey", "/a/access_road", "/a/apartment_building/outdoor"]
    write(root / "ClassName.txt", classes)
    for file, n in ("Training_01.txt", 6), ("Testing_01.txt", 3):
        lines = [f"{classes[i % 3]}/sun_{file[:5]}{i}.jpg" for i in range(n)]
        write(root / file, lines)
        for i, line in enumerate(lines):
            save(root / "SUN397" / line[1:], 20 * i)


def make_birdsnap(root):
    images = [
        f"{species}/{i}.jpg" for species in ("Acadian_Flycatcher", "Wood_Duck") for i in range(4)
    ]
    for i, image in enumerate(images):
        save(root / "download" / "images" / image, 20 * i)
    write(root / "test_images.txt", ["path", images[1], images[6]])


MAKE = {
    "aircraft": make_aircraft,
    "cars": make_cars,
    "sun397": make_sun397,
    "birdsnap": make_birdsnap,
}
SIZES = {
    "aircraft": {"train": 3, "validation": 2, "trainval": 5, "test": 4},
    "cars": {"trainval": 6, "test": 4},
    "sun397": {"trainval": 6, "test": 3},
    "birdsnap": {"trainval": 6, "test": 2},
}
CLASSES = {
    "aircraft": ("707-320", "DC 3"),
    "cars": ("Acura RL", "BMW M3", "Eagle"),
    "sun397": ("abbey", "access_road", "apartment_building/outdoor"),
    "birdsnap": ("Acadian_Flycatcher", "Wood_Duck"),
}
LABELS = {
    "aircraft": ([0, 1, 0, 1, 0], [1, 0, 1, 0]),
    "cars": ([0, 1, 2, 0, 1, 2], [1, 2, 0, 1]),
    "sun397": ([0, 1, 2, 0, 1, 2], [0, 1, 2]),
    "birdsnap": ([0, 0, 0, 1, 1, 1], [0, 1]),
}
GREYS = {
    "aircraft": ([0, 10, 20, 30, 40], [50, 60, 70, 80]),
    "cars": ([0, 20, 40, 60, 80, 100], [1, 21, 41, 61]),
    "sun397": ([0, 20, 40, 60, 80, 100], [0, 20, 40]),
    "birdsnap": ([0, 40, 60, 80, 100, 140], [20, 120]),
}


@pytest.fixture
def small(monkeypatch):
    """Protocols of the sizes that are made here."""
    for name, sizes in SIZES.items():
        monkeypatch.setitem(
            protocols.PROTOCOLS,
            name,
            protocols.PROTOCOLS[name]._replace(sizes=sizes, classes=len(CLASSES[name])),
        )


@pytest.mark.parametrize("name", MAKE)
class TestEveryArchive:
    def test_images_labels_names_and_sizes(self, name, tmp_path, small):
        MAKE[name](tmp_path)
        found = protocols.load(name, path=str(tmp_path), image_size=8)
        assert found.name == name and found.class_names == CLASSES[name]
        for split, labels, greys in zip((found.trainval, found.test), LABELS[name], GREYS[name]):
            np.testing.assert_array_equal(split.labels, labels)
            assert split.images.shape == (len(labels), 8, 8, 3)
            np.testing.assert_allclose(split.images[:, 4, 4, 1], greys, atol=1)
            np.testing.assert_array_equal(split.ids, np.arange(len(labels)))

    def test_protocols_own_size_is_224(self, name, tmp_path, small):
        MAKE[name](tmp_path)
        assert protocols.load(name, path=str(tmp_path)).test.images.shape[1:] == (224, 224, 3)

    def test_another_number_of_images_names_both_numbers(self, name, tmp_path, small, monkeypatch):
        MAKE[name](tmp_path)
        protocol = protocols.PROTOCOLS[name]
        monkeypatch.setitem(
            protocols.PROTOCOLS, name, protocol._replace(sizes={**protocol.sizes, "test": 99})
        )
        n = SIZES[name]["test"]
        with pytest.raises(InputError, match=f"{name}: test has {n} examples, but the protocol 99"):
            protocols.load(name, path=str(tmp_path))

    def test_the_published_sizes_are_asked_for(self, name, tmp_path):
        MAKE[name](tmp_path)
        with pytest.raises(
            InputError,
            match=rf"{name} has {len(CLASSES[name])} classes, but the "
            f"protocol {protocols.PROTOCOLS[name].classes}",
        ):
            protocols.load(name, path=str(tmp_path))

    def test_without_a_path_it_says_what_to_download(self, name):
        with pytest.raises(
            InputError, match=rf"{name} cannot be downloaded: set data\.path\. \w.{{30}}"
        ):
            protocols.load(name)

    def test_empty_folder(self, name, tmp_path):
        with pytest.raises(InputError, match=r"is missing"):
            protocols.load(name, path=str(tmp_path))

    def test_the_identity_follows_the_files_and_decodes_none(self, name, tmp_path, small):
        for folder in "one", "two":
            MAKE[name](tmp_path / folder)
        one, two = (
            protocols.identify(name, path=str(tmp_path / folder)) for folder in ("one", "two")
        )
        assert one == two and one.kind == "files"
        next((tmp_path / "two").rglob("*.jpg")).write_bytes(b"no image")
        (changed,) = identity.differences(
            one, protocols.identify(name, path=str(tmp_path / "two"))
        ).values()
        assert changed[0].startswith("the bytes of images of")

    def test_missing_image_is_named(self, name, tmp_path, small):
        if name == "birdsnap":
            pytest.skip("its images are those that are there")
        MAKE[name](tmp_path)
        file = next(tmp_path.rglob("*.jpg"))
        file.unlink()
        with pytest.raises(InputError, match=f"{file.name} cannot be read"):
            protocols.load(name, path=str(tmp_path))


class TestAircraft:
    def test_official_validation(self, tmp_path, small):
        make_aircraft(tmp_path)
        found = protocols.load("aircraft", path=str(tmp_path), image_size=8)
        np.testing.assert_array_equal(found.train.ids, [0, 1, 2])
        np.testing.assert_array_equal(found.validation.ids, [3, 4])
        np.testing.assert_allclose(found.validation.images[:, 0, 0, 0], [30, 40], atol=1)

    @pytest.mark.parametrize("limit", [1, 3, 4])
    def test_official_validation_under_a_limit(self, limit, tmp_path, small):
        make_aircraft(tmp_path)
        found = protocols.load("aircraft", path=str(tmp_path), image_size=8, limit=limit)
        assert len(found.trainval.ids) == limit and len(found.test.ids) == 4
        assert set(found.train.ids) == set(found.trainval.ids) & {0, 1, 2}
        assert set(found.validation.ids) == set(found.trainval.ids) & {3, 4}
        np.testing.assert_allclose(
            found.trainval.images[:, 0, 0, 0], 10 * found.trainval.ids, atol=1
        )

    @pytest.mark.parametrize("below", ["data", "fgvc-aircraft-2013b/data"])
    def test_folders_of_the_archive(self, below, tmp_path, small):
        make_aircraft(tmp_path / below)
        assert len(protocols.load("aircraft", path=str(tmp_path), image_size=8).test.ids) == 4

    def test_variant_that_is_not_listed(self, tmp_path, small):
        make_aircraft(tmp_path)
        write(tmp_path / "variants.txt", ["707-320", "A380"])
        with pytest.raises(InputError, match=r"class 'DC 3' is not in .*variants\.txt"):
            protocols.load("aircraft", path=str(tmp_path))


class TestCars:
    def test_labels_of_the_test_part_in_devkit(self, tmp_path):
        make_cars(tmp_path)
        file = "cars_test_annos_withlabels.mat"
        (tmp_path / file).rename(tmp_path / "devkit" / file)
        assert len(protocols.ARCHIVES["cars"](tmp_path).parts["test"]) == 4

    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 20])
    def test_no_matlab_file(self, content, tmp_path):
        make_cars(tmp_path)
        (tmp_path / "devkit" / "cars_meta.mat").write_bytes(content)
        with pytest.raises(InputError, match=r"cars_meta\.mat is no MATLAB file"):
            protocols.ARCHIVES["cars"](tmp_path)

    def test_another_variable(self, tmp_path):
        make_cars(tmp_path)
        savemat(tmp_path / "devkit" / "cars_meta.mat", {"names": [1]})
        with pytest.raises(InputError, match=r"cars_meta\.mat is no MATLAB file with 'class_names"):
            protocols.ARCHIVES["cars"](tmp_path)


def test_sun397_lists_in_partitions(tmp_path):
    make_sun397(tmp_path)
    (tmp_path / "Partitions").mkdir()
    for file in tmp_path.glob("*.txt"):
        file.rename(tmp_path / "Partitions" / file.name)
    assert len(protocols.ARCHIVES["sun397"](tmp_path).parts["train"]) == 6
