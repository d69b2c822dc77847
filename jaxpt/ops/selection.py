"""Selection of the k largest entries per row as a mask, without sorting."""

import jax
import jax.numpy as jnp


def mask_of_largest(values: jax.Array, k: int | jax.Array, where: jax.Array) -> jax.Array:
    """Marks the ``k`` largest entries of every row; ties go to the lower index, as in ``top_k``.

    Finds the k-th largest value by bisection over the bits of the floats. This takes at most 32
    compare-and-count passes over the rows, usually about half as many. Unlike ``jax.lax.top_k`` it
    needs no sort and no gather, and ``k`` may be traced, so a schedule of k does not recompile.

    Args:
      values: float32 [batch, n].
      k: number of entries to mark; an int, or an int32 scalar or [batch] array that may be traced.
        If a row has fewer unmasked entries, all of them are marked.
      where: bool [batch, n]; False entries are ignored.

    Returns:
      bool [batch, n].
    """
    below_all = jnp.iinfo(jnp.int32).min
    order = jnp.where(where, _ordered_integers(values), below_all)
    k = jnp.broadcast_to(jnp.asarray(k, jnp.int32), values.shape[:1])
    k = jnp.minimum(k, jnp.sum(where, axis=-1, dtype=jnp.int32))

    def count(threshold):
        return jnp.sum(order >= threshold[:, None], axis=-1, dtype=jnp.int32)

    # Invariant: at least k entries are ≥ low, and the threshold sought is ≤ high.
    low = jnp.min(order, axis=-1, where=where, initial=jnp.iinfo(jnp.int32).max)
    high = jnp.maximum(jnp.max(order, axis=-1), below_all + 1)
    threshold = _bisect(low, high, k, count)
    marked = order >= threshold[:, None]
    return jax.lax.cond(
        jnp.any(jnp.sum(marked, axis=-1) > k),
        _drop_last_ties,
        lambda *args: args[0],
        marked,
        order == threshold[:, None],
        k,
    )


def _ordered_integers(values: jax.Array) -> jax.Array:
    """Maps floats to integers of the same order; −0 equals 0."""
    # Not values + 0.0, which XLA simplifies away.
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


def _bisect(low, high, k, count):
    """Finds per row the largest t with count(t) ≥ k, or any t with count(t) = k."""

    def unfinished(carry):
        low, high, found = carry
        return jnp.any((low < high) & ~found)

    def halve(carry):
        low, high, found = carry
        middle = (low & high) + ((low ^ high) >> 1) + ((low ^ high) & 1)  # upper mean, no overflow
        middle = jnp.where(found, low, middle)
        n = count(middle)
        enough = n >= k
        low = jnp.where(enough, middle, low)
        high = jnp.where(enough | found, high, middle - 1)
        return low, high, found | (n == k)

    start = low, high, count(low) == k
    return jax.lax.while_loop(unfinished, halve, start)[0]


def _drop_last_ties(marked, at_threshold, k):
    """Unmarks entries tied at the threshold, from the right, until k marked entries are left."""
    tied = marked & at_threshold
    surplus = jnp.sum(marked, axis=-1) - k
    rank_from_right = jnp.cumsum(tied[:, ::-1], axis=-1)[:, ::-1]
    return marked & ~(tied & (rank_from_right <= surplus[:, None]))
