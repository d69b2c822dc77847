"""Names and axis order of a network's tensors in another library."""

import re
from typing import Callable, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Format of a network's state dict in one library.

    Attributes:
      renamed: pairs (pattern, replacement) of ``re.sub``, applied in order, that map the path of a
        variable such as "block1/norm1/scale" to the name of its tensor.
      classifier: names of the classifier's weight and bias.
      columns: pattern for the names of vectors [n] that the library stores as [n, 1, 1].
      fixed: tensors by name that the library stores but jaxpt's network computes.
      resized: name → function of (tensor, wanted shape) that resizes a tensor of another size, or
        returns None if it cannot.
    """

    renamed: tuple[tuple[str, str | Callable], ...]
    classifier: tuple[str, str]
    columns: str = "$^"
    fixed: dict[str, np.ndarray] = {}
    resized: dict[str, Callable] = {}

    def name(self, path) -> str:
        """Name of a variable's tensor, by its path in {"params": …, "batch_stats": …}."""
        name = "/".join(key.key for key in path[1:])
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def shape(self, name: str, leaf) -> tuple[int, ...]:
        """Shape of the tensor called ``name`` for a variable ``leaf``."""
        axes = tuple(leaf.shape[axis] for axis in np.argsort(_axes(leaf)))
        return axes + (1, 1) if re.search(self.columns, name) else axes

    def theirs(self, name: str, leaf) -> np.ndarray:
        """Converts a variable to the library's tensor called ``name``, float32."""
        value = np.asarray(leaf, np.float32).transpose(np.argsort(_axes(leaf)))
        return np.ascontiguousarray(value).reshape(self.shape(name, leaf))

    def ours(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """Converts the library's tensor called ``name`` to a variable."""
        tensor = tensor.reshape(-1) if re.search(self.columns, name) else tensor
        return tensor.transpose(_axes(tensor))


# Renaming of arrays, common to all of PyTorch; applied after that of the layers.
ARRAYS = ((r"/(kernel|scale)$", "/weight"), (r"(mean|var)$", r"running_\1"), (r"/", "."))
# PyTorch's axes of a convolution's and of a dense layer's kernel, in Flax's order.
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


def _axes(array):
    return _AXES.get(len(array.shape), range(len(array.shape)))


def before(number: re.Match) -> int:
    """The number in a match's first group minus one, since PyTorch counts from 0."""
    return int(number[1]) - 1
