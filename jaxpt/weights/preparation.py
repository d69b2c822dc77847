"""How images are prepared for a weight file: what the file says of it, or else what is usual."""

import json
import pathlib
from typing import Any, NamedTuple

from jaxpt.errors import InputError, require
from jaxpt.models.inputs import normalisation_of, statistics

CONFIG = "config.json"  # beside the weights, in timm's folders
OWN = "jaxpt"  # entry of the header of what ``jaxpt export`` wrote
# Parts of places at which DINO, MoCo v3 and their kin keep their networks, and timm none.
_SELF_SUPERVISED = {"teacher", "student", "base_encoder", "momentum_encoder", "encoder_q"}
_HEADER = "its header"
_FRAMING = ("crop_pct", "interpolation", "input_size")
_OURS = {"crop_pct": 1.0, "interpolation": "bicubic"}  # how jaxpt frames sets
# Beginnings of jaxpt's names, and of timm's for the same networks.
_ARCHITECTURES = {
    "vit": ("vit", "deit"),
    "resnet": ("resnet",),
    "wide": ("wide_resnet",),
    "convnext": ("convnext",),
    "mobilenet": ("mobilenetv2",),
}


class Preparation(NamedTuple):
    """What belongs to weights beside the tensors.

    Attributes:
      normalisation: of images, see ``models.inputs.statistics``.
      framing: ``crop_pct``, ``interpolation`` and ``input_size``, those that are stated. Sets are
        framed by their own config; exports pass these on.
      heads: of a ViT: their number, 0 for that of the architecture, None if nothing is stated.
      notes: what was taken and from where, a sentence each.
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
    """The preparation that belongs to a weight file.

    The normalisation is the first of: ``given``; what the file's header states; what
    ``config.json`` beside it states; what timm or torchvision have for the architecture.

    Args:
      path: of the file.
      metadata: of its header.
      name: of its network, a key of ``models.BACKBONES``.
      layout: whose names its tensors have, "timm" or "torchvision".
      place: of the network in the file, such as "teacher.backbone.".
      given: a normalisation that goes before all others, or "".

    Raises:
      InputError: for a statement that cannot be read, or a bad normalisation.
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
            "assumed, as timm's own ViTs have it (DeiT, DINO, MAE and MoCo v3 have imagenet, and "
            "shapes cannot tell: --normalisation=imagenet)"
        )
    else:
        normalisation = "imagenet"
        whose = "DINO and MoCo have it" if kept else f"{layout} has it for {name}"
        origin = f"assumed, as {whose} (else --normalisation)"
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
    """(where it stands, what is stated, notes); the header is surer than a file beside it."""
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
        return "", {}, [f"{CONFIG} beside it is of {architecture}, and not used"]
    return f"{CONFIG} beside it", stated, []


def _parsed(text: str, where: str) -> dict[str, Any]:
    value = _value(text, where)
    require(isinstance(value, dict), f"{where} is no JSON object: fix or remove it.")
    return value


def _value(text: str, where: str) -> Any:
    """JSON, or plain text such as bicubic."""
    try:
        return json.loads(text)
    except ValueError as error:
        if text.isidentifier():
            return text
        raise InputError(f"{where} cannot be read ({error}): fix or remove it.") from error


def _normalisation(cfg, source) -> str:
    if "normalisation" in cfg:  # of jaxpt's own header
        return normalisation_of(*statistics(str(cfg["normalisation"])))
    mean, std = cfg["mean"], cfg.get("std")
    try:
        return normalisation_of(*statistics("/".join(",".join(map(str, x)) for x in (mean, std))))
    except (TypeError, InputError) as error:
        raise InputError(
            f"{source} states mean {mean} and std {std}, which are no one or three values of "
            "images in 0 … 1: fix it, or give --normalisation."
        ) from error


def _described(normalisation: str) -> str:
    if "/" in normalisation:
        return normalisation
    mean, std = (",".join(map(str, values)) for values in statistics(normalisation))
    return f"{normalisation} (mean {mean}, std {std})"
