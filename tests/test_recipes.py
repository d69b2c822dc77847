"""Recipes: each can be had in every variant, says what it must, and runs when made small."""

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest
from PIL import Image
from small_recipes import is_of, ran_two_steps, read, traced

from jaxpt import cli, methods, pretrain
from jaxpt.configs.pretrain import recipes
from jaxpt.errors import InputError

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


def test_a_recipe_for_one_s_own_images_differs_in_three_lines_and_runs(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(80):
        file = tmp_path / "photos" / "train" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    monkeypatch.chdir(tmp_path)
    source = (ROOT / "configs" / "pretrain" / "own_images.py").read_text()
    changed = re.findall(r"^    c\.\w.* = ", source, re.MULTILINE)
    assert len(changed) == 3
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert source.partition('"""\n\n')[2] in page  # which is what it says there
    (tmp_path / "mine.py").write_text(source)
    # As written but for what would take long here: pixels, network, epochs.
    assert (
        cli.main(
            [
                "pretrain",
                "--config=mine.py",
                "--workdir=run",
                "--config.data.image_size=16",
                "--config.model.name=small_cnn",
                "--config.model.dtype=float32",
                "--config.devices=1",
                "--config.model.projector.hidden=(16,)",
                "--config.duration=2 steps",
                "--config.optimizer.warmup=1 steps",
            ]
        )
        == 0
    )
    assert (tmp_path / "run" / "metrics.jsonl").exists()
