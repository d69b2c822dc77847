"""Vectors of pictures, their look-alikes and near-duplicates, and the commands for them."""

import json
import os
import re

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxpt import cli, lookalikes
from jaxpt.configs.transfer import defaults
from jaxpt.data import check
from jaxpt.errors import InputError

pytestmark = pytest.mark.usefixtures("unoptimised")

FLAGS = ["--model=small_cnn", "--norm=batch", "--option=widths=(8,)", "--option=strides=(2,)"]


def picture(seed):
    """A picture with shapes of several sizes, so that it survives scaling and compression."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return coarse.resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two levels of class folders, 24 pictures, and a smaller copy of one in another class."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        file = root / "photos" / ("pet/cat", "pet/dog", "wild/fox")[i % 3] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(file)
    picture(0).resize((60, 50)).save(root / "photos" / "pet" / "dog" / "copy.jpg", quality=70)
    return root


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def embedded(data):
    model = defaults.get_config().model
    model.update(name="small_cnn", norm="batch")
    model.options = ml_collections.ConfigDict({"widths": (8,), "strides": (2,)})
    return lookalikes.embed("scratch:0", data, image_size=16, model=model)


@pytest.fixture(scope="module")
def vectors(folder):
    return embedded(folder / "photos")


def test_every_picture_has_a_row_with_its_path_and_class(vectors, folder):
    files = sorted(map(str, (folder / "photos").rglob("*.*")))
    assert sorted(vectors.path.tolist()) == files
    for path, label in zip(vectors.path.tolist(), vectors.label.tolist()):
        assert os.path.dirname(path) == str(folder / "photos" / label)
    assert vectors.vector.shape == (25, 8) and vectors.vector.dtype == np.float32
    names, counts = np.unique(vectors.split, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist())) == {"train": 19, "validation": 6}


def test_pictures_that_are_no_files_are_named_by_set_part_and_number(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(10, 16, 16, 3), dtype=np.uint8)
    arrays = {"train_images": images, "train_labels": np.arange(10) % 2}
    arrays |= {"test_images": images[3:6], "test_labels": [1, 1, 0], "class_names": ["a", "b"]}
    np.savez(tmp_path / "noise.npz", **arrays)
    found = embedded(tmp_path / "noise.npz")
    names = [f"noise/train/{i}" for i in range(10)] + [f"noise/test/{i}" for i in range(3)]
    assert found.path.tolist() == names
    assert found.label.tolist() == ["a", "b"] * 5 + ["b", "b", "a"]
    assert set(found.split[10:]) == {"test"} and "test" not in found.split[:10]
    np.testing.assert_allclose(found.vector[10:], found.vector[3:6], rtol=1e-5)


@pytest.mark.parametrize("ending", ["npz", pytest.param("parquet", marks=pytest.mark.extras)])
def test_files_hold_what_was_saved(ending, vectors, tmp_path):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    lookalikes.save(vectors, tmp_path / f"v.{ending}")
    again = lookalikes.load(tmp_path / f"v.{ending}")
    for before, after in zip(vectors[:4], again[:4]):
        np.testing.assert_array_equal(before, after)
    assert again.about == json.loads(json.dumps(vectors.about))


def test_a_missing_package_is_one_sentence(vectors, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*pip install 'jaxpt\[parquet\]'"):
        lookalikes.save(vectors, tmp_path / "v.parquet")
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(InputError, match=r"needs faiss.*pip install 'jaxpt\[faiss\]'"):
        lookalikes.write_faiss(vectors, tmp_path / "v.faiss")


@pytest.mark.extras
def test_faiss_finds_the_same(vectors, tmp_path):
    faiss = pytest.importorskip("faiss")
    lookalikes.write_faiss(vectors, tmp_path / "v.faiss")
    unit = vectors.vector / np.linalg.norm(vectors.vector, axis=1, keepdims=True)
    cosines, _ = faiss.read_index(str(tmp_path / "v.faiss")).search(unit, 4)
    mine = lookalikes.search(vectors, vectors.vector, k=4)
    np.testing.assert_allclose(cosines, mine.cosines, atol=1e-5)


def test_search_is_the_largest_cosines_of_the_others(vectors, monkeypatch):
    monkeypatch.setattr(lookalikes, "AT_ONCE", 10)
    unit = vectors.vector / np.linalg.norm(vectors.vector, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    found = lookalikes.search(vectors, k=5)
    np.testing.assert_allclose(found.cosines, -np.sort(-cosines, axis=1)[:, :5], atol=1e-5)
    assert not (found.indices == np.arange(25)[:, None]).any()


def test_a_file_is_looked_up_by_the_network_that_made_the_vectors(vectors, folder):
    files = [str(folder / "photos" / "pet" / "cat" / "00.png")]
    queries = lookalikes.embed_files(files, vectors.about)
    place = vectors.path.tolist().index(files[0])
    np.testing.assert_allclose(queries[0], vectors.vector[place], atol=1e-5)
    found = lookalikes.search_files(vectors, files, queries, k=24)
    assert place not in found.indices and (found.indices >= 0).all()
    with pytest.raises(InputError, match="another network.*embed the pictures again"):
        lookalikes.embed_files(files, vectors.about | {"checkpoint": "0" * 16})
    with pytest.raises(InputError, match="not there any more"):
        lookalikes.embed_files(files, vectors.about | {"source": "/nowhere"})


def test_a_copy_is_found_by_hash_and_nothing_else(folder):
    files = lookalikes.pictures_of(folder / "photos")
    (pair,) = lookalikes.duplicates(files)
    assert {os.path.basename(files[i]) for i in pair[:2]} == {"00.png", "copy.jpg"}
    assert pair.cosine is None and pair.bits <= check.NEAR_BITS


def test_a_hash_is_the_signs_of_the_lowest_frequencies():
    image = picture(1).resize((check.HASH_SIDE, check.HASH_SIDE))
    grey = np.asarray(image.convert("L"), float)
    waves = np.cos(np.pi * np.outer(np.arange(8), np.arange(32) + 0.5) / 32)
    waves *= np.sqrt(np.where(np.arange(8), 2, 1) / 32)[:, None]  # of length 1
    low = [waves[i] @ grey @ waves[j] for i in range(8) for j in range(8)]
    median = sorted(low[1:])[31]  # of all but the mean
    found = check.print_of(image)
    assert f"{found.bits:064b}" == "".join(str(int(x > median)) for x in low)
    assert found.colours.shape == (8, 8, 3) and found.colours.dtype == np.uint8
    assert np.abs(found.colours.mean((0, 1)) - np.asarray(image).mean((0, 1))).max() < 2


def test_small_and_flat_pictures_have_no_hash():
    assert check.print_of(picture(0).resize((16, 200))) is not None
    assert check.print_of(picture(0).resize((15, 200))) is None
    stripes = 100 + np.arange(32, dtype=np.uint8)[:, None] % 2 * np.full(32, 8, np.uint8)
    assert check.print_of(Image.fromarray(stripes)) is not None  # a deviation of 4
    assert check.print_of(Image.fromarray(np.minimum(stripes, 107))) is None


@pytest.mark.parametrize("most", [0, 1, 4])
def test_pairs_by_parts_of_the_hash_are_those_of_all_comparisons(most):
    rng = np.random.default_rng(0)
    hashes = [int(h) for h in rng.integers(0, 2**63, 30)]
    for i in range(30):  # copies with 0 to 6 other bits, far from one another
        flips = np.linspace(i % 9, 63 - i % 5, i % 7).round()
        hashes.append(hashes[i] ^ sum(1 << int(bit) for bit in flips))
    colours = np.zeros((8, 8, 3), np.uint8)
    prints = [check.Print(h, colours) for h in hashes]
    expected = [
        (i, j, (hashes[i] ^ hashes[j]).bit_count())
        for i in range(60)
        for j in range(i)
        if (hashes[i] ^ hashes[j]).bit_count() <= most
    ]
    assert list(check.near_pairs(prints, most)) == expected and len(expected) >= 4 * (most + 1)


def test_pairs_have_similar_colours_and_by_default_four_bits():
    grey = np.full((8, 8, 3), 100, np.uint8)
    shades = [check.Print(7, grey + np.uint8(x)) for x in (0, 50, 10, 61)]
    assert [pair[:2] for pair in check.near_pairs([*shades, None])] == [(2, 0)]
    bits = [check.Print(2**n - 1, grey) for n in (0, 5, 9)]
    assert list(check.near_pairs(bits)) == [(2, 1, 4)]


def test_duplicates_are_those_by_bits_then_those_by_cosine(monkeypatch):
    hashes = {"a": 0, "b": 3, "c": 0, "d": 2**40 - 1}
    colours = np.zeros((8, 8, 3), np.uint8)
    monkeypatch.setattr(lookalikes, "_print_of", lambda f: check.Print(hashes[f], colours))
    rows = np.float32([[3, 0], [0, 2], [4, 0.4], [0.1, 5]])
    vectors = lookalikes.Vectors(*[np.array(list(hashes))] * 3, rows, {})

    def found(given=None, **options):
        pairs = lookalikes.duplicates(list(hashes), given, **options)
        return [("abcd"[p.first] + "abcd"[p.second], p.bits) for p in pairs]

    assert found() == [("ac", 0), ("ab", 2), ("bc", 2)]
    assert found(bits=0) == found(bits=1) == [("ac", 0)]
    assert found(bits=-1) == []
    # Cosines: 0.995 of a and c, 0.0995 of b and c, 0 of a and b, 0.9998 of b and d.
    assert found(vectors) == [("ac", 0), ("bc", 2), ("ab", 2), ("bd", None)]
    assert found(vectors, bits=-1) == [("bd", None), ("ac", None)]
    assert found(vectors, bits=-1, cosine=0.999) == [("bd", None)]
    (pair,) = lookalikes.duplicates(list(hashes), vectors, bits=-1, cosine=0.999)
    assert pair.cosine == pytest.approx(1 / np.sqrt(1 + 0.02**2))


def test_commands_from_a_folder_to_a_page(folder, tmp_path, capsys):
    file, page = tmp_path / "v.npz", tmp_path / "page.html"
    argv = ["embed", "scratch:0", "--data=photos", f"--out={file}", "--image-size=16", *FLAGS]
    assert cli.main(argv) == 0 and "25 pictures, 8 numbers each" in capsys.readouterr().out
    argv = ["search", str(file), "--query=photos/pet/cat/00.png", "--k=3", f"--out={page}"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos/pet/cat/00.png" and lines[-1] == f"page: {page}"
    assert all(re.fullmatch(r" +[01]\.\d{3}  photos/\S+  \(\S+\)", line) for line in lines[1:4])
    assert cli.main(["search", str(file), f"--out={page}"]) == 0
    html = page.read_text()
    assert html.count("url(data:image/") == 25 and "<script" not in html and "://" not in html
    assert html.count('class="alike"') == 25 and 'href="#p' in html
    capsys.readouterr()
    assert cli.main(["duplicates", str(file), "--json", "--cosine=1", f"--out={page}"]) == 0
    pairs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(map(os.path.basename, (p["first"], p["second"]))) for p in pairs] == [
        ["00.png", "copy.jpg"]
    ]
    assert cli.main(["data", "check", "photos", f"--vectors={file}", "--json"]) == 3
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "near" in {f["kind"] for f in found}


def test_pictures_without_classes_can_be_embedded(folder, tmp_path, capsys):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    argv = ["embed", "scratch:0", f"--data={tmp_path}", f"--out={tmp_path}/v.npz", *FLAGS]
    assert cli.main([*argv, "--image-size=16"]) == 0
    found = lookalikes.load(tmp_path / "v.npz")
    assert len(found.path) == 3 and set(found.label) == {""}


@pytest.mark.parametrize(
    "argv, message",
    [
        (["embed", "scratch:0", "--out=v.txt", *FLAGS], "must end in .npz or .parquet"),
        (["embed", "scratch:0", "--out=v.npz", *FLAGS], "no pre-training set"),
        (["embed", "scratch:0", "--data=nowhere", "--out=v.npz", *FLAGS], "data.source must be"),
        (["search", "nowhere.npz"], "there are no vectors 'nowhere.npz'"),
        (["duplicates", "nowhere"], "neither a picture nor a folder"),
        (["duplicates", "photos", "--bits=40"], "bits must lie between"),
    ],
)
def test_bad_input_is_one_sentence(argv, message, folder, capsys):
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not (folder / "v.npz").exists()
