"""Parameters in parts: each device keeps an equal piece of every large array (FSDP, ZeRO-3).

Parameters, the optimizer's moments and the target lie cut along one axis. In a step they are
``Part``s, which Flax modules put together at the moment they read them: an all-gather, whose
transpose, a reduce-scatter, leaves each device with the sum of its piece's gradient. Optimizer and
EMA are elementwise and see pieces alone. ``parallel.py`` makes the ``Part``s and takes them back.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp
from flax.core import meta

from jaxpt.errors import require

SHARDINGS = ("replicated", "sharded")
ELEMENTWISE = ("sgd", "adamw")  # optimizers that need of a gradient's other entries only its norm
SMALLEST = 2**12  # entries from which an array is cut; the rest together is next to nothing


class Part(flax.struct.PyTreeNode, meta.AxisMetadata):
    """What this device holds of an array.

    Attributes:
      value: the piece.
      axis: of the array, along which it is cut.
      over: the mapped axis of the devices, which hold the pieces in order.
    """

    value: jax.Array
    axis: int = flax.struct.field(pytree_node=False)
    over: str = flax.struct.field(pytree_node=False)

    def unbox(self) -> jax.Array:
        """The whole array; what Flax calls when a module reads a parameter."""
        return jax.lax.all_gather(self.value, self.over, axis=self.axis, tiled=True)

    def replace_boxed(self, val):
        return self.replace(value=val)

    # For ``nn.scan`` and ``nn.vmap``, whose parameters have an axis more.
    def add_axis(self, index, params):
        return self.replace(axis=self.axis + (index <= self.axis))

    def remove_axis(self, index, params):
        return self.replace(axis=self.axis - (index < self.axis))


def check(config) -> None:
    """Raises InputError where ``config.param_sharding`` is unknown or cannot be."""
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
    """The axes along which so many devices share the arrays of a ``TrainState``.

    Args:
      axes: those of everything else; None where all devices have all of an array.
      state: the state.
      devices: how many.

    Raises:
      InputError: where no parameter can be shared.
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
    """The longest axis that divides, the first among equals; None for small arrays."""
    even = [axis for axis, n in enumerate(shape) if n % devices == 0]
    if not even or math.prod(shape) < SMALLEST:
        return None
    return max(even, key=lambda axis: shape[axis])


def over_parts(function, tree):
    """``function`` of every array, or ``Part``, of a tree."""
    return jax.tree.map(function, tree, is_leaf=meta.is_axis_metadata)


def mean(gradients, axis_name):
    """Gradients averaged over the devices; of a ``Part`` each device has the sum already."""
    return over_parts(
        lambda x: (
            jax.tree.map(lambda y: y / jax.lax.axis_size(axis_name), x)
            if isinstance(x, Part)
            else jax.lax.pmean(x, axis_name)
        ),
        gradients,
    )


def norm(tree) -> jax.Array:
    """The norm of all numbers of a tree, also of those that other devices hold: a scalar."""
    leaves = jax.tree.leaves(tree, is_leaf=meta.is_axis_metadata)
    cut = [x for x in leaves if isinstance(x, Part)]
    squares = _squares(x for x in leaves if not isinstance(x, Part))
    if cut:
        squares += jax.lax.psum(_squares(x.value for x in cut), cut[0].over)
    return jnp.sqrt(squares)


def _squares(arrays):
    return sum((jnp.sum(jnp.square(x)) for x in arrays), jnp.zeros(()))
