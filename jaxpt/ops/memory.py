"""Memory of labelled keys, from which LOOK, NCA and similar methods take neighbours.

A memory is either a queue of the latest keys (``push``) or a bank with one key per training
example, updated in place (``write``). With ``axis_name``, the slots are split evenly over the
devices of that axis, in device order. Each device passes its part of the memory and the batch of
all devices, and writes only its own slots.
"""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.ops.similarity import check_integers, check_rows, unit_vectors, wide


class Memory(NamedTuple):
    """Keys with their labels and example ids, as a pytree.

    Attributes:
      keys: float32 or bfloat16 [size, dim]; as they were pushed, or unit rows if written.
      labels: int32 [size].
      ids: int32 [size], the example from which each key was computed.
      valid: bool [size]; False until the slot is written, so that empty slots are no neighbours.
      cursor: int32 scalar, the slot that a queue writes next; unused by a bank.
    """

    keys: jax.Array
    labels: jax.Array
    ids: jax.Array
    valid: jax.Array
    cursor: jax.Array


# Axis along which each array of a sharded memory is split over the devices.
SHARDED = Memory(keys=0, labels=0, ids=0, valid=0, cursor=None)


def create(size: int, dim: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Memory:
    """Creates an empty memory of ``size`` slots for keys of length ``dim``, stored as ``dtype``.

    Raises:
      ValueError: if size or dim is below 1.
    """
    if size < 1 or dim < 1:
        raise ValueError(f"a memory needs size and dim of at least 1, got {size} and {dim}.")
    return Memory(
        keys=jnp.zeros((size, dim), dtype),
        labels=jnp.full(size, -1, jnp.int32),
        ids=jnp.full(size, -1, jnp.int32),
        valid=jnp.zeros(size, bool),
        cursor=jnp.zeros((), jnp.int32),
    )


def push(
    memory: Memory,
    keys: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    axis_name: str | None = None,
) -> Memory:
    """Overwrites the oldest slots of a queue with a batch, wrapping around at the end.

    Args:
      memory: the memory, or this device's part of it; not modified.
      keys: float [batch, dim], the keys of all devices.
      labels, ids: int32 [batch].
      axis_name: mapped axis over which the slots are split, or None.

    Returns:
      The memory with ``batch`` slots replaced and the cursor advanced.

    Raises:
      ValueError: if the batch has more rows than the memory has slots, NumPy labels or ids do not
        fit 32 bits, or shapes do not match.
    """
    size, batch = _size(memory, axis_name), keys.shape[0]
    if batch > size:
        raise ValueError(
            f"a batch of {batch} keys does not fit a memory of {size}: make the memory at least "
            f"{batch} long or the batch smaller."
        )
    _check_rows(memory, keys, labels, ids)
    slots = (memory.cursor + jnp.arange(batch, dtype=jnp.int32)) % size
    memory = _set(memory, _own(slots, memory, axis_name), keys, labels, ids)
    return memory._replace(cursor=(memory.cursor + batch) % size)


def write(
    memory: Memory,
    slots: jax.Array,
    keys: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    momentum: float,
    axis_name: str | None = None,
) -> Memory:
    """Updates slots of a bank: key ← unit(momentum · old + (1 − momentum) · new).

    An empty slot holds zeros, so it takes the new key. If a batch contains a slot twice (where one
    epoch ends and the next begins), the last row is written.

    Args:
      memory: the memory, or this device's part of it; not modified.
      slots: int [batch], each in 0 … size − 1 of the whole memory; rows of others are dropped.
      keys: float [batch, dim], unit rows, the keys of all devices.
      labels, ids: int32 [batch].
      momentum: at least 0 and below 1; 0 replaces the key.
      axis_name: mapped axis over which the slots are split, or None.

    Returns:
      The memory with these slots updated.

    Raises:
      ValueError: if NumPy labels or ids do not fit 32 bits, shapes do not match, or the momentum is
        out of range.
    """
    _check_rows(memory, keys, labels, ids)
    check_rows("slots", slots, keys.shape[0])
    if isinstance(momentum, numbers.Real) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}.")
    slots = wide(slots)
    rows = jnp.arange(keys.shape[0])
    repeated = jnp.any((slots[:, None] == slots[None, :]) & (rows[None, :] > rows[:, None]), axis=1)
    keys = jax.lax.stop_gradient(keys).astype(jnp.float32)
    slots = _own(slots, memory, axis_name)
    # For slots of other devices ``old`` is arbitrary; ``_set`` drops these rows.
    old = memory.keys[slots].astype(jnp.float32)
    moved = unit_vectors(momentum * old + (1 - momentum) * keys)
    return _set(memory, jnp.where(repeated, memory.keys.shape[0], slots), moved, labels, ids)


def _size(memory, axis_name) -> int:
    """Number of slots over all devices."""
    return memory.keys.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _own(slots, memory, axis_name):
    """Converts slots of the whole memory to slots of this device; out of range if elsewhere."""
    n = memory.keys.shape[0]
    own = slots if axis_name is None else slots - n * jax.lax.axis_index(axis_name)
    return jnp.where((own >= 0) & (own < n), own, n)


def _set(memory, slots, keys, labels, ids):
    """Writes rows into their slots; drops rows whose slot is out of range."""
    return memory._replace(
        keys=memory.keys.at[slots].set(
            jax.lax.stop_gradient(keys).astype(memory.keys.dtype), mode="drop"
        ),
        labels=memory.labels.at[slots].set(labels.astype(jnp.int32), mode="drop"),
        ids=memory.ids.at[slots].set(ids.astype(jnp.int32), mode="drop"),
        valid=memory.valid.at[slots].set(True, mode="drop"),
    )


def _check_rows(memory, keys, labels, ids):
    check_integers(labels=labels, ids=ids)
    if keys.shape[1:] != memory.keys.shape[1:] or not labels.shape == ids.shape == keys.shape[:1]:
        raise ValueError(
            f"keys must be [batch, {memory.keys.shape[1]}] and labels and ids [batch], got shapes "
            f"{keys.shape}, {labels.shape} and {ids.shape}."
        )
