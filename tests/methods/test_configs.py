"""Configs of methods: the defaults are fine, and a bad value is named."""

import pytest
from small_runs import (
    HAND,
    METHODS,
    TWO_VIEWS,
    WITH_MEMORY,
    WITH_TARGET,
    WITH_TEMPERATURE,
    config_of,
)

from jaxpt import pretrain
from jaxpt.configs.pretrain import defaults, digits
from jaxpt.errors import InputError


def test_a_variant_names_one_method():
    assert digits.get_config("byol,smoke").views == 2
    with pytest.raises(InputError, match="'look,nca' names 2 methods: name one"):
        digits.get_config("look,nca")


class TestBadConfigs:
    @pytest.mark.parametrize("method", METHODS)
    def test_the_configs_themselves_are_fine(self, method, dataset):
        pretrain.prepare(config_of(method, HAND), dataset)

    @pytest.mark.parametrize(
        "methods, changes, message",
        [
            (["look"], {"method": "lok"}, r"method must be one of \[.*'look'.*got 'lok'"),
            (["look"], {"look.k": 0}, r"look\.k must be a whole number of at least 1, got 0"),
            (["look"], {"look.k": -3}, r"look\.k must be .*got -3"),
            (
                ["look"],
                {"look.no_positive": "skip"},
                r"look\.no_positive must be one of .*got 'skip'",
            ),
            (["look"], {"look.own_view": 1.5}, r"look\.own_view must lie in 0 … 1, got 1\.5"),
            (["look"], {"look.own_view": -0.1}, r"look\.own_view must lie in 0 … 1, got -0\.1"),
            (["look"], {"look.k_warmup": "soon"}, r"a duration reads like .*got 'soon'"),
            (WITH_MEMORY, {"memory": 7}, r"memory must hold at least one batch, 8, got 7"),
            (WITH_MEMORY, {"memory_kind": "heap"}, r"memory_kind must be one of .*got 'heap'"),
            (WITH_MEMORY, {"memory_momentum": 1.0}, r"memory_momentum must be .*got 1\.0"),
            (WITH_TARGET, {"ema": 1.0}, r"ema must be at least 0 and below 1, got 1\.0"),
            (WITH_TARGET, {"ema": -0.5}, r"ema must be .*got -0\.5"),
            (WITH_TARGET, {"ema_end": 1.5}, r"ema_end must be at most 1, got 1\.5"),
            (WITH_TARGET, {"target_norm": "none"}, r"target_norm must be one of .*got 'none'"),
            (TWO_VIEWS, {"views": 1}, r"compares two views .* got 1 and 0"),
            (TWO_VIEWS, {"local_views": 1}, r"compares two views .* got 2 and 1"),
            (["look"], {"look.gate": -1.0}, r"look\.gate must not be negative .*got -1\.0"),
            (["look"], {"look.robustness": 1.5}, r"look\.robustness must lie in 0 … 1, got 1\.5"),
            (
                ["cross_entropy"],
                {"cross_entropy.classifier": "deep"},
                r"cross_entropy\.classifier must be .*got 'deep'",
            ),
            (
                ["sup_con"],
                {"sup_con.form": "inside"},
                r"sup_con\.form must be one of .*got 'inside'",
            ),
            (["spread"], {"spread.weight": 1.1}, r"spread\.weight must lie in 0 … 1, got 1\.1"),
            (["grafit"], {"grafit.weight": 1.1}, r"grafit\.weight must lie in 0 … 1, got 1\.1"),
            (["mask_con"], {"mask_con.weight": 1.1}, r"mask_con\.weight must lie in 0 … 1"),
            (
                ["mask_con"],
                {"mask_con.target_temperature": 0.0},
                r"mask_con\.target_temperature must be positive, got 0\.0",
            ),
            (
                ["dino"],
                {"dino.target_temperature": 0.0},
                r"dino\.target_temperature must be positive, got 0\.0",
            ),
            (
                ["t_rex"],
                {"t_rex.prototypes_from": "air"},
                r"t_rex\.prototypes_from must be one of .*got 'air'",
            ),
            (["dino"], {"dino.centre_momentum": 1.0}, r"dino\.centre_momentum must be .*got 1\.0"),
            (["dino"], {"dino.prototypes": 1}, r"dino\.prototypes must be at least 2, got 1"),
            (["dino"], {"views": 1}, r"set views to 2 or local_views above 0"),
            (
                ["barlow_twins"],
                {"barlow_twins.redundancy": -1.0},
                r"barlow_twins\.redundancy must not be negative, got -1\.0",
            ),
            (["vicreg"], {"vicreg.variance": -1.0}, r"vicreg\.variance must not be negative"),
            (
                METHODS,
                {"augment.crop_area": (0.5, 0.2)},
                r"crop_area must be two shares .*0\.5, 0\.2",
            ),
            (METHODS, {"local_augment.crop_size": -1}, r"crop_size must lie between 0 and .*-1"),
            (METHODS, {"local_views": -1}, r"local_views must not be negative, got -1"),
            (WITH_TEMPERATURE, {"temperature": 0.0}, r"temperature must be positive, got 0\.0"),
            (
                ["cross_entropy"],
                {"cross_entropy.label_smoothing": 1.0},
                r"cross_entropy\.label_smoothing must be .*got 1\.0",
            ),
            (
                ["cross_entropy"],
                {"cross_entropy.label_smoothing": -0.1},
                r"cross_entropy\.label_smoothing must be .*got -0\.1",
            ),
            (METHODS, {"views": 0}, r"views must be at least 1, got 0"),
            (METHODS, {"optimizer.name": "adam"}, r"optimizer\.name must be one of .*got 'adam'"),
            (METHODS, {"model.name": "vgg"}, r"model\.name must be one of .*got 'vgg'"),
            (METHODS, {"augment.noise": -1.0}, r"augment\.noise must lie between 0 and 1"),
            (METHODS, {"key_augment.erase": 1.0}, r"augment\.erase must be below 1"),
            (METHODS, {"duration": "0 epochs"}, r"duration '0 epochs' is less than one step"),
            (METHODS, {"optimizer.warmup": "2 steps"}, r"warm-up of 2 steps .* 1 steps"),
            (METHODS, {"data.train_on": "test"}, r"train_on must be one of .*got 'test'"),
        ],
    )
    def test_a_value_that_makes_no_sense_is_named(self, methods, changes, message, dataset):
        for method in methods:
            with pytest.raises(InputError, match=message):
                pretrain.prepare(config_of(method, HAND | changes), dataset)


def test_what_an_older_config_lacks_has_its_default():
    saved, expected = config_of("look", {"look.k": 7}).to_dict(), config_of("look", {"look.k": 7})
    del saved["cross_entropy"]["mixup"], saved["spread"], saved["data"]["prefetch"]
    saved["model"]["options"] = {"widths": (3,)}
    assert defaults.completed(saved) == expected.to_dict() | {
        "model": expected.model.to_dict() | {"options": {"widths": (3,)}}
    }
