"""The commands of the tutorial on own pictures run in order, on digits in nested folders."""

import json
import pathlib

import pytest
import shown
from PIL import Image
from sklearn.datasets import load_digits

from jaxpt import cli

PAGE = shown.ROOT / "docs" / "own-pictures.md"
# What is added to a command here, so that it takes seconds; nothing of it is changed.
SHORTER = {
    "pretrain": [
        "--config.duration=4 steps",
        "--config.data.image_size=8",
        "--config.model.name=small_cnn",
    ],
    "transfer": ["--config.duration=2 steps", "--config.seeds=(0,)"],
}


def commands():
    found = [c.words for c in shown.commands(PAGE.read_text()) if c.whole]
    return [words[1:] for words in found if words[0] == "jaxpt"]


def write_pictures(folder: pathlib.Path):
    data = load_digits()
    for i in range(200):
        digit = int(data.target[i])
        file = folder / ("small" if digit < 5 else "large") / f"digit_{digit}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i] * 15).astype("uint8")).resize((16, 16)).save(file)


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    ran = []
    for arguments in commands():
        name = arguments[0]
        status = cli.main([*arguments, *SHORTER.get(name, [])])
        assert status in ((0, 3) if name == "data" else (0, None)), arguments
        ran.append(name)
    steps = ["data", "pretrain", "embed", "search", "transfer", "evaluate", "report", "export"]
    assert ran == steps
    report = (tmp_path / "report.html").read_text()
    assert "digit 3" in report and "pictures (5 labels per class)" in report
    assert (tmp_path / "vectors.html").stat().st_size > 1000
    assert any((tmp_path / "exported").glob("*.safetensors"))
    assert any("shots" in json.dumps(json.loads(r)) for r in open(tmp_path / "shots.jsonl"))
