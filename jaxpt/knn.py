"""Exact nearest neighbours: one engine for the LOOK loss, the kNN monitor and the evaluator."""

import functools

import jax
import jax.numpy as jnp


def mask_of_largest(values: jax.Array, k, where: jax.Array) -> jax.Array:
    """Marks the ``k`` largest entries of every row; ties go to the lower index, as in ``top_k``.

    A search for the k-th largest value by bisection over the bits of the floats: passes of
    compare-and-count over the rows, at most 32 and usually about half of that. Against
    ``jax.lax.top_k`` it needs no sort and no gather, and ``k`` may be traced, so a schedule of k
    does not compile anew.

    Args:
      values: float32 [batch, n].
      k: how many; an int, or an int32 scalar or [batch] array that may be traced. Where a row has
        fewer entries, all are marked.
      where: bool [batch, n], the entries that count at all.

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
        jnp.any(jnp.sum(marked, axis=-1) > k), _drop_last_ties, lambda *args: args[0],
        marked, order == threshold[:, None], k)


def _ordered_integers(values: jax.Array) -> jax.Array:
    """Integers in the order of the floats (−0 counts as 0)."""
    # Not values + 0.0, which XLA simplifies away.
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


def _bisect(low, high, k, count):
    """Per row the largest t with count(t) ≥ k, or any t with count(t) = k."""

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
    """Unmarks tied entries from the right until k are left."""
    tied = marked & at_threshold
    surplus = jnp.sum(marked, axis=-1) - k
    rank_from_right = jnp.cumsum(tied[:, ::-1], axis=-1)[:, ::-1]
    return marked & ~(tied & (rank_from_right <= surplus[:, None]))


@functools.partial(jax.jit, static_argnames=("k", "block_size"))
def search(queries, keys, k: int, *, query_ids=None, key_ids=None, key_mask=None,
           block_size: int = 16384):
    """The k nearest keys of every query by inner product, exact, streamed over blocks of keys.

    Holds batch × (block_size + k) similarities at a time, however many keys there are.

    Args:
      queries: float [batch, dim]; unit rows give cosines.
      keys: float [n, dim].
      k: how many neighbours; fewer are found where fewer keys are admissible.
      query_ids, key_ids: int32 [batch], [n]; a key with its query's id is left out before the
        selection (leave-one-out). Both or neither.
      key_mask: bool [n]; False keys are never neighbours.
      block_size: keys per block.

    Returns:
      (similarities float32 [batch, k] in falling order, indices int32 [batch, k]); ties go to the
      lower index; where no neighbour is left the similarity is −∞ and the index −1.

    Raises:
      ValueError: if k < 1, there are no keys, only one of the ids is given, or lengths do not
        match.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if (query_ids is None) != (key_ids is None):
        raise ValueError("query_ids and key_ids belong together: give both or neither.")
    n = keys.shape[0]
    if n == 0:
        raise ValueError("there are no keys to search.")
    for name, array, rows in (("query_ids", query_ids, queries.shape[0]), ("key_ids", key_ids, n),
                              ("key_mask", key_mask, n)):
        if array is not None and array.shape != (rows,):
            raise ValueError(f"{name} must have shape [{rows}], got {list(array.shape)}.")
    block_size = min(block_size, n)
    n_blocks = -(-n // block_size)
    pad = n_blocks * block_size - n
    valid = jnp.ones(n, bool) if key_mask is None else key_mask
    ids = jnp.zeros(n, jnp.int32) if key_ids is None else key_ids

    def blocks(x):
        return jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1)).reshape(
            (n_blocks, block_size) + x.shape[1:])

    def visit(best, block):
        block_keys, block_valid, block_ids, start = block
        s = jnp.matmul(queries.astype(jnp.float32), block_keys.astype(jnp.float32).T,
                       precision=jax.lax.Precision.HIGHEST)
        allowed = block_valid[None, :]
        if query_ids is not None:
            allowed = allowed & (query_ids[:, None] != block_ids[None, :])
        s = jnp.where(allowed, s, -jnp.inf)
        index = jnp.where(allowed, start + jnp.arange(block_size, dtype=jnp.int32), -1)
        index = jnp.broadcast_to(index, s.shape)
        # Earlier keys stand first, so ties keep going to the lower index.
        s = jnp.concatenate([best[0], s], axis=1)
        index = jnp.concatenate([best[1], index], axis=1)
        s, place = jax.lax.top_k(s, k)
        return (s, jnp.take_along_axis(index, place, axis=1)), None

    batch = queries.shape[0]
    nothing = jnp.full((batch, k), -jnp.inf), jnp.full((batch, k), -1, jnp.int32)
    starts = block_size * jnp.arange(n_blocks, dtype=jnp.int32)
    best, _ = jax.lax.scan(visit, nothing, (blocks(keys), blocks(valid), blocks(ids), starts))
    return best
