"""``jaxpt data check``: every kind of file that is broken or odd, by name, and on to the next."""

import json
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from small_runs import RUN, config_of

from jaxpt import cli, pretrain
from jaxpt.data import sources

ODD = {"cmyk.jpg", "extension.png"}  # read all the same
BROKEN = {
    "truncated_a.jpg",
    "truncated_b.png",
    "zero_a.jpg",
    "zero_b.png",
    "words.png",
    "deep.png",
    "huge.png",
    "header.png",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 images of digits, JPEG and PNG, and the ten."""
    root = tmp_path_factory.mktemp("check") / "digits"
    digits = sources.load(config_of("look", RUN | {"data.limit": 0}).data).trainval
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
    for i in range(990):
        row, shift = i % 1200, i // 1200
        pixels = np.roll(digits.images[row, ..., 0], shift - 4, 0)
        ending = ("jpg", "png")[i % 2]
        Image.fromarray(pixels).save(root / str(digits.labels[row]) / f"{i:05}.{ending}")
    odd = root / "0"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    picture.convert("CMYK").save(odd / "cmyk.jpg")
    picture.save(odd / "extension.png", "jpeg")
    for name in "truncated_a.jpg", "truncated_b.png", "header.png":
        picture.save(odd / name)
        data = (odd / name).read_bytes()
        (odd / name).write_bytes(data[: 33 if name == "header.png" else -60])
    for name in "zero_a.jpg", "zero_b.png":
        (odd / name).touch()
    (odd / "words.png").write_text("no image")
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(odd / "deep.png")
    Image.new("1", (20_000, 20_000)).save(odd / "huge.png")
    return root


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)


def run_config(folder, **changes):
    return config_of(
        "cross_entropy",
        RUN
        | {
            "data.source": "folder",
            "data.path": str(folder),
            "data.image_size": 8,
            "data.limit": 0,
            "duration": "3 steps",
            "knn_every": "3 steps",
        }
        | changes,
    )


def test_the_ten_are_reported_by_name(folder, capsys):
    assert cli.main(["data", "check", str(folder)]) == 3
    lines = capsys.readouterr().out.splitlines()
    kinds = {line.split(": ")[0] for line in lines[:-1]}
    # The CMYK picture and the one with another ending are of the same pixels.
    assert kinds <= {"unusable", "cmyk", "extension", "duplicate", "conflict", "near"}
    named = {
        kind: {
            line.split()[1].split("/")[-1] for line in lines[:-1] if line.startswith(f"{kind}: ")
        }
        for kind in kinds
    }
    assert named["unusable"] == BROKEN
    assert named["cmyk"] | named["extension"] == ODD
    assert lines[-1].startswith("8 unusable") or "8 unusable" in lines[-1]


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_pretraining_skips_or_stops(resident, folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if resident == "yes":  # a set that is streamed is not decoded before it is needed
        with pytest.raises(sources.InputError, match="8 of 1,000 images cannot be used: "):
            pretrain.run(
                run_config(folder, **{"data.resident": resident}), tmp_path / "run", quiet=True
            )
        assert not (tmp_path / "run").exists()
    config = run_config(folder, **{"data.resident": resident, "data.broken": "skip"})
    with caplog.at_level(logging.WARNING):
        trained = pretrain.run(config, tmp_path / "run", quiet=True)
    assert int(trained.state.step) == 3 and "8 of 1,000" in caplog.text
    listed = (tmp_path / "run" / pretrain.BROKEN).read_text().splitlines()
    assert {line.split()[0].split("/")[-1] for line in listed} == BROKEN


def test_duplicates_across_parts_and_classes(tmp_path, capsys):
    for name, grey in (
        ("train/a/1.png", 1),
        ("train/a/2.png", 2),
        ("test/a/3.png", 1),
        ("train/b/4.png", 2),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(grey)).save(tmp_path / name)
    assert cli.main(["data", "check", str(tmp_path)]) == 3
    conflict, leak, counts = capsys.readouterr().out.splitlines()
    assert conflict.startswith("conflict: ") and "4.png of class b is a duplicate of" in conflict
    assert conflict.endswith("2.png of class a.")
    assert leak.startswith("leak: ") and "3.png of the test part is a duplicate of" in leak
    assert leak.endswith("1.png of the train part.") and counts == "1 conflict; 1 leak"
    assert cli.main(["data", "check", str(tmp_path / "test")]) == 0
    assert capsys.readouterr().out == "nothing was found.\n"


def deep_png(pixels):
    """A PNG of 16 bits a channel, uint16 [height, width, 3], which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_of_colour_are_reported(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, 3))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "deep.png").write_bytes(deep_png(pixels))
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(tmp_path / "a" / "eight.png")
    for name in "deep.png", "eight.png":  # what is lost
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / name)), pixels >> 8)
    assert cli.main(["data", "check", str(tmp_path)]) == 3
    depth, counts = capsys.readouterr().out.splitlines()
    assert depth.startswith("depth: ") and "deep.png has 16 bits per channel" in depth
    assert counts == "1 depth"


def test_a_class_of_test_alone_is_a_finding_and_files_are_looked_at(tmp_path, capsys):
    for name, grey in (("train/a/1.png", 1), ("test/a/2.png", 2), ("test/b/3.png", 3)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(grey)).save(tmp_path / name)
    (tmp_path / "test" / "b" / "4.png").touch()
    assert cli.main(["data", "check", str(tmp_path)]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("class: ")
    assert said[0].endswith(": test has classes that train lacks: ['b'].")
    assert said[1].endswith("4.png is empty.") and said[2:] == ["1 class; 1 unusable"]


def test_links_near_duplicates_and_warnings_are_findings_of_their_own(
    tmp_path, capsys, monkeypatch, recwarn
):
    rng = np.random.default_rng(0)
    for name in "a", "b":
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "test" / "a").mkdir(parents=True)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    first = tmp_path / "train" / "a" / "1.png"
    small.resize((90, 90)).save(first)
    small.resize((70, 70)).save(tmp_path / "train" / "b" / "2.jpg", quality=80)
    (tmp_path / "train" / "a" / "link.png").symlink_to(first)
    (tmp_path / "train" / "b" / "link.png").symlink_to(first)
    (tmp_path / "test" / "a" / "link.png").hardlink_to(first)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80 * 80)  # more is warned of
    assert cli.main(["data", "check", str(tmp_path), "--json"]) == 3
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [finding["kind"] for finding in found] == ["link", "link", "leak", "near", "warning"]
    texts = [finding["text"].replace(f"{tmp_path}/", "") for finding in found]
    same = "is the same file as train/a/1.png, by a link"
    assert texts[0] == f"train/a/link.png {same}."
    assert texts[1] == (
        f"train/b/link.png {same}: it is of class b and of class a, but an image can have only one."
    )
    assert texts[2] == f"test/a/link.png {same}: it is in the test part and in the train part."
    assert texts[3].startswith("train/b/2.jpg (train, b) looks like train/a/1.png (train, a): ")
    assert texts[4].startswith("Pillow warns of 4 files, such as test/a/link.png: Image size (8100")
    assert not [w for w in recwarn if "Image size" in str(w.message)]
