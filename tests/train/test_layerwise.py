"""How deep each part of a network lies, and what rate that gives it."""

import jax
import pytest

from jaxpt import models
from jaxpt.train import layerwise


def test_depths_of_known_networks():
    names = {"conv_stem": 0, "norm_stem": 0, "stage1_block2": 1, "stage4_block1": 4}
    tree = {"backbone": {name: {"w": 0} for name in names}, "head": {"w": 0}}
    wanted = {"backbone": {name: {"w": depth} for name, depth in names.items()}, "head": {"w": 5}}
    assert layerwise.depths(tree) == wanted
    assert layerwise.parts_of(tree) == 5
    cnn = {"backbone": {"Conv_0": 0, "BatchNorm_0": 0, "Conv_3": 0}, "head": 0}
    assert layerwise.depths(cnn) == {
        "backbone": {"Conv_0": 0, "BatchNorm_0": 0, "Conv_3": 3},
        "head": 4,
    }
    vit = {"backbone": dict.fromkeys(["embedding", "pos_embed", "block0", "block11", "norm"], 0)}
    assert list(layerwise.depths(vit)["backbone"].values()) == [0, 0, 0, 11, 11]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "vit_ti16",
            {
                "patch_embed": 0,
                "cls_token": 0,
                "positions": 0,
                "block1": 1,
                "block12": 12,
                "norm": 12,
            },
        ),
        (
            "convnext_tiny",
            {
                "conv_stem": 0,
                "norm_stem": 0,
                "stage1_block1": 1,
                "stage2_norm": 2,
                "stage2_conv": 2,
                "stage3_block9": 3,
                "norm": 4,
            },
        ),
        (
            "mobilenet_v2",
            {
                "conv_stem": 0,
                "norm_stem": 0,
                "block1": 1,
                "block17": 17,
                "conv_last": 17,
                "norm_last": 17,
            },
        ),
    ],
)
def test_depths_of_our_networks(name, wanted):
    network = models.BACKBONES[name]()
    params = jax.eval_shape(
        lambda: network.init(jax.random.key(0), models.sample(network, 3), False)
    )["params"]
    found = {
        part: set(jax.tree.leaves(depths))
        for part, depths in layerwise.depths({"backbone": params})["backbone"].items()
    }
    assert {part: found[part] for part in wanted} == {part: {d} for part, d in wanted.items()}
    assert set.union(*found.values()) == set(range(max(wanted.values()) + 1))


def test_rates_fall_towards_the_images():
    tree = {"backbone": {"Conv_0": 0, "Conv_1": 0, "Conv_2": 0}, "head": 0}
    assert layerwise.rates(tree, decay=0.5, frozen=1) == {
        "backbone": {"Conv_0": 0.0, "Conv_1": 0.25, "Conv_2": 0.5},
        "head": 1.0,
    }
