"""The command: what it accepts, and what reaches the loops."""

import json
import subprocess
import sys

import pytest

from jaxpt import cli
from jaxpt.data import small_sets
from jaxpt.errors import InputError

COMMANDS = ("demo", "pretrain", "scaling", "transfer", "evaluate", "replay", "report")
PRETRAIN = ["pretrain", "--workdir=out", "--config=pretrain/digits.py:smoke"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    return tmp_path


def everything_in(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_demo_without_fashion_mnist_names_the_package(folder, capsys, monkeypatch):
    monkeypatch.setattr(small_sets, "FASHION_MNIST_DIR", str(folder / "empty"))
    assert cli.main(["demo", "--data=fashion_mnist", "--out=new"]) == 2
    said = capsys.readouterr().err
    assert "dataset-fashion-mnist" in said and len(said.splitlines()) == 1
    assert not (folder / "new").exists()


def test_without_a_command_it_names_them_all(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert all(f"\n    {command} " in said for command in COMMANDS)


@pytest.mark.parametrize(
    "argv",
    [
        ["pretrian"],
        ["pretrain"],
        ["transfer", "--out=x"],
        ["transfer", "run"],
        ["demo", "--data=cifar"],
        ["demo", "--seeds=few"],
        ["demo", "--config.look.k=5"],
        ["report", "x.jsonl"],
        ["evaluate", "run"],
        ["evaluate", "--out=x"],
        ["evaluate", "run", "--out=x", "--part=train"],
        ["evaluate", "run", "--out=x", "--limit=few"],
    ],
)
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

    @pytest.mark.parametrize(
        "command, words",
        [
            ("demo", ["--data", "--out", "--seeds", "fashion_mnist"]),
            (
                "pretrain",
                [
                    "--config",
                    "--workdir",
                    "--noresume",
                    "--config.look.k=50",
                    "pretrain/digits.py",
                    "pretrain/fashion_mnist.py",
                    "pretrain/defaults.py",
                ],
            ),
            ("transfer", ["--config", "--out", "WORKDIR", "transfer/defaults.py"]),
            ("scaling", ["--methods", "--sizes", "--seeds", "--out", "pretrain/digits.py"]),
            ("report", ["--out", "RECORDS", "--markdown", "--csv"]),
        ],
    )
    def test_of_each_command(self, command, words, capsys):
        text = self.help_of(capsys, command)
        assert [word for word in words if word not in text] == []
        assert "__init__" not in text

    def test_as_a_program_of_its_own(self):
        result = subprocess.run(
            [sys.executable, "-m", "jaxpt.cli", "pretrain", "--help"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
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
        monkeypatch.setattr(
            pretrain,
            "run",
            lambda config, workdir, *, resume, max_minutes: calls.append((config, workdir, resume)),
        )
        return calls

    def test_defaults(self, given, capsys):
        assert cli.main(["pretrain", "--workdir=out"]) == 0
        ((config, workdir, resume),) = given
        assert (config.method, config.data.source, workdir, resume) == (
            "look",
            "digits",
            "out",
            True,
        )
        assert capsys.readouterr().out.startswith("done: out\n")

    def test_overrides_have_the_types_of_their_fields(self, given):
        assert (
            cli.main(
                PRETRAIN
                + [
                    "--config.look.k=7",
                    "--config.temperature=1",
                    "--config.augment.flip=true",
                    "--config.data.path=some where",
                    "--config.model.projector.hidden=(32,16)",
                    "--config.optimizer.learning_rate=1e-4",
                    "--config.model.options.widths=(8, 16)",
                    "--noresume",
                ]
            )
            == 0
        )
        ((config, _, resume),) = given
        assert (config.look.k, config.augment.flip, config.data.path) == (7, True, "some where")
        assert config.temperature == 1.0 and isinstance(config.temperature, float)
        assert config.model.projector.hidden == (32, 16)
        assert config.model.options.widths == (8, 16)  # which the config does not name
        assert config.optimizer.learning_rate == 1e-4
        assert config.duration == "4 steps"  # from the variant, untouched
        assert resume is False

    @pytest.mark.parametrize(
        "variant, method, duration",
        [("nca", "nca", "60 epochs"), ("cross_entropy,smoke", "cross_entropy", "4 steps")],
    )
    def test_variants(self, given, variant, method, duration):
        config = f"--config=pretrain/digits.py:{variant}"
        assert cli.main(["pretrain", "--workdir=out", config]) == 0
        assert (given[0][0].method, given[0][0].duration) == (method, duration)

    def test_a_config_file_of_one_s_own(self, given, folder):
        (folder / "mine.py").write_text(
            "from jaxpt.configs.pretrain import digits\n\n\ndef get_config():\n"
            "    config = digits.get_config()\n    config.look.k = 33\n    return config\n"
        )
        assert cli.main(["pretrain", "--workdir=out", "--config=mine.py"]) == 0
        assert given[0][0].look.k == 33

    @pytest.mark.parametrize("name", ["defaults.py", "digits.py", "fashion_mnist.py"])
    def test_every_installed_config_can_be_read_and_saved(self, given, name):
        assert cli.main(["pretrain", "--workdir=out", f"--config=pretrain/{name}"]) == 0
        json.dumps(given[0][0].to_dict())

    @pytest.mark.parametrize(
        "error, status, words",
        [
            (InputError("no such thing."), 2, "jaxpt pretrain: no such thing.\n"),
            (KeyboardInterrupt(), 130, "jaxpt pretrain: stopped.\n"),
        ],
    )
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
