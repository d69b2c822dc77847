"""Shared parts of neighbour and contrastive losses: safe cosines, masks, masked log-sum-exp."""

import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np


# Ending of a name → dtypes that ``check_rows`` accepts.
_INTEGERS = jnp.integer, jnp.bool_
KINDS = {"labels": _INTEGERS, "ids": _INTEGERS, "mask": (jnp.bool_,), "where": (jnp.bool_,)}


def unit_vectors(vectors: jax.Array) -> jax.Array:
    """Scales rows to length one, in float32; a zero row stays zero, with gradient zero.

    Rows are first divided by their largest magnitude, so that squares neither overflow nor
    underflow: lengths from 1e-30 to 1e30 are safe.

    Args:
      vectors: float [..., dim], any float dtype.

    Returns:
      float32 [..., dim].
    """
    x = jnp.asarray(vectors).astype(jnp.float32)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    is_zero = largest == 0
    x = jnp.where(is_zero, 0.0, x / jnp.where(is_zero, 1.0, largest))
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(is_zero, 0.0, x * jax.lax.rsqrt(jnp.where(is_zero, 1.0, squared)))


def inverse_lengths(vectors: jax.Array) -> jax.Array:
    """Computes one over the length of every row, in float32 and as safely as ``unit_vectors``.

    Args:
      vectors: float32 [rows, dim].

    Returns:
      float32 [rows]; 0 for a zero row.
    """
    largest = jnp.max(jnp.abs(vectors), axis=-1)
    is_zero = largest == 0
    largest = jnp.where(is_zero, 1.0, largest)
    squared = jnp.sum(jnp.square(vectors / largest[:, None]), axis=-1)
    return jnp.where(is_zero, 0.0, jax.lax.rsqrt(jnp.where(is_zero, 1.0, squared)) / largest)


def rows(vectors: jax.Array, normalize: bool = True, where: jax.Array | None = None) -> jax.Array:
    """Returns rows in float32, optionally scaled to length one, with masked rows set to zero.

    Masked rows are zeroed because a NaN in them must not reach the gradients of other rows.

    Args:
      vectors: float [rows, dim].
      normalize: whether to scale rows to length one.
      where: bool [rows]; False rows become zero.

    Returns:
      float32 [rows, dim].
    """
    if where is not None:
        vectors = jnp.where(where[:, None], vectors, 0)
    return unit_vectors(vectors) if normalize else vectors.astype(jnp.float32)


def similarities(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Inner products in full float32, also on hardware that uses bf16 or TF32 by default.

    Args:
      queries: float32 [batch, dim].
      keys: float32 [memory, dim].

    Returns:
      float32 [batch, memory].
    """
    return jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)


def candidates(
    shape, query_ids, key_ids, key_mask, query_sources=None, key_sources=None
) -> jax.Array:
    """Mask of the keys admissible for each query: bool [batch, memory].

    Keys with the query's id are left out, and keys of another source if there are sources.

    Raises:
      ValueError: if only one of the ids is given, or a length does not match.
    """
    check_ids(shape, query_ids, key_ids, key_mask)
    allowed = jnp.ones(shape, bool)
    if key_mask is not None:
        allowed &= key_mask[None, :]
    if query_ids is not None:
        allowed &= query_ids[:, None] != key_ids[None, :]
    if query_sources is not None:
        allowed &= query_sources[:, None] == key_sources[None, :]
    return allowed


def sources_of(label_sources: jax.Array | None, labels: jax.Array) -> jax.Array | None:
    """Source of each label, int [rows]; None if there is only one.

    Args:
      label_sources: int [classes], the source of every class, or None.
      labels: int [rows], each in 0 … classes − 1.

    Raises:
      TypeError: if ``label_sources`` are not integers.
      ValueError: if they are not one row, or a label has no source; does not check tracers.
    """
    if label_sources is None:
        return None
    check_array("label_sources", label_sources)
    if not jnp.issubdtype(label_sources.dtype, jnp.integer):
        raise TypeError(f"label_sources must be integers, got dtype {label_sources.dtype}.")
    if jnp.ndim(label_sources) != 1:
        raise ValueError(
            f"label_sources must have shape [classes], got shape {jnp.shape(label_sources)}."
        )
    if not isinstance(labels, jax.core.Tracer) and len(labels):
        lowest, highest = int(jnp.min(labels)), int(jnp.max(labels))
        if lowest < 0 or highest >= len(label_sources):
            raise ValueError(
                f"label_sources has the sources of labels 0 … {len(label_sources) - 1}, but labels "
                f"reach from {lowest} to {highest}."
            )
    return jnp.asarray(label_sources)[labels]


def check_ids(shape, query_ids, key_ids, key_mask) -> None:
    """Raises ValueError if only one of the ids is given, or lengths do not match ``shape``."""
    check_rows("query_ids", query_ids, shape[0])
    check_rows("key_ids", key_ids, shape[1])
    check_rows("key_mask", key_mask, shape[1])
    if (query_ids is None) != (key_ids is None):
        raise ValueError("query_ids and key_ids belong together: give both or neither.")


def masked_logsumexp(
    logits: jax.Array, where: jax.Array, largest: jax.Array | None = None
) -> jax.Array:
    """Computes log Σ exp(logits) over the unmasked entries of the last axis; 0 for an empty row.

    An empty row gives 0 instead of −∞, so that the value and its gradient stay finite and the
    caller can mask the row afterwards.

    Args:
      logits: float32 [batch, n].
      where: bool [batch, n].
      largest: float32 [batch], the largest unmasked entry of each row if it is known, which spares
        a pass over the logits; −∞ for an empty row.

    Returns:
      float32 [batch].
    """
    # Finite instead of −∞, because (−∞) − (−∞) would be NaN in a row without unmasked entries.
    lowest = jnp.finfo(jnp.float32).min / 2
    if largest is None:
        largest = jnp.max(logits, axis=-1, where=where, initial=lowest)
    largest = jax.lax.stop_gradient(jnp.maximum(largest, lowest))
    shifted = jnp.where(where, logits - largest[:, None], 0.0)
    total = jnp.sum(jnp.where(where, jnp.exp(shifted), 0.0), axis=-1)
    # Neither alone: exponentials of huge logits may vanish, and a maximum may skip NaN.
    empty = (total == 0) & (largest <= lowest)
    return jnp.where(empty, 0.0, jnp.log(jnp.where(empty, 1.0, total)) + largest)


def masked_mean(values: jax.Array, where: jax.Array | None) -> jax.Array:
    """Mean of ``values`` [batch] over the unmasked rows; 0 if all rows are masked."""
    if where is None:
        return jnp.mean(values.astype(jnp.float32))
    return jnp.sum(jnp.where(where, values, 0)) / jnp.maximum(jnp.sum(where), 1)


def gather(array: jax.Array | None, axis_name) -> jax.Array | None:
    """Gathers the rows of all devices, in device order; without an axis, returns the array."""
    if array is None or axis_name is None:
        return array
    return jax.lax.all_gather(array, axis_name, tiled=True)


def own_rows(rows: int, axis_name) -> jax.Array:
    """Mask of each row's own position among the gathered rows: bool [rows, rows of all devices]."""
    if axis_name is None:
        return jnp.eye(rows, dtype=bool)
    total = rows * jax.lax.axis_size(axis_name)
    own = jax.lax.axis_index(axis_name) * rows + jnp.arange(rows)
    return own[:, None] == jnp.arange(total)[None, :]


def check_integers(**arrays: jax.Array | np.ndarray | None) -> None:
    """Raises ValueError if NumPy integers do not fit the 32 bits to which JAX truncates them.

    2³² + 1 would silently become 1. Integers that were truncated before, for example by a
    surrounding ``jit``, cannot be detected. JAX compares unsigned ones as if they were signed.
    """
    if jax.config.jax_enable_x64:
        return
    for name, array in arrays.items():
        if isinstance(array, jax.Array) and array.dtype == jnp.uint32:
            raise ValueError(
                f"{name} are uint32, which JAX confuses with negative ones: use int32."
            )
        if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size:
            for value in array.min(), array.max():
                if not -(2**31) <= value < 2**31:
                    raise ValueError(
                        f"{name} hold {value}, which JAX would cut to 32 bits: renumber them with "
                        "np.unique(values, return_inverse=True)[1]."
                    )


def wide(labels: jax.Array) -> jax.Array:
    """Integers of 32 bits or more: JAX cuts Python's to the bits of what they are compared with."""
    labels = jnp.asarray(labels)
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def check_untracked(what: str, *arrays: jax.Array) -> None:
    """Raises ValueError within a ``shard_map`` that tracks over which devices values vary."""
    kinds = (getattr(jax.typeof(x), "manual_axis_type", None) for x in arrays)
    if any(getattr(kind, "varying", None) for kind in kinds):
        raise ValueError(f"{what} needs jax.shard_map(…, check_vma=False).")


def check_array(name: str, array: jax.Array) -> None:
    """Raises TypeError for lists and other values that are not arrays."""
    if not hasattr(array, "dtype"):
        raise TypeError(
            f"{name} must be an array, got a {type(array).__name__}: pass jnp.asarray({name})."
        )


def check_floats(name: str, array: jax.Array) -> None:
    """Raises TypeError if ``array`` is no array, or its dtype is not floating point."""
    check_array(name, array)
    if not jnp.issubdtype(jnp.asarray(array).dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got dtype {jnp.asarray(array).dtype}.")


def check_embeddings(name: str, vectors: jax.Array) -> None:
    """Raises TypeError or ValueError if ``vectors`` is not a float array [rows, dim]."""
    check_floats(name, vectors)
    if jnp.ndim(vectors) != 2:
        raise ValueError(f"{name} must have shape [rows, dim], got shape {jnp.shape(vectors)}.")


def check_like(name: str, vectors: jax.Array, other_name: str, other: jax.Array) -> None:
    """Raises TypeError or ValueError if ``vectors`` is not a float array shaped like ``other``."""
    check_embeddings(name, vectors)
    if vectors.shape != other.shape:
        raise ValueError(
            f"{name} must have the shape of {other_name}, {other.shape}, got {vectors.shape}."
        )


def check_keys(queries_name: str, queries: jax.Array, keys: jax.Array) -> None:
    """Raises TypeError or ValueError if ``keys`` are not floats, are empty, or differ in width."""
    check_embeddings("keys", keys)
    if keys.shape[0] == 0:
        raise ValueError("keys must have at least one row, got none.")
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(
            f"{queries_name} have dimension {queries.shape[1]} but keys {keys.shape[1]}."
        )


def check_weight(weight) -> None:
    """Raises ValueError if a weight is not in 0 … 1; does not check tracers."""
    if isinstance(weight, numbers.Real) and not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in 0 … 1, got {weight}.")


def check_rows(name: str, array: jax.Array | None, rows: int) -> None:
    """Checks an array of one value per row, if there is one.

    Labels and ids must be integers, and masks booleans, or other numbers would be misread.

    Raises:
      TypeError: if it is no array, or of another type.
      ValueError: if it is not [rows] or has integers beyond 32 bits.
    """
    if array is None:
        return
    check_array(name, array)
    kind = next((k for end, k in KINDS.items() if name.endswith(end)), None)
    if kind is not None and not any(jnp.issubdtype(array.dtype, k) for k in kind):
        raise TypeError(
            f"{name} must be {'booleans' if kind == KINDS['mask'] else 'integers'}, got dtype "
            f"{array.dtype}."
        )
    if jnp.shape(array) != (rows,):
        raise ValueError(f"{name} must have shape [{rows}], got shape {jnp.shape(array)}.")
    check_integers(**{name: array})


def check_temperature(temperature, name: str = "temperature") -> None:
    """Raises ValueError for what is no positive finite scalar; of tracers, checks the shape."""
    if jnp.ndim(temperature) != 0:
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(temperature)}.")
    if isinstance(temperature, numbers.Real) and not temperature > 0:
        raise ValueError(f"{name} must be positive, got {temperature}.")
    if isinstance(temperature, numbers.Real) and math.isinf(temperature):
        raise ValueError(f"{name} must be finite, got {temperature}.")
