import gzip
import importlib.util
import shutil
import struct

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxpt import pretrain
from jaxpt.configs.pretrain.digits import get_config
from jaxpt.data import sources
from jaxpt.data.labels import LabelMap, label_map, with_wrong_labels
from jaxpt.errors import InputError

TEN = tuple(str(i) for i in range(10))


def load(source="digits", path="", **others):
    fields = {"image_size": 8, "label_map": "fine", "limit": 0}
    return sources.load(
        ml_collections.ConfigDict({"source": source, "path": str(path), **fields, **others})
    )


@pytest.fixture(scope="module")
def digits():
    return load()


class TestDigits:
    def test_counts_shapes_and_dtypes(self, digits):
        assert len(digits.trainval.ids) == 1200 and len(digits.test.ids) == 597
        for split in digits.train, digits.validation, digits.trainval, digits.test:
            assert split.images.shape == (len(split.ids), 8, 8, 1)
            assert (split.images.dtype, split.labels.dtype, split.ids.dtype) == (
                np.uint8,
                np.int32,
                np.int32,
            )
            assert split.labels.shape == split.ids.shape
        assert digits.class_names == TEN

    def test_images_are_those_of_scikit_learn_over_the_full_range(self, digits):
        from sklearn.datasets import load_digits

        original = load_digits()
        ours = np.concatenate([digits.trainval.images, digits.test.images])[..., 0]
        assert ours.min() == 0 and ours.max() == 255
        np.testing.assert_allclose(ours / 255, original.images / 16, atol=0.5 / 255 + 1e-9)
        np.testing.assert_array_equal(
            np.concatenate([digits.trainval.labels, digits.test.labels]), original.target
        )


class TestValidation:
    def test_is_disjoint_from_train_and_both_make_trainval(self, digits):
        train, validation = set(digits.train.ids), set(digits.validation.ids)
        assert not train & validation
        assert sorted(train | validation) == list(range(1200))
        assert len(digits.train.ids) + len(digits.validation.ids) == 1200

    def test_rows_still_belong_to_their_ids(self, digits):
        for split in digits.train, digits.validation:
            np.testing.assert_array_equal(split.images, digits.trainval.images[split.ids])
            np.testing.assert_array_equal(split.labels, digits.trainval.labels[split.ids])

    def test_is_a_fifth_of_every_class(self, digits):
        per_class = np.bincount(digits.trainval.labels)
        np.testing.assert_array_equal(
            np.bincount(digits.validation.labels), np.round(per_class / 5)
        )

    def test_is_the_same_in_every_call_and_whatever_global_seed(self, digits):
        np.random.seed(7)
        np.testing.assert_array_equal(load().validation.ids, digits.validation.ids)

    def test_is_spread_over_the_set_and_not_its_beginning(self, digits):
        # A fifth of 1,200 taken at random has its mean position near 600.
        assert 540 < digits.validation.ids.mean() < 660


class TestLimit:
    def test_keeps_so_many_training_images_and_the_whole_test_part(self, digits):
        limited = load(limit=300)
        assert len(limited.trainval.ids) == 300 == len(set(limited.trainval.ids))
        assert len(limited.test.ids) == 597
        assert sorted([*limited.train.ids, *limited.validation.ids]) == sorted(limited.trainval.ids)

    def test_ids_still_name_the_original_images(self, digits):
        limited = load(limit=300).trainval
        np.testing.assert_array_equal(limited.images, digits.trainval.images[limited.ids])

    def test_takes_from_the_whole_set(self):
        assert 500 < load(limit=300).trainval.ids.mean() < 700

    def test_smaller_limits_are_parts_of_larger_ones(self):
        assert set(load(limit=100).trainval.ids) < set(load(limit=300).trainval.ids)

    def test_a_limit_beyond_the_set_takes_all_of_it(self):
        assert len(load(limit=5000).trainval.ids) == 1200

    def test_a_negative_limit_is_refused(self):
        with pytest.raises(InputError, match=r"data\.limit .*-5"):
            load(limit=-5)


def test_unknown_source_names_those_there_are():
    with pytest.raises(InputError, match=r"digits.*fashion_mnist.*folder.*npz.*cifar"):
        load("cifar")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        f"{part}_{kind}": values
        for part, n in (("train", 20), ("test", 6))
        for kind, values in (
            ("images", rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8)),
            ("labels", np.arange(n) % 3),
        )
    }


class TestNpz:
    def save(self, path, arrays):
        np.savez(path / "mine.npz", **arrays)
        return path / "mine.npz"

    def test_round_trip(self, tmp_path, arrays):
        found = load("npz", self.save(tmp_path, arrays))
        assert found.name == "mine" and found.class_names == ("0", "1", "2")
        for part, split in ("train", found.trainval), ("test", found.test):
            np.testing.assert_array_equal(split.images, arrays[f"{part}_images"])
            np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"])
            assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32

    def test_class_names(self, tmp_path, arrays):
        arrays["class_names"] = np.array(["cat", "dog", "eel", "fox"])
        assert load("npz", self.save(tmp_path, arrays)).class_names == ("cat", "dog", "eel", "fox")

    @pytest.mark.parametrize("missing", ["train_images", "test_labels"])
    def test_missing_array_is_named(self, tmp_path, arrays, missing):
        del arrays[missing]
        with pytest.raises(InputError, match=rf"lacks the arrays \['{missing}'\]"):
            load("npz", self.save(tmp_path, arrays))

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"test_labels": np.full(6, 7)}, r"test labels must lie in 0 … 2, found \[7\]"),
            ({"train_labels": np.full(20, -2)}, r"train labels must lie in .*found \[-2\]"),
            ({"class_names": np.array(["a", "b"])}, r"train labels must lie in 0 … 1, found \[2\]"),
            ({"train_images": np.zeros((20, 5, 4, 3))}, r"must be uint8.*float64 \[20, 5, 4, 3\]"),
            ({"train_images": np.zeros((20, 5, 4), np.uint8)}, r"\[5, 4, 1\].*\[5, 4, 3\]"),
            ({"test_images": np.zeros((6, 5, 4, 2), np.uint8)}, r"1 or 3\], got .*\[6, 5, 4, 2\]"),
            ({"test_images": np.zeros((6, 5, 4, 1), np.uint8)}, r"\[5, 4, 3\].*\[5, 4, 1\]"),
            ({"train_labels": np.zeros(19, int)}, r"20 images but labels of shape \[19\]"),
            ({"train_labels": np.zeros((20, 3), int)}, r"\[n, 1\], got \[20, 3\]: save x.argmax"),
            ({"train_labels": np.full(20, 0.5)}, r"train_labels must be integers, got float64"),
            ({"test_labels": np.full(6, "cat")}, r"test_labels must be integers, got <U3"),
            (
                {
                    "train_images": np.zeros((0, 5, 4, 3), np.uint8),
                    "train_labels": np.zeros(0, int),
                },
                r"no training images",
            ),
            (
                {"test_images": np.zeros((0, 5, 4, 3), np.uint8), "test_labels": np.zeros(0, int)},
                r"no test images",
            ),
            ({"class_names": np.array(["a", 1, 2], object)}, r"not a whole \.npz file"),
        ],
    )
    def test_data_that_makes_no_sense(self, tmp_path, arrays, changes, message):
        with pytest.raises(InputError, match=message):
            load("npz", self.save(tmp_path, arrays | changes))

    @pytest.mark.parametrize("keep", [0, 10, 300])
    def test_truncated_file(self, tmp_path, arrays, keep):
        path = self.save(tmp_path, arrays)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match=r"mine\.npz is not a whole \.npz file"):
            load("npz", path)

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere\.npz' is not a file"):
            load("npz", tmp_path / "nowhere.npz")


def idx(array):
    """The IDX format: two zero bytes, 8 for uint8, the number of axes, their big-endian sizes."""
    return (
        struct.pack(">BBBB", 0, 0, 8, array.ndim)
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


class TestFashionMnist:
    @pytest.fixture
    def folder(self, tmp_path):
        rng = np.random.default_rng(0)
        self.arrays = {
            "train-images-idx3": rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
            "train-labels-idx1": (np.arange(30) % 10).astype(np.uint8),
            "t10k-images-idx3": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
            "t10k-labels-idx1": np.arange(10, dtype=np.uint8)[::-1],
        }
        for name, array in self.arrays.items():
            (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        return tmp_path

    def test_reads_the_four_files(self, folder):
        found = load("fashion_mnist", folder, label_map="fashion5")
        for prefix, split in ("train", found.trainval), ("t10k", found.test):
            np.testing.assert_array_equal(
                split.images[..., 0], self.arrays[f"{prefix}-images-idx3"]
            )
            np.testing.assert_array_equal(split.labels, self.arrays[f"{prefix}-labels-idx1"])
        assert found.trainval.images.shape == (30, 28, 28, 1)
        assert found.class_names[9] == "ankle boot"
        coarse = [found.coarse.names[c] for c in found.coarse(np.arange(10))]
        assert coarse == [
            "tops",
            "trouser",
            "tops",
            "dress",
            "tops",
            "shoes",
            "tops",
            "shoes",
            "bag",
            "shoes",
        ]

    def test_missing_file_is_named_with_the_package_that_has_it(self, folder):
        (folder / "t10k-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(
            InputError,
            match=r"t10k-labels-idx1-ubyte\.gz is missing.*"
            r"dataset-fashion-mnist.*data\.path",
        ):
            load("fashion_mnist", folder)

    @pytest.mark.parametrize(
        "spoil, message",
        [
            (lambda data: data[: len(data) // 2], "cannot be read as gzip"),
            (lambda data: data[:20] + bytes(100) + data[120:], "cannot be read as gzip"),
            (lambda data: gzip.decompress(data), "cannot be read as gzip"),
            (
                lambda data: gzip.compress(gzip.decompress(data)[:-7]),
                r"is truncated: its header says \[30, 28, 28\], but it holds 23513 bytes",
            ),
            (lambda data: gzip.compress(gzip.decompress(data)[:9]), "is not an IDX file"),
            (lambda data: gzip.compress(b"<html>not found</html>"), "is not an IDX file"),
            (lambda data: b"", "is not an IDX file"),
        ],
    )
    def test_broken_file_is_named(self, folder, spoil, message):
        path = folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(InputError, match=rf"train-images-idx3-ubyte\.gz {message}"):
            load("fashion_mnist", folder)

    def test_labels_of_another_number_of_images(self, folder):
        shutil.copy(folder / "t10k-labels-idx1-ubyte.gz", folder / "train-labels-idx1-ubyte.gz")
        with pytest.raises(InputError, match=r"train has 30 images but labels of shape \[10\]"):
            load("fashion_mnist", folder)


def save_image(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).convert(mode).save(path)


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path):
        for part, n in ("train", 5), ("test", 2):
            for c, name in enumerate(("ant", "bee")):
                for i in range(n):
                    save_image(tmp_path / part / name / f"{i}.png", np.full((8, 8), 50 * c + i))
        return tmp_path

    def test_classes_labels_and_order(self, root):
        found = load("folder", root)
        assert found.class_names == ("ant", "bee") and found.name == root.name
        np.testing.assert_array_equal(found.trainval.labels, [0] * 5 + [1] * 5)
        np.testing.assert_array_equal(found.test.labels, [0, 0, 1, 1])
        # Every image is of one grey, so the values tell which file stands where.
        np.testing.assert_array_equal(
            found.trainval.images[:, 0, 0, 0], [0, 1, 2, 3, 4, 50, 51, 52, 53, 54]
        )

    def test_grey_images_alone_stay_grey(self, root):
        assert load("folder", root).trainval.images.shape == (10, 8, 8, 1)

    def test_one_colour_image_makes_all_rgb(self, root):
        pixels = np.zeros((8, 8, 3))
        pixels[..., 1] = 200
        save_image(root / "test" / "bee" / "green.png", pixels)
        found = load("folder", root)
        assert found.trainval.images.shape == (10, 8, 8, 3)
        np.testing.assert_array_equal(found.trainval.images[9, 3, 3], [54, 54, 54])
        np.testing.assert_array_equal(found.test.images[4, 3, 3], [0, 200, 0])

    @pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA"])
    def test_other_modes_become_rgb(self, root, mode):
        save_image(root / "train" / "ant" / "9.png", np.full((8, 8), 255), mode)
        found = load("folder", root)
        np.testing.assert_array_equal(found.trainval.images[5], np.full((8, 8, 3), 255))

    def test_jpeg(self, root):
        save_image(root / "train" / "ant" / "9.JPG", np.full((8, 8), 120))
        assert abs(int(load("folder", root).trainval.images[5, 4, 4, 0]) - 120) <= 2

    @pytest.mark.parametrize("height, width", [(8, 20), (20, 8), (16, 40), (8, 9)])
    def test_shorter_side_is_scaled_and_the_centre_cut(self, root, height, width):
        # Halves of 40 and 200: the edge between them lies in the middle of the crop.
        pixels = np.full((height, width), 40)
        if width > height:
            pixels[:, width // 2 :] = 200
        else:
            pixels[height // 2 :] = 200
        save_image(root / "train" / "ant" / "0.png", pixels)
        image = load("folder", root).trainval.images[0, :, :, 0]
        assert image.shape == (8, 8)
        across = image if width > height else image.T
        np.testing.assert_allclose(across[:, :3], 40, atol=12)  # bicubic overshoots at an edge
        np.testing.assert_allclose(across[:, 5:], 200, atol=12)

    def test_image_of_the_wanted_size_keeps_its_pixels(self, root):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8))
        save_image(root / "train" / "ant" / "0.png", pixels)
        np.testing.assert_array_equal(load("folder", root).trainval.images[0, :, :, 0], pixels)

    def test_small_images_are_enlarged(self, root):
        found = load("folder", root, image_size=12)
        assert found.trainval.images.shape == (10, 12, 12, 1)
        np.testing.assert_array_equal(found.trainval.images[9], np.full((12, 12, 1), 54))

    def test_class_in_test_alone_is_named(self, root):
        save_image(root / "test" / "wasp" / "0.png", np.zeros((8, 8)))
        with pytest.raises(InputError, match=r"test has classes that .*train lacks: \['wasp'\]"):
            load("folder", root)

    def test_other_files_are_left_alone(self, root):
        (root / "train" / "ant" / "notes.txt").write_text("no image")
        (root / "train" / "README.png").write_text("no image, and in no class")
        assert len(load("folder", root).trainval.ids) == 10

    def test_without_a_train_part(self, root):
        shutil.rmtree(root / "train")
        with pytest.raises(InputError, match="has a test part but no train part"):
            load("folder", root)

    def test_without_a_test_part(self, root):
        whole = load("folder", root)
        shutil.rmtree(root / "test")
        found = load("folder", root)
        np.testing.assert_array_equal(found.trainval.images, whole.trainval.images)
        assert found.test.images.shape == (0, 8, 8, 1) and len(found.test.ids) == 0

    def test_class_folders_alone_are_the_training_part(self, root):
        whole = load("folder", root)
        found = load("folder", root / "train")
        assert found.class_names == ("ant", "bee") and len(found.test.ids) == 0
        np.testing.assert_array_equal(found.trainval.images, whole.trainval.images)

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_part_without_images(self, root, part):
        shutil.rmtree(root / part)
        (root / part).mkdir()
        with pytest.raises(InputError, match=rf"{part} has no images: expected .*CLASS/IMAGE"):
            load("folder", root)

    def test_empty_folder(self, tmp_path):
        with pytest.raises(InputError, match="has no images: expected .*CLASS/IMAGE"):
            load("folder", tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere' is neither a folder"):
            load("folder", tmp_path / "nowhere")

    @pytest.mark.parametrize("share", [0, 0.3, 0.9])
    def test_broken_image_is_named(self, root, share):
        path = root / "test" / "bee" / "1.png"
        save_image(path, np.random.default_rng(0).integers(0, 256, (64, 64)))
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match=r"test/bee/1\.png cannot be read as an image"):
            load("folder", root)

    def test_sixteen_bits_are_refused_rather_than_clipped(self, root):
        pixels = np.full((8, 8), 30_000, np.uint16)
        Image.fromarray(pixels).save(root / "train" / "ant" / "0.png")
        with pytest.raises(InputError, match=r"ant/0\.png has more than 8 bits"):
            load("folder", root)

    def test_bad_size(self, root):
        with pytest.raises(InputError, match=r"data\.image_size must be at least 1, got 0"):
            load("folder", root, image_size=0)


class TestLevelsAndLists:
    """Nested folders or a list: the deeper, or the further right, the finer."""

    FILES = {"animal/cat": 10, "animal/dog": 20, "tool/saw": 30}

    @pytest.fixture
    def root(self, tmp_path):
        for name, grey in self.FILES.items():
            for part in "train", "test":
                save_image(tmp_path / "set" / part / name / "x.png", np.full((8, 8), grey))
        return tmp_path / "set"

    def test_nested_folders(self, root):
        found = load("folder", root, label_map="level:1")
        assert found.class_names == tuple(self.FILES)
        assert found.coarse.names == ("animal", "tool")
        np.testing.assert_array_equal(found.coarse(found.test.labels), [0, 0, 1])
        np.testing.assert_array_equal(found.trainval.images[:, 0, 0, 0], [10, 20, 30])
        assert load("folder", root, label_map="level:2").coarse.names == tuple(self.FILES)

    @pytest.mark.parametrize("level", ["0", "3", "-1", "one", ""])
    def test_no_such_level(self, level, root):
        with pytest.raises(InputError, match="the classes have the levels 1 to 2"):
            load("folder", root, label_map=f"level:{level}")

    def test_a_list_gives_the_same(self, root):
        lines = [
            "path,coarse,fine",
            *(f"train/{name}/x.png,{name.replace('/', ',')}" for name in self.FILES),
        ]
        (root / "mine.csv").write_text("\n".join(lines) + "\n\n")
        found, whole = load("folder", root / "mine.csv"), load("folder", root)
        assert found.class_names == whole.class_names and len(found.test.ids) == 0
        np.testing.assert_array_equal(found.trainval.images, whole.trainval.images)
        np.testing.assert_array_equal(found.trainval.labels, whole.trainval.labels)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("", "lists no images"),
            ("train/animal/cat/x.png\n", "line 1: expected path,label"),
            ("train/animal/cat/x.png,a\nx.png,\n", "line 2: expected path,label"),
            ("../outside.png,a\n", "leads out of"),
            ("/etc/passwd,a\n", "line 1: '/etc/passwd' is not relative to"),
            ('x\0.png,"a', "cannot be read as a list|not relative|unexpected end"),
        ],
    )
    def test_bad_lists(self, text, message, root):
        (root / "mine.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            load("folder", root / "mine.csv")

    def test_map_from_a_file(self, root):
        file = root / "map.csv"
        file.write_text("fine,coarse\nanimal/dog,y\nanimal/cat,x\ntool/saw,x\n")
        found = load("folder", root, label_map=str(file))
        assert found.coarse.names == ("x", "y")
        np.testing.assert_array_equal(found.coarse(np.arange(3)), [0, 1, 0])

    @pytest.mark.parametrize(
        "text, message",
        [
            ("animal/cat,x\n", r"lacks the classes \['animal/dog', 'tool/saw'\]"),
            ("animal/cat,x\nanimal/dog,y\ntool/saw,x\nsaw,x\n", r"data lacks: \['saw'\]"),
            ("animal/cat,x\nanimal/cat,y\n", "line 2: 'animal/cat' has two coarse"),
            ("animal/cat\n", "line 1: expected fine,coarse"),
        ],
    )
    def test_bad_maps(self, text, message, root):
        (root / "map.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            load("folder", root, label_map=str(root / "map.csv"))


class TestBroken:
    """Whole in memory or streamed, the same files are found and the same images are left."""

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for i in range(12):
            save_image(tmp_path / "set" / "ab"[i % 2] / f"{i:02}.png", np.full((8, 8), 10 * i))
        (tmp_path / "set" / "a" / "00.png").write_bytes(b"")
        data = (tmp_path / "set" / "b" / "01.png").read_bytes()
        (tmp_path / "set" / "b" / "01.png").write_bytes(data[:40])
        return tmp_path / "set"

    def test_stop_names_them(self, root):
        with pytest.raises(
            InputError,
            match=r"2 of 12 images cannot be used: .*a/00\.png cannot "
            r".*b/01\.png cannot .*data\.broken to skip; jaxpt data check ",
        ):
            load("folder", root, resident="yes")

    def test_those_of_a_streamed_set_are_named_when_they_are_read(self, root):
        (root / "a" / "00.png").write_bytes((root / "a" / "02.png").read_bytes())
        for i in range(0, 12, 2):  # in color, so that not every file is opened to look for color
            Image.new("RGB", (9, 9)).save(root / "a" / f"{i:02}.png")
        images = load("folder", root, resident="no").trainval.images
        with pytest.raises(InputError, match=r"b/01\.png cannot be read as an image"):
            np.asarray(images)

    @pytest.mark.parametrize("resident", ["yes", "no"])
    def test_skip_leaves_them_out(self, resident, root):
        for _ in range(2):  # the second time from what was remembered
            found = load("folder", root, resident=resident, broken="skip")
            assert [text.split()[0][-8:] for text in found.broken] == ["a/00.png", "b/01.png"]
            images = np.asarray(found.trainval.images)
            np.testing.assert_array_equal(
                images[:, 0, 0, 0], [20, 40, 60, 80, 100, 30, 50, 70, 90, 110]
            )
            np.testing.assert_array_equal(found.trainval.images[-1], images[-1])
            np.testing.assert_array_equal(found.train.images[1:3], images[found.train.ids][1:3])

    def test_a_file_that_changed_is_looked_at_again(self, root):
        load("folder", root, resident="no", broken="skip")
        (root / "b" / "11.png").write_bytes(b"words")
        assert len(load("folder", root, resident="no", broken="skip").broken) == 3

    def test_nothing_left(self, root):
        for file in root.glob("*/*"):
            file.write_bytes(b"")
        with pytest.raises(InputError, match="no training image that can be used"):
            load("folder", root, broken="skip")


class TestWrongLabels:
    COARSE = LabelMap((0, 1, 1, 2, 0, 2, 2), ("a", "b", "c"))
    FINE = (np.arange(7_000) % 7).astype(np.int32)

    def wrong(self, share, seed=0):
        return with_wrong_labels(self.FINE, share, self.COARSE, seed)

    def test_as_many_as_asked_have_another_coarse_class(self):
        changed = self.wrong(0.3) != self.FINE
        assert changed.sum() == 2_100
        before, after = self.COARSE(self.FINE)[changed], self.COARSE(self.wrong(0.3))[changed]
        assert np.all(before != after) and self.wrong(0.3).dtype == np.int32
        np.testing.assert_array_equal(self.wrong(0.0), self.FINE)

    def test_other_classes_are_drawn_evenly(self):
        wrong = self.wrong(1.0)
        for own in range(7):
            got = np.bincount(wrong[own == self.FINE], minlength=7)
            others = [c for c in range(3) if c != self.COARSE.coarse_of[own]]
            for c in others:  # half of 1,000 go to each coarse class, evenly to its members
                members = np.flatnonzero(np.array(self.COARSE.coarse_of) == c)
                expected = 1_000 / 2 / len(members)
                np.testing.assert_allclose(got[members], expected, atol=5 * expected**0.5)

    def test_a_larger_share_replaces_the_same_labels_and_more(self):
        few, many = self.wrong(0.1), self.wrong(0.4)
        np.testing.assert_array_equal(many[few != self.FINE], few[few != self.FINE])
        assert np.any(self.wrong(0.1, seed=1) != few)

    def test_what_is_not_possible_is_refused(self):
        with pytest.raises(InputError, match="wrong_labels must lie between 0 and 1, got 1.5"):
            self.wrong(1.5)
        with pytest.raises(InputError, match="needs at least 2 coarse classes, but there is 1"):
            with_wrong_labels(self.FINE, 0.5, LabelMap((0,) * 7, ("a",)), 0)

    def test_training_sees_them_and_nothing_else_does(self, digits):
        config = get_config("look")
        config.data.label_map, config.data.wrong_labels, config.seed = "halves", 0.25, 3
        coarse = digits._replace(coarse=label_map("halves", TEN))
        split = pretrain.train_split(config, coarse)
        changed = coarse.coarse(split.labels) != coarse.coarse(digits.trainval.labels)
        assert changed.sum() == 300
        np.testing.assert_array_equal(split.ids, digits.trainval.ids)
        config.data.sources = {"one": {}, "two": {}}
        with pytest.raises(InputError, match="is for a single set, but data.sources names several"):
            pretrain.train_split(config, coarse)


class TestLabelMap:
    @pytest.mark.parametrize(
        "name, coarse, n_names",
        [
            ("fine", range(10), 10),
            ("halves", [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 2),
            ("parity", [0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 2),
            ("fashion5", [0, 1, 0, 2, 0, 3, 0, 3, 4, 3], 5),
        ],
    )
    def test_of_ten_classes(self, name, coarse, n_names):
        found = label_map(name, TEN)
        np.testing.assert_array_equal(found(np.arange(10, dtype=np.int32)), list(coarse))
        assert found(np.arange(10)).dtype == np.int32
        assert len(found.names) == n_names

    def test_maps_labels_in_any_order(self):
        np.testing.assert_array_equal(
            label_map("halves", TEN)(np.array([9, 0, 5, 4])), [1, 0, 1, 0]
        )

    def test_fine_and_parity_take_any_number_of_classes(self):
        assert label_map("fine", ("cat", "dog", "eel")).names == ("cat", "dog", "eel")
        np.testing.assert_array_equal(label_map("parity", TEN[:3])(np.arange(3)), [0, 1, 0])

    @pytest.mark.parametrize("name", ["halves", "fashion5"])
    def test_wrong_number_of_classes(self, name):
        with pytest.raises(InputError, match=f"{name}' needs 10 classes, but the data has 3"):
            label_map(name, TEN[:3])

    def test_unknown(self):
        with pytest.raises(InputError, match=r"fashion5.*fine.*halves.*parity.*level:K.*'thirds'"):
            label_map("thirds", TEN)

    def test_load_applies_it(self):
        found = load(label_map="parity")
        np.testing.assert_array_equal(found.coarse(found.train.labels), found.train.labels % 2)


def test_tfds_without_tensorflow(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "tensorflow" else found(name, *args),
    )
    with pytest.raises(InputError, match=r"tfds:mnist needs TensorFlow.*jaxpt\[tfds\]"):
        load("tfds:mnist")


def test_validation_is_a_share_of_every_class_but_never_a_whole_one():
    labels = np.repeat([0, 1, 2], [10, 5, 1])
    for share, expected in ((0.2, [2, 1, 0]), (0.9, [9, 4, 0])):
        mask = sources.validation_mask(labels, share)
        assert np.bincount(labels[mask], minlength=3).tolist() == expected
        np.testing.assert_array_equal(mask, sources.validation_mask(labels, share))
