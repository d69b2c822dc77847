"""Exported folders: what is in them, what reads them back, and when none is written.

They are pushed to a hub that is none: what it is asked for, and what is said when it refuses.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import ml_collections
import numpy as np
import pytest
import weight_references as references
from jax import export as jax_export
from jaxpt.configs.pretrain import digits
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxpt import __version__, export
from jaxpt.backbones import open_backbone
from jaxpt.data import sources
from jaxpt.errors import InputError, RunError
from jaxpt.export import folder as folders
from jaxpt.export.counterparts import Counterpart
from jaxpt.train import checkpoint
from jaxpt.weights import header

pytestmark = pytest.mark.usefixtures("unoptimised")

STORED = json.loads(references.FILE.read_text())
TOKEN = "hf_secret_of_the_tests"
# Runs lines of a card where jaxpt cannot be imported.
ALONE = """
import json, sys
sys.modules["jaxpt"] = None
import numpy as np
images = np.load("images.npy")
{lines}
print(json.dumps(np.asarray({what}).tolist()))
"""


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def files(path):
    return sorted(file.name for file in path.iterdir())


def model(name, **options):
    return ml_collections.ConfigDict(
        {"name": name, "norm": "group", "dtype": "float32", "options": options, "normalisation": ""}
    )


def test_a_run_reads_back_bit_for_bit(run, opened, tmp_path):
    made = export.run(run, tmp_path / "out", classifier=True)
    assert files(made.folder) == ["README.md", "model.safetensors"]
    assert made.layout == "jaxpt" and len(made.notes) == 1
    assert "norm group, 1 channel, has no counterpart in timm" in made.notes[0]
    for source in made.folder, made.folder / "model.safetensors":
        back = open_backbone(source)
        for name in "params", "batch_stats", "classifier":
            assert_equal(getattr(back, name), getattr(opened, name))
        for name in "label", "method", "seed", "step", "checkpoint", "made":
            assert getattr(back, name) == getattr(opened, name)
        assert back.encoder == opened.encoder
        assert back.config.data.source == "digits"
    images = sources.load(digits.get_config().data).test.images[:5]
    np.testing.assert_array_equal(back.features(images), opened.features(images))
    again = export.run(made.folder, tmp_path / "again", classifier=True)
    assert_equal(open_backbone(again.folder).params, opened.params)


def test_the_header_says_what_it_is(run, opened, tmp_path):
    export.run(run, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "numpy") as file:
        header = file.metadata()
        names = set(file.keys())
    assert header.keys() == {"format", "jaxpt"} and header["format"] == "pt"
    said = json.loads(header["jaxpt"])
    assert (said["version"], said["method"], said["step"], said["seed"], said["fingerprint"]) == (
        __version__,
        "cross_entropy",
        2,
        3,
        opened.checkpoint,
    )
    assert said["model"] == {
        "name": "small_cnn",
        "norm": "group",
        "dtype": "float32",
        "options": {"widths": [8, 16], "strides": [2, 1]},
    }
    data = said["made"]["data"]
    assert data == {
        "identity": checkpoint.about(run, 2)["data"]["identity"],
        "kind": "arrays",
        "name": "digits",
        "images": 300,
        "shape": [8, 8, 1],
        "classes": ["first five", "last five"],
    }
    assert said["made"]["date"] and "jax" in said["made"]["packages"]
    assert "params/backbone/Conv_0/kernel" in names
    assert not any("classifier" in name for name in names)


def test_paths_of_the_machine_stay_here(opened, tmp_path):
    opened.config.data.update(path="/home/somebody/secret/photos", label_map="/srv/maps/a.csv")
    opened.config.model.weights = "/home/somebody/start.pth"
    plan = folders.card.Plan(
        opened, "jaxpt", Counterpart(), ("safetensors",), False, (8, 8, 1), [], ""
    )
    said = json.dumps(folders.about(plan)) + folders.card.write(plan)
    assert "photos" in said and "a.csv" in said and "start.pth" in said
    assert "somebody" not in said and "srv" not in said


@pytest.mark.parametrize("layout", ["timm", "torchvision"])
def test_a_resnet_has_the_names_and_shapes_of_timm_and_torchvision(layout, resnet18, tmp_path):
    source = load_file(resnet18)
    made = export.run(resnet18, tmp_path / "out", layout=layout, classifier=True)
    assert (made.layout, made.notes) == (layout, [])
    found = load_file(made.folder / "model.safetensors")
    assert_equal(found, source)
    shapes = {name: value.shape for name, value in found.items()}
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    assert references.digest(shapes) == STORED["shapes"]["resnet18"][layout]
    back, before = open_backbone(made.folder), open_backbone(resnet18)
    assert_equal(
        (back.params, back.batch_stats, back.classifier),
        (before.params, before.batch_stats, before.classifier),
    )
    assert (back.label, back.method, back.config, back.encoder.normalisation) == (
        "out",
        "weights",
        None,
        "imagenet",
    )
    bare = export.run(resnet18, tmp_path / "bare", layout=layout)
    assert source.keys() - load_file(bare.folder / "model.safetensors").keys() == {
        "fc.weight",
        "fc.bias",
    }
    assert ("config.json" in files(made.folder)) == (layout == "timm")


def test_timms_configuration(resnet18, tmp_path):
    made = export.run(resnet18, tmp_path / "out", classifier=True, image_size=160)
    said = json.loads((made.folder / "config.json").read_text())
    assert (said["architecture"], said["num_classes"], said["num_features"]) == ("resnet18", 3, 512)
    pretrained = said["pretrained_cfg"]
    assert pretrained["input_size"] == [3, 160, 160] and pretrained["num_classes"] == 3
    assert (pretrained["first_conv"], pretrained["classifier"]) == ("conv1", "fc")
    assert pretrained["mean"] == [0.485, 0.456, 0.406] and pretrained["crop_pct"] == 1.0
    bare = json.loads((export.run(resnet18, tmp_path / "bare").folder / "config.json").read_text())
    assert bare["num_classes"] == bare["pretrained_cfg"]["num_classes"] == 0


def test_an_edited_file_is_found_out(run, tmp_path):
    path = export.run(run, tmp_path / "out").folder / "model.safetensors"
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    state = load_file(path)
    state["params/backbone/Conv_0/kernel"][0, 0, 0, 0] += 1
    save_file(state, path, header)
    with pytest.raises(InputError, match="damaged or edited: the fingerprint of its weights"):
        open_backbone(path)
    del state["params/backbone/Conv_0/kernel"]
    save_file(state, path, header)
    with pytest.raises(InputError, match="does not contain the network of its config"):
        open_backbone(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "is damaged"),
        (lambda text: "[]", "does not have format 1"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "does not have format 1"),
        (lambda text: text.replace('"model": {', '"odel": {'), "has no valid model"),
        (lambda text: text.replace('"small_cnn"', "7"), "has no valid name"),
        (lambda text: text.replace('"images": 300', '"images": "many"'), "has no valid images"),
        (lambda text: text.replace('"small_cnn"', '"vgg"'), "model.name must be one of"),
    ],
)
def test_a_header_that_makes_no_sense_is_an_input_error(change, message, run, tmp_path):
    path = export.run(run, tmp_path / "out").folder / "model.safetensors"
    with safe_open(path, "numpy") as file:
        text = file.metadata()["jaxpt"]
    save_file(load_file(path), path, {"jaxpt": change(text)})
    with pytest.raises(InputError, match=message):
        open_backbone(path)


def test_what_is_there_stays(run, tmp_path):
    (tmp_path / "empty").mkdir()
    export.run(run, tmp_path / "empty")
    (tmp_path / "empty" / "README.md").write_text("license: mine")
    with pytest.raises(InputError, match="already exists.*remove it or choose another"):
        export.run(run, tmp_path / "empty")
    assert (tmp_path / "empty" / "README.md").read_text() == "license: mine"


def test_a_folder_is_whole_or_not_there(run, tmp_path, monkeypatch):
    """A disk that fills up at the second file."""
    written, write = [], folders.pathlib.Path.write_bytes

    def filling(path, content):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path.name)
        return write(path, content)

    monkeypatch.setattr(folders.pathlib.Path, "write_bytes", filling)
    with pytest.raises(InputError, match="cannot be written .No space left"):
        export.run(run, tmp_path / "out")
    assert written and os.listdir(tmp_path) == []


def test_records_of_this_backbone_alone_count(run, opened, tmp_path):
    (tmp_path / "records.jsonl").write_text('{"checkpoint": "another"}\n')
    with pytest.raises(InputError, match=f"none of the 1 records measures .*{opened.checkpoint}"):
        export.run(run, tmp_path / "out", record_files=[tmp_path / "records.jsonl"])


def test_networks_without_a_counterpart_are_saved_all_the_same(tmp_path):
    made = export.run(
        "scratch:5",
        tmp_path / "out",
        layout="torchvision",
        model=model("small_cnn", widths=(8, 16), strides=(2, 1)),
    )
    assert made.layout == "jaxpt" and "(strides=(2, 1), widths=(8, 16))" in made.notes[0]
    back = open_backbone(made.folder)
    assert back.encoder.backbone.widths == (8, 16) and back.seed == 5
    assert (
        back.checkpoint
        == open_backbone(
            "scratch:5", model=model("small_cnn", widths=(8, 16), strides=(2, 1))
        ).checkpoint
    )


def test_own_names_are_nested_again():
    tree = {"a": {"b": np.ones(2), "c": {"d": np.zeros((1, 3))}}}
    flat = header.flat(tree)
    assert flat.keys() == {"a/b", "a/c/d"}
    assert_equal(header.nested(flat), tree)
    with pytest.raises(InputError, match="'a/b' lies below another tensor"):
        header.nested({"a": np.ones(1), "a/b": np.ones(1)})


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_images_has_the_encoders_features(count, opened, images):
    content = folders.dump_stablehlo(opened, (8, 8, 1))
    read = jax_export.deserialize(bytearray(content))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    features = read.call(images[:count])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, opened.features(images[:count]), rtol=0, atol=1e-6)


def test_the_lines_of_the_card_need_jax_alone(run, opened, images, tmp_path):
    made = export.run(
        run, tmp_path / "FOLDER", formats=("safetensors", "stablehlo"), classifier=True
    )
    card = (made.folder / "README.md").read_text()
    (lines,) = [
        code
        for code in re.findall("```python\n(.*?)```", card, re.DOTALL)
        if "encoder.stablehlo" in code
    ]
    assert len([line for line in lines.splitlines() if line]) == 3
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", ALONE.format(lines=lines, what="logits")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    dense = opened.classifier["Dense_0"]
    wanted = opened.features(images) @ dense["kernel"] + dense["bias"]
    assert np.abs(wanted).max() > 1e-4
    np.testing.assert_allclose(json.loads(result.stdout), wanted, rtol=0, atol=1e-5)


def test_the_encoder_alone(run, tmp_path):
    made = export.run(run, tmp_path / "out", formats=("stablehlo",), image_size=16)
    assert sorted(path.name for path in pathlib.Path(made.folder).iterdir()) == [
        "README.md",
        "encoder.stablehlo",
    ]
    read = jax_export.deserialize(bytearray((made.folder / "encoder.stablehlo").read_bytes()))
    assert read.in_avals[0].shape[1:] == (16, 16, 1)
    assert "open_backbone" not in (made.folder / "README.md").read_text()


@pytest.fixture
def pushed(monkeypatch):
    """A stand-in of huggingface_hub; what it was asked for, and "fails", which it then raises."""
    calls = types.SimpleNamespace(made=[], uploads=[], tokens=[], fails=None)

    class HfApi:
        def __init__(self, token):
            calls.tokens.append(token)

        def create_repo(self, repo_id, **options):
            calls.made.append((repo_id, options))
            return f"https://hub.test/{repo_id}"

        def upload_folder(self, *, folder_path, **options):
            if calls.fails:
                raise calls.fails
            calls.uploads.append((folder_path, options))

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    monkeypatch.setenv(folders.TOKEN, TOKEN)
    return calls


def test_a_folder_goes_to_a_private_repository(run, tmp_path, pushed, capsys):
    made = export.run(run, tmp_path / "out", push="me/my-encoder_1.0")
    assert made.url == "https://hub.test/me/my-encoder_1.0"
    ((name, options),) = pushed.made
    assert name == "me/my-encoder_1.0" and options["private"] and options["exist_ok"]
    ((folder, options),) = pushed.uploads
    assert folder == str(made.folder) and options["repo_id"] == "me/my-encoder_1.0"
    assert pushed.tokens == [TOKEN]
    card = (made.folder / "README.md").read_text()
    assert "hf download me/my-encoder_1.0" in card
    said = capsys.readouterr()
    for text in (
        said.out,
        said.err,
        *(path.read_bytes().decode("latin-1") for path in made.folder.iterdir()),
    ):
        assert TOKEN not in text


def test_what_the_hub_refuses_is_told_without_the_token(run, tmp_path, pushed):
    pushed.fails = OSError(f"403 for Bearer {TOKEN}:\n forbidden")
    with pytest.raises(
        RunError,
        match="me/x could not be pushed .OSError: 403 for Bearer …: "
        "forbidden.*is complete; upload it with: hf upload me/x ",
    ) as error:
        export.run(run, tmp_path / "out", push="me/x")
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "a/b/c",
        "me/",
        "/x",
        "me/a b",
        "me/a--b",
        "me/a..b",
        "me/x.git",
        "-me/x",
        "me/é",
        "me/" + "x" * 97,
    ],
)
def test_names_of_no_repository(name, pushed):
    with pytest.raises(InputError, match="USER/REPO"):
        folders.connect_hub(name)
    assert pushed.tokens == []


@pytest.mark.parametrize("token", [None, "", " "])
def test_without_a_token_nothing_is_written(token, run, tmp_path, pushed, monkeypatch):
    monkeypatch.delenv(folders.TOKEN) if token is None else monkeypatch.setenv(folders.TOKEN, token)
    with pytest.raises(InputError, match="set HF_TOKEN to a token with write access"):
        export.run(run, tmp_path / "out", push="me/x")
    assert not (tmp_path / "out").exists()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'jaxpt\[hub\]'"):
        folders.connect_hub("me/x")
