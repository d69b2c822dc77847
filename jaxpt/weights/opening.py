"""Opens a weight file: selects one of its networks and fills in what shapes do not determine."""

import os
import sys
from typing import Any, NamedTuple

import flax.linen as nn
import ml_collections
import numpy as np

from jaxpt import models
from jaxpt.errors import InputError, require
from jaxpt.weights import exchange, files
from jaxpt.weights.preparation import preparation_of

_DEPTH = 4  # parts of the longest prefix, such as "state.module.base_encoder.model."


class Opened(NamedTuple):
    """A weight file as variables of a network.

    Attributes:
      imported: the variables.
      model: config of the network, including ``normalisation``.
      framing: see ``Preparation``.
    """

    imported: exchange.Imported
    model: ml_collections.ConfigDict
    framing: dict[str, Any]


def open_file(
    path: str | os.PathLike,
    read: files.Read,
    model: ml_collections.ConfigDict | None = None,
    *,
    network: nn.Module | None = None,
    quiet: bool = False,
) -> Opened:
    """Opens the network of a weight file and reports choices and assumptions on stderr.

    A prefix that a wrapper put before the names is removed if exactly the network's names remain.

    Args:
      path: path of the file.
      read: its content, see ``files.read``.
      model: ConfigDict with ``name``, ``norm``, ``dtype``, ``options``, ``normalisation`` and
        ``state``. Missing or empty fields are inferred from the tensors, and the normalisation
        from the file or its architecture. ``state`` names a state or a prefix.
      network: network of pre-training that the tensors must match exactly; None uses that of
        ``model``.
      quiet: whether to report nothing.

    Returns:
      an ``Opened``.

    Raises:
      InputError: if there is no such state, its values are not finite, or it does not fit the
        network.
    """
    model = model or ml_collections.ConfigDict()
    wanted = model.get("state", "")
    state_name = "" if wanted not in read.states else wanted
    state_name = files.choose(read.states, state_name, path)
    state = files.cast(read.states[state_name], path)
    notes = []
    if state_name:
        others = [name for name in read.states if name != state_name]
        notes.append(f"using state {state_name}{_also(others)}")
    prefix = _prefix(state, model, network, wanted if wanted != state_name else "", read, path)
    if prefix.name:
        notes.append(f"prefix {prefix.name} is removed{_also(prefix.others)}")
    inner = _below(state, prefix.name)
    left = [name for name in state if not name.startswith(prefix.name)]
    if left:
        more = f" and {len(left) - 1} more tensors" if left[1:] else ""
        notes.append(f"tensors without that prefix are dropped: {left[0]}{more}")
    config = model_of(inner, model) if network is None else model.copy_and_resolve_references()
    try:
        imported = exchange.import_state(inner, network or models.make_backbone(config))
    except InputError as error:
        below = f", below {prefix.name}" if prefix.name else ""
        raise InputError(f"{str(path)!r}{below}: {error}") from None
    preparation = preparation_of(
        files.find(path),
        read.metadata,
        name=config.name,
        layout=imported.layout,
        place=f"{state_name}.{prefix.name}",
        given=model.get("normalisation", ""),
    )
    with config.unlocked():
        config.normalisation = preparation.normalisation
        if preparation.heads and "heads" not in config.options:
            config.options["heads"] = preparation.heads
    stated = models.make_backbone(config)
    network = network or stated
    heads = getattr(network, "heads", 0)
    require(
        heads == getattr(stated, "heads", 0),
        f"{str(path)!r} states that it is a ViT with {preparation.heads} heads, but the network "
        f"has {heads}: set model.options.heads (--option heads={preparation.heads}).",
    )
    notes += [*imported.notes, *_assumed(network, imported, model, preparation)]
    if not quiet:
        for sentence in (*notes, *preparation.notes):
            print(f"jaxpt: {path}: {sentence}.", file=sys.stderr)
    return Opened(imported, config, preparation.framing)


def model_of(
    state: dict[str, np.ndarray], model: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Model config of a state dict: fields set in ``model``, the others inferred from the tensors.

    Raises:
      InputError: if the tensors belong to no known network and ``model`` names none.
    """
    try:
        told = exchange.network_of(state)
    except InputError:
        if not model.get("name"):
            raise
        told = {}
    if model.get("name") and told.get("name") != model.name:
        told = {"name": model.name, "norm": "batch", "options": {}}
    options = ml_collections.ConfigDict(told["options"])
    options.update(model.get("options", {}))
    return ml_collections.ConfigDict(
        {
            "name": told["name"],
            "norm": model.get("norm") or told["norm"],
            "dtype": model.get("dtype") or "float32",
            "options": options,
        }
    )


class _Prefix(NamedTuple):
    """The prefix of the network's tensors, and the other prefixes with which it would fit."""

    name: str
    others: list[str]


def _prefix(state, model, network, wanted, read, path) -> _Prefix:
    """Chooses the prefix to remove; if none fits, the one with the fewest problems."""
    if not wanted and _problems(state, model, network) == []:
        return _Prefix("", [])
    problems = {
        prefix: found
        for prefix in _prefixes(state)
        if (found := _problems(_below(state, prefix), model, network)) is not None
    }
    fitting = [prefix for prefix, found in problems.items() if not found]
    if wanted:
        chosen = [p for p in fitting if f".{p}".endswith(f".{wanted.strip('.')}.")]
        there = [*filter(None, read.states), *filter(None, fitting)]
        require(
            len(chosen) == 1,
            f"{str(path)!r} has no state {wanted!r}: "
            + (f"choose one of {', '.join(there)}." if there else "it has one, omit --state."),
        )
    elif fitting:
        chosen = files.preferred(fitting)
        require(
            len(chosen) == 1,
            f"{str(path)!r} has several networks: choose one of {', '.join(fitting)} with --state.",
        )
    else:
        return _Prefix(min(problems, key=lambda prefix: len(problems[prefix]), default=""), [])
    return _Prefix(chosen[0], [prefix for prefix in fitting if prefix != chosen[0]])


def _prefixes(state) -> list[str]:
    """All prefixes of the names, shortest first."""
    parts = [name.split(".")[:-1] for name in state]
    lengths = range(1, _DEPTH + 1)
    found = (".".join(p[:n]) + "." for n in lengths for p in parts if len(p) >= n)
    return ["", *dict.fromkeys(found)]


def _below(state, prefix):
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _problems(state, model, network) -> list[str] | None:
    """Problems of a state as the network; None if it resembles no known network."""
    try:
        network = network or models.make_backbone(model_of(state, model))
        return exchange.problems(state, network)
    except InputError:  # raised again for the prefix that is chosen
        return None


def _also(others) -> str:
    return f" (also present: {', '.join(others)}; choose with --state)" if others else ""


def _assumed(network, imported, model, preparation):
    """Yields a sentence for each assumption about what shapes do not determine."""
    if isinstance(network, models.ViT):
        if "heads" not in model.get("options", {}) and preparation.heads is None:
            yield (
                f"heads={network.heads} is assumed, since shapes do not determine it "
                "(--option heads=N)"
            )
        if network.positions == "learnt" and network.width % 4 == 0:
            side = network.image_size // network.patch
            fixed = network.fixed_positions((side, side), int(network.pool == "token"))
            if np.allclose(imported.params["positions"], fixed, atol=1e-5):
                yield (
                    "its positions are fixed sines and cosines, but are loaded as learnt "
                    "(--option positions=sincos keeps them fixed)"
                )
    norm = getattr(network, "norm", "")
    if norm.startswith("group") and not model.get("norm"):
        yield (
            f"norm={norm} without weight standardisation is assumed, since shapes do not determine "
            "it (--norm=groupN, --option standardised=True)"
        )
