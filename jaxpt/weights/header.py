"""safetensors files whose header describes network and origin of the weights.

Other programs read the tensors and ignore the header, whose entry "jaxpt" is JSON; see ``dump``.
"""

import json
import os
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from safetensors import safe_open

from jaxpt import old_names
from jaxpt.errors import InputError, require

FILE = "model.safetensors"
OWN = "jaxpt"  # the layout with jaxpt's own names, and the entry in the header
FORMAT = 1  # version of the header, increased with each change that old code cannot read
# Required fields of a header and their types; _MODEL are those that a network is built from.
_FIELDS = {
    "layout": str,
    "model": dict,
    "normalisation": str,
    "method": str,
    "seed": int,
    "step": int,
    "fingerprint": str,
    "config": (dict, type(None)),
    "made": dict,
}
_MODEL = {"name": str, "norm": str, "dtype": str, "options": dict}
_DATA = {"name": str, "images": int, "shape": list, "classes": list}  # of "made", if recorded


def dump(tensors: dict[str, np.ndarray], about: dict[str, Any]) -> bytes:
    """Serialises tensors and a header as a safetensors file.

    Args:
      tensors: arrays by name.
      about: content of the header, stored as JSON: the fields of ``_FIELDS`` and any others.
    """
    header = {"format": "pt", OWN: json.dumps({"format": FORMAT, **about}, default=list)}
    return safetensors.numpy.save(tensors, metadata=header)


def read_about(path: str | os.PathLike) -> dict[str, Any] | None:
    """Reads jaxpt's header of a complete safetensors file; None if jaxpt did not write it.

    Raises:
      InputError: for a header that is damaged or of another format version.
    """
    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(OWN)
    if text is None:
        return None
    where = f"the header of {os.fspath(path)!r}"
    try:
        about = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is damaged ({error}): export it again.") from error
    require(
        isinstance(about, dict) and about.get("format") == FORMAT,
        f"{where} does not have format {FORMAT}, which this version of jaxpt reads: export it "
        "again, or use the version that wrote it.",
    )
    _check(about, _FIELDS, where)
    _check(about["model"], _MODEL, where)
    if "data" in about["made"]:
        _check(about["made"]["data"], _DATA, where)
    return about | {"config": old_names.with_new_names(about["config"])}


def _check(part, fields, where) -> None:
    wrong = [
        name
        for name, kind in fields.items()
        if not isinstance(part, dict) or not isinstance(part.get(name, ...), kind)
    ]
    require(not wrong, f"{where} has no valid {', '.join(wrong)}: export it again.")


def flat(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Flattens nested dicts of arrays, with names such as "params/backbone/Conv_0/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def nested(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of ``flat``."""
    tree: dict[str, Any] = {}
    for name, value in tensors.items():
        *folders, last = name.split("/")
        part = tree
        for folder in folders:
            part = part.setdefault(folder, {})
            require(isinstance(part, dict), f"{name!r} lies below another tensor.")
        part[last] = value
    return tree
