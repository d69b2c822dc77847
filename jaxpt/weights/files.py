"""Weight files: ``.pth`` without PyTorch and without running anything in them, safetensors."""

import os
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxpt.errors import InputError, require
from jaxpt.weights import torch_pickle

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


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
    require(
        path.suffix in SUFFIXES, f"weights end in one of {', '.join(SUFFIXES)}, got {str(path)!r}."
    )
    require(path.is_file(), f"no file {str(path)!r} with weights.")
    state = _load_safetensors(path) if path.suffix == ".safetensors" else torch_pickle.load(path)
    for wrapper in "state_dict", "model_state_dict", "model":
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    require(
        isinstance(state, dict)
        and len(state) > 0
        and all(
            isinstance(name, str) and isinstance(value, np.ndarray) for name, value in state.items()
        ),
        f"{str(path)!r} holds no state dict of named tensors.",
    )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {
        name: value if value.dtype.kind in "biu" else value.astype(np.float32)
        for name, value in state.items()
    }


def _load_safetensors(path):
    try:
        with safe_open(path, framework="flax") as file:  # unlike "numpy", it has bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{str(path)!r} is no whole safetensors file ({error}): fetch it again."
        ) from error
