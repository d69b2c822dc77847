"""The contact sheet and the counts of ``jaxpt data show``."""

import re

import numpy as np
import pytest
from jaxpt.configs.pretrain import digits
from PIL import Image

from jaxpt import cli
from jaxpt.cli import data_show
from jaxpt.data import sources
from jaxpt.errors import InputError


def test_examples_are_of_all_classes_in_turn():
    labels = np.array([2, 2, 0, 2, 1, 0, 2])
    np.testing.assert_array_equal(data_show.of_all_classes(labels, 3), [2, 4, 0])
    np.testing.assert_array_equal(data_show.of_all_classes(labels, 5), [2, 5, 4, 0, 1])
    np.testing.assert_array_equal(np.sort(data_show.of_all_classes(labels, 7)), np.arange(7))


def test_columns_are_what_training_draws():
    config = digits.get_config("look,augment=imagenet")
    config.local_views, config.local_augment.crop_size = 2, 5
    split = sources.load(config.data).trainval.take(np.arange(3))
    columns = data_show.views_of(config, split, np.arange(3), 0, keys=True)
    assert [name for name, _ in columns] == ["original", "view 1", "key view", "crop 1", "crop 2"]
    assert [images.shape for _, images in columns] == [(3, 8, 8, 1)] * 3 + [(3, 5, 5, 1)] * 2
    np.testing.assert_array_equal(columns[0][1], split.images)
    later = data_show.views_of(config, split, np.arange(3), 1, keys=False)
    assert len(later) == 4 and (later[1][1] != columns[1][1]).any()


def test_pixels_are_those_of_the_views():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(data_show.to_pixels(every / np.float32(127.5) - 1), every)
    np.testing.assert_array_equal(data_show.to_pixels(np.array([-3.0, 3.0])), [0, 255])


def test_the_command_writes_the_sheet_and_counts_every_image_once(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert (
        cli.main(
            [
                "data",
                "show",
                "--config=pretrain/digits.py:look",
                f"--out={sheet}",
                "--examples=4",
                "--config.augment.shift=0",
                "--config.data.limit=200",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    totals = re.search(r"10 classes.*2 classes(.*)", out)[1]
    train, validation, test, seen = (int(n) for n in re.findall(r"\d+", totals))
    assert (train + validation, seen, test) == (200, 200, 597)
    picture = np.asarray(Image.open(sheet))
    assert picture.shape[2] == 3 and picture.shape[0] > 4 * data_show.TILE
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 30  # there is something to see


@pytest.mark.parametrize(
    "out, message",
    [
        ("sheet.jpg", "--out must be a file that ends in .png, got 'sheet.jpg'"),
        ("nowhere/sheet.png", "'nowhere/sheet.png' cannot be written .No such file"),
    ],
)
def test_a_picture_that_cannot_be_written(out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        data_show.run(digits.get_config("look"), out, examples=2)
    with pytest.raises(InputError, match="--examples must lie between 1 and 100, got 0"):
        data_show.run(digits.get_config("look"), examples=0)
    assert not list(tmp_path.iterdir())
