"""Which backbones have a counterpart in timm and torchvision, and which have none."""

import ml_collections
import pytest

from jaxpt import models
from jaxpt.export.counterparts import counterpart


def found(name, *, channels=3, norm="batch", **options):
    model = ml_collections.ConfigDict(
        {"name": name, "norm": norm, "dtype": "bfloat16", "options": options}
    )
    return counterpart(name, models.make_backbone(model, axis_name="batch"), channels)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_resnets_are_resnets(name, norm):
    other = found(name, norm=norm, frozen=2)
    assert (other.timm, other.torchvision, other.arguments) == (name, name, {})


def test_group_norm_is_timm_s_alone():
    other = found("resnet50", norm="group32")
    assert (other.timm, other.torchvision, other.arguments) == ("resnet50_gn", None, {})


def test_options_of_a_vit_are_arguments_of_timm_s():
    other = found("vit_ti16", depth=6, width=128, heads=4, patch=8, image_size=96, pool="mean")
    assert (other.timm, other.torchvision) == ("vit_tiny_patch16_224", None)
    assert other.arguments == {
        "depth": 6,
        "embed_dim": 128,
        "num_heads": 4,
        "patch_size": 8,
        "img_size": 96,
        "class_token": False,
        "global_pool": "avg",
    }


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("small_cnn", {}),
        ("resnet18", {"channels": 1}),
        ("resnet18", {"norm": "group"}),
        ("resnet18", {"norm": "group32"}),
        ("resnet18", {"stem": "small"}),
        ("resnet50", {"width": 32}),
    ],
)
def test_what_is_not_theirs_is_not_called_theirs(name, given):
    assert found(name, **given) == (None, None, {}, "", "", "")
