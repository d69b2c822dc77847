"""The cached list of a folder of pictures."""

import os
import shutil
import time

import pytest

from jaxpt.data import listing


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "SETTLED", 0.0)
    for name in ("train/a/1.jpg", "train/a/2.jpg", "train/b/x/1.jpg", "train/b/y/2.jpg"):
        touch(tmp_path / "photos" / name)
    touch(tmp_path / "photos" / "test/a/3.jpg")
    return tmp_path / "photos"


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    time.sleep(0.02)  # times of folders differ by more than the clock's tick


@pytest.fixture
def walks(monkeypatch):
    walked, entries = [], listing._entries
    monkeypatch.setattr(
        listing, "_entries", lambda *args: (walked.append(str(args[0])), entries(*args))[1]
    )
    return walked


def test_is_that_of_the_folder_and_needs_no_walk(root, walks):
    found = listing.parts(root)
    assert found == listing.contents(root).parts and walks
    walks.clear()
    assert listing.parts(root) == found and not walks


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touch(root / "train/b/y/9.jpg"),
        lambda root: os.remove(root / "train/a/1.jpg"),
        lambda root: touch(root / "train/c/1.jpg"),
        lambda root: os.rename(root / "train/a/1.jpg", root / "train/b/x/5.jpg"),
        lambda root: shutil.rmtree(root / "test"),
        lambda root: os.rename(root / "train/b", root / "train/d"),
    ],
)
def test_a_change_is_seen(change, root):
    before = listing.parts(root)
    change(root)
    after = listing.parts(root)
    assert after == listing.contents(root).parts and after != before


def test_relative_paths_and_remarks(root, monkeypatch, caplog, walks):
    monkeypatch.chdir(root.parent)
    path = type(root)("photos")
    assert listing.parts(path) == listing.parts(path)
    touch(root / "train/a/notes.txt")
    for _ in range(2):  # what is to be said is said at every start
        caplog.clear()
        listing.parts(path)
        assert "notes" not in caplog.text and "1 .txt" in caplog.text
    monkeypatch.setattr(listing, "SETTLED", 60.0)  # a folder that is still being filled
    os.remove(root / "train/a/notes.txt")
    listing.parts(path)
    walks.clear()
    listing.parts(path)
    assert walks
