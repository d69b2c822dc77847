"""Grain's random-access sources: functions of one's own, and ArrayRecord files."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from small_runs import RUN, config_of

from jaxpt import pretrain
from jaxpt.data import grain_source, sources
from jaxpt.data.decode import Framing, to_square
from jaxpt.errors import InputError

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]


def jpeg(i):
    file = io.BytesIO()
    PHOTOGRAPHS[i % 2].resize((40 + i, 30)).save(file, "JPEG")
    return file.getvalue()


class Source:
    """As Grain asks of one: a length, and access to any element."""

    def __init__(self, n, form=lambda i: {"image": jpeg(i), "label": i % 2}):
        self.n, self.form = n, form

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert type(i) is int and 0 <= i < self.n
        return self.form(i)


def config(source, path="", **changes):
    data = {"data.source": source, "data.path": path, "data.image_size": 8, "data.limit": 0}
    return config_of("cross_entropy", RUN | data | changes)


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("my_data")
    monkeypatch.setitem(sys.modules, "my_data", module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(i):
    return np.asarray(PHOTOGRAPHS[i % 2].resize((40 + i, 30)))


FORMS = {
    "mappings": lambda i: {"image": jpeg(i), "label": np.int64(i % 2)},
    "pairs": lambda i: (jpeg(i), i % 2),
    "decoded": lambda i: {"image": pixels(i), "label": i % 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_function_s_source_is_read(form, module):
    module.photos = lambda: {
        "train": Source(20, FORMS[form]),
        "test": Source(4, FORMS[form]),
        "class_names": ["temple", "flower"],
    }
    dataset = sources.load(config("grain:my_data:photos").data)
    assert dataset.class_names == ("temple", "flower") and dataset.name == "photos"
    np.testing.assert_array_equal(dataset.trainval.labels, np.arange(20) % 2)
    expected = np.asarray(to_square(Image.fromarray(pixels(3)), Framing.centre(8)))
    found = np.asarray(dataset.test.images)[3].astype(int)
    assert np.abs(found - expected).mean() < (3 if form != "decoded" else 1e-9)
    identity = sources.identify(config("grain:my_data:photos").data)
    assert identity.digest == sources.identify(config("grain:my_data:photos").data).digest
    module.photos = lambda: Source(20, lambda i: (jpeg(i + 1), i % 2))
    assert identity.digest != sources.identify(config("grain:my_data:photos").data).digest


def test_it_trains_from_whole_pictures(module):
    module.photos = lambda: Source(20)
    cfg = config(
        "grain:my_data:photos",
        **{"batch_size": 10, "duration": "2 steps", "knn_every": "0 steps"},
        **{"augment.crop_area": (0.2, 1.0)},
    )
    rows = [row for row in pretrain.run(cfg, quiet=True).history if "waited" in row]
    assert len(rows) == 2 and np.isfinite([row["loss"] for row in rows]).all()


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: Source(3, lambda i: {"picture": 1}), "photos, train, example 0 cannot be .*image"),
        (lambda: {"training": Source(3)}, r"has the parts \['training'\]: name them train"),
        (lambda: 1 / 0, "cannot be called .ZeroDivisionError: division by zero.: it must be"),
    ],
)
def test_what_cannot_be_used(made, message, module):
    module.photos = made
    with pytest.raises(InputError, match=message):
        sources.load(config("grain:my_data:photos").data)


@pytest.mark.parametrize(
    "source, message",
    [
        ("grain:my_data", "write grain:MODULE:FUNCTION"),
        ("grain:no_such_module:photos", "cannot be called .ModuleNotFoundError"),
        pytest.param("grain", "data.path '' has no ArrayRecord files", marks=pytest.mark.extras),
    ],
)
def test_names_that_are_wrong(source, message):
    if source == "grain":
        pytest.importorskip("grain")
    with pytest.raises(InputError, match=message):
        sources.load(config(source).data)


@pytest.mark.extras
def test_array_records(tmp_path):
    pytest.importorskip("grain")
    module = pytest.importorskip("array_record.python.array_record_module")
    from tensorflow_datasets.proto import tf_example_pb2

    folder = tmp_path / "photos"
    folder.mkdir()
    for name, rows in {"train-0": range(7), "train-1": range(7, 12), "test": range(4)}.items():
        writer = module.ArrayRecordWriter(str(folder / f"{name}.array_record"), "group_size:1")
        for i in rows:
            example = tf_example_pb2.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(jpeg(i))
            example.features.feature["label"].int64_list.value.append(i % 3)
            writer.write(example.SerializeToString())
        writer.close()
    dataset = sources.load(config("grain", str(folder)).data)
    np.testing.assert_array_equal(dataset.trainval.labels, np.arange(12) % 3)
    assert len(dataset.test.ids) == 4 and dataset.class_names == ("0", "1", "2")
    assert dataset.trainval.images.encoded(8)[0] == jpeg(8)
    cfg = config("grain", str(folder / "train*")).data
    assert len(sources.load(cfg).trainval.ids) == 12
    assert sources.identify(cfg).digest == sources.identify(cfg).digest
    (folder / "other.array_record").write_bytes(b"")
    with pytest.raises(InputError, match="other.array_record does not begin with the name of a"):
        grain_source.files_of(str(folder))
