"""Sharded parameters: each device keeps an equal piece of every large array (FSDP, ZeRO-3).

Parameters, the optimizer's moments and the target are cut along one axis. Inside a step they are
``Part``s, which Flax modules gather when they read them. The transpose of this all-gather is a
reduce-scatter, which leaves each device with the summed gradient of its piece. Optimizer and EMA
are elementwise and work on the pieces. ``parallel.py`` boxes and unboxes the ``Part``s.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from flax.core import meta

from jaxpt.errors import require

SHARDINGS = ("replicated", "sharded")
ELEMENTWISE = ("sgd", "adamw")  # updates use other entries only through the global norm
SMALLEST = 2**12  # smaller arrays are not cut; together they take next to no memory


class Part(flax.struct.PyTreeNode, meta.AxisMetadata):
    """This device's piece of an array.

    Attributes:
      value: the piece.
      axis: axis along which the array is cut.
      over: name of the mapped axis of the devices, which hold the pieces in order.
    """

    value: jax.Array
    axis: int = flax.struct.field(pytree_node=False)
    over: str = flax.struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        """Gathers the whole array; Flax calls this when a module reads a parameter."""
        return jax.lax.all_gather(self.value, self.over, axis=self.axis, tiled=True)

    def replace_boxed(self, val):
        return self.replace(value=val)

    # For ``nn.scan`` and ``nn.vmap``, whose parameters have an additional axis.
    def add_axis(self, index, params):
        return self.replace(axis=self.axis + (index <= self.axis))

    def remove_axis(self, index, params):
        return self.replace(axis=self.axis - (index < self.axis))


def check(config) -> None:
    """Raises InputError if ``config.param_sharding`` is unknown or not possible with the config."""
    require(
        config.param_sharding in SHARDINGS,
        f"param_sharding must be one of {SHARDINGS}, got {config.param_sharding!r}.",
    )
    if config.param_sharding == "replicated":
        return
    require(config.mapping != "pmap", "param_sharding sharded needs mapping shard_map, got pmap.")
    require(
        config.optimizer.name in ELEMENTWISE,
        f"optimizer.name {config.optimizer.name} scales each array by its norm, which no "
        f"device knows with param_sharding sharded: choose one of {ELEMENTWISE}, or set "
        "param_sharding to replicated.",
    )


def of_state(axes, state, devices: int):
    """Axes along which the arrays of a ``TrainState`` are split over the devices.

    Args:
      axes: axes of everything but parameters, moments and target; None for a replicated array.
      state: the state.
      devices: number of devices.

    Returns:
      ``axes`` with those of parameters, moments and target filled in.

    Raises:
      InputError: if no parameter can be split.
    """
    params = jax.tree.map(lambda x: cut_axis(x.shape, devices), state.params)
    require(
        bool(jax.tree.leaves(params)),
        f"param_sharding sharded: none of the parameters has {SMALLEST:,} entries and an axis "
        f"that divides over {devices} devices: set it to replicated.",
    )
    # By shape alone, so that a parameter, its moments and its target are cut alike.
    moments, target = (
        jax.tree.map(lambda x: cut_axis(x.shape, devices), tree)
        for tree in (state.opt_state, state.target and state.target.params)
    )
    axes = axes.replace(params=params, opt_state=moments)
    return axes.replace(target=axes.target.replace(params=target)) if state.target else axes


def cut_axis(shape, devices: int) -> int | None:
    """Longest axis that ``devices`` divides, the first of equals; None for small arrays."""
    even = [axis for axis, n in enumerate(shape) if n % devices == 0]
    if not even or math.prod(shape) < SMALLEST:
        return None
    return max(even, key=lambda axis: shape[axis])


def over_parts(function, tree):
    """Maps ``function`` over every array or ``Part`` of a tree."""
    return jax.tree.map(function, tree, is_leaf=meta.is_axis_metadata)


def mean(gradients, axis_name):
    """Averages gradients over the devices; a ``Part`` is already summed by its reduce-scatter."""
    return over_parts(
        lambda x: (
            jax.tree.map(lambda y: y / jax.lax.axis_size(axis_name), x)
            if isinstance(x, Part)
            else jax.lax.pmean(x, axis_name)
        ),
        gradients,
    )


def norm(tree) -> jax.Array:
    """Global norm of a tree, including the pieces on other devices; a scalar."""
    leaves = jax.tree.leaves(tree, is_leaf=meta.is_axis_metadata)
    cut = [x for x in leaves if isinstance(x, Part)]
    squares = _squares(x for x in leaves if not isinstance(x, Part))
    if cut:
        squares += jax.lax.psum(_squares(x.value for x in cut), cut[0].over)
    return jnp.sqrt(squares)


def _squares(arrays):
    return sum((jnp.sum(jnp.square(x)) for x in arrays), jnp.zeros(()))
