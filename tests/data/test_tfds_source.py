"""Sets that tfds really prepared, from scikit-learn's digits: names, splits, pixels, training."""

import ml_collections
import numpy as np
import pytest
from data.tfds_fakes import make_builder
from small_runs import RUN, config_of

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.data.tfds import keep_to_cpu
from jaxpt.errors import InputError

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("importlib_resources")  # tfds needs it, and does not ask for it
pytestmark = pytest.mark.extras


def digit_images():
    return sources.load(
        ml_collections.ConfigDict(
            {"source": "digits", "path": "", "image_size": 8, "label_map": "fine", "limit": 0}
        )
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three prepared sets: digits, the same without a test split, and the same in oblongs."""
    data_dir = tmp_path_factory.mktemp("tfds")
    digits = digit_images()
    train = digits.trainval.images[:300], digits.trainval.labels[:300]
    test = digits.test.images[:90], digits.test.labels[:90]
    for name, splits, shape, frame in (
        ("LocalDigits", {"train": train, "test": test}, (8, 8, 1), np.asarray),
        ("OnePart", {"train": train}, (8, 8, 1), np.asarray),
        (
            "OblongDigits",
            {"train": train, "test": test},
            (None, None, 3),
            lambda image: np.repeat(np.pad(image, ((0, 0), (4, 4), (0, 0))), 3, -1),
        ),
    ):
        builder = make_builder(name, splits, shape, frame)(data_dir=data_dir)
        builder.download_and_prepare()
    return data_dir


def load(source, path, **changes):
    fields = {"image_size": 8, "label_map": "fine", "limit": 0}
    return sources.load(
        ml_collections.ConfigDict({"source": source, "path": str(path), **fields, **changes})
    )


def same_rows(split, original):
    """Matches every image with its original: tfds shuffles when it prepares."""
    pixels = {image.tobytes(): label for image, label in zip(original.images, original.labels)}
    assert len({image.tobytes() for image in split.images}) > len(split.images) * 0.95
    np.testing.assert_array_equal(split.labels, [pixels[image.tobytes()] for image in split.images])


class TestPrepared:
    @pytest.mark.parametrize("below", ["", "local_digits/1.0.0"])
    def test_pixels_and_labels_from_data_dir_and_from_the_sets_own_folder(self, below, prepared):
        found = load("tfds:local_digits", prepared / below)
        digits = digit_images()
        assert found.name == "local_digits" and found.class_names == tuple("0123456789")
        assert found.trainval.images.shape == (300, 8, 8, 1) and len(found.test.ids) == 90
        assert found.trainval.labels.dtype == np.int32
        same_rows(found.trainval, digits.trainval)
        same_rows(found.test, digits.test)

    def test_same_order_every_time(self, prepared):
        one, two = (load("tfds:local_digits", prepared).trainval for _ in range(2))
        np.testing.assert_array_equal(one.images, two.images)

    def test_images_of_one_square_shape_stay_as_they_are(self, prepared):
        assert load("tfds:local_digits", prepared, image_size=32).test.images.shape[1:] == (8, 8, 1)

    def test_other_images_are_cut_to_the_wanted_size(self, prepared):
        found = load("tfds:oblong_digits", prepared)
        assert found.test.images.shape == (90, 8, 8, 3)
        # Padded on both sides, so the centre is the digit.
        grey = sources.Split(found.test.images[..., :1], found.test.labels, found.test.ids)
        same_rows(grey, digit_images().test)
        assert load("tfds:oblong_digits", prepared, image_size=12).test.images.shape[1] == 12

    def test_no_size_for_images_of_several_shapes(self, prepared):
        with pytest.raises(
            InputError,
            match=r"oblong_digits has images of several shapes: "
            r"data\.image_size must be at least 1, got 0",
        ):
            load("tfds:oblong_digits", prepared, image_size=0)

    def test_limit_and_label_map(self, prepared):
        found = load("tfds:local_digits", prepared, limit=50, label_map="parity")
        assert len(found.trainval.ids) == 50 and found.coarse.names == ("even", "odd")

    def test_pretraining_runs_on_it(self, prepared, tmp_path):
        config = config_of(
            "cross_entropy",
            RUN
            | {
                "duration": "4 steps",
                "knn_every": "4 steps",
                "data.limit": 0,
                "data.source": "tfds:local_digits",
                "data.path": str(prepared),
            },
        )
        trained = pretrain.run(config, tmp_path / "run")
        assert int(trained.state.step) == 4


class TestSplits:
    def test_missing_test_split_says_how_to_choose(self, prepared):
        with pytest.raises(
            InputError,
            match=r"one_part has no split 'test' .*only \['train'\]: "
            r"set data\.train_split and data\.test_split.*'train\[80%:\]'",
        ):
            load("tfds:one_part", prepared)

    def test_slices(self, prepared):
        found = load("tfds:one_part", prepared, train_split="train[:80%]", test_split="train[80%:]")
        assert len(found.trainval.ids) == 240 and len(found.test.ids) == 60
        whole = load("tfds:one_part", prepared, test_split="train").test
        np.testing.assert_array_equal(
            whole.images, np.concatenate([found.trainval.images, found.test.images])
        )

    @pytest.mark.parametrize("split", ["dev", "train[500:600]", "train[", ""])
    def test_no_such_split(self, split, prepared):
        with pytest.raises(InputError, match=r"has no split '.*only \['train'\]"):
            load("tfds:one_part", prepared, train_split=split, test_split="train")


class TestCannotBeRead:
    def test_unknown_set(self, tmp_path):
        with pytest.raises(InputError, match=r"tfds:no_such_set cannot be prepared \(.*NotFound"):
            load("tfds:no_such_set", tmp_path)

    def test_the_folder_holds_another_set(self, prepared):
        with pytest.raises(InputError, match="holds the dataset 'one_part', not 'local_digits'"):
            load("tfds:local_digits", prepared / "one_part" / "1.0.0")

    def test_no_classified_images(self, tmp_path):
        with (
            tfds.testing.mock_data(),
            pytest.raises(
                InputError, match=r"tfds:voc is not an image classification .*it has \['image'"
            ),
        ):
            load("tfds:voc", tmp_path)

    def test_try_gcs_is_passed_on(self, monkeypatch, prepared):
        seen = []
        builder = tfds.builder

        def spy(name, **options):
            seen.append(options.pop("try_gcs"))
            return builder(name, **options)

        monkeypatch.setattr(tfds, "builder", spy)
        load("tfds:local_digits", prepared)
        load("tfds:local_digits", prepared, try_gcs=True)
        assert seen == [False, True]


class TestAccelerators:
    def test_tensorflow_sees_cpus_only(self, prepared):
        load("tfds:local_digits", prepared)
        assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}

    def test_both_kinds_are_hidden(self, monkeypatch):
        hidden = []
        monkeypatch.setattr(
            tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind))
        )
        keep_to_cpu()
        assert sorted(hidden) == [([], "GPU"), ([], "TPU")]

    def test_a_tensorflow_that_already_holds_one_is_refused(self, monkeypatch):
        def too_late(devices, kind):
            raise RuntimeError("Visible devices cannot be modified after being initialized")

        device = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
        monkeypatch.setattr(tf.config, "set_visible_devices", too_late)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda: [device])
        with pytest.raises(InputError, match=r"TensorFlow already runs on \['GPU'\]"):
            keep_to_cpu()
