"""Image preparation for a weight file: as stated by the file, or the architecture's default."""

import json
import pathlib
import re
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections

from jaxpt.data.decode import INTERPOLATIONS
from jaxpt.errors import InputError, require
from jaxpt.models.inputs import normalisation_of, statistics

CONFIG = "config.json"  # next to the weights, in timm's folders
PREPROCESSOR = "preprocessor_config.json"  # the same in the format of transformers
OWN = "jaxpt"  # entry in the header of files written by ``jaxpt export``
# Parts of the paths at which DINO, MoCo v3 and similar methods store networks, but timm does not.
_SELF_SUPERVISED = {"teacher", "student", "base_encoder", "momentum_encoder", "encoder_q"}
_HEADER = "its header"
_STATISTICS = ("mean", "std", "image_mean", "image_std")
_FRAMING = ("crop_pct", "interpolation", "input_size")
_OURS = {"crop_pct": 1.0, "interpolation": "bicubic"}  # jaxpt's framing of sets
# jaxpt's names → timm's and torchvision's of the same network, patterns for a whole name without
# timm's tag. A "_gn" at the end stands for GroupNorm, and a number in a ViT's name for its patch.
ARCHITECTURES = {
    **{f"resnet{n}": rf"(tv_|ssl_|swsl_)?resnet{n}(_gn)?" for n in (18, 34, 50, 101, 152)},
    **{f"wide_resnet{n}_2": rf"wide_resnet{n}_2" for n in (50, 101)},
    **{
        f"vit_{short}16": rf"(vit|deit)_{size}_patch(\d+)_\d+(_in21k|_dino|_sam)?|vit_{torch}_(\d+)"
        for short, size, torch in (
            ("ti", "tiny", "t"),
            ("s", "small", "s"),
            ("b", "base", "b"),
            ("l", "large", "l"),
        )
    },
    "convnext_tiny": "convnext_tiny",
    "mobilenet_v2": "mobilenetv2_100|mobilenet_v2",
}
# Arguments of timm's networks that jaxpt applies, that the shapes of tensors determine, or that
# have no effect in evaluation.
_APPLIED = {"num_heads", "embed_dim", "depth", "img_size", "patch_size", "class_token"} | {
    *("global_pool", "num_classes", "in_chans", "drop_rate", "drop_path_rate", "pos_drop_rate"),
    *("proj_drop_rate", "attn_drop_rate", "patch_drop_rate", "weight_init", "dynamic_img_size"),
}


class Preparation(NamedTuple):
    """Image preparation and other settings that belong to weights.

    Attributes:
      normalisation: normalisation of images, see ``models.inputs.statistics``.
      framing: those of ``crop_pct``, ``interpolation`` and ``input_size`` that are stated; see
        ``framed``.
      heads: number of heads of a ViT; 0 for the architecture's default, None if nothing is stated.
      notes: sentences about the values used and their origin.
    """

    normalisation: str
    framing: dict[str, Any]
    heads: int | None
    notes: tuple[str, ...]


def framed(config: ml_collections.ConfigDict, framing: dict[str, Any]) -> ml_collections.ConfigDict:
    """Fills the fields that a data config leaves open with the weights' own preparation.

    Args:
      config: the data config of a set to measure on.
      framing: see ``Preparation``; fields that are missing or invalid leave jaxpt's own.

    Returns:
      a copy, with ``crop_pct`` and ``interpolation`` set if the weights state others than jaxpt's.
    """
    config = config.copy_and_resolve_references()
    share, filter = framing.get("crop_pct"), framing.get("interpolation")
    if not config.get("crop_pct", 0) and isinstance(share, (int, float)) and 0.1 <= share < 1:
        config.crop_pct = float(share)
    if not config.get("interpolation", "") and filter in INTERPOLATIONS and filter != "bicubic":
        config.interpolation = filter
    return config


def preparation_of(
    path: pathlib.Path,
    metadata: dict[str, str],
    *,
    name: str,
    network: nn.Module,
    layout: str,
    place: str = "",
    given: str = "",
) -> Preparation:
    """Finds the image preparation that belongs to a weight file.

    The normalisation is the first of: ``given``; that of the file's header; that of
    ``config.json`` or ``preprocessor_config.json`` next to the file; the default of timm or
    torchvision for the architecture. A header or ``config.json`` that names another architecture is
    not used.

    Args:
      path: path of the file.
      metadata: metadata of its header.
      name: name of its network, a key of ``models.BACKBONES``.
      network: the network itself.
      layout: layout of its tensors' names, "timm" or "torchvision".
      place: path of the network in the file, such as "teacher.backbone.".
      given: a normalisation that takes precedence, or "".

    Returns:
      a ``Preparation``.

    Raises:
      InputError: for a header or ``config.json`` that cannot be parsed, or that states a bad
        normalisation or number of heads.
    """
    source, stated = _statement(path, metadata)
    notes, args = [], _section(stated, "model_args", {})
    if other := _other_architecture(stated, args, name, network):
        notes.append(f"{source} is for {other} and is not used")
        stated, args = {}, {}
    cfg = _section(stated, "pretrained_cfg", stated)
    framing = {field: cfg[field] for field in _FRAMING if field in cfg}
    kept = _SELF_SUPERVISED & {*place.split(".")}
    if given:
        normalisation, origin = normalisation_of(*statistics(given)), "as given"
    elif "normalisation" in cfg or any(cfg.get(field) is not None for field in _STATISTICS):
        normalisation, origin = _normalisation(cfg, source), f"from {source}"
    elif name.startswith("vit") and layout == "timm" and not kept:
        normalisation = "unit"
        origin = (
            "assumed, as timm's own ViTs use it (DeiT, DINO, MAE and MoCo v3 use imagenet and have "
            "the same shapes: --normalisation=imagenet)"
        )
    else:
        normalisation = "imagenet"
        whose = "DINO and MoCo use it" if kept else f"{layout} uses it for {name}"
        origin = f"assumed, as {whose} (change with --normalisation)"
    notes.append(f"normalisation {_described(normalisation)}, {origin}")
    if any(framing.get(field, value) != value for field, value in _OURS.items()):
        said = ", ".join(f"{field} {value}" for field, value in framing.items())
        notes.append(
            f"{source} also states {said}: crop_pct and interpolation apply to sets whose config "
            "leaves data.crop_pct and data.interpolation open; the side is data.image_size"
        )
    if OWN in metadata:
        heads = stated.get("model", {}).get("options", {}).get("heads", 0)
    else:
        heads = args.get("num_heads", 0 if "architecture" in stated else None)
        require(
            heads is None or type(heads) is int and heads >= int("num_heads" in args),
            f"{source} states num_heads {heads!r}, which is not a whole number of at least 1: fix "
            "it.",
        )
        if ignored := _not_applied(stated, args, network):
            notes.append(
                f"{source} also states {ignored}: not applied, so features may differ from timm's"
            )
    return Preparation(normalisation, framing, heads, tuple(notes))


def _statement(path, metadata) -> tuple[str, dict[str, Any]]:
    """Returns (source, stated fields); the header takes precedence over files next to ``path``."""
    if OWN in metadata:
        return _HEADER, _parsed(metadata[OWN], f"the header of {str(path)!r}")
    if "pretrained_cfg" in metadata or any(field in metadata for field in _STATISTICS):
        where = f"the header of {str(path)!r}"
        fields = ("architecture", "pretrained_cfg", "model_args", *_STATISTICS, *_FRAMING)
        stated = {field: _value(metadata[field], where) for field in fields if field in metadata}
        return _HEADER, stated
    there = {
        name: _parsed(beside.read_text("utf-8-sig", errors="replace"), repr(str(beside)))
        for name in (CONFIG, PREPROCESSOR)
        if (beside := path.with_name(name)).is_file()
    }
    stated = there.get(PREPROCESSOR, {}) | there.get(CONFIG, {})
    return f"{' with '.join(there)} next to it", stated


def _section(stated, name, default) -> dict[str, Any]:
    return part if isinstance(part := stated.get(name), dict) else default


def _other_architecture(stated, args, name, network) -> str:
    """The architecture that is stated, unless it is that of the network; "" if none is."""
    architecture = stated.get("architecture")
    if architecture is None:
        return ""
    found = re.fullmatch(ARCHITECTURES.get(name, "$^"), str(architecture).partition(".")[0])
    if found is None:
        return str(architecture)
    numbers = [int(group) for group in found.groups() if group and group.isdecimal()]
    patch = args.get("patch_size", *numbers[:1]) if numbers else None
    group_norm = getattr(network, "norm", "").startswith("group")
    same = patch == getattr(network, "patch", None) and group_norm == found[0].endswith("_gn")
    return "" if same else str(architecture)


def _not_applied(stated, args, network) -> str:
    """Stated arguments of timm's network that jaxpt's does not have, such as "act_layer=relu"."""
    ignored = {name: value for name, value in args.items() if name not in _APPLIED}
    pool = args.get("global_pool", stated.get("global_pool"))
    if pool not in (None, "token" if getattr(network, "pool", "mean") == "token" else "avg"):
        ignored["global_pool"] = pool
    return ", ".join(f"{name}={value}" for name, value in ignored.items())


def _parsed(text: str, where: str) -> dict[str, Any]:
    value = _value(text, where)
    require(isinstance(value, dict), f"{where} is not a JSON object: fix or remove it.")
    return value


def _value(text: str, where: str) -> Any:
    """Parses JSON, or a plain identifier such as bicubic."""
    try:
        return json.loads(text)
    except ValueError as error:
        if text.isidentifier():
            return text
        raise InputError(f"{where} cannot be parsed ({error}): fix or remove it.") from error


def _normalisation(cfg, source) -> str:
    if "normalisation" in cfg:  # in jaxpt's own header
        return normalisation_of(*statistics(str(cfg["normalisation"])))
    mean, std = (
        next((cfg[field] for field in (name, f"image_{name}") if cfg.get(field) is not None), None)
        for name in ("mean", "std")
    )
    usual = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255}
    require(
        all(cfg.get(field, value) == value for field, value in usual.items()),
        f"{source} states another image preparation than mean and std for images in 0 … 1 "
        f"({', '.join(usual)}): set --normalisation.",
    )
    try:
        return normalisation_of(*statistics("/".join(",".join(map(str, x)) for x in (mean, std))))
    except (TypeError, InputError) as error:
        raise InputError(
            f"{source} states mean {mean} and std {std}, which are not one or three values "
            "for images in 0 … 1: fix it, or set --normalisation."
        ) from error


def _described(normalisation: str) -> str:
    if "/" in normalisation:
        return normalisation
    mean, std = (",".join(map(str, values)) for values in statistics(normalisation))
    return f"{normalisation} (mean {mean}, std {std})"
