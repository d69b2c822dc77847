"""Kept features: made once, read back as they were, made anew where they are damaged."""

import json

import numpy as np
import pytest

from jaxpt.errors import InputError
from jaxpt.evaluation import features
from jaxpt.evaluation.features import FeatureCache, fingerprint

WHAT = {"checkpoint": "abc", "part": "test"}


class Maker:
    """Makes arrays and counts how often."""

    def __init__(self):
        self.made = 0

    def __call__(self):
        self.made += 1
        rng = np.random.default_rng(0)
        return {
            "z": rng.normal(size=(5, 3)).astype(np.float32),
            "a": rng.normal(size=(5, 2)).astype(np.float32),
        }


def assert_same(found):
    expected = Maker()()
    assert list(found) == list(expected)  # the order is that of the maker
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_arrays_are_made_once_and_mapped_from_disk(tmp_path):
    make = Maker()
    for _ in range(3):
        found = FeatureCache(tmp_path / "new" / "cache").get(WHAT, make)
        assert_same(found)
        assert all(isinstance(x, np.memmap) and not x.flags.writeable for x in found.values())
    assert make.made == 1
    assert not [p for p in (tmp_path / "new" / "cache").iterdir() if p.name.startswith(".")]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make = Maker()
    for _ in range(2):
        assert_same(FeatureCache(None).get(WHAT, make))
    assert make.made == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"checkpoint": "abd", "part": "test"},
        {"checkpoint": "abc", "part": "trainval"},
        {"checkpoint": "abc"},
        {**WHAT, "images": "x"},
    ],
)
def test_anything_that_differs_is_another_entry(other, tmp_path):
    make, cache = Maker(), FeatureCache(tmp_path)
    cache.get(WHAT, make)
    cache.get(other, make)
    assert make.made == 2


def _cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def _empty(path):
    path.write_bytes(b"")


def _pickle(path):
    np.save(path, np.array([{}], object), allow_pickle=True)


def _reshape(path):
    array = np.load(path)
    np.save(path, array.T)


@pytest.mark.parametrize(
    "harm", [lambda path: path.unlink(), _cut, _flip, _empty, _pickle, _reshape]
)
@pytest.mark.parametrize("name", ["a.npy", "z.npy"])
def test_a_damaged_array_is_made_anew(harm, name, tmp_path):
    make, cache = Maker(), FeatureCache(tmp_path)
    cache.get(WHAT, make)
    harm(next(tmp_path.glob(f"*.{name}")))
    for made in 2, 2:
        assert_same(cache.get(WHAT, make))
        assert make.made == made


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"arrays": 3}', '{"arrays": {"a": 1}}'])
def test_a_damaged_description_is_made_anew(text, tmp_path):
    make, cache = Maker(), FeatureCache(tmp_path)
    cache.get(WHAT, make)
    next(tmp_path.glob("*.json")).write_text(text)
    assert_same(cache.get(WHAT, make))
    assert make.made == 2


@pytest.mark.parametrize("moves", range(3))
def test_a_kill_at_any_move_leaves_nothing_that_counts(moves, tmp_path, monkeypatch):
    cache, make, done = FeatureCache(tmp_path), Maker(), []
    replacing = features.replacing

    def killed(path, mode="w"):
        if len(done) == moves:
            path.with_name(f".{path.name}.1.tmp").write_bytes(b"half")  # what the kill cut short
            raise KeyboardInterrupt
        done.append(path)
        return replacing(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(features, "replacing", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.get(WHAT, make)
    assert_same(cache.get(WHAT, make))
    assert make.made == 2
    assert_same(cache.get(WHAT, make))
    assert make.made == 2


def test_a_kill_within_a_write_leaves_no_half_of_it_under_its_name(tmp_path, monkeypatch):
    def killed(file, array, **kwargs):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).get(WHAT, Maker())
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]


def test_an_entry_says_what_it_is_of(tmp_path):
    FeatureCache(tmp_path).get(WHAT, Maker())
    described = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert described["what"] == WHAT and described["arrays"].keys() == {"a", "z"}


def test_a_fingerprint_sees_values_shape_and_type():
    x = np.arange(12, dtype=np.uint8)
    different = [x, x.reshape(3, 4), x.view(np.int8), x[::-1], x[:6]]
    assert len({fingerprint(y) for y in different}) == len(different)
    assert fingerprint(x[::2]) == fingerprint(x[::2].copy())


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be created .* choose another folder"):
        FeatureCache(tmp_path / "file")
    with pytest.raises(InputError, match="must not be empty"):
        FeatureCache("")
