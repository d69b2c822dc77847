"""Bad input: status 2, one sentence that names the value, no traceback, nothing left behind."""

import os
import pickle
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxpt import cli

PRETRAIN = ["pretrain", "--workdir=out", "--config=pretrain/digits.py:smoke"]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """What the commands are pointed at, made once."""
    tmp_path = tmp_path_factory.mktemp("template")
    (tmp_path / "file").write_text("a file, so no folder can be made below it")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_checkpoint").mkdir()
    config = '{"method": "look", "model": {}, "data": {}, "seed": 0}'
    (tmp_path / "no_checkpoint" / "config.json").write_text(config)
    (tmp_path / "empty_run").mkdir()
    (tmp_path / "empty_run" / "config.json").write_text("{}")
    (tmp_path / "broken_run").mkdir()
    (tmp_path / "broken_run" / "config.json").write_text("{")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"half": \n')
    (tmp_path / "foreign.jsonl").write_text('{"accuracy": 0.9}\n')
    (tmp_path / "no_function.py").write_text("x = 1\n")
    (tmp_path / "bad_syntax.py").write_text("x = 1\ndef get_config(:\n")
    (tmp_path / "bad_import.py").write_text("x = 1\nimport nowhere_to_be_found\n")
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(
        tmp_path / "outside.npz",
        train_images=images,
        train_labels=np.full(20, 7),
        test_images=images,
        test_labels=np.zeros(20, int),
        class_names=np.array(["cat", "dog"]),
    )
    bad_folders(tmp_path)
    bad_weights(tmp_path)
    np.savez(tmp_path / "objects.npz", train_images=np.array([{}], dtype=object))
    np.savez(
        tmp_path / "floats.npz",
        train_images=images / 2,
        train_labels=np.zeros(20, int),
        test_images=images,
        test_labels=np.zeros(20, int),
    )
    np.savez(
        tmp_path / "short.npz",
        train_images=images,
        train_labels=np.zeros(19, int),
        test_images=images,
        test_labels=np.zeros(20, int),
    )
    np.savez(tmp_path / "lacking.npz", train_images=images, train_labels=np.zeros(20, int))
    np.savez(
        tmp_path / "sizes.npz",
        train_images=images,
        train_labels=np.zeros(20, int),
        test_images=images[:, :4],
        test_labels=np.zeros(20, int),
    )
    np.savez(
        tmp_path / "named.npz",
        train_images=images,
        train_labels=np.array(["cat"] * 20),
        test_images=images,
        test_labels=np.zeros(20, int),
    )
    shutil.copy(tmp_path / "lacking.npz", tmp_path / "leaves.npz")
    with zipfile.ZipFile(tmp_path / "leaves.npz", "a") as archive:
        archive.write(tmp_path / "file", "../../owned")
        archive.write(tmp_path / "file", "/tmp/owned")
    (tmp_path / "torn.npz").write_bytes((tmp_path / "outside.npz").read_bytes()[:200])
    return tmp_path


@pytest.fixture(autouse=True)
def folder(tmp_path, template, monkeypatch):
    """A folder, two levels below which is the current one, with a copy of all that."""
    shutil.copytree(template, tmp_path / "of" / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "of" / "work")
    return tmp_path


def everything_in(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def of_data(source, path):
    return [f"--config.data.source={source}", f"--config.data.path={path}"]


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


def bad_weights(root):
    """Weight files that are none, or that would do something when unpickled."""
    (root / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with zipfile.ZipFile(root / "evil_zip.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
        archive.writestr("../../owned", "out of the folder")
    (root / "torn.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (root / "empty.pth").touch()


def bad_folders(root):
    """Folders of images, each with one thing wrong."""
    good = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))

    def classes(name, *extra):
        for part in "train", "test":
            (root / name / part / "cat").mkdir(parents=True)
            good.save(root / name / part / "cat" / "good.png")
        for path in extra:
            (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        return root / name

    def file(name, content=b""):
        (classes(name) / "train" / "cat" / f"{name}.png").write_bytes(content)

    whole = (classes("whole") / "train" / "cat" / "good.png").read_bytes()
    file("zero_bytes")
    file("truncated", whole[:-30])
    file("words", b"not an image")
    file("header_alone", whole[:33])
    # A picture of 50,000 × 50,000 black pixels takes 300 MB to decode and few bytes to write.
    Image.new("1", (50_000, 50_000)).save(classes("huge") / "train" / "cat" / "huge.png")
    good.convert("I;16").save(classes("deep") / "train" / "cat" / "deep.png")
    (classes("leads_out") / "train" / "cat" / "link.png").symlink_to("../../../file")
    (classes("leads_out_by_class") / "train" / "dog").symlink_to("../../whole/test/cat")
    good.save(classes("only_in_test", "test/dog/x.png") / "test" / "dog" / "x.png")


BAD_INPUT = {
    # Devices and a memory in parts
    "sharding of no kind": (
        PRETRAIN + ["--config.memory_sharding=some"],
        "memory_sharding must be one of .*replicated.*got 'some'",
    ),
    "memory of no dtype": (
        PRETRAIN + ["--config.memory_dtype=float16"],
        "memory_dtype must be one of .*bfloat16.*got 'float16'",
    ),
    "memory that does not divide": (
        PRETRAIN + ["--config.memory_sharding=sharded", "--config.memory=1201"],
        "a memory of 1201 keys does not divide over 8 devices: make memory a multiple of 8",
    ),
    "bank that does not divide": (
        PRETRAIN + ["--config.memory_sharding=sharded", "--config.memory_kind=bank"],
        "a memory of 300 keys does not divide over 8 devices: make data.pretrain_limit a",
    ),
    "sharded memory by pmap": (
        PRETRAIN + ["--config.memory_sharding=sharded", "--config.mapping=pmap"],
        "memory_sharding sharded needs mapping shard_map, got pmap",
    ),
    "method that cannot take a memory in parts": (
        [
            "pretrain",
            "--workdir=out",
            "--config=pretrain/digits.py:nn_clr,smoke",
            "--config.memory_sharding=sharded",
        ],
        "method nn_clr takes its positives from the memory, which each device must hold in full",
    ),
    # Arguments and config files
    "mistyped key": (
        PRETRAIN + ["--config.temperatur=1"],
        "no field 'temperatur'.*did you mean 'temperature'",
    ),
    "mistyped nested key": (
        PRETRAIN + ["--config.optimizer.learningrate=1"],
        "did you mean 'optimizer.learning_rate'",
    ),
    "key like no other": (PRETRAIN + ["--config.augment.xyz=1"], "augment has .*shift"),
    "key below a value": (PRETRAIN + ["--config.look.k.x=1"], "k has no fields"),
    "word for a number": (PRETRAIN + ["--config.look.k=many"], "--config.look.k=many"),
    "fraction for a whole number": (PRETRAIN + ["--config.look.k=2.5"], "--config.look.k=2.5"),
    "value for a group": (PRETRAIN + ["--config.augment=1"], "--config.augment=1"),
    "missing value": (
        PRETRAIN + ["--config.look.k"],
        "'--config.look.k' has no value.*--config.look.k=VALUE",
    ),
    "value after a space": (PRETRAIN + ["--config.look.k", "5"], "'--config.look.k' has no value"),
    "unknown argument": (PRETRAIN + ["--wrokdir=x"], "unknown argument '--wrokdir=x'.*--help"),
    "stray word": (PRETRAIN + ["look"], "unknown argument 'look'"),
    "unknown config file": (
        ["pretrain", "--workdir=out", "--config=nowhere.py"],
        "no file 'nowhere.py'.*pretrain/digits.py",
    ),
    "folder for a config file": (
        ["pretrain", "--workdir=out", "--config=empty"],
        "no file 'empty'",
    ),
    "config file without get_config": (
        ["pretrain", "--workdir=out", "--config=no_function.py"],
        "no_function.py has no function get_config",
    ),
    "config file with a syntax error": (
        ["pretrain", "--workdir=out", "--config=bad_syntax.py"],
        "bad_syntax.py fails with SyntaxError: .*line 2",
    ),
    "config file that fails": (
        ["pretrain", "--workdir=out", "--config=bad_import.py"],
        "bad_import.py, line 2 fails with ModuleNotFoundError: .*nowhere",
    ),
    "unknown variant": (
        ["pretrain", "--workdir=out", "--config=pretrain/digits.py:lok"],
        "variant 'lok' is unknown.*look",
    ),
    "variant of a config without any": (
        ["pretrain", "--workdir=out", "--config=pretrain/defaults.py:look"],
        "pretrain/defaults.py has no variants, got 'look'",
    ),
    "unknown variant of transfer": (
        ["transfer", "x", "--out=new", "--config=transfer/defaults.py:quick"],
        "variant 'quick' is unknown.*smoke",
    ),
    # Values
    "k of 0": (PRETRAIN + ["--config.look.k=0"], "k must be a whole number of at least 1, got 0"),
    "unknown method": (PRETRAIN + ["--config.method=moco"], "method must be one of.*got 'moco'"),
    "bad duration": (PRETRAIN + ["--config.duration=soon"], "a duration reads like.*got 'soon'"),
    "bad duration of logging": (PRETRAIN + ["--config.log_every=5"], "a duration reads.*got '5'"),
    "no step at all": (PRETRAIN + ["--config.duration=0 epochs"], "less than one step"),
    "batch of 0": (PRETRAIN + ["--config.batch_size=0"], "batch_size must be at least 1, got 0"),
    "batch that does not divide": (
        PRETRAIN + ["--config.batch_size=121"],
        "batch_size 121 does not divide over 8 devices",
    ),
    "unknown neighbours": (PRETRAIN + ["--config.look.neighbors=some"], "neighbors must be one of"),
    "approximate with a gate": (
        PRETRAIN + ["--config.look.neighbors=approximate", "--config.look.gate=2.0"],
        "neighbors approximate needs the hard edge and one k",
    ),
    "parts that do not divide": (
        PRETRAIN + ["--config.micro_batches=4"],
        "micro_batches 4 does not divide the 15 images of a device",
    ),
    "no part": (PRETRAIN + ["--config.micro_batches=0"], "micro_batches must be at least 1, got 0"),
    "negative steps per call": (
        PRETRAIN + ["--config.steps_per_call=-1"],
        "steps_per_call must be 0 .automatic. to 1000, got -1",
    ),
    "remat of no blocks": (PRETRAIN + ["--config.model.remat=True"], "remat needs a network of"),
    "too many devices": (PRETRAIN + ["--config.devices=99"], "between 0 .all. and 8, got 99"),
    "unknown mapping": (PRETRAIN + ["--config.mapping=xmap"], "mapping must be.*got 'xmap'"),
    "memory below a batch": (PRETRAIN + ["--config.memory=100"], "at least one batch, 120"),
    "temperature of 0": (PRETRAIN + ["--config.temperature=0"], "temperature must be positive"),
    "temperature without end": (PRETRAIN + ["--config.temperature=inf"], "finite, got inf"),
    "option of no network": (
        PRETRAIN + ["--config.model.options.depth=3"],
        "model.options of small_cnn: .*'depth'",
    ),
    "unknown network": (PRETRAIN + ["--config.model.name=vgg"], "model.name must be one of"),
    "head of no width": (PRETRAIN + ["--config.model.projector.dim=0"], "projector.dim must be"),
    # Data
    "a folder as the source": (
        PRETRAIN + of_data("empty", ""),
        "got 'empty': for the images in it, set data.source to folder, and data.path",
    ),
    "unknown source": (PRETRAIN + of_data("cifar", ""), "data.source must be one of.*got 'cifar'"),
    "labels outside the classes": (
        PRETRAIN + of_data("npz", "outside.npz"),
        r"labels must lie in 0 … 1, found \[7\]",
    ),
    "missing data file": (PRETRAIN + of_data("npz", "nowhere.npz"), "nowhere.npz' is not a file"),
    "empty folder": (PRETRAIN + of_data("folder", "empty"), "empty has no images"),
    "missing folder": (PRETRAIN + of_data("folder", "nowhere"), "'nowhere' is neither a folder"),
    "label map that does not fit": (
        PRETRAIN + ["--config.data.label_map=thirds"],
        "label_map must be one of",
    ),
    "negative limit": (PRETRAIN + ["--config.data.limit=-1"], "data.limit must not be negative"),
    # Where to write
    "workdir below a file": (
        PRETRAIN + ["--workdir=file/run"],
        "'file/run' cannot be written.*--workdir",
    ),
    "workdir is a file": (PRETRAIN + ["--workdir=file"], "'file' cannot be written"),
    "empty workdir": (PRETRAIN + ["--workdir="], "--workdir must not be empty"),
    "demo below a file": (["demo", "--out=file/demo"], "'file/demo' cannot be written"),
    # Other commands
    "missing run": (["transfer", "nowhere", "--out=new.jsonl"], "no pre-training run in 'nowhere'"),
    "missing checkpoint": (
        ["transfer", "no_checkpoint", "--out=new.jsonl"],
        "no whole checkpoint in 'no_checkpoint'",
    ),
    "empty config of a run": (
        ["evaluate", "empty_run", "--out=new.jsonl"],
        r"empty_run/config.json is no config of a run: it has no \['method', ",
    ),
    "broken config of a run": (
        ["transfer", "broken_run", "--out=new.jsonl"],
        "broken_run/config.json cannot be read",
    ),
    "nothing to measure": (
        [
            "transfer",
            "nowhere",
            "--out=new.jsonl",
            "--config.frozen=False",
            "--config.finetune=False",
        ],
        "nothing to do",
    ),
    "too few seeds": (["demo", "--seeds=1", "--out=new"], "seeds must be at least 2.*got 1"),
    "missing records": (["report", "nowhere.jsonl", "--out=new"], "no file 'nowhere.jsonl'"),
    "one of several missing": (
        ["report", "foreign.jsonl", "nowhere.jsonl", "--out=new"],
        "no file 'nowhere.jsonl'",
    ),
    "no records": (["report", "empty.jsonl", "--out=new"], "empty.jsonl holds no records"),
    "records of something else": (
        ["report", "foreign.jsonl", "--out=new"],
        "record 1 has no key, label",
    ),
    "broken record": (["report", "broken.jsonl", "--out=new"], "broken.jsonl, line 1 is no record"),
    "unknown suite": (
        ["evaluate", "nowhere", "--out=new.jsonl", "--suite=geomtry"],
        "suite must be one of .*, got 'geomtry'",
    ),
    "missing run to evaluate": (
        ["evaluate", "nowhere", "--out=new.jsonl"],
        "no pre-training run in 'nowhere'",
    ),
    "evaluate into broken records": (
        ["evaluate", "nowhere", "--out=broken.jsonl"],
        "broken.jsonl, line 1 is no record",
    ),
    "evaluate into nothing": (["evaluate", "nowhere", "--out="], "--out must not be empty"),
    # Values, one by one
    "temperature below 0": (PRETRAIN + ["--config.temperature=-1"], "temperature must be"),
    "temperature that is no number": (PRETRAIN + ["--config.temperature=nan"], "finite, got nan"),
    "k beyond counting": (PRETRAIN + ["--config.look.k=1000000000000"], "k must lie within"),
    "k below 0": (PRETRAIN + ["--config.look.k=-5"], "k must be a whole number.*got -5"),
    "gate without end": (PRETRAIN + ["--config.look.gate=inf"], "gate must be finite, got inf"),
    "gate below 0": (PRETRAIN + ["--config.look.gate=-1.0"], "gate must not be negative"),
    "robustness above 1": (PRETRAIN + ["--config.look.robustness=1.5"], "robustness must lie"),
    "own view above 1": (PRETRAIN + ["--config.look.own_view=2.0"], "own_view must lie"),
    "unknown remedy": (PRETRAIN + ["--config.look.no_positive=skip"], "no_positive must be one of"),
    "EMA above 1": (PRETRAIN + ["--config.ema=1.5"], "ema must .*got 1.5"),
    "unknown memory": (PRETRAIN + ["--config.memory_kind=ring"], "memory_kind must be one of"),
    "memory momentum of 1": (PRETRAIN + ["--config.memory_momentum=1.0"], "memory_momentum must"),
    "no view": (PRETRAIN + ["--config.views=0"], "views must be at least 1, got 0"),
    "views below 0": (PRETRAIN + ["--config.local_views=-1"], "local_views must not be negative"),
    "noise of everything": (PRETRAIN + ["--config.augment.noise=1e30"], "augment.noise must lie"),
    "contrast without end": (PRETRAIN + ["--config.augment.contrast=inf"], "contrast must be fin"),
    "brightness below 0": (PRETRAIN + ["--config.augment.brightness=-0.1"], "brightness must lie"),
    "shift beyond the image": (PRETRAIN + ["--config.augment.shift=100000"], "shift must lie"),
    "erased for good": (PRETRAIN + ["--config.augment.erase=1.0"], "erase must be below 1"),
    "jitter of three": (PRETRAIN + ["--config.augment.jitter=(0.4, 0.4, 0.4)"], "jitter must be f"),
    "hue beyond the circle": (
        PRETRAIN + ["--config.augment.jitter=(0.0, 0.0, 0.0, 0.6)"],
        "jitter must be four .*0.6",
    ),
    "grey beyond all": (PRETRAIN + ["--config.augment.grey=1.1"], "grey must lie .*1.1"),
    "blur beyond all": (PRETRAIN + ["--config.augment.blur=(1.0, 2.0)"], "blur must be prob"),
    "blur of no width": (PRETRAIN + ["--config.augment.blur_sigma=(0.0, 2.0)"], "blur_sigma must"),
    "solarised by no view": (PRETRAIN + ["--config.key_augment.solarise=()"], "solarise must be"),
    "operations without end": (PRETRAIN + ["--config.augment.rand_augment=17"], "rand_augment mus"),
    "strength without end": (
        PRETRAIN + ["--config.augment.rand_augment_level=30.0"],
        "rand_augment_level must lie between 0 and 10",
    ),
    "unknown preset": (
        ["pretrain", "--workdir=out", "--config=pretrain/digits.py:augment=mocco"],
        "preset must be one of .*moco_v2.*got 'mocco'",
    ),
    "crop of nothing": (PRETRAIN + ["--config.augment.crop_area=(0.0, 1.0)"], "crop_area must be"),
    "keys cropped backwards": (
        PRETRAIN + ["--config.key_augment.crop_area=(0.9, 0.1)"],
        "crop_area must be two shares",
    ),
    "layer of no width": (PRETRAIN + ["--config.model.projector.hidden=(0,)"], "at least 1, got"),
    "unknown dtype": (PRETRAIN + ["--config.model.dtype=float8"], "dtype must be float32 or"),
    "unknown optimizer": (PRETRAIN + ["--config.optimizer.name=adagrad"], "optimizer.name must be"),
    "momentum below 0": (PRETRAIN + ["--config.optimizer.momentum=-0.9"], "optimizer.momentum"),
    "decay without end": (PRETRAIN + ["--config.optimizer.weight_decay=inf"], "weight_decay must"),
    "clipped below 0": (PRETRAIN + ["--config.optimizer.clip_norm=-1.0"], "clip_norm must be"),
    "warm-up of the whole run": (
        PRETRAIN + ["--config.optimizer.warmup=4 steps"],
        "a warm-up of 4 steps leaves nothing",
    ),
    "skips below 0": (PRETRAIN + ["--config.max_skipped=-1"], "max_skipped must not be negative"),
    "minutes below 0": (PRETRAIN + ["--max-minutes=-1"], "max_minutes must be 0 or more, got -1"),
    "part that does not exist": (PRETRAIN + ["--config.data.train_on=test"], "data.train_on must"),
    "more images than there are": (
        PRETRAIN + ["--config.data.pretrain_limit=5000"],
        "data.pretrain_limit must lie between",
    ),
    # Data, one by one
    "npz of objects": (
        PRETRAIN + of_data("npz", "objects.npz"),
        "not a whole .npz file of plain arr",
    ),
    "npz of floats": (PRETRAIN + of_data("npz", "floats.npz"), "images must be uint8"),
    "npz with too few labels": (PRETRAIN + of_data("npz", "short.npz"), "20 images but labels of"),
    "npz without a test part": (PRETRAIN + of_data("npz", "lacking.npz"), "lacks the arrays"),
    "npz that leaves its folder": (PRETRAIN + of_data("npz", "leaves.npz"), "lacks the arrays"),
    "npz of two sizes": (PRETRAIN + of_data("npz", "sizes.npz"), "but test images"),
    "npz with names for labels": (PRETRAIN + of_data("npz", "named.npz"), "must be integers"),
    "npz cut short": (PRETRAIN + of_data("npz", "torn.npz"), "not a whole .npz"),
    "no npz": (PRETRAIN + of_data("npz", "file"), "not a whole .npz"),
    "image of zero bytes": (PRETRAIN + of_data("folder", "zero_bytes"), "zero_bytes.png cannot be"),
    "image cut short": (PRETRAIN + of_data("folder", "truncated"), "truncated.png cannot be read"),
    "words for an image": (PRETRAIN + of_data("folder", "words"), "words.png cannot be read"),
    "header of an image": (PRETRAIN + of_data("folder", "header_alone"), "header_alone.png cannot"),
    "image of 50,000 by 50,000": (
        PRETRAIN + of_data("folder", "huge"),
        "huge.png has more than 100,000,000 pixels",
    ),
    "image of 16 bits": (PRETRAIN + of_data("folder", "deep"), "deep.png has more than 8 bits"),
    "link out of the folder": (PRETRAIN + of_data("folder", "leads_out"), "link.png leads out of"),
    "class that leads out": (
        PRETRAIN + of_data("folder", "leads_out_by_class"),
        "leads_out_by_class/train/dog leads out of",
    ),
    "class in test alone": (PRETRAIN + of_data("folder", "only_in_test"), r"train lacks: .'dog'"),
    "transfer to a set without a test part": (
        [
            "transfer",
            "scratch:0",
            "--out=new.jsonl",
            "--config.model.name=small_cnn",
            "--config.data.source=folder",
            "--config.data.path=whole/train",
            "--config.frozen=False",
        ],
        "train has no test images.* give it a test part",
    ),
    "evaluation on a set without a test part": (
        [
            "evaluate",
            "scratch:0",
            "--model=small_cnn",
            "--out=new.jsonl",
            "--data=folder",
            "--path=whole/train",
            "--image_size=8",
            "--strict",
        ],
        "train has no test images",
    ),
    "broken files left in doubt": (
        PRETRAIN + of_data("folder", "whole") + ["--config.data.broken=mend"],
        "data.broken must be stop or",
    ),
    "resident or not": (PRETRAIN + ["--config.data.resident=maybe"], "data.resident must be auto"),
    "no batch ahead": (
        PRETRAIN + ["--config.data.resident=no", "--config.data.prefetch=0"],
        "data.prefetch must lie between 1",
    ),
    "level that is not there": (
        PRETRAIN + ["--config.data.label_map=level:2"],
        "the classes have the levels 1 to 1",
    ),
    "map that is not there": (
        PRETRAIN + ["--config.data.label_map=nowhere.csv"],
        "nowhere.csv cannot be read as a list",
    ),
    "nothing to check": (["data", "check", "nowhere"], "'nowhere' is neither a folder"),
    "images of no size": (
        PRETRAIN + of_data("folder", "whole") + ["--config.data.image_size=0"],
        "data.image_size must be at least 1, got 0",
    ),
    "protocol that must be fetched": (
        PRETRAIN + ["--config.data.source=protocol:aircraft", "--config.data.path=empty"],
        "aircraft",
    ),
    # Weights
    "weights that run a program": (["transfer", "evil.pth", "--out=new.jsonl"], "evil.pth.*system"),
    "weights that leave their folder": (
        ["transfer", "evil_zip.pth", "--out=new.jsonl"],
        "evil_zip.pth.*system",
    ),
    "weights to evaluate that run a program": (
        ["evaluate", "evil.pth", "--out=new.jsonl", "--data=digits"],
        "evil.pth.*system",
    ),
    "weights cut short": (["transfer", "torn.safetensors", "--out=new.jsonl"], "torn.safetensors"),
    "weights of zero bytes": (["transfer", "empty.pth", "--out=new.jsonl"], "empty.pth"),
    "missing weights": (["transfer", "nowhere.pth", "--out=new.jsonl"], "nowhere.pth"),
    "scratch without a network": (["transfer", "scratch", "--out=new.jsonl"], "scratch needs a"),
    "scratch with a word for a seed": (
        ["transfer", "scratch:two", "--out=new.jsonl"],
        "scratch:SEED",
    ),
    # Export
    "missing run to export": (["export", "nowhere", "--out=new"], "no pre-training run in"),
    "export of a damaged file": (["export", "torn.safetensors", "--out=new"], "torn.safetensors"),
    "export over a folder": (
        ["export", "scratch", "--out=whole", "--model=small_cnn"],
        "'whole' already exists",
    ),
    "export over a file": (
        ["export", "scratch", "--out=file", "--model=small_cnn"],
        "'file' already exists",
    ),
    "export below a file": (
        ["export", "scratch", "--out=file/new", "--model=small_cnn"],
        "file/new' cannot be written",
    ),
    "export into nothing": (["export", "scratch", "--out="], "--out must not be empty"),
    "export to a bucket": (["export", "scratch", "--out=gs://a/b"], "'gs://a/b' is on an object"),
    "format of no kind": (
        ["export", "scratch", "--out=new", "--format=safetensors,onnx"],
        "format must be of .*got 'safetensors,onnx'",
    ),
    "export without a format": (["export", "scratch", "--out=new", "--format="], "format must be"),
    "export of no network": (["export", "scratch", "--out=new"], "scratch needs a network"),
    "images of a size below 0": (
        ["export", "scratch", "--out=new", "--image-size=-1"],
        "image_size must lie between 1 and 4096.*got -1",
    ),
    "classifier that is not there": (
        ["export", "scratch:1", "--out=new", "--model=small_cnn", "--classifier"],
        "'scratch:1' has no linear classifier",
    ),
    "missing records of an export": (
        ["export", "scratch", "--out=new", "--model=small_cnn", "--records", "nowhere.jsonl"],
        "no file 'nowhere.jsonl' with records",
    ),
    "records of another backbone": (
        ["export", "scratch", "--out=new", "--model=small_cnn", "--records", "foreign.jsonl"],
        "none of the 1 records measures this backbone",
    ),
    "push to no name": (
        ["export", "scratch", "--out=new", "--push=encoder"],
        "--push needs the name of a repository, USER/REPO,.*got 'encoder'",
    ),
    # Commands
    "nothing to replay": (["replay", "nowhere"], "holds nothing to replay"),
    "unknown head": (
        [
            "transfer",
            "scratch",
            "--out=new.jsonl",
            "--config.head.name=tree",
            "--config.model.name=small_cnn",
            "--config.data.source=digits",
        ],
        "head",
    ),
    "no seeds of fine-tuning": (
        ["transfer", "nowhere", "--out=new.jsonl", "--config.seeds=()"],
        "seeds is empty",
    ),
    "rate below 0": (
        ["transfer", "nowhere", "--out=new.jsonl", "--config.learning_rates=(-1.0,)"],
        "learning_rates must be finite and not negative",
    ),
    "unknown rule": (["transfer", "nowhere", "--out=new.jsonl", "--config.rule=bat"], "rule must"),
    "scaling over one size": (["scaling", "--sizes=100", "--out=new"], "sizes"),
    "scaling of an unknown method": (
        ["scaling", "--sizes=100,200,300,400", "--methods=mocha", "--out=new"],
        "mocha",
    ),
}
# What only shows when the network is built, or when training is over.
FOUND_LATE = {
    "unknown norm": (PRETRAIN + ["--config.model.norm=layer"], "norm must be one of"),
    "widths of no group": (PRETRAIN + ["--config.model.projector.hidden=(12,)"], "multiples of 8"),
    "negative seed": (PRETRAIN + ["--config.seed=-1"], "seed"),
    "huge seed": (PRETRAIN + ["--config.seed=99999999999"], "seed"),
    "no neighbours in the monitor": (PRETRAIN + ["--config.knn_k=0"], "knn_k must be at least 1"),
    "no checkpoint kept": (PRETRAIN + ["--config.keep_checkpoints=0"], "keep_checkpoints"),
    "uphill": (PRETRAIN + ["--config.optimizer.learning_rate=-1.0"], "learning_rate must be"),
    "half a unit": (PRETRAIN + ["--config.duration=5 e"], "a duration reads like"),
}


@pytest.mark.parametrize(
    "argv, message",
    [
        *(pytest.param(*case, id=name) for name, case in BAD_INPUT.items()),
        *(pytest.param(*case, id=name) for name, case in FOUND_LATE.items()),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(argv, message, folder, capsys):
    before = everything_in(folder)
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"jaxpt {argv[0]}: ")
    assert len(said.err.splitlines()) == 1 and said.err[-2:] in (".\n", "?\n")
    assert re.search(message, said.err), said.err
    assert everything_in(folder) == before
