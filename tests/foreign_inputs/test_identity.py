"""Runs and records know which data they are of, through the command line."""

import json
import os
import pathlib
import shutil

import fake_records
import numpy as np
import pytest
from PIL import Image

from jaxpt import cli, pretrain, records
from jaxpt.cli import config_files
from jaxpt.data import pictures, sources
from jaxpt.errors import InputError
from jaxpt.studies import study

pytestmark = pytest.mark.usefixtures("unoptimised")

COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 30, 20)}
CONFIG = (
    "--config=pretrain/digits.py:look",
    "--config.data.source=folder",
    "--config.data.image_size=8",
    "--config.data.label_map=fine",
    "--config.batch_size=4",
    "--config.memory=8",
    "--config.look.k=2",
    "--config.duration=1 steps",
    "--config.knn_every=0 steps",
    "--config.model.options.widths=(8,)",
    "--config.model.options.strides=(2,)",
    "--config.model.projector.hidden=()",
    "--config.devices=1",
)


def image(colour, number, size=8):
    rng = np.random.default_rng(number)
    noise = rng.integers(-20, 20, (size, size, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def make(folder, classes=tuple(COLOURS), n=5, first=0):
    """Class folders with images in the colour of the class; BMP files, all of one size."""
    for c, colour in enumerate(classes):
        for part, count in ("train", n), ("test", 3):
            (folder / part / colour).mkdir(parents=True)
            for i in range(count):
                number = first + 1000 * c + 100 * (part == "test") + i
                image(COLOURS[colour], number).save(folder / part / colour / f"{i}.bmp")


def write_map(name, **coarse):
    lines = [f"{fine},{coarse_}\n" for fine, coarse_ in coarse.items()]
    pathlib.Path(name).write_text("fine,coarse\n" + "".join(lines))


def everything_in(folder):
    return {p: p.read_bytes() for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The current folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Images, in photos, a run on them, and one on coarse classes; all to be copied."""
    folder = tmp_path_factory.mktemp("begun")
    make(folder / "photos")
    before = pathlib.Path.cwd()
    try:
        os.chdir(folder)
        write_map("map.csv", blue="cold", green="cold", red="warm")
        assert pretrained() == pretrained(MAPPED, workdir="mapped") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(begun, here):
    """The current folder with a copy of the runs and their images."""
    for name in "photos", "run", "mapped":
        shutil.copytree(begun / name, here / name)
    shutil.copy(begun / "map.csv", here)
    return here


def pretrained(*options, path="photos", workdir="run"):
    return cli.main(
        ["pretrain", f"--workdir={workdir}", *CONFIG, f"--config.data.path={path}", *options]
    )


MAPPED = "--config.data.label_map=map.csv"
TRAIN = pathlib.Path("photos/train")


def rename_a_class():
    for part in "train", "test":
        pathlib.Path("photos", part, "blue").rename(f"photos/{part}/zblue")


def add_an_image():
    image(COLOURS["red"], 77).save(TRAIN / "red" / "7.bmp")


def add_a_class():
    shutil.copytree(TRAIN / "red", TRAIN / "yellow")


def swap(a, b):
    a, b = TRAIN / a, TRAIN / b
    a.rename("kept"), b.rename(a), pathlib.Path("kept").rename(b)


def replace_keeping_size_and_time():
    assert pretrained() == 0  # so that the cache knows the file that was there
    file = TRAIN / "green" / "2.bmp"
    before = file.stat()
    image(COLOURS["green"], 99).save("new.bmp")
    pathlib.Path("new.bmp").replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


REFUSED = {
    "a renamed class": (rename_a_class, "classes differ: 'blue' is gone, 'zblue' is new"),
    "a new class": (add_a_class, "classes differ: 'yellow' is new"),
    "a class removed": (
        lambda: [shutil.rmtree(f"photos/{part}/red") for part in ("train", "test")],
        "classes differ: 'red' is gone",
    ),
    "an image added": (add_an_image, "training has 6 images of 'red' (before: 5)"),
    "images removed": (
        lambda: [(TRAIN / c / "4.bmp").unlink() for c in ("red", "blue")],
        "training has 4 images of 'blue' (before: 5), 4 images of 'red' (before: 5)",
    ),
    "an image moved to another class": (
        lambda: (TRAIN / "red/0.bmp").rename(TRAIN / "blue/9.bmp"),
        "the same images have other labels in training: of 'blue', 'red'",
    ),
    "images of two classes swapped": (
        lambda: swap("red/0.bmp", "blue/0.bmp"),
        "the same images have other labels in training: of 'blue', 'red'",
    ),
    "two images of a class swapped": (
        lambda: swap("red/0.bmp", "red/4.bmp"),
        "the images of training are in another order, or other images are held out",
    ),
    "a file replaced, size and time the same": (
        replace_keeping_size_and_time,
        "the bytes of images of 'green' in training differ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_does_not_go_on_with_other_data(name, run, capsys):
    change, sentence = REFUSED[name]
    change()
    before = everything_in("run")
    capsys.readouterr()
    assert pretrained() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"jaxpt pretrain: 'run' holds a run on other data: {sentence}. Use")
    assert len(said.splitlines()) == 1 and everything_in("run") == before


def test_a_label_map_counts_by_its_content(run, capsys):
    lines = pathlib.Path("map.csv").read_text().splitlines()
    pathlib.Path("map.csv").unlink()
    pathlib.Path("other.csv").write_text("\n".join([lines[0], *lines[:0:-1]]))
    moved = "--config.data.label_map=other.csv"
    assert pretrained(moved, workdir="mapped") == 0
    said = capsys.readouterr().err
    assert (
        "jaxpt: data.label_map (map.csv there, other.csv here). Recorded in config_changes.jsonl"
        in said
    )
    write_map("other.csv", blue="cold", green="warm", red="warm")
    assert pretrained(moved, workdir="mapped") == 2
    said = capsys.readouterr().err
    assert "the label map differs: 'green' belongs to 'cold' there and to 'warm' here. Use" in said


def move():
    pathlib.Path("disk").mkdir()
    shutil.move("photos", "disk/pictures")


ACCEPTED = {
    "nothing": (lambda: None, "photos", ""),
    "times alone": (lambda: [os.utime(f) for f in TRAIN.rglob("*.bmp")], "photos", ""),
    "names of files": (lambda: (TRAIN / "red/4.bmp").rename(TRAIN / "red/5.bmp"), "photos", ""),
    "another path": (move, "disk/pictures", "data.path (photos there, disk/pictures here)"),
    "a link to it": (
        lambda: os.symlink("photos", "linked"),
        "linked",
        "data.path (photos there, linked here)",
    ),
    "the test part alone": (
        lambda: pathlib.Path("photos/test/red/0.bmp").unlink(),
        "photos",
        "test has 2 images of 'red' (before: 3)",
    ),
    "a test part that is gone": (
        lambda: shutil.rmtree("photos/test"),
        "photos",
        "there is no test part",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_run_goes_on_with_the_same_data(name, run, capsys):
    change, path, sentence = ACCEPTED[name]
    change()
    for expected in sentence, "":  # it is recorded, so that it is said once
        capsys.readouterr()
        assert pretrained(path=path) == 0
        said = capsys.readouterr().err.splitlines()
        kept = [line for line in said if line.endswith(". Recorded in config_changes.jsonl.")]
        assert [expected in line for line in kept] == [True] * bool(expected)
    assert ("config_changes.jsonl" in os.listdir("run")) == bool(sentence)


def test_a_changed_limit_is_another_run(run, capsys):
    assert pretrained("--config.data.limit=9") == 2
    assert "different in data.limit (0 there, 9 here)" in capsys.readouterr().err


def test_a_run_of_an_older_version_goes_on_and_is_known_from_then_on(run, capsys):
    pathlib.Path("run/data.json").unlink()
    said = []
    for _ in range(2):
        capsys.readouterr()
        assert pretrained() == 0
        said.append("without storing the identity of its data" in capsys.readouterr().err)
    assert said == [True, False]
    rename_a_class()
    assert pretrained() == 2


def test_of_an_older_version_that_moved_nothing_is_known(run, capsys):
    pathlib.Path("run/data.json").unlink()
    move()
    assert pretrained(path="disk/pictures") == 2
    assert "different in data.path (photos there, disk/pictures here)" in capsys.readouterr().err


def test_a_damaged_identity_is_named(run, capsys):
    pathlib.Path("run/data.json").write_text("[]")
    assert pretrained() == 2
    said = capsys.readouterr().err
    assert "data.json cannot be read" in said and len(said.splitlines()) == 1


def npz(save=np.savez, change=lambda labels: labels):
    rng = np.random.default_rng(0)
    save(
        "a.npz",
        train_images=rng.integers(0, 256, (15, 8, 8, 3), np.uint8),
        train_labels=change(np.arange(15) % 3),
        test_images=rng.integers(0, 256, (9, 8, 8, 3), np.uint8),
        test_labels=np.arange(9) % 3,
    )


def test_arrays_count_and_not_how_they_are_compressed(here, capsys):
    options = ["--config.data.source=npz"]
    npz()
    assert pretrained(*options, path="a.npz") == 0
    npz(np.savez_compressed)
    assert pretrained(*options, path="a.npz") == 0
    npz(change=lambda labels: labels[::-1])
    assert pretrained(*options, path="a.npz") == 2
    said = capsys.readouterr().err
    assert "the same images have other labels in training: of '0', '2'. Use" in said


def test_a_set_given_in_python_is_compared_too(run, capsys):
    config = config_files.read("pretrain", CONFIG[0].removeprefix("--config="), list(CONFIG[1:]))
    config.data.path = "photos"
    dataset = sources.load(config.data)
    # The command compared files; of arrays the numbers of images can be.
    pretrain.run(config, "run", quiet=True, dataset=dataset)
    assert (
        "only classes and numbers of images were compared, not the images"
        in capsys.readouterr().err
    )
    fewer = dataset.trainval.take(slice(1, None))
    with pytest.raises(InputError, match=r"training has 14 images \(before: 15\)"):
        pretrain.run(config, "run", quiet=True, dataset=dataset._replace(trainval=fewer))
    pretrain.run(config, "new", quiet=True, dataset=dataset)
    other = dataset.trainval._replace(labels=dataset.trainval.labels[::-1].copy())
    with pytest.raises(InputError, match="the same images have other labels in training"):
        pretrain.run(config, "new", quiet=True, dataset=dataset._replace(trainval=other))


def evaluated(*options, out="r.jsonl", models=("run",)):
    return cli.main(["evaluate", *models, f"--out={out}", "--suite=knn", "--cache=", *options])


def test_evaluate_does_not_give_the_result_of_another_set(run, monkeypatch, capsys):
    """Two folders called photos in different working directories, one file of records."""
    out, model = run / "r.jsonl", str(run / "run")
    folder = ["--data=folder", "--path=photos", "--label_map=fine", "--image_size=8"]
    assert evaluated(*folder, out=out, models=[model]) == 0
    (run / "elsewhere").mkdir()
    make(run / "elsewhere" / "photos", classes=("red", "green"), first=500)
    monkeypatch.chdir(run / "elsewhere")
    capsys.readouterr()
    assert evaluated(*folder, out=out, models=[model]) == 0
    assert "1 new, 0 already there" in capsys.readouterr().out
    first, second = records.read(out)
    assert first["data"] == second["data"] == "photos"
    assert first["data_identity"] != second["data_identity"] and first["key"] != second["key"]
    # A report keeps them apart.
    assert cli.main(["report", str(out), "--out=page"]) == 0
    page = pathlib.Path("page/report.html").read_text()
    for record in first, second:
        assert f"photos ({record['data_identity'][:8]})" in page


def test_evaluate_says_that_a_run_was_trained_on_other_images(run, capsys):
    assert evaluated() == 0
    assert "on other data" not in capsys.readouterr().err
    for name in "photos/train", "photos/test":
        pathlib.Path(name).rename(f"{name}.old")
    pathlib.Path("photos/train.old").rename("photos/test")
    pathlib.Path("photos/test.old").rename("photos/train")
    assert evaluated() == 0
    said = capsys.readouterr().err
    assert "look was pre-trained on other data than 'photos' holds now" in said


def test_evaluate_knows_a_replaced_folder_and_a_moved_one(run, monkeypatch, capsys):
    def made(*options, models=("run",)):
        capsys.readouterr()
        assert evaluated("--label_map=fine", *options, models=models) == 0
        said = capsys.readouterr()
        assert said.err == ""
        return int(said.out.split("records: ")[1].split("(")[1].split(" new")[0])

    def never(self, place):
        raise AssertionError("nothing is to be decoded")

    assert made() == 1
    with monkeypatch.context() as patch:
        patch.setattr(pictures.Pictures, "_decode", never)
        patch.setattr(sources, "load", never)
        assert made() == 0
        for folder in "photos", "run":
            shutil.move(folder, f"{folder}2")
        assert made("--path=photos2", models=["run2"]) == 0
        shutil.move("photos2", "photos")
    add_an_image()
    assert made(models=["run2"]) == 1


def test_old_records_are_named_once_and_measured_anew(run, capsys):
    assert evaluated("--label_map=fine") == 0
    (record,) = records.read("r.jsonl")
    identity = record.pop("data_identity")
    pathlib.Path("r.jsonl").write_text(json.dumps(record | {"key": "old"}) + "\n")
    capsys.readouterr()
    assert evaluated("--label_map=fine") == 0
    said = capsys.readouterr()
    assert said.err == (
        "jaxpt: records in r.jsonl from an older version (1) do not say which data they are of: "
        "they are kept, and the requested measurements are made again.\n"
    )
    assert "1 new, 0 already there" in said.out
    assert [r.get("data_identity") for r in records.read("r.jsonl")] == [None, identity]
    assert evaluated("--label_map=fine") == 0
    said = capsys.readouterr()
    assert "0 new, 1 already there" in said.out and said.err == ""
    assert cli.main(["report", "r.jsonl", "--out=page"]) == 0
    assert "data unknown" not in pathlib.Path("page/report.html").read_text()


def test_two_runs_on_sets_of_one_name_are_measured_on_their_own(run, capsys):
    make(run / "b" / "photos", first=500)
    assert pretrained(path="b/photos", workdir="other") == 0
    out = ["--label_map=fine", "--part=test"]
    assert evaluated(*out, models=["a=run", "b=other"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    a, b = records.read("r.jsonl")
    for record in a, b:
        assert f"photos ({record['data_identity'][:8]}), test" in shown
    argv = ["transfer", "a=run", "b=other", "--out=t.jsonl", "--config.finetune=False"]
    for n in 2, 2:
        assert cli.main(argv) == 0
        assert len(records.read("t.jsonl")) == n
    assert [r["data_identity"].split("-")[0] for r in records.read("t.jsonl")] == [
        r["data_identity"].split("-")[0] for r in (a, b)
    ]
    shutil.rmtree("b/photos/test/red")
    assert cli.main(argv) == 0
    assert len(records.read("t.jsonl")) == 3


def test_a_scaling_study_with_other_data_runs_anew(run, monkeypatch):
    ran = []

    def run_job(job):
        ran.append(job)
        size = job.config["data"]["pretrain_limit"]
        return fake_records.record(
            job.label,
            job.config["seed"],
            (0.9, *[1 - size**-0.5] * 3, 0.4),
            key=job.key,
            config=job.config,
            data="photos",
            data_identity=job.data,
            pretrain_images=size,
        )

    monkeypatch.setattr(study, "_results", lambda jobs, workers: map(run_job, jobs))

    def scaled(path, expected):
        argv = ["scaling", "--sizes=8,12", "--seeds=1", "--out=s", "--methods=look", *CONFIG]
        argv = [a.replace("digits.py:look", "digits.py") for a in argv]
        assert cli.main([*argv, f"--config.data.path={path}"]) == 0
        assert len(ran) == expected

    scaled("photos", 2)
    shutil.copytree("photos", "moved")
    scaled("moved", 2)
    swap("red/0.bmp", "blue/0.bmp")
    scaled("photos", 4)
