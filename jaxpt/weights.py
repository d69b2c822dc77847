"""Weights in and out: torchvision's and timm's ResNets as variables of jaxpt's, and back.

A ResNet of jaxpt computes what theirs does (v1.5, symmetric padding, BatchNorm ε 1e-5), so only
names and axes differ: convolutions [out, in, h, w] become [h, w, in, out].
"""

import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpt import models, torch_pickle
from jaxpt.errors import InputError, require

LAYOUTS = ("timm", "torchvision")  # of ResNets both are the same
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# From a path in jaxpt's variables to a name in a state dict of torchvision or timm.
_RENAMED = (
    (r"^conv_stem/", "conv1/"), (r"^norm_stem/", "bn1/"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"layer{m[1]}/{int(m[2]) - 1}/"),
    (r"conv_shortcut/", "downsample/0/"), (r"norm_shortcut/", "downsample/1/"),
    (r"norm(\d)/", r"bn\1/"), (r"(kernel|scale)$", "weight"),
    (r"(mean|var)$", r"running_\1"), (r"/", "."),
)
_CLASSIFIER = ("fc.weight", "fc.bias")
_IGNORED = "num_batches_tracked"  # a counter that PyTorch keeps and nobody needs
# Blocks of each stage, and whether blocks are bottlenecks.
_RESNETS = {
    ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


class Imported(NamedTuple):
    """A state dict as variables of a jaxpt ResNet.

    Attributes:
      params, batch_stats: of the network, float32.
      classifier: parameters of ``models.Classifier`` that the weights came with, or None.
    """

    params: Any
    batch_stats: Any
    classifier: dict[str, Any] | None


def load_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict in a weight file; PyTorch is not needed, and nothing in the file is run.

    Training checkpoints that hold it under "state_dict", "model" or "model_state_dict" are
    looked into, and a prefix "module." that all names share is taken off.

    Args:
      path: a file ending in one of ``SUFFIXES``.

    Returns:
      Arrays by name; floating-point ones as float32, whole numbers as they are.

    Raises:
      InputError: for a missing or damaged file, or one that holds anything but tensors.
    """
    path = pathlib.Path(path)
    require(path.suffix in SUFFIXES, f"weights end in one of {', '.join(SUFFIXES)}, got "
            f"{str(path)!r}.")
    require(path.is_file(), f"no file {str(path)!r} with weights.")
    state = _load_safetensors(path) if path.suffix == ".safetensors" else torch_pickle.load(path)
    for wrapper in "state_dict", "model_state_dict", "model":
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    require(isinstance(state, dict) and len(state) > 0
            and all(isinstance(name, str) and isinstance(value, np.ndarray)
                    for name, value in state.items()),
            f"{str(path)!r} holds no state dict of named tensors.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value if value.dtype.kind in "biu" else value.astype(np.float32)
            for name, value in state.items()}


def resnet_name(state: dict[str, np.ndarray]) -> str:
    """Which of ``models.BACKBONES`` the names of a state dict belong to.

    Raises:
      InputError: where they belong to none.
    """
    blocks = {re.match(r"layer([1-4])\.(\d+)\.conv1\.weight$", name) for name in state} - {None}
    counts = tuple(sum(m[1] == stage for m in blocks) for stage in "1234")
    kind = counts, "layer1.0.conv3.weight" in state
    require(kind in _RESNETS, "these weights are of no ResNet that is known by its names "
            f"({', '.join(_RESNETS.values())}): its four layers have {counts} blocks. Set "
            "model.name and model.options.")
    return _RESNETS[kind]


def import_resnet(state: dict[str, np.ndarray], network: models.resnet.ResNet) -> Imported:
    """Puts every tensor of a state dict in its place in a ResNet that takes colour images.

    Raises:
      InputError: with every tensor that is missing, unexpected or of another shape. Either all
        weights are taken or none.
    """
    wanted = jax.eval_shape(
        lambda key: network.init(key, np.zeros((1, 32, 32, 3), np.float32), False),
        jax.random.key(0))
    state = {name: value for name, value in state.items() if not name.endswith(_IGNORED)}
    head = {name: state.pop(name) for name in _CLASSIFIER if name in state}
    problems, used = [], set()

    def take(path, leaf):
        name = _torch_name(path)
        used.add(name)
        value = _to_flax(state[name]) if name in state else None
        if value is None:
            problems.append(f"{name} is missing")
        elif value.shape != leaf.shape:
            problems.append(f"{name} has shape {list(state[name].shape)}, which is "
                            f"{list(value.shape)} here, instead of {list(leaf.shape)}")
        return value

    variables = jax.tree_util.tree_map_with_path(take, wanted)
    problems += [f"{name} is unexpected" for name in sorted(state.keys() - used)]
    require(not problems, f"the weights do not fit the network: {'; '.join(problems)}.")
    return Imported(variables["params"], variables.get("batch_stats", {}), _classifier(head))


def export_state(network: models.resnet.ResNet, params, batch_stats, classifier=None,
                 layout: str = "timm") -> dict[str, np.ndarray]:
    """Variables as a state dict of torchvision or timm: the inverse of ``import_resnet``.

    Args:
      network: the backbone that they belong to.
      params, batch_stats: its variables.
      classifier: parameters of a ``models.Classifier`` on it; None leaves one out, as timm does
        with num_classes=0.
      layout: one of ``LAYOUTS``.

    Returns:
      float32 arrays by name, in PyTorch's order of axes.

    Raises:
      InputError: for another layout, or a network that none is known of.
    """
    require(layout in LAYOUTS, f"layout must be one of {LAYOUTS}, got {layout!r}.")
    require(isinstance(network, models.resnet.ResNet), "weights of ResNets alone are exported, got "
            f"those of {type(network).__name__}.")
    variables = {"params": params, "batch_stats": batch_stats}
    state = {_torch_name(path): _to_torch(leaf)
             for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    if classifier is not None:
        dense = classifier["Dense_0"]
        state |= zip(_CLASSIFIER, (_to_torch(dense["kernel"]), _to_torch(dense["bias"])))
    return state


def _load_safetensors(path):
    try:
        with safe_open(path, framework="flax") as file:  # unlike "numpy", it has bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is no whole safetensors file ({error}): fetch it "
                         "again.") from error


def _torch_name(path) -> str:
    name = "/".join(key.key for key in path[1:])  # without "params" or "batch_stats"
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


# Axes of a convolution's and of a dense layer's kernel; vectors are the same in both.
_TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0)}


def _to_flax(value):
    return value.transpose(_axes(value))


def _to_torch(value):
    value = np.asarray(value, np.float32)
    return np.ascontiguousarray(value.transpose(np.argsort(_axes(value))))


def _axes(value):
    return _TO_FLAX.get(value.ndim, range(value.ndim))


def _classifier(head):
    if len(head) < len(_CLASSIFIER):
        return None
    kernel, bias = (head[name] for name in _CLASSIFIER)
    return {"Dense_0": {"kernel": _to_flax(kernel), "bias": bias}}
