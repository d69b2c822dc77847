"""Help on fields, suggestions for unknown ones, the printed config, and completion in a shell."""

import shlex
import shutil
import subprocess

import pytest
from jaxpt.configs.pretrain import defaults as pretraining
from jaxpt.configs.transfer import defaults as transfer

from jaxpt import cli
from jaxpt.cli import config_files

CONFIGS = {"pretrain": pretraining.get_config(), "transfer": transfer.get_config()}
# Their section is explained as a whole.
BY_SECTION = {"schedule.name", "schedule.at", "schedule.factor"}


def said(capsys, *argv, status=0):
    try:
        assert cli.main(list(argv)) == status
    except SystemExit as end:
        assert end.code == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


@pytest.mark.parametrize("kind", CONFIGS)
def test_help_has_every_field_with_its_value_and_meaning(kind, capsys):
    lines = said(capsys, kind, "--help").splitlines()
    for name, value in config_files.flat(CONFIGS[kind]).items():
        about = config_files.comment(kind, name)
        assert about or name in BY_SECTION, name
        (line,) = [line for line in lines if line.startswith(f"  {name}=")]
        assert about in line and (kind == "pretrain" or f"{name}={value}" in line)


def test_help_of_a_section_and_of_a_field(capsys):
    assert said(capsys, "pretrain", "--help=look.k").splitlines() == [
        "look",
        "  look.k=50  neighbours per query",
    ]
    assert said(capsys, "pretrain", "--help=--config.look.k").startswith("look\n  look.k=50 ")
    section = said(capsys, "pretrain", "--help=optimizer", "--config=pretrain/defaults.py")
    assert "optimizer.learning_rate=0.003" in section and "look" not in section
    assert "did you mean 'optimizer.name'" in said(
        capsys, "data", "show", "--help=optimizr.name", status=2
    )


def test_help_has_a_group_for_each_section_after_the_fields_of_none():
    lines = config_files.listing("pretrain", CONFIGS["pretrain"]).splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads[:2] == ["general", "augment: for the views, and for a target that sees them"]
    assert "key_augment: for keys of a memory" in heads and len(set(heads)) == len(heads)
    group = ""
    for line in filter(None, lines):
        if not line.startswith(" "):
            group = line.partition(":")[0].replace("general", "")
        else:
            name = line.strip().partition("=")[0]
            assert name.rpartition(".")[0] == group, name


@pytest.mark.parametrize(
    "kind, key, meant",
    [
        ("pretrain", "learning_rate", ["optimizer.learning_rate"]),
        ("pretrain", "optimizer.lr", ["optimizer.learning_rate"]),
        ("pretrain", "optimiser.learning_rate", ["optimizer.learning_rate"]),
        ("pretrain", "epochs", ["duration"]),
        ("pretrain", "wd", ["optimizer.weight_decay"]),
        ("pretrain", "batchsize", ["batch_size"]),
        ("pretrain", "batch-size", ["batch_size"]),
        ("pretrain", "image_size", ["data.image_size"]),
        ("pretrain", "look.kk", ["look.k"]),
        ("pretrain", "augment.flp", ["augment.flip"]),
        ("pretrain", "key_augment.flp", ["key_augment.flip"]),
        ("pretrain", "flip", ["augment.flip", "key_augment.flip", "local_augment.flip"]),
        ("pretrain", "name", ["model.name", "optimizer.name"]),
        ("pretrain", "key_augment.batch_siz", ["key_augment.crop_size", "key_augment.blur_size"]),
        ("pretrain", "weight_deca", ["weight_ema", "optimizer.weight_decay"]),
        ("pretrain", "model.projector.widths", []),
        ("pretrain", "xyzzy", []),
        ("transfer", "lr", ["learning_rates"]),
        ("transfer", "cropsize", ["augment.crop_size"]),
        ("transfer", "epochs", ["duration"]),
        ("transfer", "weight_decay", ["weight_decays"]),
    ],
)
def test_unknown_fields_are_taken_by_name_and_by_meaning(kind, key, meant):
    assert config_files.nearest(CONFIGS[kind], key) == meant


def test_at_most_three_fields_are_suggested():
    config = {f"section_{i}": {"width": i} for i in range(5)}
    assert config_files.nearest(config, "width") == [f"section_{i}.width" for i in range(3)]


@pytest.mark.parametrize(
    "key, words",
    [
        ("look.k.size", "look.k has no fields."),
        ("model.predictor.xyzzy", "model.predictor has activation, bias, "),
        ("xyzzy", "it has augment, "),
        ("flip", "did you mean 'augment.flip' or 'key_augment.flip' or 'local_augment.flip'?"),
    ],
)
def test_a_suggestion_ends_a_sentence(key, words):
    assert config_files.suggestion(CONFIGS["pretrain"], key).startswith(words)


def test_every_meaning_is_a_field():
    known = set().union(*map(config_files.flat, CONFIGS.values()))
    assert {name for names in config_files.MEANINGS.values() for name in names} <= known


def test_an_argument_without_config_is_suggested_with_it(capsys):
    text = said(capsys, "pretrain", "--workdir=x", "--lr=1", status=2)
    assert "unknown argument '--lr=1': did you mean --config.optimizer.learning_rate?" in text


def test_the_printed_config_is_read_back_as_it_was(capsys):
    argv = ["--config=pretrain/cifar.py:dino", "--config.look.k=7", "--config.data.path=a 'b'"]
    lines = said(capsys, "pretrain", "--print-config", *argv)
    flags = shlex.split(lines)
    assert "--config.look.k=7" in flags and "--config.data.path=a 'b'" in flags
    known = {
        name for name, value in config_files.flat(pretraining.get_config()).items() if value != {}
    }
    options = [flag for flag in flags if "model.options." in flag]
    assert {flag.partition("=")[0] for flag in flags if flag not in options} == {
        f"--config.{name}" for name in known
    }
    before = config_files.read("pretrain", "pretrain/cifar.py:dino", argv[1:])
    assert (
        config_files.read("pretrain", "pretrain/defaults.py", flags).to_dict() == before.to_dict()
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_completion_in_bash(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "script").write_text(said(capsys, "completion", "bash"))
    lines = {
        "jaxpt pretr": "pretrain",
        "jaxpt data ch": "check",
        "jaxpt data check --js": "--json",
        "jaxpt pretrain --config.optimizer.learning": "--config.optimizer.learning_rate=",
        "jaxpt pretrain --config=pretrain/own": "pretrain/own_images.py",
        "jaxpt evaluate --part=": "test validation",
        "jaxpt export ru": "runs",
    }
    # As bash splits a line: also at "=".
    program = """source ./script
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "${1//=/ = }"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_jaxpt
echo "${COMPREPLY[*]}"
"""
    for line, expected in lines.items():
        found = subprocess.run(
            ["bash", "-c", program, "bash", line], cwd=tmp_path, capture_output=True, text=True
        )
        assert (found.stdout.strip(), found.stderr) == (expected, ""), line
    assert said(capsys, "completion", "zsh").startswith("autoload")
