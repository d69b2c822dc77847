"""Folders, lists and arrays as people have them: each is read as its owner means it, or refused.

Every case goes through the command line. The inputs are made here.
"""

import io
import os
import types
import unicodedata
import zipfile

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxpt import cli, pretrain
from jaxpt.data import protocols, sources, tfds
from jaxpt.data.decode import Reading
from jaxpt.errors import InputError

SIDE = 8


def picture(number=0, side=SIDE, channels=3):
    return np.random.default_rng(number).integers(0, 256, (side, side, channels), np.uint8)


def save(path, image=0, **options):
    """Writes an image; a number stands for noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, int):
        image = picture(image)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)


def tree(root, *names):
    """A folder with an image of its own at each name; other files are text."""
    for number, name in enumerate(names):
        path = root / name
        if path.suffix.lower() in (".txt", ".heic", ".db", ".csv"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no image")
        else:
            save(path, number, **({} if path.suffix else {"format": "png"}))
    return root


def load(path, source="folder", **fields):
    config = {"source": source, "path": str(path), "image_size": SIDE, "label_map": "fine"}
    return sources.load(ml_collections.ConfigDict({**config, "limit": 0, **fields}))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, which has no cache of other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys, caplog):
    """Runs ``jaxpt pretrain`` up to the data; gives the exit status, the set and what was said."""
    seen = []

    def stop(config, dataset):
        seen.append(dataset)
        raise InputError("read.")

    monkeypatch.setattr(pretrain, "train_split", stop)

    def run(path, *flags, source="folder"):
        seen.clear()
        caplog.clear()
        status = cli.main(
            [
                "pretrain",
                "--workdir=run",
                "--config=pretrain/digits.py:cross_entropy,smoke",
                f"--config.data.source={source}",
                f"--config.data.path={path}",
                f"--config.data.image_size={SIDE}",
                "--config.data.label_map=fine",
                "--config.data.limit=0",
                *flags,
            ]
        )
        said = capsys.readouterr().err
        assert status == 2 and "Traceback" not in said
        return (seen[0] if seen else None), said + caplog.text

    return run


def check(path, capsys):
    """Status and lines of ``jaxpt data check``."""
    capsys.readouterr()
    status = cli.main(["data", "check", str(path)])
    return status, capsys.readouterr().out.splitlines()


def kinds(lines):
    return sorted(line.split(": ")[0] for line in lines[:-1])


PARTS = {  # folders → images of train, validation and test
    "capitals": (("Train/a", "Train/b", "Test/a"), (2, None, 1)),
    "upper case": (("TRAIN/a", "TRAIN/b", "TESTING/a"), (2, None, 1)),
    "train, val and test": (("train/a", "train/b", "val/a", "test/a", "test/b"), (2, 1, 2)),
    "other names": (("Training/a", "Validation/a", "testing/a"), (1, 1, 1)),
    "valid": (("train/a", "valid/a", "test/a"), (1, 1, 1)),
    "val is the test part of ImageNet": (("train/a", "train/b", "val/a"), (2, None, 1)),
    "a class called train": (("train", "car", "bus"), (3, None, 0)),
    "a level with a class called train": (("vehicle/train", "vehicle/car"), (2, None, 0)),
}


@pytest.mark.parametrize("folders, counts", PARTS.values(), ids=PARTS)
def test_parts(folders, counts, run, here, capsys):
    tree(here / "set", *(f"{folder}/x.png" for folder in folders))
    found, _ = run("set")
    train, validation, test = counts
    assert len(found.trainval.ids) == train + (validation or 0) and len(found.test.ids) == test
    if validation is not None:
        assert len(found.validation.ids) == validation and len(found.train.ids) == train
        np.testing.assert_array_equal(found.validation.images, found.trainval.images[train:])
    assert not any("est" in name.split("/")[0] for name in found.class_names)
    assert check("set", capsys) == (0, ["nothing was found."])


QUESTIONS = {
    "a part beside a class": ("Train/cat", "cats"),
    "a part without train": ("test/cat", "cats"),
    "parts in classes": ("a/train", "a/test", "b/train", "b/test"),
    "one folder too high": ("data/train/cat", "data/test/cat"),
    "one folder too high, train alone": ("data/train/cat",),
    "unpacked twice": ("train/train/cat", "train/train/dog"),
    "names like those of parts": ("training_set/cat", "test_set/cat"),
    "years": ("train2017/cat", "val2017/cat"),
    "a part and a name like one": ("train/cat", "test_images/cat"),
    "words at the end": ("seg_train/seg_train/cat", "seg_test/seg_test/cat"),
    "dev and eval": ("dev/cat", "eval/cat"),
    "held out": ("training_data/cat", "holdout/cat"),
}


@pytest.mark.parametrize("folders", QUESTIONS.values(), ids=QUESTIONS)
def test_what_cannot_be_told_from_classes_is_a_question(folders, run, here, capsys):
    tree(here / "set", *(f"{folder}/x.png" for folder in folders))
    found, said = run("set")
    assert (
        found is None and "which of these are parts of the dataset, and which are classes?" in said
    )
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["layout"]


def test_the_same_part_twice(run, here):
    tree(here / "set", "train/a/x.png", "Training/a/x.png")
    assert "has both Training and train" in run("set")[1]
    tree(here / "other", "train/a/x.png")
    (here / "other" / "train.csv").write_text("train/a/x.png,a\n")
    assert "has both train and train.csv" in run("other")[1]


def test_a_list_beside_the_folder_of_its_images(run, here, capsys):
    tree(here / "set", "images/1.png", "images/2.png", "labels.csv")
    found, said = run("set")
    assert found is None and "'images', and labels.csv: set data.path to the list" in said
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["layout"]
    (here / "set" / "labels.csv").rename(here / "set" / "train.tsv")
    (here / "set" / "train.tsv").write_text("file\tclass\nimages/1.png\ta\nimages/2.png\tb\n")
    assert run("set")[0].class_names == ("a", "b")


def test_a_part_without_class_folders(run, here):
    """As the archive of ImageNet's validation part is."""
    tree(here / "set", "train/a/1.png", "val/1.png", "val/2.png")
    _, said = run("set")
    assert "set/val has no images" in said and "2 images outside class folders" in said
    assert "To go without this part, set data.path to set/train." in said


def test_parts_may_be_links_and_their_files_may_not_lead_out(run, here):
    tree(here / "disk", "train/a/1.png", "train/b/2.png")
    (here / "set").mkdir()
    (here / "set" / "train").symlink_to(here / "disk" / "train")
    assert run("set")[0].class_names == ("a", "b")
    tree(here / "other", "a/1.png")
    (here / "other" / "b").symlink_to(here / "disk" / "train" / "b")
    assert "other/b leads out of" in run("other")[1]


def test_the_validation_part_and_training(run, here):
    tree(here / "set", "train/a/1.png", "train/b/1.png", "val/a/1.png", "test/a/1.png")
    _, said = run("set")
    assert "also uses the 1 validation images" in said
    assert "validation images" not in run("set", "--config.data.train_on=train")[1]
    tree(here / "two", "train/a/1.png", "val/a/1.png")
    assert "no test part: its validation part is used as the test part" in run("two")[1]
    for resident in "yes", "no":
        found = load("set", resident=resident)
        np.testing.assert_array_equal(np.asarray(found.validation.images)[0], picture(2))
    limited = load("set", limit=2)
    assert len(limited.train.ids) + len(limited.validation.ids) == 2


FORMATS = [".tif", ".tiff", ".jfif", ".gif", ".jp2", ".ppm", ".tga", ".webp", ".PNG", ".JPE"]


@pytest.mark.parametrize("ending", FORMATS)
def test_formats(ending, run, here):
    save(here / "set" / "a" / f"x{ending}", picture(1))
    save(here / "set" / "b" / "x.png", picture(2))
    found, _ = run("set")
    assert found.class_names == ("a", "b") and len(found.trainval.ids) == 2
    if ending not in (".jfif", ".gif", ".jp2", ".webp", ".JPE"):  # these lose something
        np.testing.assert_array_equal(found.trainval.images[0], picture(1))


def test_avif(run, here):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    save(here / "set" / "a" / "x.avif", np.full((SIDE, SIDE, 3), 100, np.uint8))
    np.testing.assert_allclose(run("set")[0].trainval.images, 100, atol=3)


def test_what_is_left_out_is_said(run, here, capsys):
    names = [f"{c}/{i}.png" for c in "ab" for i in range(2)]
    tree(here / "set", *names, "a/1.heic", "a/2.heic", "b/notes.txt", "b/plain", "loose.png")
    tree(here / "set", "about.txt")  # beside the classes: none of theirs
    found, said = run("set")
    assert len(found.trainval.ids) == 4
    for text in "2 .heic", "1 .txt", "1 without an ending", "1 images outside class folders":
        assert text in said
    assert "2 .txt" not in said
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["ignored", "ignored"]


def test_a_class_without_images_does_not_vanish(run, here, capsys):
    tree(here / "set", "a/1.png", "b/1.png", "c/1.heic", "c/2.heic")
    found, said = run("set")
    assert found is None and "set/c has no image that can be read" in said and "2 .heic" in said
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["empty", "ignored"]
    (here / "bad" / "a").mkdir(parents=True)
    tree(here / "bad", "b/1.png")
    (here / "bad" / "a" / "1.png").write_text("words")
    found, said = run("bad", "--config.data.broken=skip")
    assert found is None and "no training image of ['a'] can be used" in said


def test_what_systems_leave_behind_is_no_class(run, here, capsys):
    tree(
        here / "set",
        "a/1.png",
        "a/._1.png",
        "a/Thumbs.db",
        "b/1.png",
        "b/@eaDir/1.png",
        "__MACOSX/a/._1.png",
        ".ipynb_checkpoints/1.png",
    )
    found, said = run("set")
    assert (
        found.class_names == ("a", "b") and len(found.trainval.ids) == 2 and "ignored" not in said
    )
    assert check("set", capsys)[0] == 0


def transparent():
    """Black icons on transparent black ground, by mode: the square in the middle is opaque."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[2:6, 2:6] = 255
    black = np.zeros_like(alpha)
    palette = Image.fromarray(alpha // 255, "P")
    palette.putpalette([0, 0, 0] * 256)
    grey = np.where(alpha, 0, 7).astype(np.uint8)
    return {
        "RGBA": (Image.fromarray(np.dstack([black] * 3 + [alpha])), {}),
        "LA": (Image.fromarray(np.dstack([black, alpha])), {}),
        "P": (palette, {"transparency": 0}),
        "L": (Image.fromarray(grey), {"transparency": 7}),
        "RGB": (Image.fromarray(np.dstack([grey] * 3)), {"transparency": (7, 7, 7)}),
    }


@pytest.mark.parametrize("resident", ["yes", "no"])
@pytest.mark.parametrize("mode", transparent())
def test_transparent_images_stand_on_the_background(mode, resident, run, here):
    image, options = transparent()[mode]
    assert image.mode == mode
    save(here / "set" / "a" / "x.png", image, **options)
    expected = np.full((SIDE, SIDE, 3), 255)
    expected[2:6, 2:6] = 0
    for flags, ground in (
        ([], (255, 255, 255)),
        (["--config.data.background=black"], (0, 0, 0)),
        (["--config.data.background=#ff8000"], (255, 128, 0)),
    ):
        found, _ = run("set", f"--config.data.resident={resident}", *flags)
        images = np.asarray(found.trainval.images)
        np.testing.assert_array_equal(images[0, 0, 0], ground)
        np.testing.assert_array_equal(images[0, 4, 4], (0, 0, 0))
    _, said = run("set", "--config.data.background=plaid")
    assert "data.background must be white, black or #rrggbb, got 'plaid'" in said


def test_images_of_one_colour_are_a_finding(run, here, capsys):
    tree(here / "set", "a/1.png", "a/2.png", "b/1.png")
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    for name in "1.png", "2.png":
        save(here / "set" / "c" / name, black + int(name[0]))
    found, said = run("set")
    assert "2 of 5 train images have a single color, including all images of ['c']" in said
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["constant"] * 2


@pytest.mark.parametrize("resident", ["yes", "no"])
@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_applied(form, resident, run, here):
    bright = np.full((SIDE, SIDE, 3), 20, np.uint8)
    bright[: SIDE // 2] = 220  # stored with its top bright; orientation 6: the top is on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    save(here / "set" / "a" / f"x.{form}", bright, exif=exif)
    image = np.asarray(run("set", f"--config.data.resident={resident}")[0].trainval.images)[0]
    assert (image[:, 5:] > 180).all() and (image[:, :3] < 60).all()
    if form != "tif":  # Pillow turns these by itself
        flag = "--config.data.exif_orientation=False"
        image = np.asarray(run("set", flag)[0].trainval.images)[0]
        assert (image[:3] > 180).all() and (image[5:] < 60).all()


def test_background_and_orientation_reach_protocols_and_tfds(monkeypatch):
    options = {"background": "#102030", "exif_orientation": False}
    reading = Reading((16, 32, 48), False)
    assert protocols._framing(protocols.PROTOCOLS["aircraft"], SIDE, options).reading == reading
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    image[: SIDE // 2, :, 3] = 255
    Image.fromarray(image).save(file, "png", exif=exif)
    features = {
        "image": types.SimpleNamespace(shape=(None, None, 3)),
        "label": types.SimpleNamespace(num_classes=1, names=["a"]),
    }
    info = types.SimpleNamespace(features=features, supervised_keys=None)
    builder = types.SimpleNamespace(name="fake", info=info)
    monkeypatch.setattr(tfds, "open_builder", lambda *args, **options: builder)
    monkeypatch.setattr(tfds, "count", lambda *args: 1)
    monkeypatch.setattr(
        tfds, "examples", lambda *args: iter([{"image": file.getvalue(), "label": 0}])
    )
    found = load("", "tfds:fake", **options).trainval.images[0]
    assert (found[:4] == 0).all() and (found[4:] == (16, 32, 48)).all()
    turned = load("", "tfds:fake").trainval.images[0]
    assert (turned[:, 4:] == 0).all() and (turned[:, :4] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 10))
def test_every_orientation_is_as_pillow_has_it(orientation, here):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    save(here / "set" / "a" / "x.png", picture(), exif=exif)
    with Image.open(here / "set" / "a" / "x.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(load("set").trainval.images[0], expected)


def test_damaged_exif_does_not_cost_the_image(here):
    for data in b"rubbish of no length", b"MM\0*\0\0", b"":
        save(here / "set" / "a" / "x.png", picture(), exif=b"Exif\0\0" + data)
        load("set")
    np.testing.assert_array_equal(load("set").trainval.images[0], picture())


# Lists. The images 1.png to 6.png lie beside each.
LISTS = {  # text → classes of the images in order, and images of train, validation and test
    "no header": ("1.png,cat\n2.png,dog\n", ("cat", "dog"), (2, 0, 0)),
    "path": ("path,label\n1.png,cat\n2.png,dog\n", ("cat", "dog"), (2, 0, 0)),
    "image": ("Image,Label\n1.png,cat\n2.png,dog\n", ("cat", "dog"), (2, 0, 0)),
    "file and class": ("file,class\n1.png,cat\n2.png,dog\n", ("cat", "dog"), (2, 0, 0)),
    "label first": ("label,filename\ncat,1.png\ndog,2.png\n", ("cat", "dog"), (2, 0, 0)),
    "levels by name": (
        "path,coarse,fine\n1.png,pet,cat\n2.png,pet,dog\n3.png,wild,fox\n",
        ("pet/cat", "pet/dog", "wild/fox"),
        (3, 0, 0),
    ),
    "levels of other names": (
        "path,family,species\n1.png,pet,cat\n2.png,pet,dog\n3.png,wild,fox\n",
        ("pet/cat", "pet/dog", "wild/fox"),
        (3, 0, 0),
    ),
    "split": (
        "path,label,split\n1.png,cat,Train\n2.png,dog,train\n3.png,cat,VAL\n4.png,dog,test\n",
        ("cat", "dog", "cat"),
        (2, 1, 1),
    ),
    "split in front": ("subset,path,label\ntrain,1.png,a\nTesting,2.png,a\n", ("a",), (1, 0, 1)),
    "pandas with its index": (",path,label\n0,1.png,cat\n1,2.png,dog\n", ("cat", "dog"), (2, 0, 0)),
    "pandas with an index read back": (
        "Unnamed: 0,path,label\n0,1.png,cat\n1,2.png,dog\n",
        ("cat", "dog"),
        (2, 0, 0),
    ),
    "semicolons": ("path;label\n1.png;cat\n2.png;dog\n", ("cat", "dog"), (2, 0, 0)),
    "tabs": ("path\tlabel\n1.png\tcat\n2.png\tdog\n", ("cat", "dog"), (2, 0, 0)),
    "quoted commas": ('path,label\n1.png,"cat, grey"\n', ("cat, grey",), (1, 0, 0)),
    "empty lines": ("path,label\n\n1.png,cat\n,\n", ("cat",), (1, 0, 0)),
    "binary labels": ("path,label\n1.png,0\n2.png,1\n", ("0", "1"), (2, 0, 0)),
    "levels of numbers": ("1.png,0,3\n2.png,1,4\n", ("0/3", "1/4"), (2, 0, 0)),
    "Windows paths": ("path,label\nsub\\6.png,cat\n", ("cat",), (1, 0, 0)),
    "Windows line ends": ("path,label\r\n1.png,cat\r\n", ("cat",), (1, 0, 0)),
}


@pytest.fixture
def listed(here):
    def listed(text, encoding="utf-8"):
        tree(here / "set", *(f"{i}.png" for i in range(1, 6)), "sub/6.png")
        (here / "set" / "list.csv").write_bytes(text.encode(encoding))
        return "set/list.csv"

    return listed


@pytest.mark.parametrize("text, classes, counts", LISTS.values(), ids=LISTS)
def test_lists(text, classes, counts, listed, run):
    found, said = run(listed(text))
    assert found is not None, said
    names = tuple(found.class_names[label] for label in found.trainval.labels)
    assert names == classes
    train, validation, test = counts
    assert len(found.test.ids) == test and len(found.trainval.ids) == train + validation
    if validation:
        assert len(found.validation.ids) == validation


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_in_the_encodings_of_excel(encoding, listed, run):
    found, _ = run(listed("path;label\n1.png;Käse\n", encoding))
    assert found.class_names == ("Käse",)


BAD_LISTS = {
    "indicators": ("path,cat,dog\n1.png,1,0\n2.png,0,1\n", "columns cat, dog cannot be labels"),
    "indicators named as labels": (
        "path,label_cat,label_dog\n1.png,1,0\n2.png,0,1\n",
        "columns label_cat, label_dog cannot be labels",
    ),
    "fine before coarse": (
        "path,label,superclass\n1.png,cat,pet\n2.png,dog,pet\n3.png,fox,wild\n",
        "the column label is finer than superclass",
    ),
    "fine before coarse, without names": (
        "1.png,cat,pet\n2.png,dog,pet\n3.png,fox,wild\n",
        "the column 2 is finer than 3",
    ),
    "indicators without names": ("1.png,1,0\n2.png,0,1\n", "columns 2, 3 cannot be labels"),
    "an indicator beside a label": (
        "path,family,is_red\n1.png,cat,0\n2.png,dog,1\n",
        "columns is_red cannot be labels, as they hold only 0 and 1",
    ),
    "a float": (
        "path,label\n1.png,0.5\n2.png,1.5\n",
        "column label cannot be a label, as it holds",
    ),
    "a float without a name": ("1.png,0.5\n2.png,1.5\n", "column 2 cannot be a label"),
    "a constant": (
        "path,family,source\n1.png,cat,web\n2.png,dog,web\n",
        "columns source cannot be labels, as they hold only one value",
    ),
    "other columns": (
        "path,label,width\n1.png,cat,8\n2.png,dog,9\n",
        "columns ['width'] are neither path, label nor split",
    ),
    "two paths": ("image_id,file_name,label\n1,1.png,cat\n", "is the path, and which is the split"),
    "no labels": ("path,split\n1.png,train\n", "has no label column, only path, split"),
    "a header of no known names": (
        "what,is it\n1.png,cat\n",
        "line 1: 'what,is it' does not begin with the path of an image",
    ),
    "label before path": ("cat,1.png\ndog,2.png\n", "does not begin with the path of an image"),
    "commas without quotes": ("1.png,cat\n2.png,dog, brown\n", "line 2: expected path,label"),
    "no label": ("path,label\n1.png,\n", "line 2: expected path,label"),
    "a part of another name": (
        "path,label,fold\n1.png,cat,0\n2.png,cat,1\n",
        "line 2: the part must be train, validation or test, got '0'",
    ),
    "no train": ("path,label,split\n1.png,cat,test\n", "has a test part but no train part"),
    "two classes": ("1.png,cat\n2.png,dog\n1.png,dog\n", "1.png has two classes, 'cat' and 'dog'"),
    "two classes by another way": ("1.png,cat\nsub/../1.png,dog\n", "has two classes"),
    "a drive": (
        "path,label\nC:\\\\images\\\\1.png,cat\n",
        "is not relative to the folder of the list",
    ),
    "a missing file": ("path,label\n9.png,cat\n", "9.png cannot be read as an image"),
}


@pytest.mark.parametrize("text, message", BAD_LISTS.values(), ids=BAD_LISTS)
def test_lists_that_are_refused(text, message, listed, run):
    found, said = run(listed(text))
    assert found is None and message in said and said.count("\n") == 1


def test_leaks_and_conflicts_are_found(listed, run, here, capsys):
    both = listed("path,label,split\n1.png,a,train\n2.png,b,train\n1.png,a,test\n")
    assert "1 images are in more than one part, such as set/1.png" in run(both)[1]
    status, lines = check(both, capsys)
    assert status == 3 and kinds(lines) == ["leak"]
    assert "1.png of the test part is listed again of the train part." in lines[0]
    twice = listed("1.png,a\n2.png,b\n1.png,b\n")
    status, lines = check(twice, capsys)
    assert status == 3 and kinds(lines) == ["conflict"]
    (here / "set" / "3.png").write_bytes((here / "set" / "1.png").read_bytes())
    by_content = listed("path,label,split\n1.png,a,train\n2.png,b,train\n3.png,b,test\n")
    (here / "set" / "3.png").write_bytes((here / "set" / "1.png").read_bytes())
    status, lines = check(by_content, capsys)
    assert status == 3 and kinds(lines) == ["conflict", "leak"]
    again = listed("1.png,a\n2.png,b\n1.png,a\n")
    status, lines = check(again, capsys)
    assert status == 3 and kinds(lines) == ["duplicate"]


def test_one_file_in_two_class_folders(run, here, capsys):
    tree(here / "set", "a/1.png", "b/2.png")
    (here / "set" / "b" / "3.png").symlink_to("../a/1.png")
    assert "has two classes, 'a' and 'b'" in run("set")[1]
    assert kinds(check("set", capsys)[1]) == ["link"]  # it is no duplicate of another class


def arrays(**changes):
    labels = np.arange(6) % 3
    found = {
        "train_images": np.stack([picture(i) for i in range(6)]),
        "train_labels": labels,
        "test_images": np.stack([picture(i) for i in range(6, 9)]),
        "test_labels": np.arange(3),
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


GREY = {part: np.zeros((n, SIDE, SIDE), np.uint8) for part, n in (("train", 6), ("test", 3))}
KERAS = {old: None for old in ("train_images", "train_labels", "test_images", "test_labels")} | {
    "x_train": arrays()["train_images"],
    "y_train": arrays()["train_labels"][:, None],
    "x_test": arrays()["test_images"],
    "y_test": arrays()["test_labels"][:, None],
}
ARRAYS = {  # changes → images of train, validation (None: drawn from train) and test, channels
    "labels with an axis more": (
        {"train_labels": arrays()["train_labels"][:, None]},
        (6, None, 3, 3),
    ),
    "grey": ({f"{part}_images": images for part, images in GREY.items()}, (6, None, 3, 1)),
    "Keras": (KERAS, (6, None, 3, 3)),
    **{
        f"{name}_*": (
            {f"{name}_images": picture()[None], f"{name}_labels": np.array([1])},
            (6, 1, 3, 3),
        )
        for name in ("val", "valid", "validation")
    },
    "x_val": ({"x_val": picture()[None], "y_val": np.array([1])}, (6, 1, 3, 3)),
    "validation in place of test": (
        {
            "val_images": picture()[None],
            "val_labels": np.array([1]),
            "test_images": None,
            "test_labels": None,
        },
        (6, None, 1, 3),
    ),
}


@pytest.mark.parametrize("changes, expected", ARRAYS.values(), ids=ARRAYS)
def test_npz(changes, expected, run, here):
    np.savez(here / "set.npz", **arrays(**changes))
    found, said = run("set.npz", source="npz")
    train, validation, test, channels = expected
    assert found is not None, said
    assert found.trainval.images.shape[1:] == (SIDE, SIDE, channels)
    np.testing.assert_array_equal(found.trainval.labels[:6], np.arange(6) % 3)
    assert len(found.trainval.ids) == train + (validation or 0) and len(found.test.ids) == test
    if validation:
        assert len(found.train.ids) == train
        np.testing.assert_array_equal(found.validation.images[0], picture())
        assert found.validation.labels.tolist() == [1]


@pytest.mark.parametrize(
    "names",
    [np.array(["a", "b", "c"]), np.array([b"a", b"b", b"c"]), np.array(["a", "b", "c"], "S")],
)
def test_npz_class_names(names, run, here):
    np.savez(here / "set.npz", **arrays(class_names=names))
    assert run("set.npz", source="npz")[0].class_names == ("a", "b", "c")


def test_npz_is_checked(here, capsys):
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    images[3], images[4], images[5] = images[0], 7, np.maximum(images[1], 1)
    np.savez(
        here / "set.npz",
        class_names=np.array(["cat", "dog", "eel"]),
        **{"train_images": images[:6], "train_labels": np.array([0, 1, 2, 1, 1, 1])},
        **{"test_images": images[[2, 6]], "test_labels": np.array([2, 0])},
    )
    status, lines = check("set.npz", capsys)
    assert status == 3 and lines == [
        "conflict: train image 3 of class dog is a duplicate of train image 0 of class cat.",
        "constant: train image 4 has a single color.",
        "leak: test image 0 of the test part is a duplicate of train image 2 of the train part.",
        "near: train image 5 (train, dog) looks like train image 1 (train, dog): 0 of 64 bits of "
        "their perceptual hashes differ.",
        "1 conflict; 1 constant; 1 leak; 1 near",
    ]
    grey = {f"{part}_images": images for part, images in GREY.items()}  # all black
    np.savez(here / "grey.npz", **arrays(**grey))
    assert set(kinds(check("grey.npz", capsys)[1])) == {"conflict", "constant", "duplicate", "leak"}
    (here / "other.npz").write_bytes(b"no archive")
    assert cli.main(["data", "check", "other.npz"]) == 2
    assert "other.npz is not a whole .npz file" in capsys.readouterr().err


FLOATS = arrays()["train_images"].astype(np.float32)
BAD_ARRAYS = {
    "channels first": (
        {"train_images": arrays()["train_images"].transpose(0, 3, 1, 2)},
        "train_images must be [n, height, width, channels], got [6, 3, 8, 8]: save x.transpose",
    ),
    "floats to 1": ({"train_images": FLOATS / 255}, "to 1: save np.clip(np.round(x * 255)"),
    "floats from -1": ({"train_images": FLOATS / 127.5 - 1}, "np.round((x + 1) * 127.5)"),
    "floats to 255": ({"train_images": FLOATS}, "from 0 to 255: save np.clip(np.round(x), 0, 255)"),
    "one-hot labels": (
        {"train_labels": np.eye(3, dtype=int)[np.arange(6) % 3]},
        "must be of shape [n] or [n, 1], got [6, 3]: save x.argmax(1)",
    ),
    "two names for one": ({"x_train": picture()[None]}, "several arrays for the same part"),
    "half of a part": ({"val_images": picture()[None]}, "lacks the arrays ['validation_labels']"),
    "the same class twice": ({"class_names": np.array(["a", "b", "a"])}, "contains 'a' twice"),
    "the same class in two Unicode forms": (
        {"class_names": np.array(["e\u0301", "\u00e9", "c"])},
        "contains '\u00e9' twice",
    ),
    "labels that are no classes": (
        {"train_labels": np.array([0, 1, 2, 0, 1, 2**40])},
        "labels go up to 1,099,511,627,776, far more than there are images",
    ),
    "names that are no UTF-8": ({"class_names": np.array([b"\xff", b"b", b"c"])}, "must be UTF-8"),
}


@pytest.mark.parametrize("changes, message", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_npz_that_is_refused(changes, message, run, here):
    np.savez(here / "set.npz", **arrays(**changes))
    found, said = run("set.npz", source="npz")
    assert found is None and message in said


def test_classes_without_images_and_a_single_class_are_named(run, here):
    np.savez(here / "set.npz", **arrays(train_labels=np.array([0, 2] * 3)))
    assert "no training image of 1 classes, such as '1'" in run("set.npz", source="npz")[1]
    names = [f"{c}/{i}.png" for c in "ab" for i in range(3)]
    tree(here / "set", *names)
    (here / "map.csv").write_text("fine,coarse\na,x\nb,x\n")
    assert "all images are of one class, 'x'" in run("set", "--config.data.label_map=map.csv")[1]


def test_no_path_is_not_this_folder(run, here, capsys):
    tree(here, "a/1.png", "b/1.png")
    assert "data.path is empty" in run("")[1]
    assert cli.main(["data", "check", ""]) == 2 and "name a folder" in capsys.readouterr().err


def test_arrays_that_are_not_used_are_named(run, here):
    np.savez(here / "set.npz", **arrays(extra_images=picture()))
    assert "the arrays ['extra_images'] are not used" in run("set.npz", source="npz")[1]


@pytest.mark.parametrize(
    "names, label_map, message",
    [
        (range(11), "parity", "named 0 to 10 in this order, but class 2 is '10'"),
        (list("abcdefghij"), "halves", "named 0 to 9 in this order, but class 0 is 'a'"),
        (list("abcdefghij"), "fashion5", "but class 0 is 'a'"),
        (range(1, 11), "parity", "but class 0 is '1'"),
        (range(10), "parity", None),
        (range(10), "halves", None),
    ],
)
def test_label_maps_by_number_want_numbers_in_order(names, label_map, message, run, here):
    tree(here / "set", *(f"{name}/x.png" for name in names))
    found, said = run("set", f"--config.data.label_map={label_map}")
    assert (message in said) if message else found is not None


def test_class_names_that_look_the_same_are_the_same(run, here):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(here / "set", f"train/{composed}/1.png", f"train/{decomposed}/2.png")
    tree(here / "set", f"test/{decomposed}/3.png", "train/bar/1.png")
    found, _ = run("set")
    assert found.class_names == ("bar", composed)
    assert found.trainval.labels.tolist() == [0, 1, 1] and found.test.labels.tolist() == [1]
    (here / "set" / "map.csv").write_text(f"bar,x\n{decomposed},y\n", encoding="utf-8")
    found, _ = run("set", "--config.data.label_map=set/map.csv")
    assert found.coarse.names == ("x", "y")


def test_class_names_that_are_nearly_the_same_are_said(run, here, capsys):
    tree(here / "set", "Cat/1.png", "cat/2.png", "01/3.png", "1/4.png", "dog/5.png")
    assert "['01', '1']" in run("set")[1]
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["alike", "alike"] and "['Cat', 'cat']" in lines[1]


@pytest.mark.parametrize("name", ["a/loop.png", "loop"])
def test_links_that_lead_to_themselves(name, run, here, capsys):
    tree(here / "set", "a/1.png")
    (here / "set" / name).symlink_to(here / "set" / name)
    assert "is a symbolic link that leads back to itself: remove it." in run("set")[1]
    assert cli.main(["data", "check", "set"]) == 2
    said = capsys.readouterr().err
    assert "leads back to itself" in said and said.count("\n") == 1
    (here / "round").symlink_to("round")
    assert "is neither a folder nor a list file" in run("round")[1]


@pytest.fixture
def home(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    return tree(here / "home" / "set", "a/1.png", "b/2.png").parent


def test_home_in_fields_of_a_config(home, run):
    (home / "map.csv").write_text("a,x\nb,x\n")
    assert run("~/set", "--config.data.label_map=~/map.csv")[0].coarse.names == ("x",)


def test_home_in_every_path(home, here, capsys):
    assert check("~/set", capsys)[0] == 0
    (home / "mine.py").write_text(
        "from jaxpt.configs.pretrain import defaults\n"
        "def get_config(variant=''):\n"
        "    c = defaults.get_config()\n"
        "    c.data.update(source='folder', path='~/set', image_size=8, limit=0)\n"
        "    return c\n"
    )
    argv = ["data", "show", "--config=~/mine.py", "--out=~/sheet.png", "--examples=2"]
    assert cli.main(argv) == 0 and (home / "sheet.png").is_file()
    for words, named in (
        (["transfer", "one=~/no", "--out=~/x"], "home/no"),
        (["export", "~/no.pth", "--out=~/x"], "home/no.pth"),
        (["report", "~/no.jsonl", "--out=~/x"], "home/no.jsonl"),
        (["replay", "~/no"], "home/no"),
        (["evaluate", "~/no", "--out=~/x.jsonl", "--cache=~/cache"], "home/no"),
    ):
        assert cli.main(words) == 2
        assert f"{here}/{named}" in capsys.readouterr().err
    assert not (here / "~").exists()


def test_names_that_no_terminal_shows(run, here, capsys):
    tree(here / "set", "a/1.png", "b/2.png")
    for name in b"line\nend.png", b"\xff.png":
        (here / "set" / "a" / os.fsdecode(name)).write_text("words")
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["unusable"] * 2 and len(lines) == 3
    assert any("line\\nend.png" in line for line in lines)
    assert any("\\xff.png" in line for line in lines)
    found, _ = run("set", "--config.data.broken=skip")
    assert "\n".join(found.broken).encode() and len(found.trainval.ids) == 2


def test_only_the_first_frame_and_no_foreign_program(run, here, capsys):
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    for ending in "gif", "webp", "tif", "png":
        path = here / "set" / "a" / f"x.{ending}"
        save(path, frames[0], save_all=True, append_images=frames[1:])
    status, lines = check("set", capsys)
    assert status == 3 and kinds(lines) == ["frames"] * 4
    # PostScript in a file that says it is a PNG would be handed to Ghostscript.
    file = io.BytesIO()
    frames[0].save(file, "eps")
    (here / "set" / "a" / "y.png").write_bytes(file.getvalue())
    assert "y.png cannot be read as an image (it has no known format" in run("set")[1]


def test_cmyk_and_depth(run, here, capsys):
    save(here / "set" / "a" / "x.jpg", Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)))
    image = run("set")[0].trainval.images[0]
    assert image[4, 4, 0] > 200 and image[4, 4, 1:].max() < 60  # red
    assert kinds(check("set", capsys)[1]) == ["cmyk", "constant"]


def test_classes_of_numbers_are_ordered_as_text(run, here):
    """As torchvision's ImageFolder has them."""
    tree(here / "set", *(f"{i}/x.png" for i in range(11)))
    assert run("set")[0].class_names[:3] == ("0", "1", "10")


def test_a_zip_is_no_list(run, here):
    with zipfile.ZipFile(here / "set.zip", "w") as archive:
        archive.writestr("a/1.png", picture().tobytes())
    assert "cannot be read as a list" in run("set.zip")[1]
