"""Queries beside blocks of keys: what the search and the streamed losses have in common."""

from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Queries(NamedTuple):
    """What the products need to know of the queries; arrays [batch, …] or None."""

    vectors: jax.Array
    ids: jax.Array | None
    labels: jax.Array | None


class Keys(NamedTuple):
    """The same of the keys; arrays [n, …] or None."""

    vectors: jax.Array
    ids: jax.Array | None
    labels: jax.Array | None
    mask: jax.Array | None
    bias: jax.Array | None


def check_integers(**arrays: jax.Array | np.ndarray | None) -> None:
    """Raises ValueError where NumPy integers do not fit the 32 bits that JAX cuts them to.

    2³² + 1 would silently become 1. What was cut before, as by a surrounding ``jit``, cannot be
    seen here.
    """
    if jax.config.jax_enable_x64:
        return
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.size:
            for value in array.min(), array.max():
                if not -(2**31) <= value < 2**31:
                    raise ValueError(
                        f"{name} hold {value}, which JAX would cut to 32 bits: number them, as "
                        "np.unique(values, return_inverse=True)[1] does."
                    )


def float_rows(vectors: jax.Array, key_rows: Callable | None) -> jax.Array:
    """The rows to compare of some keys: float32 [n, dim]."""
    vectors = vectors.astype(jnp.float32)
    return vectors if key_rows is None else key_rows(vectors)


def block_of(keys: Keys, start: int | jax.Array, size: int) -> Keys:
    """``size`` keys from ``start`` on."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), keys)


def similarities(queries: Queries, keys: Keys, key_rows: Callable | None) -> jax.Array:
    """Float32 [n, batch], −∞ where a key is not admissible for a query, ∞ in place of NaN.

    Keys stand in rows, so that the maxima over groups of them are vectorised over the queries.
    """
    s = jnp.matmul(
        float_rows(keys.vectors, key_rows), queries.vectors.T, precision=jax.lax.Precision.HIGHEST
    )
    if keys.bias is not None:
        s = s + keys.bias[:, None]
    s = jnp.where(jnp.isnan(s), jnp.inf, s)  # top_k sorts NaN here or there, by backend and sign
    return jnp.where(admissible(queries, keys, s.shape), s, -jnp.inf)


def admissible(queries: Queries, keys: Keys, shape: tuple[int, ...]) -> jax.Array:
    """Which keys each query may find: bool [n, batch]."""
    allowed = jnp.ones(shape, bool)
    if keys.mask is not None:
        allowed &= keys.mask[:, None]
    if keys.ids is not None:
        allowed &= keys.ids[:, None] != queries.ids[None, :]
    if keys.labels is not None:
        allowed &= keys.labels[:, None] == queries.labels[None, :]
    return allowed
