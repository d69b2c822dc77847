"""Backbones, heads and encoders, built by name from a config."""

import dataclasses
import math
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from jaxpt.errors import require
from jaxpt.models.convnext import ConvNeXt, ConvNeXtTiny
from jaxpt.models.encoder import Encoded, Encoder, encode, init
from jaxpt.models.heads import (
    Classifier,
    CovarianceClassifier,
    MlpClassifier,
    Projector,
    PrototypeHead,
    SpinalClassifier,
    check_head,
    map_classifier,
)
from jaxpt.models.layers import compute_dtype
from jaxpt.models.mobilenet import MobileNetV2
from jaxpt.models.resnet import (
    PreactResNet,
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
    WideResNet50,
    WideResNet101,
)
from jaxpt.models.small import MLP, SmallCNN
from jaxpt.models.vit import VITS, ViT

BACKBONES = {
    "small_cnn": SmallCNN,
    "mlp": MLP,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "resnet152": ResNet152,
    "wide_resnet50_2": WideResNet50,
    "wide_resnet101_2": WideResNet101,
    "resnet_preact": PreactResNet,
    **VITS,
    "convnext_tiny": ConvNeXtTiny,
    "mobilenet_v2": MobileNetV2,
}

HEADS = ("linear", "mlp", "spinal", "covariance")

__all__ = [
    "BACKBONES",
    "HEADS",
    "Classifier",
    "ConvNeXt",
    "CovarianceClassifier",
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
    "map_classifier",
    "sample",
]


def make_backbone(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> nn.Module:
    """Builds the backbone of a model config.

    Args:
      config: ConfigDict with ``name`` (a key of ``BACKBONES``), ``norm`` (ignored by ViTs and
        ConvNeXts, which use LayerNorm), ``dtype``, ``options`` (further arguments of the network,
        such as ``stem``, ``width`` or ``patch``) and, optionally, ``remat``.
      axis_name: mapped axis for synchronised BatchNorm.

    Raises:
      InputError: for an unknown network, an unknown option or one of the wrong type, or remat of a
        network without residual blocks.
    """
    require(
        config.name in BACKBONES,
        f"model.name must be one of {sorted(BACKBONES)}, got {config.name!r}.",
    )
    make = BACKBONES[config.name]
    fields = dataclasses.fields(getattr(make, "func", make))
    known = {field.name: field for field in fields if _kind(field) in _KINDS}
    options = {name: _tuples(value) for name, value in config.options.items()}
    _check_options(options, known, f"model.options of {config.name}")
    given = {"norm": config.norm, "axis_name": axis_name} if "norm" in known else {}
    if config.get("remat", False):
        require(
            "remat" in known,
            f"model.remat needs a network of blocks, got True for {config.name}: set it to False.",
        )
        given["remat"] = True
    try:
        return make(dtype=compute_dtype(config.dtype), **given, **options)
    except TypeError as error:
        require(False, f"model.options of {config.name}: {error}.")


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a word",
    tuple: "whole numbers in brackets",
}


def _kind(field):
    return typing.get_origin(field.type) or field.type


def _check_options(options, known, where) -> None:
    """Raises InputError for options that are no fields of the network, or not of a field's type.

    Whole numbers are at least 1, or at least 0 if 0 is the default.
    """
    for name, value in options.items():
        require(name in known, f"{where}: {name!r} is none of {', '.join(known)}.")
        kind, least = _kind(known[name]), int(known[name].default != 0)
        bound = f", at least {least}" if kind in (int, tuple) else ""
        require(
            _is_of(value, known[name].type, least),
            f"{where}: {name} must be {_KINDS[kind]}{bound}, got {value!r}.",
        )


def _is_of(value, kind, least) -> bool:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_of(part, inner, least) for part in value)
    if kind is int:
        return type(value) is int and value >= least
    return type(value) in ((int, float) if kind is float else (kind,))


def make_encoder(
    config: ml_collections.ConfigDict,
    head: nn.Module | None = None,
    predictor: nn.Module | None = None,
    *,
    axis_name: str | None = None,
) -> Encoder:
    """Builds an encoder: the backbone of a model config with its input normalisation and a head.

    Args:
      config: as for ``make_backbone``, optionally with ``weights`` (a file with the backbone's
        initial weights; the encoder then takes images of three channels) and ``normalisation`` (""
        means "imagenet" with weights, as torchvision trains, and "unit" without).
      head, predictor: see ``Encoder``.
      axis_name: see ``make_norm``.
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
    """Returns a zero image [1, side, side, channels] of a size that the network accepts."""
    side = getattr(network, "image_size", 32)
    return jnp.zeros((1, side, side, channels))


def make_head(config: ml_collections.ConfigDict, classes: int) -> nn.Module:
    """Builds the classifier for fine-tuning; its last layer is initialised to zero.

    Args:
      config: ConfigDict with ``name`` (one of ``HEADS``); ``width``, the width of the hidden layer
        of "mlp" or of each of the four hidden layers of "spinal", or the largest number of channels
        of "covariance"; ``iterations`` of "covariance"; and ``temperature``, see ``Classifier``.
      classes: number of classes.

    Raises:
      InputError: for an unknown head, or a number out of range.
    """
    require(config.name in HEADS, f"head.name must be one of {HEADS}, got {config.name!r}.")
    for name in "width", "iterations":
        require(config[name] >= 1, f"head.{name} must be at least 1, got {config[name]}.")
    require(
        0 <= config.temperature < math.inf,
        f"head.temperature must be finite and not negative, got {config.temperature}.",
    )
    if config.name == "linear":
        return Classifier(classes, config.temperature)
    if config.name == "mlp":
        return MlpClassifier(Projector((), config.width), classes, config.temperature)
    if config.name == "spinal":
        return SpinalClassifier(config.width, classes, config.temperature)
    return CovarianceClassifier(config.width, classes, config.iterations, config.temperature)


def make_projector(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> Projector:
    """Builds the projector of a model config from its section ``projector``."""
    require(
        config.projector.dim >= 1,
        f"model.projector.dim must be at least 1, got {config.projector.dim}.",
    )
    return _mlp(config, "projector", axis_name)


def make_predictor(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> Projector:
    """Builds the predictor from ``predictor``; its output has ``projector.dim`` features."""
    return _mlp(config, "predictor", axis_name)


def _mlp(config, section, axis_name):
    # Configs of earlier versions lack most fields.
    given = {
        name: config[section].get(name, getattr(Projector, name))
        for name in ("activation", "bias", "last_norm", "last_bias", "unit_input", "init_std")
    }
    norm = config[section].get("norm") or config.norm
    check_head(norm, given, f"model.{section}")
    return Projector(
        tuple(config[section].hidden),
        config.projector.dim,
        norm=norm,
        dtype=compute_dtype(config.dtype),
        axis_name=axis_name,
        **given,
    )
