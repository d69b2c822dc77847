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
from jaxpt.configs.pretrain import defaults, own_images, recipes
from jaxpt.data import presets, sources
from jaxpt.errors import InputError
from jaxpt.export.counterparts import counterpart
from jaxpt.train import workdir

# One of each kind of step is run, the others are traced.
RUN = ("look", "dino")
ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import plan as plans  # noqa: E402

pytestmark = pytest.mark.usefixtures("unoptimised")


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


@pytest.fixture
def sized(monkeypatch):
    """Fits the recipe to a set that has these class names, and images of a size, by name alone."""

    def fit(classes, side=100, variant="cpu", **flags):
        monkeypatch.setattr(own_images, "_images", lambda data: (classes, side))
        config = own_images.get_config(variant)
        config.update_from_flattened_dict(
            {name.replace("__", "."): value for name, value in flags.items()}
        )
        fitted = own_images.fit(config)
        return [
            *(fitted.data.image_size, fitted.batch_size, fitted.memory),
            *(fitted.look.k, fitted.knn_k, fitted.duration),
        ], fitted

    return fit


def of(counts):
    """Class of each image."""
    return [name for name, count in counts.items() for _ in range(count)]


def even(n, classes=10):
    return [f"class {i % classes}" for i in range(n)]


def test_a_set_s_size_decides_on_batch_memory_k_and_duration(sized):
    found, config = sized(even(1000), 500)
    # 15 × 64 keys are 96 of a class; 40 passes are 40,000 images.
    assert found == [64, 64, 960, 32, 20, "40 epochs"]
    assert config.knn_every == config.checkpoint_every == "4 epochs"
    assert config.optimizer.warmup == "2 epochs"
    # 2 images of a class: the smallest that a config may have.
    assert sized(even(20), 20)[0] == [32, 8, 16, 3, 1, "100 epochs"]
    assert sized(even(300, 20), 95)[0] == [64, 32, 288, 5, 14, "100 epochs"]
    # A large set reaches the limits of its variant, and of the memory and of k.
    assert sized(even(100_000), 150, "gpu")[0] == [128, 256, 65_536, 400, 20, "50 epochs"]
    assert sized(even(100_000), 300, "full")[0] == [224, 1024, 65_536, 400, 20, "200 epochs"]
    found, config = sized(even(100_000))
    assert found[-1] == "40000 examples"
    assert config.optimizer.warmup == own_images.get_config().optimizer.warmup


def test_what_is_given_decides_on_the_rest(sized):
    found, _ = sized(even(1000), batch_size=300)
    assert found[1:4] == [300, 900, 30]
    assert sized(even(1000), memory=320)[0][2:4] == [320, 11]
    assert sized(even(1000), data__limit=100)[0][1:3] == [8, 96]
    before = own_images.get_config().knn_every
    found, config = sized(even(1000), duration="7 epochs")
    assert found[-1] == "7 epochs" and config.knn_every == before


@pytest.mark.parametrize(
    "counts, level",
    [
        ({"a/b/1": 16, "a/b/2": 16, "c/d/1": 16}, "fine"),
        ({"a/b/1": 15, "a/b/2": 15, "c/d/1": 15, "c/d/2": 15}, "level:2"),
        ({f"{a}/{b}/1": 4 for a in "xyz" for b in "12345"}, "level:1"),
        ({"a": 2, "b": 2}, "fine"),
        # Most classes are small, but most images are in the large one.
        ({"a/big": 100, **{f"b/{i}": 2 for i in range(10)}}, "fine"),
        ({"a/some": 20, **{f"b/{i}": 5 for i in range(10)}}, "level:1"),
    ],
)
def test_the_finest_level_whose_typical_class_is_not_small_is_learnt(counts, level, sized, capsys):
    assert sized(of(counts))[1].data.label_map == level
    said = capsys.readouterr().err
    if level == "level:2":
        assert "2 classes at level 2 of 3, and a typical image's class has 30 images" in said


def test_classes_and_sides_are_those_of_training_images(photos):
    data = photos().data
    classes, side = own_images._images(data)
    names, counts = np.unique(classes, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist())) == dict.fromkeys(
        ["pet/cat", "pet/dog", "wild/fox", "wild/owl"], 24
    )
    assert side == 70
    data.test_share = 0.0
    assert len(own_images._images(data)[0]) == 120


def test_words_of_the_variant_of_own_images():
    augment = own_images.get_config("cpu,augment=simclr").augment
    assert augment.to_dict() == presets.apply(defaults.get_config(), "simclr").augment.to_dict()
    config = own_images.get_config("gpu,byol")
    assert config.method == "byol" and config.separate_views and config.model.predictor.bias
    with pytest.raises(InputError, match="variant 'cpu,gpu' names 2 sizes: name one"):
        own_images.get_config("cpu,gpu")
    with pytest.raises(InputError, match="variant 'fast' is unknown: use one of cpu, gpu, full"):
        own_images.get_config("cpu,fast")
