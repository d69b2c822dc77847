"""How a library names the tensors of a network, and how it orders their axes."""

import re
from typing import Callable, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """One library's state dicts of one network.

    Attributes:
      renamed: (pattern, replacement) of ``re.sub``, one after another, from the path of a variable
        such as "block1/norm1/scale" to the name of its tensor.
      classifier: names of the classifier's weight and bias.
      columns: pattern of the names of those vectors [n] that it keeps as [n, 1, 1].
      fixed: tensors that it keeps and that our network makes, by name.
      resized: how a tensor of another size is made to fit: name → function of (tensor, shape that
        is wanted), which gives None where it cannot.
    """

    renamed: tuple[tuple[str, str | Callable], ...]
    classifier: tuple[str, str]
    columns: str = "$^"
    fixed: dict[str, np.ndarray] = {}
    resized: dict[str, Callable] = {}

    def name(self, path) -> str:
        """Of the tensor of a variable, by its path in {"params": …, "batch_stats": …}."""
        name = "/".join(key.key for key in path[1:])
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def shape(self, name: str, leaf) -> tuple[int, ...]:
        """Of the tensor of that name, for a variable ``leaf``."""
        axes = tuple(leaf.shape[axis] for axis in np.argsort(_axes(leaf)))
        return axes + (1, 1) if re.search(self.columns, name) else axes

    def theirs(self, name: str, leaf) -> np.ndarray:
        """A variable as the tensor of that name, float32."""
        value = np.asarray(leaf, np.float32).transpose(np.argsort(_axes(leaf)))
        return np.ascontiguousarray(value).reshape(self.shape(name, leaf))

    def ours(self, name: str, tensor: np.ndarray) -> np.ndarray:
        """The tensor of that name as a variable."""
        tensor = tensor.reshape(-1) if re.search(self.columns, name) else tensor
        return tensor.transpose(_axes(tensor))


# Names of arrays, the same in all of PyTorch; after those of layers.
ARRAYS = ((r"/(kernel|scale)$", "/weight"), (r"(mean|var)$", r"running_\1"), (r"/", "."))
# Axes of a convolution's and of a dense layer's kernel in PyTorch, in the order that Flax has.
_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


def _axes(array):
    return _AXES.get(len(array.shape), range(len(array.shape)))


def before(number: re.Match) -> int:
    """The number that a pattern's first group found, less one: PyTorch counts from 0."""
    return int(number[1]) - 1
