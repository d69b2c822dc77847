"""The commands that docs/data.md shows work as they are written there."""

import re

import numpy as np
import pytest
import shown
from PIL import Image

from jaxpt import cli

PAGE = shown.ROOT / "docs" / "data.md"
COMMANDS = [
    command.words[1:]
    for command in shown.commands(PAGE.read_text())
    if command.whole and command.words[0] == "jaxpt"
]
# What makes a run short, and what a set of this size allows.
SHORT = {
    "duration": "2 steps",
    "batch_size": 8,
    "memory": 16,
    "look.k": 4,
    "knn_k": 3,
    "devices": 1,
    "model.name": "small_cnn",
    "data.image_size": 16,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The page's two folders of images, and its photo."""
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8))
        for name in f"photos/{('cat', 'dog')[i % 2]}", f"animals/{('pet/cat', 'wild/fox')[i % 2]}":
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            pixels.save(tmp_path / name / f"{i}.png")
    pixels.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_commands():
    assert len(COMMANDS) == 9


@pytest.mark.slow
def test_commands_of_the_page_work_one_after_another(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    short = [f"--config.{name}={value}" for name, value in SHORT.items()]
    for argv in COMMANDS:
        if not re.search("tfds:|glyphs", " ".join(argv)):  # which need files of others
            assert cli.main(argv + (short if argv[0] == "pretrain" else [])) == 0, argv
    assert "photo.jpg" not in (folder / "vectors.html").read_text()  # the last page shows all
    assert (folder / "duplicates.html").exists()
