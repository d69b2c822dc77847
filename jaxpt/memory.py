"""A labelled queue of keys: what LOOK, NCA and their kin take their neighbours from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Memory(NamedTuple):
    """A first-in-first-out queue as a pytree.

    Attributes:
      keys: float32 [size, dim], unit rows where ``valid``.
      labels: int32 [size].
      ids: int32 [size], the example that each key was made from.
      valid: bool [size]; False until a slot was written, so that nothing random is a neighbour.
      cursor: int32 scalar, the slot to be written next.
    """

    keys: jax.Array
    labels: jax.Array
    ids: jax.Array
    valid: jax.Array
    cursor: jax.Array


def create(size: int, dim: int) -> Memory:
    """An empty memory of ``size`` slots for keys of length ``dim``.

    Raises:
      ValueError: if size or dim is below 1.
    """
    if size < 1 or dim < 1:
        raise ValueError(f"a memory needs size and dim of at least 1, got {size} and {dim}.")
    return Memory(
        keys=jnp.zeros((size, dim), jnp.float32),
        labels=jnp.full(size, -1, jnp.int32),
        ids=jnp.full(size, -1, jnp.int32),
        valid=jnp.zeros(size, bool),
        cursor=jnp.zeros((), jnp.int32),
    )


def push(memory: Memory, keys: jax.Array, labels: jax.Array, ids: jax.Array) -> Memory:
    """Writes a batch over the oldest slots, wrapping round at the end.

    Args:
      memory: the memory; unchanged.
      keys: float [batch, dim].
      labels, ids: int32 [batch].

    Returns:
      The memory with ``batch`` slots replaced and the cursor moved on.

    Raises:
      ValueError: if the batch has more rows than the memory has slots, or shapes do not match.
    """
    size, batch = memory.keys.shape[0], keys.shape[0]
    if batch > size:
        raise ValueError(
            f"a batch of {batch} keys does not fit a memory of {size}: make the memory at least "
            f"{batch} long or the batch smaller.")
    if keys.shape[1:] != memory.keys.shape[1:] or not labels.shape == ids.shape == (batch,):
        raise ValueError(
            f"keys must be [batch, {memory.keys.shape[1]}] and labels and ids [batch], got shapes "
            f"{keys.shape}, {labels.shape} and {ids.shape}.")
    slots = (memory.cursor + jnp.arange(batch, dtype=jnp.int32)) % size
    return Memory(
        keys=memory.keys.at[slots].set(jax.lax.stop_gradient(keys).astype(jnp.float32)),
        labels=memory.labels.at[slots].set(labels.astype(jnp.int32)),
        ids=memory.ids.at[slots].set(ids.astype(jnp.int32)),
        valid=memory.valid.at[slots].set(True),
        cursor=(memory.cursor + batch) % size,
    )
