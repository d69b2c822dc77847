"""Weight files that say what is in them: safetensors with a header that names network and origin.

Other programs read the tensors and pass over the header: its entry "jaxpt" is JSON, see ``dump``.
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
OWN = "jaxpt"  # the layout that has jaxpt's own names; also the header's entry
FORMAT = 1  # of the header: the next one that old code cannot read gets the next number
# What every header has, with its type, and what of it a network is built from.
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
_DATA = {"name": str, "images": int, "shape": list, "classes": list}  # of made, where it has any


def dump(tensors: dict[str, np.ndarray], about: dict[str, Any]) -> bytes:
    """A safetensors file.

    Args:
      tensors: by name.
      about: what goes into the header, as JSON: the fields of ``_FIELDS`` and any others.
    """
    header = {"format": "pt", OWN: json.dumps({"format": FORMAT, **about}, default=list)}
    return safetensors.numpy.save(tensors, metadata=header)


def read_about(path: str | os.PathLike) -> dict[str, Any] | None:
    """What the header of a whole safetensors file says; None where jaxpt did not write it.

    Raises:
      InputError: for a header that is none of this version's.
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
        f"{where} is none of format {FORMAT}, which this version of jaxpt reads: export it "
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
    require(not wrong, f"{where} has no sound {', '.join(wrong)}: export it again.")


def flat(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Nested dicts of arrays as one: "params/backbone/Conv_0/kernel"."""
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
