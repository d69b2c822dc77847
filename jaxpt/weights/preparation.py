"""Image preparation for a weight file: as stated by the file, or the architecture's default."""

import json
import pathlib
from typing import Any, NamedTuple

from jaxpt.errors import InputError, require
from jaxpt.models.inputs import normalisation_of, statistics

CONFIG = "config.json"  # next to the weights, in timm's folders
OWN = "jaxpt"  # entry in the header of files written by ``jaxpt export``
# Parts of the paths at which DINO, MoCo v3 and similar methods store networks, but timm does not.
_SELF_SUPERVISED = {"teacher", "student", "base_encoder", "momentum_encoder", "encoder_q"}
_HEADER = "its header"
_FRAMING = ("crop_pct", "interpolation", "input_size")
_OURS = {"crop_pct": 1.0, "interpolation": "bicubic"}  # jaxpt's framing of sets
# Prefixes of jaxpt's names, and of timm's for the same networks.
_ARCHITECTURES = {
    "vit": ("vit", "deit"),
    "resnet": ("resnet",),
    "wide": ("wide_resnet",),
    "convnext": ("convnext",),
    "mobilenet": ("mobilenetv2",),
}


class Preparation(NamedTuple):
    """Image preparation and other settings that belong to weights.

    Attributes:
      normalisation: normalisation of images, see ``models.inputs.statistics``.
      framing: those of ``crop_pct``, ``interpolation`` and ``input_size`` that are stated. Sets are
        framed by their own config; exports pass these on.
      heads: number of heads of a ViT; 0 for the architecture's default, None if nothing is stated.
      notes: sentences about the values used and their origin.
    """

    normalisation: str
    framing: dict[str, Any]
    heads: int | None
    notes: tuple[str, ...]


def preparation_of(
    path: pathlib.Path,
    metadata: dict[str, str],
    *,
    name: str,
    layout: str,
    place: str = "",
    given: str = "",
) -> Preparation:
    """Finds the image preparation that belongs to a weight file.

    The normalisation is the first of: ``given``; that of the file's header; that of
    ``config.json`` next to the file; the default of timm or torchvision for the architecture.

    Args:
      path: path of the file.
      metadata: metadata of its header.
      name: name of its network, a key of ``models.BACKBONES``.
      layout: layout of its tensors' names, "timm" or "torchvision".
      place: path of the network in the file, such as "teacher.backbone.".
      given: a normalisation that takes precedence, or "".

    Returns:
      a ``Preparation``.

    Raises:
      InputError: for a header or ``config.json`` that cannot be parsed, or a bad normalisation.
    """
    source, stated, notes = _statement(path, metadata, name)
    cfg, args = (
        part if isinstance(part := stated.get(name), dict) else other
        for name, other in (("pretrained_cfg", stated), ("model_args", {}))
    )
    framing = {field: cfg[field] for field in _FRAMING if field in cfg}
    kept = _SELF_SUPERVISED & {*place.split(".")}
    if given:
        normalisation, origin = normalisation_of(*statistics(given)), "as given"
    elif "normalisation" in cfg or "mean" in cfg:
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
            f"{source} also states {said}: not applied, since a set is framed by its own config "
            "(shorter side to data.image_size, bicubic)"
        )
    if OWN in metadata:
        heads = stated.get("model", {}).get("options", {}).get("heads", 0)
    else:
        heads = args.get("num_heads", 0) if "architecture" in stated else None
    return Preparation(normalisation, framing, heads, tuple(notes))


def _statement(path, metadata, name) -> tuple[str, dict[str, Any], list[str]]:
    """Returns (source, stated fields, notes); the header takes precedence over ``config.json``."""
    if OWN in metadata:
        return _HEADER, _parsed(metadata[OWN], f"the header of {str(path)!r}"), []
    if "pretrained_cfg" in metadata or "mean" in metadata:
        where = f"the header of {str(path)!r}"
        fields = ("architecture", "pretrained_cfg", "model_args", "mean", "std", *_FRAMING)
        return (
            _HEADER,
            {field: _value(metadata[field], where) for field in fields if field in metadata},
            [],
        )
    beside = path.with_name(CONFIG)
    if not beside.is_file():
        return "", {}, []
    stated = _parsed(beside.read_text(errors="replace"), repr(str(beside)))
    architecture = str(stated.get("architecture", ""))
    theirs = next((ours for start, ours in _ARCHITECTURES.items() if name.startswith(start)), ())
    if theirs and architecture and not architecture.startswith(theirs):
        return "", {}, [f"{CONFIG} next to it is for {architecture} and is not used"]
    return f"{CONFIG} next to it", stated, []


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
    mean, std = cfg["mean"], cfg.get("std")
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
