"""Maps a step written for one device over all devices: the only file that knows meshes.

A step is ``step(state, data, batch) → (state, metrics)``. ``state``, ``data`` (the resident set)
and ``metrics`` are the same on all devices; ``batch`` is split over them by its first axis. The
step itself averages gradients and metrics over the axis ``AXIS``.
"""

from typing import Any, Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.errors import require

AXIS = "batch"
MAPPINGS = ("shard_map", "pmap")


class Devices:
    """All devices of all processes as one line.

    Attributes:
      count: how many devices there are.
      mapping: "shard_map" or "pmap".
    """

    def __init__(self, mapping: str = "shard_map", limit: int = 0):
        """``limit``: use only the first so many devices, 0 for all.

        Raises:
          InputError: for an unknown mapping, pmap with several processes, or too high a limit.
        """
        require(mapping in MAPPINGS, f"mapping must be one of {MAPPINGS}, got {mapping!r}.")
        require(mapping == "shard_map" or jax.process_count() == 1,
                f"mapping pmap runs on one process, but there are {jax.process_count()}: "
                "use shard_map.")
        devices = jax.devices()
        require(0 <= limit <= len(devices),
                f"devices must be between 0 (all) and {len(devices)}, got {limit}.")
        self._devices = devices[:limit] if limit else devices
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        self.count = len(self._devices)
        self.mapping = mapping

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError where the devices cannot share a batch evenly."""
        require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}.")
        require(batch_size % self.count == 0,
                f"batch_size {batch_size} does not divide over {self.count} devices: make it a "
                f"multiple of {self.count}.")

    def replicate(self, tree: Any) -> Any:
        """Puts host arrays on all devices, the same on each."""
        return _place(tree, NamedSharding(self._mesh, PartitionSpec()))

    def split(self, tree: Any) -> Any:
        """Puts host arrays on the devices, each getting its rows of the first axis."""
        return _place(tree, NamedSharding(self._mesh, PartitionSpec(AXIS)))

    def map(self, step: Callable) -> Callable:
        """The compiled step over all devices; the state that is passed in is consumed."""
        if self.mapping == "pmap":
            return self._pmap(step)
        mapped = jax.shard_map(
            step, mesh=self._mesh, in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(),
            # The step says itself what it reduces; inferring it would add sums of its own to the
            # gradients here and not under pmap.
            check_vma=False)
        return jax.jit(mapped, donate_argnums=0)

    def map_rows(self, function: Callable) -> Callable:
        """The compiled ``function(tree, rows)`` over all devices, each taking its share of rows.

        ``tree`` is the same on all devices, ``rows`` split by the first axis; what the function
        gives for the rows of each device is put together again, in order, on every device. Per
        device the program does not depend on how many there are.
        """

        def gathered(tree, rows):
            return jax.lax.all_gather(function(tree, rows), AXIS, tiled=True)

        return jax.jit(jax.shard_map(
            gathered, mesh=self._mesh, in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(), check_vma=False))

    def _pmap(self, step):
        mapped = jax.pmap(step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None,
                          devices=self._devices)

        def run(state, data, batch):
            rows = jax.tree.map(
                lambda x: np.asarray(x).reshape((self.count, -1) + x.shape[1:]), batch)
            return mapped(state, data, rows)

        return run


def _place(tree, sharding):
    """Every process holds the whole host array and hands over the parts of its own devices."""

    def place(x):
        x = np.asarray(x) if not isinstance(x, jax.Array) else x
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)
