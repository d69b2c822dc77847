"""Recipes: each can be had in every variant, says what it must, and runs when made small."""

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest
from PIL import Image
from small_recipes import is_of, ran_two_steps, read, traced

from jaxpt import cli, methods, models, pretrain
from jaxpt.cli import config_files
from jaxpt.configs.pretrain import own_images, recipes
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.export.counterparts import counterpart
from jaxpt.train import workdir

# One of each kind of step is run, the others are traced.
RUN = ("look", "dino")
ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import plan as plans  # noqa: E402


def page_of(method):
    return importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}")


def words_of(method):
    """What a page's header offers as variants."""
    return re.search(r"^Variants: (.*?)\.$", page_of(method).__doc__, re.MULTILINE)[1].split(", ")


@pytest.mark.parametrize("method", methods.METHODS)
class TestImagenet:
    def test_says_source_expectation_and_command(self, method):
        text = page_of(method).__doc__
        for part in ("Source: ", "Expected: ", "On paper: ", "Variants: "):
            assert f"\n{part}" in text
        assert f"jaxpt pretrain --config=pretrain/imagenet/{method}.py " in text
        assert re.search("not yet run", text, re.IGNORECASE)

    def test_what_it_takes_is_that_of_the_record_and_of_this_config(self, method):
        record = plans.stored()[method]
        assert plans.line(record) in page_of(method).__doc__
        is_of(record, plans.recipe(method))

    def test_all_variants_are_sound(self, method):
        words = words_of(method)
        assert words[0] == "vit_s16" and words[-1] == "smoke"
        for word in ["", *words[1:-1], "vit_s16"]:
            config = plans.recipe(method, word)
            made, durations = pretrain.prepare_for(
                config, n_examples=recipes.IMAGES, classes=recipes.CLASSES
            )
            assert config.method == method and durations.total > 10_000
            if word.endswith("ep"):
                assert config.duration == f"{word[:-2]} epochs"
        with pytest.raises(InputError, match=r"variant 'fast' is unknown: use one of .*smoke"):
            page_of(method).get_config("fast")

    def test_can_be_made_small(self, method):
        smoke = read(f"pretrain/imagenet/{method}.py:smoke")
        full = plans.recipe(method)
        for same in ("method", "temperature", "views", "memory_kind"):
            assert smoke[same] == full[same]
        assert smoke.optimizer.name == full.optimizer.name
        assert smoke.augment.jitter == full.augment.jitter
        if method in RUN:
            ran_two_steps(smoke)
        else:
            assert traced(smoke).counts.flops() > 0


# One of each kind of step, since a ViT's is slow to compile: RandAugment and a memory.
@pytest.mark.parametrize("method", ["cross_entropy", "look"])
def test_a_vit_runs_when_made_small(method):
    ran_two_steps(read(f"pretrain/imagenet/{method}.py:vit_s16,smoke"))


@pytest.mark.parametrize("method", ["moco_v3", "dino"])
def test_other_vits_can_be_traced_when_made_small(method):
    assert traced(read(f"pretrain/imagenet/{method}.py:vit_s16,smoke")).counts.flops() > 0


def test_the_plans_of_the_record_are_those_of_the_code():
    assert plans.line(plans.made("look")) == plans.line(plans.stored()["look"])


def test_rates_follow_the_batch_and_the_words():
    assert plans.recipe("moco_v3").optimizer.learning_rate == pytest.approx(0.6 * 4096 / 256)
    assert plans.recipe("moco_v3", "300ep").optimizer.learning_rate == pytest.approx(0.3 * 16)
    assert plans.recipe("vicreg", "1000ep").optimizer.learning_rate == pytest.approx(0.2 * 8)
    both = plans.recipe("moco_v3", "vit_s16,300ep")
    assert (both.optimizer.learning_rate, both.duration) == (
        pytest.approx(1.5e-4 * 16),
        "300 epochs",
    )


@pytest.mark.parametrize("name", plans.TRANSFERS)
def test_transfer_says_source_expectation_command_and_what_it_takes(name):
    text = importlib.import_module(f"jaxpt.configs.transfer.{name}").__doc__
    for part in ("Source: ", "Expected: not yet run", plans.transfer_line(name), "Variant: smoke"):
        assert f"\n{part}" in text
    assert f"--config=transfer/{name}.py" in text


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """120 pictures of four classes on two levels, and a parser of the recipe for them."""
    rng = np.random.default_rng(0)
    for i in range(120):
        group = ("pet/cat", "pet/dog", "wild/fox", "wild/owl")[i % 4]
        file = tmp_path / "photos" / group / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), np.uint8)).save(file)
    monkeypatch.chdir(tmp_path)

    def read(variant="cpu", *flags):
        return config_files.read("pretrain", f"pretrain/own_images.py:{variant}", list(flags))

    return read


def test_the_recipe_for_one_s_own_images_is_fitted_to_them(photos, capsys):
    config = photos()
    said = capsys.readouterr().err
    # 24 of the 30 images of a class remain for training, so the fine classes are large enough.
    assert (config.data.image_size, config.data.label_map, config.batch_size) == (64, "fine", 8)
    assert (config.memory, config.look.k, config.knn_k) == (96, 8, 20)
    assert config.duration == "100 epochs" and config.model.norm == "batch"
    assert "size" not in config
    for name in own_images.OPEN:
        assert f"jaxpt: {name}=" in said
    flags = "--config.look.k=3", "--config.data.label_map=level:1", "--config.batch_size=32"
    config = photos("gpu,cross_entropy", *flags)
    said = capsys.readouterr().err
    assert (config.look.k, config.data.label_map, config.batch_size) == (3, "level:1", 32)
    assert config.method == "cross_entropy" and config.model.name == "resnet50"
    assert "look.k=" not in said and "memory=96" in said


def test_small_classes_are_trained_on_by_their_coarser_level(photos, tmp_path):
    for file in sorted((tmp_path / "photos").rglob("*.png"))[::2]:
        file.unlink()  # 12 of each class are left for training, 24 of each two
    assert photos().data.label_map == "level:1"


def test_a_run_on_one_s_own_images_has_a_test_part(photos, capsys):
    argv = ["pretrain", "--config=pretrain/own_images.py:smoke", "--workdir=run"]
    assert cli.main([*argv, "--config.devices=1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("done: run\n") and "jaxpt embed run --out=vectors.npz" in out
    config, _ = workdir.open_run("run")
    dataset = sources.load(config.data)
    assert len(dataset.test.ids) == 24 and len(dataset.trainval.ids) == 64
    assert not set(dataset.test.files) & set(dataset.trainval.files)
    assert all(str(f).startswith("photos/") for f in dataset.test.files)


@pytest.mark.parametrize("variant", own_images.SIZES)
def test_what_it_trains_exports_to_timm(variant):
    config = own_images.get_config(variant)
    network = models.make_backbone(config.model)
    assert counterpart(config.model.name, network).timm == config.model.name
