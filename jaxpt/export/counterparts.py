"""Counterparts of a backbone in timm and torchvision, and timm's configuration of it."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn

from jaxpt import models
from jaxpt.backbones import Backbone
from jaxpt.models.inputs import statistics

# jaxpt's name → (timm's, torchvision's).
NAMES = {
    **{
        name: (name, name)
        for name in (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "wide_resnet50_2",
            "wide_resnet101_2",
            "convnext_tiny",
        )
    },
    "vit_ti16": ("vit_tiny_patch16_224", None),
    "vit_s16": ("vit_small_patch16_224", None),
    "vit_b16": ("vit_base_patch16_224", "vit_b_16"),
    "vit_l16": ("vit_large_patch16_224", "vit_l_16"),
    "mobilenet_v2": ("mobilenetv2_100", "mobilenet_v2"),
}
# timm's names of networks with GroupNorm of 32 groups, which torchvision does not have.
_GROUP_NORM = {"resnet50": "resnet50_gn"}
# Prefix of jaxpt's name → timm's names of the first convolution and of the classifier, and
# torchvision's name of the classifier.
_PARTS = {
    "resnet": ("conv1", "fc", "fc"),
    "wide": ("conv1", "fc", "fc"),
    "vit": ("patch_embed.proj", "head", "heads"),
    "convnext": ("stem.0", "head.fc", "classifier[2]"),
    "mobilenet": ("conv_stem", "classifier", "classifier"),
}
# Fields that change neither weights nor features.
_FREE = ("dtype", "axis_name", "remat", "frozen", "drop_path", "parent", "name")
# Fields of a ViT that timm's ViT also has → its arguments for a value.
_VIT_ARGUMENTS = {
    "width": lambda width: {"embed_dim": width},
    "depth": lambda depth: {"depth": depth},
    "heads": lambda heads: {"num_heads": heads},
    "image_size": lambda side: {"img_size": side},
    "patch": lambda side: {"patch_size": side},
    "pool": lambda _: {"class_token": False, "global_pool": "avg"},
    "positions": lambda _: {},
}  # for timm, fixed positions are weights like learnt ones


class Counterpart(NamedTuple):
    """Counterpart of a backbone in timm and torchvision.

    Attributes:
      timm, torchvision: names of the same network, or None if there is none.
      arguments: arguments for timm in addition to the name.
      first, classifier: timm's names of the first convolution and of the classifier.
      head: torchvision's name of the classifier.
    """

    timm: str | None = None
    torchvision: str | None = None
    arguments: dict[str, Any] = {}
    first: str = ""
    classifier: str = ""
    head: str = ""


def counterpart(name: str, network: nn.Module, channels: int | None = 3) -> Counterpart:
    """Finds the networks of timm and torchvision that compute the same from the same weights.

    Args:
      name: name of the backbone, a key of ``models.BACKBONES``.
      network: the backbone itself.
      channels: channels of its images, as ``models.Encoder.channels``.
    """
    if name not in NAMES or channels != 3:
        return Counterpart()
    timm, torchvision = NAMES[name]
    different = _different(network, models.BACKBONES[name]())
    if different.get("norm") == "group32" and name in _GROUP_NORM:
        timm, torchvision = _GROUP_NORM[name], None
        del different["norm"]
    known = _VIT_ARGUMENTS if isinstance(network, models.ViT) else {}
    if different.keys() - known:
        return Counterpart()
    arguments = {}
    for field, value in different.items():
        arguments |= known[field](value)
    parts = next(parts for start, parts in _PARTS.items() if name.startswith(start))
    return Counterpart(timm, None if different else torchvision, arguments, *parts)


def _different(network, plain) -> dict[str, Any]:
    """The fields in which a network differs from the default network of its name."""

    def fields(network):
        found = {
            field.name: getattr(network, field.name)
            for field in dataclasses.fields(network)
            if field.name not in _FREE
        }
        if found.get("norm") == "sync_batch":  # both are the same in evaluation
            found["norm"] = "batch"
        return found

    usual = fields(plain)
    return {name: value for name, value in fields(network).items() if value != usual[name]}


def timm_config(
    backbone: Backbone,
    found: Counterpart,
    shape: tuple[int, int, int],
    features: int,
    classes: list[str] | int,
) -> dict[str, Any]:
    """Content of timm's ``config.json``, which ``timm.create_model("local-dir:FOLDER")`` reads.

    Args:
      backbone: the backbone.
      found: its counterpart, with a name in timm.
      shape: (height, width, channels) of its input images.
      features: number of its features.
      classes: class names, or their number if the names are not known; 0 without a classifier.
    """
    mean, std = ((3 * values)[:3] for values in statistics(backbone.encoder.normalisation))
    framing = backbone.made.get("framing", {})
    count = classes if isinstance(classes, int) else len(classes)
    names = {} if isinstance(classes, int) else {"label_names": classes}
    arguments = {"model_args": found.arguments} if found.arguments else {}
    return {
        "architecture": found.timm,
        "num_classes": count,
        "num_features": features,
        "global_pool": found.arguments.get("global_pool") or _pool(backbone),
        **arguments,
        **names,
        "pretrained_cfg": {
            "tag": f"jaxpt_{backbone.method}",
            "custom_load": False,
            "num_classes": count,
            "input_size": [3, *shape[:2]],
            "fixed_input_size": backbone.model.name[:3] == "vit",
            "interpolation": framing.get("interpolation", "bicubic"),
            "crop_pct": framing.get("crop_pct", 1.0),
            "crop_mode": "center",
            "mean": mean,
            "std": std,
            "first_conv": found.first,
            "classifier": found.classifier,
        },
    }


def _pool(backbone) -> str:
    return "token" if getattr(backbone.encoder.backbone, "pool", "mean") == "token" else "avg"
