"""Which backbones have a counterpart in timm and torchvision, and which have none."""

import types

import ml_collections
import pytest

from jaxpt import models
from jaxpt.export.counterparts import counterpart


def backbone(name, *, channels=3, norm="batch", **options):
    model = ml_collections.ConfigDict(
        {"name": name, "norm": norm, "dtype": "bfloat16", "options": options}
    )
    network = models.make_backbone(model, axis_name="batch")
    return types.SimpleNamespace(model=model, encoder=models.Encoder(network, channels=channels))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_resnets_are_resnets(name, norm):
    found = counterpart(backbone(name, norm=norm, frozen=2))
    assert (found.timm, found.torchvision, found.arguments) == (name, name, {})


@pytest.mark.parametrize(
    "other",
    [
        backbone("small_cnn"),
        backbone("resnet18", channels=1),
        backbone("resnet18", norm="group"),
        backbone("resnet18", stem="small"),
        backbone("resnet50", width=32),
    ],
)
def test_what_is_not_theirs_is_not_called_theirs(other):
    assert counterpart(other) == (None, None, {}, "", "", "")
