"""Conversion between state dicts and variables, for networks of all families."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxpt import models
from jaxpt.errors import require
from jaxpt.weights import convnext, mobilenet, resnet, vit
from jaxpt.weights.layout import Layout

LAYOUTS = ("timm", "torchvision")
_FAMILIES = {
    models.ResNet: resnet,
    models.ViT: vit,
    models.ConvNeXt: convnext,
    models.MobileNetV2: mobilenet,
}
_SHOWN = 5  # problems listed in an error message; a wrong network has hundreds
_IGNORED = "num_batches_tracked"  # a counter of PyTorch's BatchNorm that is not needed


class Imported(NamedTuple):
    """A state dict converted to variables of a network.

    Attributes:
      params, batch_stats: variables of the network, float32.
      classifier: parameters of ``models.Classifier`` in the state dict, or None.
      notes: one sentence per resized tensor, and one if a projector was dropped.
      layout: layout of the names, one of ``LAYOUTS``.
      names: names of the tensors that were used.
    """

    params: Any
    batch_stats: Any
    classifier: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    layout: str = "timm"
    names: frozenset[str] = frozenset()


def network_of(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """Identifies the network of a state dict by names and shapes.

    Returns:
      ``name`` (a key of ``models.BACKBONES``), ``norm`` and ``options`` of a model config.

    Raises:
      InputError: if it belongs to no known network.
    """
    found = [model for family in _FAMILIES.values() if (model := family.identify(state))]
    stem = any(name.endswith("patch_embed.proj.0.weight") for name in state)
    names = sorted(state)
    require(
        bool(found),
        "these weights belong to none of the known networks "
        f"({', '.join(_convertible())}), in the "
        f"names of torchvision or timm; they have {', '.join(names[:3])} … ({len(names)} tensors)"
        + ("; a ViT with a convolutional patch embedding is not supported" if stem else "")
        + ": set model.name and model.options.",
    )
    return {"norm": "batch", "options": {}} | found[0]


def _convertible() -> list[str]:
    """Names of the networks whose weights can be converted."""
    return [n for n, make in models.BACKBONES.items() if getattr(make, "func", make) in _FAMILIES]


def import_state(state: dict[str, np.ndarray], network: nn.Module) -> Imported:
    """Converts a state dict to variables of a network that takes colour images.

    A ViT's learnt positions for another grid of patches are resized (bicubic). A linear layer in
    the classifier's place is returned as the classifier; a projector there, as contrastive methods
    have, is dropped.

    Raises:
      InputError: if a tensor is missing, unexpected or of the wrong shape (all weights are
        converted or none), or if the network has no layout in timm or torchvision.
    """
    variables = _variables(network)
    name, layout = _nearest(state, network)
    match = _match(state, layout, variables)
    shown = "; ".join(match.problems[:_SHOWN])
    more = len(match.problems) - _SHOWN
    require(
        not match.problems,
        f"the weights do not fit the network: {shown}{f'; and {more} more' if more > 0 else ''}.",
    )

    def taken(path, _):
        name = layout.name(path)
        return layout.ours(name, match.tensors[name])

    variables = jax.tree_util.tree_map_with_path(taken, variables)
    return Imported(
        variables["params"],
        variables.get("batch_stats", {}),
        match.classifier,
        tuple(match.notes),
        name,
        frozenset(_shapes(variables, layout)).union(layout.classifier) & state.keys(),
    )


def problems(state: dict[str, np.ndarray], network: nn.Module) -> list[str]:
    """One sentence per tensor of a state dict that does not match the network.

    Raises:
      InputError: for a network without a layout in timm or torchvision.
    """
    _, layout = _nearest(state, network)
    return _match(state, layout, _variables(network)).problems


class _Match(NamedTuple):
    """Tensors of a network found in a state dict, with problems and notes."""

    tensors: dict[str, np.ndarray]
    classifier: dict[str, Any] | None
    problems: list[str]
    notes: list[str]


def _nearest(state, network) -> tuple[str, Layout]:
    """Name and layout of the library with the most names in common with the state dict."""
    variables, layouts = _variables(network), _family(network).layouts(network)
    return max(
        layouts.items(), key=lambda item: len(state.keys() & _shapes(variables, item[1]).keys())
    )


def _match(state, layout, variables) -> _Match:
    state = {name: value for name, value in state.items() if not name.endswith(_IGNORED)}
    head = _pop_classifier(state, layout)
    wanted, problems, notes = _shapes(variables, layout), [], []
    place = layout.classifier[0].removesuffix("weight")
    projector = [
        name
        for name in state.keys() - wanted.keys()
        if name.startswith(place) and "." in name[len(place) :]
    ]
    if projector:
        notes.append(f"the projector in the classifier's place ({place}*) is dropped")
    for name, shape in wanted.items():
        if name not in state:
            problems.append(f"{name} is missing")
            continue
        value = state[name]
        fitted = (
            value
            if value.shape == shape
            else layout.resized.get(name, lambda *_: None)(value, shape)
        )
        if value.dtype.kind in "biu":
            problems.append(f"{name} is {value.dtype}: quantised weights are not supported")
        elif fitted is None:
            problems.append(f"{name} has shape {list(value.shape)} instead of {list(shape)}")
        elif name in layout.fixed and not np.allclose(fitted, layout.fixed[name], atol=1e-5):
            problems.append(f"{name} differs from the fixed values of the network")
        elif fitted is not value:
            notes.append(f"{name} of shape {list(value.shape)} is resized to {list(shape)}")
            state[name] = fitted
    unexpected = state.keys() - wanted.keys() - set(projector)
    problems += [f"{name} is unexpected" for name in sorted(unexpected)]
    return _Match(state, head, problems, notes)


def export_state(
    network: nn.Module, params: Any, batch_stats: Any, classifier: Any = None, layout: str = "timm"
) -> dict[str, np.ndarray]:
    """Converts variables to a state dict of torchvision or timm, the inverse of ``import_state``.

    Args:
      network: the backbone.
      params, batch_stats: its variables.
      classifier: parameters of a ``models.Classifier`` on it; None for no classifier, as in timm
        with num_classes=0.
      layout: one of ``LAYOUTS``.

    Returns:
      float32 arrays by name, in PyTorch's order of axes.

    Raises:
      InputError: for an unknown layout, or a network that the layout does not have.
    """
    chosen = _layout(network, layout)
    variables = {"params": params, "batch_stats": batch_stats}
    state = {
        name: chosen.theirs(name, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
        for name in [chosen.name(path)]
    }
    if classifier is not None:
        dense = classifier["Dense_0"]
        state |= {
            name: chosen.theirs(name, dense[part])
            for name, part in zip(chosen.classifier, ("kernel", "bias"))
        }
    return state | chosen.fixed


def state_shapes(network: nn.Module, layout: str = "timm") -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of ``export_state`` without a classifier.

    The network takes colour images.

    Raises:
      InputError: as in ``export_state``.
    """
    return _shapes(_variables(network), _layout(network, layout))


def _family(network):
    require(
        type(network) in _FAMILIES,
        f"a {type(network).__name__} has no layout in torchvision "
        f"or timm: use one of {', '.join(kind.__name__ for kind in _FAMILIES)}.",
    )
    return _FAMILIES[type(network)]


def _layout(network, name) -> Layout:
    require(name in LAYOUTS, f"layout must be one of {LAYOUTS}, got {name!r}.")
    layouts = _family(network).layouts(network)
    require(
        name in layouts,
        f"{name} has no {type(network).__name__} like this one: use layout {' or '.join(layouts)}.",
    )
    return layouts[name]


@functools.lru_cache(maxsize=16)
def _variables(network):
    return jax.eval_shape(
        lambda key: network.init(key, models.sample(network, 3), False), jax.random.key(0)
    )


def _shapes(variables, layout):
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    shapes = {
        name: layout.shape(name, leaf) for path, leaf in leaves for name in [layout.name(path)]
    }
    return shapes | {name: value.shape for name, value in layout.fixed.items()}


def _pop_classifier(state, layout):
    """Removes weight and bias from the state; one without the other stays and is unexpected."""
    if not all(name in state for name in layout.classifier):
        return None
    return {
        "Dense_0": {
            part: layout.ours(name, state.pop(name))
            for name, part in zip(layout.classifier, ("kernel", "bias"))
        }
    }
