"""Networks by name."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxpt.errors import require
from jaxpt.models.convnext import ConvNeXt, ConvNeXtTiny
from jaxpt.models.encoder import Encoded, Encoder, encode, init
from jaxpt.models.heads import Classifier, MlpClassifier, Projector, PrototypeHead, SpinalClassifier
from jaxpt.models.mobilenet import MobileNetV2
from jaxpt.models.norm import compute_dtype
from jaxpt.models.resnet import (
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    WideResNet50,
    WideResNet101,
)
from jaxpt.models.small_cnn import SmallCNN
from jaxpt.models.vit import VITS, ViT

BACKBONES = {
    "small_cnn": SmallCNN,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "resnet152": ResNet152,
    "wide_resnet50_2": WideResNet50,
    "wide_resnet101_2": WideResNet101,
    **VITS,
    "convnext_tiny": ConvNeXtTiny,
    "mobilenet_v2": MobileNetV2,
}

HEADS = ("linear", "mlp", "spinal")

__all__ = [
    "BACKBONES",
    "HEADS",
    "Classifier",
    "ConvNeXt",
    "Encoded",
    "Encoder",
    "MlpClassifier",
    "MobileNetV2",
    "Projector",
    "PrototypeHead",
    "ResNet",
    "SpinalClassifier",
    "ViT",
    "encode",
    "init",
    "make_backbone",
    "make_encoder",
    "make_head",
    "make_predictor",
    "make_projector",
    "sample",
]


def make_backbone(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> nn.Module:
    """The backbone that a model config names.

    Args:
      config: ConfigDict with ``name`` (a key of ``BACKBONES``), ``norm`` (of convolutional networks
        with a choice: ViTs and ConvNeXts have LayerNorm), ``dtype``, whatever else the network
        takes in ``options`` (``stem``, ``width``, ``patch`` …), and maybe ``remat``.
      axis_name: mapped axis for synchronised BatchNorm.

    Raises:
      InputError: for an unknown network, an option that it does not have, or remat of one that
        has no residual blocks.
    """
    require(
        config.name in BACKBONES,
        f"model.name must be one of {sorted(BACKBONES)}, got {config.name!r}.",
    )
    options = {
        k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.options.items()
    }
    make = BACKBONES[config.name]
    known = {field.name for field in dataclasses.fields(getattr(make, "func", make))}
    given = {"norm": config.norm, "axis_name": axis_name} if "norm" in known else {}
    if config.get("remat", False):
        require(
            "remat" in known,
            f"model.remat is for networks of blocks, got True for {config.name}: set it to False.",
        )
        given["remat"] = True
    try:
        return make(dtype=compute_dtype(config.dtype), **given, **options)
    except TypeError as error:
        require(False, f"model.options of {config.name}: {error}.")


def make_encoder(
    config: ml_collections.ConfigDict,
    head: nn.Module | None = None,
    predictor: nn.Module | None = None,
    *,
    axis_name: str | None = None,
) -> Encoder:
    """The backbone of a model config, with the images that it wants, and what stands on it.

    Args:
      config: as of ``make_backbone``, and maybe ``weights`` (a file that the backbone starts from;
        it then takes images of three channels) and ``normalisation`` ("" is "imagenet" with
        weights, as torchvision trains, and "unit" without).
      head, predictor, axis_name: see ``Encoder`` and ``make_norm``.
    """
    weights = config.get("weights", "")
    return Encoder(
        make_backbone(config, axis_name=axis_name),
        head,
        predictor,
        config.get("normalisation") or ("imagenet" if weights else "unit"),
        3 if weights else None,
    )


def sample(network: nn.Module, channels: int) -> jax.Array:
    """Zeros [1, side, side, channels], an image of a size that the network takes."""
    side = getattr(network, "image_size", 32)
    return jnp.zeros((1, side, side, channels))


def make_head(config: ml_collections.ConfigDict, classes: int) -> nn.Module:
    """The classifier that fine-tuning puts on a backbone; its last layer starts at zero.

    Args:
      config: ConfigDict with ``name`` (one of ``HEADS``) and ``width`` of hidden layers: of the one
        of "mlp", of each of the four of "spinal".
      classes: how many there are.

    Raises:
      InputError: for an unknown head, or a width below 1.
    """
    require(config.name in HEADS, f"head.name must be one of {HEADS}, got {config.name!r}.")
    require(config.width >= 1, f"head.width must be at least 1, got {config.width}.")
    if config.name == "linear":
        return Classifier(classes)
    if config.name == "mlp":
        return MlpClassifier(Projector((), config.width), classes)
    return SpinalClassifier(config.width, classes)


def make_projector(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> Projector:
    """The projector of a model config: ``projector.hidden`` and ``projector.dim``."""
    require(
        config.projector.dim >= 1,
        f"model.projector.dim must be at least 1, got {config.projector.dim}.",
    )
    return _mlp(config, config.projector.hidden, axis_name)


def make_predictor(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> Projector:
    """The predictor of a model config, ``predictor.hidden``, as wide as the projector's output."""
    return _mlp(config, config.predictor.hidden, axis_name)


def _mlp(config, hidden, axis_name):
    return Projector(
        tuple(hidden),
        config.projector.dim,
        norm=config.norm,
        dtype=compute_dtype(config.dtype),
        axis_name=axis_name,
    )
