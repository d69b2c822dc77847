"""The command: what it accepts, and that bad input is one sentence and leaves nothing behind."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxpt import cli
from jaxpt.data import small_sets
from jaxpt.errors import InputError

COMMANDS = ("demo", "pretrain", "scaling", "transfer", "evaluate", "replay", "report")
PRETRAIN = ["pretrain", "--workdir=out", "--config=pretrain/digits.py:smoke"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with what the commands are pointed at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file, so no folder can be made below it")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_checkpoint").mkdir()
    (tmp_path / "no_checkpoint" / "config.json").write_text("{}")
    (tmp_path / "broken_run").mkdir()
    (tmp_path / "broken_run" / "config.json").write_text("{")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"half": \n')
    (tmp_path / "foreign.jsonl").write_text('{"accuracy": 0.9}\n')
    (tmp_path / "no_function.py").write_text("x = 1\n")
    (tmp_path / "bad_syntax.py").write_text("x = 1\ndef get_config(:\n")
    (tmp_path / "bad_import.py").write_text("x = 1\nimport nowhere_to_be_found\n")
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "outside.npz", train_images=images, train_labels=np.full(20, 7),
             test_images=images, test_labels=np.zeros(20, int),
             class_names=np.array(["cat", "dog"]))
    return tmp_path


def everything_in(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def of_data(source, path):
    return [f"--config.data.source={source}", f"--config.data.path={path}"]


BAD_INPUT = {
    # Arguments and config files
    "mistyped key": (PRETRAIN + ["--config.temperatur=1"], "no field 'temperatur'.*"
                     "did you mean 'temperature'"),
    "mistyped nested key": (PRETRAIN + ["--config.optimizer.learningrate=1"],
                            "did you mean 'optimizer.learning_rate'"),
    "key like no other": (PRETRAIN + ["--config.augment.xyz=1"], "augment has .*shift"),
    "key below a value": (PRETRAIN + ["--config.k.x=1"], "k has no fields"),
    "word for a number": (PRETRAIN + ["--config.k=many"], "--config.k=many"),
    "fraction for a whole number": (PRETRAIN + ["--config.k=2.5"], "--config.k=2.5"),
    "value for a group": (PRETRAIN + ["--config.augment=1"], "--config.augment=1"),
    "missing value": (PRETRAIN + ["--config.k"], "'--config.k' has no value.*--config.k=VALUE"),
    "value after a space": (PRETRAIN + ["--config.k", "5"], "'--config.k' has no value"),
    "unknown argument": (PRETRAIN + ["--wrokdir=x"], "unknown argument '--wrokdir=x'.*--help"),
    "stray word": (PRETRAIN + ["look"], "unknown argument 'look'"),
    "unknown config file": (["pretrain", "--workdir=out", "--config=nowhere.py"],
                            "no file 'nowhere.py'.*pretrain/digits.py"),
    "folder for a config file": (["pretrain", "--workdir=out", "--config=empty"],
                                 "no file 'empty'"),
    "config file without get_config": (["pretrain", "--workdir=out", "--config=no_function.py"],
                                       "no_function.py has no function get_config"),
    "config file with a syntax error": (["pretrain", "--workdir=out", "--config=bad_syntax.py"],
                                        "bad_syntax.py fails with SyntaxError: .*line 2"),
    "config file that fails": (["pretrain", "--workdir=out", "--config=bad_import.py"],
                               "bad_import.py, line 2 fails with ModuleNotFoundError: .*nowhere"),
    "unknown variant": (["pretrain", "--workdir=out", "--config=pretrain/digits.py:lok"],
                        "variant 'lok' is unknown.*look"),
    "variant of a config without any": (
        ["pretrain", "--workdir=out", "--config=pretrain/defaults.py:look"],
        "pretrain/defaults.py has no variants, got 'look'"),
    "unknown variant of transfer": (["transfer", "x", "--out=new", "--config=transfer/defaults.py:"
                                     "quick"], "variant 'quick' is unknown.*smoke"),
    # Values
    "k of 0": (PRETRAIN + ["--config.k=0"], "k must be a whole number of at least 1, got 0"),
    "unknown method": (PRETRAIN + ["--config.method=moco"], "method must be one of.*got 'moco'"),
    "bad duration": (PRETRAIN + ["--config.duration=soon"], "a duration reads like.*got 'soon'"),
    "bad duration of logging": (PRETRAIN + ["--config.log_every=5"], "a duration reads.*got '5'"),
    "no step at all": (PRETRAIN + ["--config.duration=0 epochs"], "less than one step"),
    "batch of 0": (PRETRAIN + ["--config.batch_size=0"], "batch_size must be at least 1, got 0"),
    "batch that does not divide": (PRETRAIN + ["--config.batch_size=121"],
                                   "batch_size 121 does not divide over 8 devices"),
    "too many devices": (PRETRAIN + ["--config.devices=99"], "between 0 .all. and 8, got 99"),
    "unknown mapping": (PRETRAIN + ["--config.mapping=xmap"], "mapping must be.*got 'xmap'"),
    "memory below a batch": (PRETRAIN + ["--config.memory=100"], "at least one batch, 120"),
    "temperature of 0": (PRETRAIN + ["--config.temperature=0"], "temperature must be positive"),
    "temperature without end": (PRETRAIN + ["--config.temperature=inf"], "finite, got inf"),
    "option of no network": (PRETRAIN + ["--config.model.options.depth=3"],
                             "model.options of small_cnn: .*'depth'"),
    "unknown network": (PRETRAIN + ["--config.model.name=vgg"], "model.name must be one of"),
    "head of no width": (PRETRAIN + ["--config.model.projector.dim=0"], "projector.dim must be"),
    # Data
    "unknown source": (PRETRAIN + of_data("cifar", ""), "data.source must be one of.*got 'cifar'"),
    "labels outside the classes": (PRETRAIN + of_data("npz", "outside.npz"),
                                   r"labels must lie in 0 … 1, found \[7\]"),
    "missing data file": (PRETRAIN + of_data("npz", "nowhere.npz"), "nowhere.npz' is no file"),
    "empty folder": (PRETRAIN + of_data("folder", "empty"), "empty/train has no images"),
    "missing folder": (PRETRAIN + of_data("folder", "nowhere"), "'nowhere' is no folder"),
    "label map that does not fit": (PRETRAIN + ["--config.data.label_map=thirds"],
                                    "label_map must be one of"),
    "negative limit": (PRETRAIN + ["--config.data.limit=-1"], "data.limit must not be negative"),
    # Where to write
    "workdir below a file": (PRETRAIN + ["--workdir=file/run"],
                             "'file/run' cannot be written.*--workdir"),
    "workdir is a file": (PRETRAIN + ["--workdir=file"], "'file' cannot be written"),
    "empty workdir": (PRETRAIN + ["--workdir="], "--workdir must not be empty"),
    "demo below a file": (["demo", "--out=file/demo"], "'file/demo' cannot be written"),
    # Other commands
    "missing run": (["transfer", "nowhere", "--out=new.jsonl"],
                    "no pre-training run in 'nowhere'"),
    "missing checkpoint": (["transfer", "no_checkpoint", "--out=new.jsonl"],
                           "no whole checkpoint in 'no_checkpoint'"),
    "broken config of a run": (["transfer", "broken_run", "--out=new.jsonl"],
                               "broken_run/config.json cannot be read"),
    "nothing to measure": (["transfer", "nowhere", "--out=new.jsonl", "--config.frozen=False",
                            "--config.finetune=False"], "nothing to do"),
    "too few seeds": (["demo", "--seeds=1", "--out=new"], "seeds must be at least 2.*got 1"),
    "missing records": (["report", "nowhere.jsonl", "--out=new"], "no file 'nowhere.jsonl'"),
    "one of several missing": (["report", "foreign.jsonl", "nowhere.jsonl", "--out=new"],
                               "no file 'nowhere.jsonl'"),
    "no records": (["report", "empty.jsonl", "--out=new"], "empty.jsonl holds no records"),
    "records of something else": (["report", "foreign.jsonl", "--out=new"],
                                  "record 1 has no key, label"),
    "broken record": (["report", "broken.jsonl", "--out=new"], "broken.jsonl, line 1 is no record"),
    "unknown suite": (["evaluate", "nowhere", "--out=new.jsonl", "--suite=geomtry"],
                      "suite must be one of .*, got 'geomtry'"),
    "missing run to evaluate": (["evaluate", "nowhere", "--out=new.jsonl"],
                                "no pre-training run in 'nowhere'"),
    "evaluate into broken records": (["evaluate", "nowhere", "--out=broken.jsonl"],
                                     "broken.jsonl, line 1 is no record"),
    "evaluate into nothing": (["evaluate", "nowhere", "--out="], "--out must not be empty"),
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


@pytest.mark.parametrize("argv, message", [
    *(pytest.param(*case, id=name) for name, case in BAD_INPUT.items()),
    *(pytest.param(*case, id=name) for name, case in FOUND_LATE.items())])
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(argv, message, folder, capsys):
    before = everything_in(folder)
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"jaxpt {argv[0]}: ")
    assert len(said.err.splitlines()) == 1 and said.err[-2:] in (".\n", "?\n")
    assert re.search(message, said.err), said.err
    assert everything_in(folder) == before


def test_demo_without_fashion_mnist_names_the_package(folder, capsys, monkeypatch):
    monkeypatch.setattr(small_sets, "FASHION_MNIST_DIR", str(folder / "empty"))
    assert cli.main(["demo", "--data=fashion_mnist", "--out=new"]) == 2
    said = capsys.readouterr().err
    assert "dataset-fashion-mnist" in said and len(said.splitlines()) == 1
    assert not (folder / "new").exists()


@pytest.mark.parametrize("argv", [
    [], ["pretrian"], ["pretrain"], ["transfer", "--out=x"], ["transfer", "run"],
    ["demo", "--data=cifar"], ["demo", "--seeds=few"], ["demo", "--config.k=5"],
    ["report", "x.jsonl"], ["evaluate", "run"], ["evaluate", "--out=x"],
    ["evaluate", "run", "--out=x", "--part=train"], ["evaluate", "run", "--out=x", "--limit=few"]])
def test_what_argparse_refuses(argv, folder, capsys):
    before = everything_in(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "error:" in said and "Traceback" not in said
    assert everything_in(folder) == before


class TestHelp:
    def help_of(self, capsys, *argv):
        with pytest.raises(SystemExit) as stop:
            cli.main([*argv, "--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    def test_lists_the_commands(self, capsys):
        text = self.help_of(capsys)
        assert all(command in text for command in COMMANDS)

    @pytest.mark.parametrize("command, words", [
        ("demo", ["--data", "--out", "--seeds", "fashion_mnist"]),
        ("pretrain", ["--config", "--workdir", "--noresume", "--config.k=50", "pretrain/digits.py",
                      "pretrain/fashion_mnist.py", "pretrain/defaults.py"]),
        ("transfer", ["--config", "--out", "WORKDIR", "transfer/defaults.py"]),
        ("scaling", ["--methods", "--sizes", "--seeds", "--out", "pretrain/digits.py"]),
        ("report", ["--out", "RECORDS", "--markdown", "--csv"])])
    def test_of_each_command(self, command, words, capsys):
        text = self.help_of(capsys, command)
        assert [word for word in words if word not in text] == []
        assert "__init__" not in text

    def test_as_a_program_of_its_own(self):
        result = subprocess.run([sys.executable, "-m", "jaxpt.cli", "pretrain", "--help"],
                                capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0 and result.stderr == ""
        assert "pretrain/digits.py" in result.stdout

    def test_version(self, capsys):
        from jaxpt import __version__
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert capsys.readouterr().out.strip() == __version__


class TestWhatReachesTheLoop:
    @pytest.fixture
    def given(self, monkeypatch):
        """What ``pretrain.run`` is called with."""
        from jaxpt import pretrain
        calls = []
        monkeypatch.setattr(pretrain, "run", lambda config, workdir, *, resume, max_minutes: (
            calls.append((config, workdir, resume))))
        return calls

    def test_defaults(self, given, capsys):
        assert cli.main(["pretrain", "--workdir=out"]) == 0
        (config, workdir, resume), = given
        assert (config.method, config.data.source, workdir, resume) == (
            "look", "digits", "out", True)
        assert capsys.readouterr().out == "done: out\n"

    def test_overrides_have_the_types_of_their_fields(self, given):
        assert cli.main(PRETRAIN + [
            "--config.k=7", "--config.temperature=1", "--config.augment.flip=true",
            "--config.data.path=some where", "--config.model.projector.hidden=(32,16)",
            "--config.optimizer.learning_rate=1e-4", "--config.model.options.widths=(8, 16)",
            "--noresume"]) == 0
        (config, _, resume), = given
        assert (config.k, config.augment.flip, config.data.path) == (7, True, "some where")
        assert config.temperature == 1.0 and isinstance(config.temperature, float)
        assert config.model.projector.hidden == (32, 16)
        assert config.model.options.widths == (8, 16)  # which the config does not name
        assert config.optimizer.learning_rate == 1e-4
        assert config.duration == "4 steps"  # from the variant, untouched
        assert resume is False

    @pytest.mark.parametrize("variant, method, duration", [
        ("nca", "nca", "60 epochs"), ("cross_entropy,smoke", "cross_entropy", "4 steps")])
    def test_variants(self, given, variant, method, duration):
        config = f"--config=pretrain/digits.py:{variant}"
        assert cli.main(["pretrain", "--workdir=out", config]) == 0
        assert (given[0][0].method, given[0][0].duration) == (method, duration)

    def test_a_config_file_of_one_s_own(self, given, folder):
        (folder / "mine.py").write_text(
            "from jaxpt.configs.pretrain import digits\n\n\ndef get_config():\n"
            "    config = digits.get_config()\n    config.k = 33\n    return config\n")
        assert cli.main(["pretrain", "--workdir=out", "--config=mine.py"]) == 0
        assert given[0][0].k == 33

    @pytest.mark.parametrize("name", ["defaults.py", "digits.py", "fashion_mnist.py"])
    def test_every_installed_config_can_be_read_and_saved(self, given, name):
        assert cli.main(["pretrain", "--workdir=out", f"--config=pretrain/{name}"]) == 0
        json.dumps(given[0][0].to_dict())

    @pytest.mark.parametrize("error, status, words", [
        (InputError("no such thing."), 2, "jaxpt pretrain: no such thing.\n"),
        (KeyboardInterrupt(), 130, "jaxpt pretrain: stopped.\n")])
    def test_what_the_loop_raises(self, monkeypatch, capsys, error, status, words):
        from jaxpt import pretrain

        def fail(*args, **kwargs):
            raise error

        monkeypatch.setattr(pretrain, "run", fail)
        assert cli.main(["pretrain", "--workdir=out"]) == status
        assert capsys.readouterr().err == words

    def test_a_bug_is_not_hidden(self, monkeypatch):
        from jaxpt import pretrain

        def fail(*args, **kwargs):
            raise ValueError("a bug")

        monkeypatch.setattr(pretrain, "run", fail)
        with pytest.raises(ValueError, match="a bug"):
            cli.main(["pretrain", "--workdir=out"])
