"""In which order examples are seen: a function of (seed, position), so a resume needs no state."""

import functools

import numpy as np


def batch_at(position: int, size: int, *, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples the stream holds from ``position`` on.

    The stream is one shuffled pass over the set after another; a batch may end one pass and begin
    the next, so every example is seen exactly once in every pass and none is dropped.

    Args:
      position: examples seen before.
      size: examples wanted.
      n: examples in the set.
      seed: the run's seed.

    Returns:
      (indices int32 [size] into the set, epochs int32 [size]).
    """
    positions = np.arange(position, position + size)
    epochs, places = np.divmod(positions, n)
    indices = np.empty(size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(n, seed, int(epoch))[places[here]]
    return indices, epochs.astype(np.int32)


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)
