"""Fields of the config that moved: writing an old name is an error, reading an old file is not."""

import json

import pytest
import small_runs
from jaxpt.configs.pretrain import defaults, digits

from jaxpt import backbones, cli, pretrain, records
from jaxpt.errors import InputError
from jaxpt.old_names import MOVED, with_new_names
from jaxpt.train import checkpoint
from jaxpt.train import workdir as workdirs
from jaxpt.weights import header

pytestmark = pytest.mark.usefixtures("unoptimised")

SMALL = [
    "--config.data.limit=60",
    "--config.batch_size=20",
    "--config.memory=40",
    "--config.devices=1",
    "--config.knn_every=0 steps",
    "--config.model.options.widths=(8,)",
    "--config.model.options.strides=(2,)",
    "--config.look.k=5",
]


def flat(config: dict) -> dict:
    """A config as an earlier version saved it."""
    old = {name: value for name, value in config.items() if name not in sections()}
    old["vicreg"] = config["vicreg"]
    for name, new in MOVED.items():
        section, field = next(
            (n.split(".") for n in new if n.startswith(config["method"])), new[0].split(".")
        )
        old[name] = config[section][field]
    return old


def sections():
    return {new.partition(".")[0] for places in MOVED.values() for new in places}


def test_every_new_name_is_a_field():
    config = defaults.get_config().to_dict()
    for new in sum(MOVED.values(), ()):
        section, field = new.split(".")
        assert field in config[section]
    assert not MOVED.keys() & config.keys()


@pytest.mark.parametrize("method", small_runs.METHODS)
def test_an_older_config_is_read_as_the_same_one(method):
    changes = {"look.k": 7, "dino.prototypes": 9}
    if method in ("spread", "mask_con", "grafit"):
        changes[f"{method}.weight"] = 0.25
    config = small_runs.config_of(method, changes).to_dict()
    assert defaults.completed(flat(config)) == config
    assert with_new_names(config) == config  # and today's stays


@pytest.mark.parametrize("other", [None, 5, [1], {"k": 5}, {"mixup": 0.1, "duration": "1 steps"}])
def test_what_is_no_config_of_pre_training_stays(other):
    assert with_new_names(other) is other


def test_an_older_run_goes_on_without_a_word(tmp_path, capsys):
    argv = ["pretrain", "--config=pretrain/digits.py:look", f"--workdir={tmp_path}", *SMALL]
    assert cli.main([*argv, "--config.duration=1 steps"]) == 0
    saved = json.loads((tmp_path / workdirs.CONFIG).read_text())
    (tmp_path / workdirs.CONFIG).write_text(json.dumps(flat(saved)))
    assert "k" in flat(saved) and workdirs.read_config(tmp_path).look.k == 5
    capsys.readouterr()
    assert cli.main([*argv, "--config.duration=2 steps"]) == 0
    assert "another config: duration (1 steps there, 2 steps here). " in capsys.readouterr().err
    assert "k" not in json.loads((tmp_path / workdirs.CONFIG).read_text())


def without_options_of_sources(config: dict) -> dict:
    """A config as saved before heads and optimizers had the options of published recipes."""
    old = {name: value for name, value in config.items() if name not in NEW}
    heads = {
        part: {"hidden": config["model"][part]["hidden"]} for part in ("projector", "predictor")
    }
    heads["projector"]["dim"] = config["model"]["projector"]["dim"]
    old["model"] = config["model"] | heads
    first = "name learning_rate momentum weight_decay warmup clip_norm".split()
    old["optimizer"] = {name: config["optimizer"][name] for name in first}
    old["t_rex"] = {"prototypes_from": "learnt"}
    names = "prototypes", "target_temperature", "centre_momentum"
    old["dino"] = {name: config["dino"][name] for name in names}
    return old


NEW = (
    "separate_views",
    "weight_ema",
    "evaluated_weights",
    "knn_fine",
    "probe",
    "neighbor_workspace",
)
LAYERS = {  # parameters of a head with one hidden layer, as that version stored them
    "Dense_0": {"kernel"},
    "GroupNorm_0": {"scale", "bias"},
    "Dense_1": {"kernel", "bias"},
}


def test_a_run_with_the_heads_of_an_earlier_version_opens_and_goes_on(tmp_path, capsys):
    """As does a run whose default has changed in a section of another method."""
    argv = ["pretrain", "--config=pretrain/digits.py:simsiam", f"--workdir={tmp_path}", *SMALL]
    assert cli.main([*argv, "--config.duration=1 steps"]) == 0
    file = tmp_path / workdirs.CONFIG
    file.write_text(json.dumps(without_options_of_sources(json.loads(file.read_text()))))
    opened = backbones.open_backbone(tmp_path)
    assert opened.label == "simsiam" and opened.params.keys() == {"backbone"}
    stored = checkpoint.read_arrays(tmp_path, 1)["params"]
    for part in "head", "predictor":
        assert {name: set(layer) for name, layer in stored[part].items()} == LAYERS
    capsys.readouterr()
    assert cli.main([*argv, "--config.duration=2 steps"]) == 0
    assert "another config: duration (1 steps there, 2 steps here). " in capsys.readouterr().err


def test_older_records_and_exports_are_read_under_the_new_names(tmp_path):
    config = json.loads(json.dumps(digits.get_config("look").to_dict()))
    records.append(tmp_path / "records.jsonl", {"label": "look", "config": flat(config)})
    [record] = records.read(tmp_path / "records.jsonl")
    assert record["label"] == "look" and defaults.completed(record["config"]) == config
    assert not MOVED.keys() & record["config"].keys()
    about = {
        "layout": "timm",
        "model": {"name": "resnet18", "norm": "group", "dtype": "float32", "options": {}},
        "normalisation": "unit",
        "method": "look",
        "seed": 0,
        "step": 1,
        "fingerprint": "",
        "config": flat(config),
        "made": {},
    }
    (tmp_path / "model.safetensors").write_bytes(header.dump({}, about))
    found = header.read_about(tmp_path / "model.safetensors")["config"]
    assert found == record["config"]


WRITTEN = (
    "from jaxpt.configs.pretrain import digits\n\n\n"
    "def get_config():\n    c = digits.get_config()\n"
)
SENTENCES = {
    "k": "config.k is now config.look.k: use the new name.",
    "weight": "config.weight is now config.spread.weight, config.mask_con.weight or "
    "config.grafit.weight: use that of your method.",
}


@pytest.mark.parametrize("name", SENTENCES)
@pytest.mark.parametrize("how", ["flag", "written", "read"])
def test_an_old_name_gets_the_new_one(name, how, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f"    c.{name} = 20\n" if how == "written" else f"    c.memory = 20 * c.{name}\n"
    (tmp_path / "mine.py").write_text(WRITTEN + line + "    return c\n")
    config = "pretrain/digits.py" if how == "flag" else "mine.py"
    argv = ["pretrain", f"--config={config}", "--workdir=out"]
    assert cli.main(argv + [f"--config.{name}=20"] * (how == "flag")) == 2
    where = "--config: mine.py, line 6: " if how == "read" else ""
    assert capsys.readouterr().err == f"jaxpt pretrain: {where}{SENTENCES[name]}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_an_old_name_in_python_gets_the_new_one():
    config = digits.get_config()
    config.update_from_flattened_dict({"k": 20})
    with pytest.raises(InputError, match="config.k is now config.look.k"):
        pretrain.run(config, quiet=True)
