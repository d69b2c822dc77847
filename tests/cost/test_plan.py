"""Plans: what is known of a set, what a step needs, and what the command says."""

import pathlib
import sys

import numpy as np
import pytest
from jaxpt.configs.pretrain import digits, fashion_mnist
from PIL import Image

from jaxpt import cli, records
from jaxpt.cost import plan
from jaxpt.cost.chips import CHIPS, parse
from jaxpt.errors import InputError

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))

import input as inputs  # noqa: E402


def config_of(**changes):
    config = digits.get_config("look")
    config.update_from_flattened_dict(changes)
    return config


class TestChips:
    def test_names(self):
        assert parse("v5e-8") == (CHIPS["v5e"], 8)
        assert parse("v4-16") == (CHIPS["v4"], 8)  # Google counts its cores
        assert parse("h100-1") == (CHIPS["h100"], 1)

    @pytest.mark.parametrize(
        "name, message",
        [
            ("cpu-2", "a CPU has no published peak"),
            ("cpu", "a CPU has no published peak"),
            ("v9-8", "must be one of v4, v5e, .*got 'v9-8'"),
            ("v5e", "must say how many, as in v5e-8"),
            ("v5e-0", "must say how many"),
            ("v5e-x", "must say how many"),
            ("v4-7", "two per chip, so the number must be even"),
            ("h100-16", "join at most 8 chips"),
        ],
    )
    def test_what_there_is_not(self, name, message):
        with pytest.raises(InputError, match=message):
            parse(name)


class TestSizes:
    def test_of_sets_that_have_a_name(self):
        assert plan.sizes_of(config_of()) == (1200, 2, 8, 1)
        assert plan.sizes_of(fashion_mnist.get_config()) == (6000, 5, 28, 1)
        imagenet = {
            "data.source": "tfds:imagenet2012",
            "data.label_map": "fine",
            "data.image_size": 224,
        }
        assert plan.sizes_of(config_of(**imagenet)) == (1_281_167, 1000, 224, 3)
        assert plan.sizes_of(config_of(**imagenet | {"data.pretrain_limit": 5})).images == 5
        # Of DTD, tfds' train is one of three parts, the protocol's two.
        for source, images in (("tfds:dtd", 1880), ("protocol:dtd", 3760)):
            config = config_of(**{"data.source": source, "data.label_map": "fine"})
            assert plan.sizes_of(config)[:2] == (images, 47)

    def test_validation_and_limits_are_taken_off(self):
        assert plan.sizes_of(config_of(**{"data.train_on": "train"})).images == 960
        assert plan.sizes_of(config_of(**{"data.limit": 100})).images == 100

    def test_of_a_long_tailed_draw_it_must_be_given(self):
        config = config_of(**{"data.long_tail": "exponential:10"})
        with pytest.raises(InputError, match="data.long_tail 'exponential:10' draws depends on"):
            plan.sizes_of(config)
        assert plan.sizes_of(config, images=500).images == 500
        config.data.long_tail_images = 300
        assert plan.sizes_of(config).images == 300

    def test_of_a_folder(self, tmp_path):
        for i, name in enumerate(["train/a/1.png", "train/a/2.png", "train/b/1.png"]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((9, 9), i, np.uint8)).save(tmp_path / name)
        here = {"data.source": "folder", "data.path": str(tmp_path), "data.label_map": "fine"}
        assert plan.sizes_of(config_of(**here)) == (3, 2, 32, 3)
        away = config_of(**here | {"data.path": str(tmp_path / "away")})
        with pytest.raises(InputError, match="pass --images=N --classes=C"):
            plan.sizes_of(away)
        assert plan.sizes_of(away, images=7, classes=3) == (7, 3, 32, 3)


class TestSteps:
    def test_chips_share_the_work_and_send_to_one_another(self):
        config = config_of(**{"look.k": 50})
        one, eight = plan.run(config, ["v5e-1", "v5e-8"])
        # All but the optimizer, the target and the guard, which every chip has whole.
        assert 1 / 8 < eight.gigaflops / one.gigaflops < 1 / 8 + 0.03
        assert one.links == 0 < eight.links
        assert one.memory["parameters"] == eight.memory["parameters"]
        assert (one.keys, eight.count, one.batch) == (1200, 8, 120)
        assert one.hours == pytest.approx(600 * one.seconds / 3600)  # 60 epochs of 10 steps

    def test_half_the_utilisation_is_twice_the_time(self):
        whole, half = (plan.run(config_of(), ["a100-2"], utilisation=u)[0] for u in (1.0, 0.5))
        assert half.seconds == pytest.approx(2 * whole.seconds)

    def test_what_saves_memory_is_seen(self):
        def held(**changes):
            return plan.run(config_of(**changes), ["v5e-4"])[0].memory

        plain = held()
        assert (
            held(micro_batches=5)["activations, gradients"] < 0.7 * plain["activations, gradients"]
        )
        assert held(memory_sharding="sharded")["memory of keys"] == pytest.approx(
            plain["memory of keys"] / 4, rel=1e-3
        )
        assert held(**{"data.resident": "no"})["images"] == 3 * 30 * 64 < plain["images"]

    def test_parameters_in_parts_weigh_less_and_travel_more(self):
        large = {"model.projector.hidden": (512,), "model.projector.dim": 512}
        whole, cut = (
            plan.run(config_of(**large, param_sharding=sharding), ["v5e-8"])[0]
            for sharding in ("replicated", "sharded")
        )
        for what in "parameters", "optimizer", "target":
            assert whole.memory[what] / 8 < cut.memory[what] < whole.memory[what] / 4
        # A gather for each of the target's and the online pass, and the scattered gradient, beside
        # an all-reduce, which is two of these.
        assert 1.2 < cut.links / whole.links < 1.5

    def test_a_step_cannot_be_faster_than_its_parts(self):
        (p,) = plan.run(config_of(), ["v6e-8"])
        assert p.seconds >= max(p.arithmetic, p.traffic) + p.links
        assert p.arithmetic >= p.exact > 0  # LOOK compares in float32


class TestCommand:
    def test_prints_a_table(self, capsys):
        argv = ["plan", "--config=pretrain/digits.py:nca", "--chips=v5e-8,h100-1"]
        assert cli.main([*argv, "--config.temperature=0.2"]) == 0
        said = capsys.readouterr().out
        assert all(
            word in said
            for word in (
                "v5e-8",
                "h100-1",
                "chip-hours",
                "× price",
                "nothing was measured on a TPU",
            )
        )
        assert cli.main([*argv, "--dollars-per-chip-hour=3e6"]) == 0
        assert "× price" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        "argv, words",
        [
            (["--chips=v5e-7"], "batch_size 120 does not divide over 7 devices"),
            (["--chips=tpu-8"], "chips must be one of v4, v5e"),
            (["--chips=cpu-1"], "a CPU has no published peak"),
            (["--chips=v5e-8", "--utilisation=0"], "utilisation must be above 0"),
            (["--chips=v5e-8", "--images=-1"], "must not be negative"),
            (["--chips=v5e-8", "--dollars-per-chip-hour=-1"], "must be 0 or more"),
            (
                ["--chips=v5e-8", "--config.data.source=folder", "--config.data.path=none"],
                "pass --images=N --classes=C",
            ),
            (["--chips=v5e-8", "--config.micro_batches=4"], "micro_batches 4 does not divide"),
            (
                ["--chips=v5e-8", "--config.memory_sharding=sharded", "--config.memory=1201"],
                "a memory of 1201 keys does not divide over 8 devices",
            ),
        ],
    )
    def test_bad_input_is_one_sentence_and_status_2(self, argv, words, capsys):
        assert cli.main(["plan", *argv]) == 2
        said = capsys.readouterr().err
        assert words in said and len(said.splitlines()) == 1


def test_the_host_takes_as_long_as_was_measured():
    record = [r for r in records.read(inputs.RECORDS) if r["part"] == "crops"][-1]
    for resampler in plan.HOST_MS:
        for name, views in inputs.VIEWS.items():
            expected = record["ms"][f"{name}, {resampler}"]
            found = 1e3 * plan._host_seconds(resampler, [view.size for view in views.values()])
            assert found == pytest.approx(expected, rel=0.25)  # the machine was busy
