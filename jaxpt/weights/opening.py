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

_STANDARDISED = ", --option standardised=True"
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
    state_name, prefix = _place(read.states, model, network, path)
    state = read.states[state_name]
    notes = []
    if state_name:
        others = [name for name in read.states if name != state_name]
        notes.append(f"using state {state_name}{_also(others)}")
    if prefix.name:
        notes.append(f"prefix {prefix.name} is removed{_also(prefix.others)}")
    inner = files.cast(_below(state, prefix.name))
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
    used = {name: value for name, value in inner.items() if name in imported.names}
    files.require_finite(used, repr(str(path)))
    preparation = preparation_of(
        files.find(path),
        read.metadata,
        name=config.name,
        network=network or models.make_backbone(config),
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
    if network is stated and (unused := unused_norm(network, model.get("norm"))):
        notes.append(unused)
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
        found = exchange.network_of(state)
    except InputError:
        if not model.get("name"):
            raise
        found = {}
    if model.get("name") and found.get("name") != model.name:
        found = {"name": model.name, "norm": "batch", "options": {}}
    options = found["options"] | dict(model.get("options", {}).items())  # any type, until checked
    return ml_collections.ConfigDict(
        {
            "name": found["name"],
            "norm": model.get("norm") or found["norm"],
            "dtype": model.get("dtype") or "float32",
            "options": options,
        }
    )


class _Prefix(NamedTuple):
    """The prefix of the network's tensors, and the other prefixes with which it would fit."""

    name: str
    others: list[str]


def _place(states, model, network, path) -> tuple[str, _Prefix]:
    """Chooses a state and the prefix to remove, those that ``model.state`` names if it is set."""
    wanted = model.get("state", "")
    if not wanted or wanted in states:
        state = files.choose(states, wanted, path)
        return state, _prefix(state, states[state], model, network, path)
    fitting = {
        f"{name}.{prefix}" if name else prefix: (name, prefix)
        for name, state in states.items()
        for prefix in _problems_by_prefix(state, model, network, fitting=True)
    }
    end = f".{_dotted(wanted)}."
    chosen = files.preferred([p for p in fitting if f".{_dotted(p)}.".endswith(end)])
    there = [*filter(None, states), *(p for p, (_, prefix) in fitting.items() if prefix)]
    require(
        len(chosen) == 1,
        f"{str(path)!r} has no state {wanted!r}: "
        + (f"choose one of {', '.join(there)}." if there else "it has one, omit --state."),
    )
    state, prefix = fitting[chosen[0]]
    others = [p for name, p in fitting.values() if name == state and p != prefix]
    return state, _Prefix(prefix, others)


def _dotted(name: str) -> str:
    return name.replace("/", ".").strip(".")


def _prefix(name, state, model, network, path) -> _Prefix:
    """Chooses the prefix to remove; if none fits, the one with the fewest problems."""
    if _problems(state, model, network) == []:
        return _Prefix("", [])
    problems = _problems_by_prefix(state, model, network)
    fitting = [prefix for prefix, found in problems.items() if not found]
    if not fitting:
        return _Prefix(min(problems, key=lambda prefix: len(problems[prefix]), default=""), [])
    chosen = files.preferred(fitting)
    there = ", ".join(f"{name}.{prefix}" if name else prefix for prefix in fitting)
    require(
        len(chosen) == 1, f"{str(path)!r} has several networks: choose one of {there} with --state."
    )
    return _Prefix(chosen[0], [prefix for prefix in fitting if prefix != chosen[0]])


def _problems_by_prefix(state, model, network, fitting=False) -> dict[str, list[str]]:
    """Problems of each prefix below which tensors resemble a network; only those with none."""
    return {
        prefix: found
        for prefix in _prefixes(state)
        if (found := _problems(_below(state, prefix), model, network)) is not None
        and not (fitting and found)
    }


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
        given = "standardised" in model.get("options", {})
        yield (
            f"norm={norm}{'' if given else ' without weight standardisation'} is assumed, since "
            f"shapes do not determine it (--norm=groupN{'' if given else _STANDARDISED})"
        )


def unused_norm(network: nn.Module, norm: str | None) -> str:
    """Sentence that a norm has no effect on a network; "" if none is given, or if it has."""
    if not norm or hasattr(network, "norm"):
        return ""
    return f"norm={norm} is not used, since a {type(network).__name__} has LayerNorm"
