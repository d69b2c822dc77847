"""Folders and lists of pictures on an object store: fsspec's store in memory stands in for one."""

import io

import fsspec
import numpy as np
import pytest
from PIL import Image
from small_runs import RUN, config_of

from jaxpt.data import check, feed, objects, sources
from jaxpt.errors import InputError

URL = "memory://bucket/photos"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The store, filled with the files of a local folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(12):
        file = tmp_path / "photos" / ("train", "test")[i > 8] / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), np.uint8)).save(file)
    lines = [f"train/{'ab'[i % 2]}/{i:02}.png,{'ab'[i % 2]}" for i in range(9)]
    (tmp_path / "photos" / "list.csv").write_text("\n".join(lines))
    (tmp_path / "photos" / "train" / "a" / "notes.txt").write_text("no image")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    for file in (tmp_path / "photos").rglob("*.*"):
        store.pipe(f"/bucket/{file.relative_to(tmp_path)}", file.read_bytes())
    return store


def config(path, **changes):
    data = {"data.source": "folder", "data.path": str(path), "data.image_size": 8, "data.limit": 0}
    return config_of("look", RUN | data | changes).data


@pytest.mark.parametrize("place", ["", "/train", "/list.csv"])
@pytest.mark.parametrize("changes", [{}, {"data.resident": "no"}])
def test_is_the_same_set_as_on_a_disk(place, changes, store, tmp_path):
    here, there = config(f"{tmp_path}/photos{place}", **changes), config(URL + place, **changes)
    expected, found = sources.load(here), sources.load(there)
    assert found.class_names == expected.class_names == ("a", "b")
    for part in "train", "validation", "test":
        mine, theirs = getattr(found, part), getattr(expected, part)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        np.testing.assert_array_equal(np.asarray(mine.images), np.asarray(theirs.images))
    assert sources.identify(there).digest == sources.identify(here).digest


def test_a_changed_object_is_another_set(store):
    before = sources.identify(config(URL)).digest
    assert sources.identify(config(URL)).digest == before
    image = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(image, "PNG")
    store.pipe("/bucket/photos/train/a/00.png", image.getvalue())
    assert sources.identify(config(URL)).digest != before


def test_a_broken_object_is_named(store):
    store.pipe("/bucket/photos/train/b/01.png", b"no image")
    with pytest.raises(InputError, match=r"memory://bucket/photos/train/b/01\.png cannot be read"):
        sources.load(config(URL))
    texts = [finding.text for finding in check.findings(URL)]
    assert any("b/01.png cannot be read as an image" in text for text in texts)


@pytest.mark.parametrize(
    "path, message",
    [
        ("memory://bucket/nothing", "'memory://bucket/nothing' is neither a folder nor a list"),
        ("nostore://bucket/photos", "nostore://bucket/photos cannot be opened .*fsspec's package"),
    ],
)
def test_what_is_not_there(path, message, store):
    with pytest.raises(InputError, match=message):
        sources.load(config(path))


def test_a_store_that_fails_to_answer_is_asked_again(store, monkeypatch):
    images = sources.load(config(URL, **{"data.resident": "no"})).train.images
    cat_file, failures = type(store).cat_file, [TimeoutError("busy"), TimeoutError("busy")]

    def failing(self, *args, **kwargs):
        if failures:
            raise failures.pop()
        return cat_file(self, *args, **kwargs)

    monkeypatch.setattr(type(store), "cat_file", failing)
    monkeypatch.setattr(feed.time, "sleep", lambda seconds: None)
    assert feed.patiently(images.__getitem__, 0).shape == (8, 8, 3) and not failures
    store.rm("/bucket/photos/train/a/00.png")
    with pytest.raises(InputError, match=r"a/00\.png cannot be read \(there is no such object\)"):
        objects.read(f"{URL}/train/a/00.png")
