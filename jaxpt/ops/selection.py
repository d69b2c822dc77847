"""Selection of the k largest entries per row: by thresholds, without sorting, or by short sorts.

The neighbourhood of LOOK is a set, so it is enough to find an *edge* per row: a value that exactly
k entries reach. Every pass over the rows counts the entries above a few thresholds and keeps the
interval that contains the edge. A pass reads the rows once, however many thresholds it has; a sort
reads them many times.

GPUs sort fast and wait long for the next pass, so where k is small they sort: first the maxima of
groups of entries, then the entries of the k groups with the largest maxima, which have all of the k
largest.
"""

import functools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp


class Search(NamedTuple):
    """How a platform finds an edge.

    Attributes:
      thresholds: number of thresholds per pass.
      sorts: whether it sorts instead where that pays (see ``sorting_pays``).
    """

    thresholds: int
    sorts: bool = False


CPU = Search(1)  # computes more slowly than it reads
TPU = Search(7)  # divides the interval by eight
GPU = Search(7, sorts=True)
SORTED_SHARE = 100  # entries per one of the k largest from which on sorting pays
SORTED = 2**22  # entries up to which it pays anyway
LARGEST_GROUP = 128  # consecutive entries
UNCONDITIONAL = 2  # passes before the first test whether all rows are done, which waits for a GPU
LINEAR = (
    24  # bits gained by dividing the interval of values, before that of bit patterns is divided
)
GROUP = 16  # entries per group, whose maxima give accelerators the first interval
GROUPED = 2**12  # entries per row from which on that pays
LANES = 128  # the number of groups is a multiple of it, so that slices start where registers do


class Edge(NamedTuple):
    """Lower edge of the k largest entries of every row.

    Attributes:
      value: float32 [batch], the smallest value that is inside.
      last: int32 [batch], the last column that is inside among the entries equal to ``value``.
      largest: float32 [batch], the largest entry of the row; −∞ if there is none.
    """

    value: jax.Array
    last: jax.Array
    largest: jax.Array


def mask_of_largest(
    values: jax.Array, k: int | jax.Array, where: jax.Array | None = None
) -> jax.Array:
    """Marks the ``k`` largest entries of every row; ties go to the lower index, as in ``top_k``.

    Unlike ``jax.lax.top_k`` it needs no sort and no gather, and ``k`` may be traced, so a schedule
    of k does not recompile. NaN counts as the largest value.

    Args:
      values: float32 [batch, n].
      k: number of entries to mark; an int, or an int32 scalar or [batch] array that may be traced.
        If a row has fewer unmasked entries, all of them are marked.
      where: bool [batch, n]; False entries are ignored. None ignores entries of −∞, which spares
        reading a mask in every pass.

    Returns:
      bool [batch, n].
    """
    edge = edge_of_largest(values, k, where)
    return _where(values, where) & inside(values, edge)


def inside(values: jax.Array, edge: Edge, columns: jax.Array | None = None) -> jax.Array:
    """Marks the entries at or above the edge: bool, shaped like ``values``.

    Args:
      values: float32 [batch, …].
      edge: the edge of every row.
      columns: int32, shaped like ``values``, their columns; None if ``values`` are whole rows.
    """
    value, last = (x.reshape(-1, *[1] * (values.ndim - 1)) for x in edge[:2])
    columns = jnp.arange(values.shape[1]) if columns is None else columns
    values = _ordered(values)
    return (values > value) | ((values == value) & (columns <= last))


def edge_of_largest(values: jax.Array, k: int | jax.Array, where: jax.Array | None = None) -> Edge:
    """Finds the edge of the ``k`` largest entries of every row.

    Args:
      values, k, where: as for ``mask_of_largest``.

    Returns:
      An edge with exactly k unmasked entries inside, or all if a row has fewer.
    """
    values = jax.lax.stop_gradient(values)
    static_k = k if isinstance(k, int) and k > 0 else None

    def by(platform: Search):
        sorts = platform.sorts and static_k and where is None  # with a mask, −∞ may be an entry
        if sorts and sorting_pays(values.shape, static_k):
            return functools.partial(_edge_by_sorting, static_k=static_k)
        return functools.partial(_search, static_k=static_k, thresholds=platform.thresholds)

    k = jnp.broadcast_to(jnp.asarray(k, jnp.int32), values.shape[:1])
    k = jnp.clip(k, 0, jnp.sum(_where(values, where), axis=-1, dtype=jnp.int32))
    return jax.lax.platform_dependent(values, k, where, cpu=by(CPU), tpu=by(TPU), default=by(GPU))


def sorting_pays(shape: tuple[int, int], k: int) -> bool:
    """Whether a GPU finds the k largest entries of each row faster by sorting than by thresholds.

    Measured on an H100: from 100 entries per one of the k largest on, and in small arrays.
    """
    batch, n = shape
    return n >= SORTED_SHARE * k or batch * n <= SORTED


def largest(
    values: jax.Array, k: int, adjusted: Callable | None = None
) -> tuple[jax.Array, jax.Array]:
    """Finds the ``k`` largest entries of every row by two short sorts.

    Returns the same as ``jax.lax.top_k``, except that 0 and −0 are equal, and NaN and ∞: ties go to
    the lower column. The first sort is of the maxima of groups of consecutive entries, the second
    of the entries of the k groups with the largest maxima; for an entry elsewhere there are k that
    come before it, the first of each of these groups. The sorts see n / size and k · size entries.

    Args:
      values: float32 [batch, n].
      k: at most n.
      adjusted: function (values, columns) → values, applied to what is compared, which is never
        stored as a whole. ``columns`` are those of the values, int32 [batch, m], or None for all.

    Returns:
      (values in descending order, columns int32), each [batch, k]; 0 for −0 and ∞ for NaN.
    """
    n, size = values.shape[1], 1
    while size < LARGEST_GROUP and (2 * size) ** 2 * k <= 2 * n:
        size *= 2

    def ordered(values, columns=None):
        values = values if adjusted is None else adjusted(values, columns)
        return jnp.where(values == 0, 0.0, _ordered(values))

    if size == 1:
        return jax.lax.top_k(ordered(values), k)
    groups = -(-n // size)
    missing = (0, 0), (0, groups * size - n)
    padded = jnp.pad(ordered(values), missing, constant_values=-jnp.inf)
    maxima = jnp.max(padded.reshape(-1, groups, size), axis=-1)
    # In ascending order, so that ties go to the lower column in the second sort, too.
    chosen = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=-1)
    entries, columns, there = (
        x.reshape(len(values), -1) for x in entries_of_groups(values, chosen, size)
    )
    found, place = jax.lax.top_k(jnp.where(there, ordered(entries, columns), -jnp.inf), k)
    return found, jnp.take_along_axis(columns, place, axis=1)


def entries_of_groups(
    values: jax.Array, groups: jax.Array, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Reads groups of ``size`` consecutive entries.

    Args:
      values: float32 [batch, n].
      groups: int32 [batch, groups], which groups of each row. The last group of a row may be
        incomplete.
      size: at most n.

    Returns:
      (entries, their columns, whether they belong to the group), each [batch, groups, size].
    """
    first = groups * size
    start = jnp.minimum(first, values.shape[1] - size)  # a slice must not end behind the row
    columns = start[..., None] + jnp.arange(size, dtype=jnp.int32)
    entries = jax.vmap(
        lambda row, starts: jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(row, i, size))(starts)
    )(values, start)
    return entries, columns, columns >= first[..., None]


def _edge_by_sorting(values, k, _, *, static_k):
    """Edge of the ``k`` ≤ ``static_k`` largest entries of every row, which are above −∞."""
    static_k = min(static_k, values.shape[1])
    found, columns = largest(values, static_k)
    at = jnp.maximum(k, 1)[:, None] - 1  # k = 0: the row has no entries, so none is inside
    value, last = (jnp.take_along_axis(x, at, axis=1)[:, 0] for x in (found, columns))
    return Edge(value, last, found[:, 0])


def _search(values, k, where, *, static_k, thresholds):
    """Narrows the interval low ≤ edge < high until low has exactly k entries, or is one value.

    At least k entries are ≥ low and fewer than k are ≥ high. Both are order keys, see ``_key``.
    """
    bits = thresholds.bit_length()
    linear = jnp.arange(1, thresholds + 1, dtype=jnp.float32) / (thresholds + 1)
    # Groups give a low end just below the edge, so there the first thresholds crowd.
    crowded = 0.5 * 3.0 ** jnp.arange(1 - thresholds, 1, dtype=jnp.float32)

    def divide(state):
        low, high, found, step = state
        bottom, top = _value(low)[:, None], _value(high)[:, None]
        spacing = jnp.where(step == 0, crowded, linear) if thresholds > 1 else linear
        # Dividing the interval of values needs few passes, unless their magnitudes differ widely,
        # and is impossible if an end is infinite. Dividing that of bit patterns always ends.
        by_value = _key(bottom + (top - bottom) * spacing)
        by_bits = low[:, None] + ((high - low)[:, None] * linear).astype(jnp.uint32)
        at = jnp.where((step * bits < LINEAR) & jnp.isfinite(top - bottom), by_value, by_bits)
        at = jnp.where(found[:, None], low[:, None], _between(at, low, high))
        counts = _counts(values, _value(at), where)
        enough = counts >= k[:, None]
        return (
            jnp.max(jnp.where(enough, at, low[:, None]), axis=-1),
            jnp.min(jnp.where(enough, high[:, None], at), axis=-1),
            found | jnp.any(counts == k[:, None], axis=-1),
            step + 1,
        )

    def unfinished(state):
        low, high, found, _ = state
        return jnp.any(~found & (high - low > 1))

    *interval, largest = _interval(values, k, where, static_k, thresholds)
    state = *interval, 0
    if thresholds > 1:
        state = jax.lax.fori_loop(0, UNCONDITIONAL, lambda _, state: divide(state), state)
    low, _, found, _ = jax.lax.while_loop(unfinished, divide, state)
    value, n = _value(low), values.shape[1]
    last = jax.lax.cond(
        jnp.all(found),
        lambda *_: jnp.full(k.shape, n, jnp.int32),
        lambda *of_ties: jnp.where(found, n, _last_of_ties(*of_ties, thresholds)),
        values,
        value,
        k,
        where,
    )
    return Edge(value, last, largest)


def _interval(values, k, where, static_k, thresholds):
    """First (low, high, whether low has exactly k entries) of every row, and its largest entry."""
    allowed = _where(values, where)
    found = k == jnp.sum(allowed, axis=-1, dtype=jnp.int32)
    groups = values.shape[1] // (GROUP * LANES) * LANES
    if thresholds > 1 and groups * GROUP >= GROUPED and static_k and 2 * static_k <= groups:
        # The k largest of the groups' maxima are k entries, so the edge is not below them. Groups
        # are strided: neighbouring keys may be of one class, and accelerators read whole rows.
        values = values if where is None else jnp.where(where, values, -jnp.inf)
        rest = values[:, groups * GROUP :]
        # Of slices and not of a reshaped array, which a TPU would store anew.
        members = (values[:, i * groups : (i + 1) * groups] for i in range(GROUP))
        maxima = functools.reduce(jnp.maximum, members)
        # Or XLA would compute the maximum of the maxima from the values, in a pass of its own.
        maxima = jax.lax.optimization_barrier(maxima)
        of_groups = jnp.minimum(k, jnp.sum(maxima != -jnp.inf, axis=-1, dtype=jnp.int32))
        edge = _search(maxima, of_groups, None, static_k=static_k, thresholds=thresholds)
        lowest, highest = edge.value, _largest(jnp.concatenate([maxima, rest], axis=1))
    else:
        lowest = jnp.min(_ordered(values), axis=-1, where=allowed, initial=jnp.inf)
        highest = _largest(values, allowed)
    lowest = jnp.where(found, -jnp.inf, lowest)
    return _key(lowest), _key(highest) + 1, found, highest


def _largest(values, where=None):
    return jnp.max(_ordered(values), axis=-1, where=where, initial=-jnp.inf)


def _ordered(values):
    """Puts +∞ for NaN, which a reduction by XLA may skip: the interval would be empty."""
    return jnp.where(jnp.isnan(values), jnp.inf, values)


def _where(values, where):
    # NaN is not −∞: a row that has one must not lose it.
    return values != -jnp.inf if where is None else where


def _key(values: jax.Array) -> jax.Array:
    """Maps floats to unsigned integers of the same order; −0 equals 0, and NaN +∞."""
    # Not values + 0.0, which XLA simplifies away.
    values = jnp.where(values == 0, 0.0, jnp.where(jnp.isnan(values), jnp.inf, values))
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _value(keys: jax.Array) -> jax.Array:
    """Inverse of ``_key``."""
    bits = jnp.where(keys >> 31 == 1, keys ^ jnp.uint32(1 << 31), ~keys)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _between(keys, low, high):
    """Clips [batch, thresholds] into low + 1 … high − 1."""
    return jnp.maximum(
        jnp.minimum(jnp.maximum(keys, low[:, None] + 1), high[:, None] - 1), low[:, None]
    )


def _counts(values, thresholds, where):
    """Entries at or above each threshold: int32 [batch, thresholds]."""
    # One reduction per threshold: XLA computes them together, in one pass over the values.
    return jnp.stack(
        [
            jnp.sum(
                # A threshold is above −∞ unless the row is done.
                ~(values < thresholds[:, i, None]) & (where is None or where),
                axis=-1,
                dtype=jnp.int32,
            )
            for i in range(thresholds.shape[1])
        ],
        axis=1,
    )


def _last_of_ties(values, value, k, where, thresholds):
    """Column of the last entry equal to ``value`` among the k largest; −1 if there is none."""
    value, columns = value[:, None], jnp.arange(values.shape[1])
    allowed, values = _where(values, where), _ordered(values)
    wanted = k - jnp.sum(allowed & (values > value), axis=-1, dtype=jnp.int32)
    tied = allowed & (values == value)
    if thresholds == 1:
        before = jnp.cumsum(tied, axis=-1, dtype=jnp.int32) < wanted[:, None]
        return jnp.where(wanted > 0, jnp.sum(before, axis=-1, dtype=jnp.int32), -1)

    # For a cumulative sum, accelerators would reserve memory of several times the values.
    def divide(ends):  # fewer than wanted up to column ``first``, enough up to ``last``
        first, last = ends
        parts = jnp.arange(1, thresholds + 1, dtype=jnp.int32)
        steps = (last - first)[:, None] * parts // (thresholds + 1)
        at = first[:, None] + steps
        counts = [jnp.sum(tied & (columns <= at[:, i, None]), axis=-1) for i in range(thresholds)]
        enough = jnp.stack(counts, axis=1) >= wanted[:, None]
        return (
            jnp.max(jnp.where(enough, first[:, None], at), axis=-1),
            jnp.min(jnp.where(enough, at, last[:, None]), axis=-1),
        )

    ends = jnp.full_like(wanted, -1), jnp.full_like(wanted, len(columns) - 1)
    _, last = jax.lax.while_loop(lambda ends: jnp.any(ends[1] - ends[0] > 1), divide, ends)
    return jnp.where(wanted > 0, last, -1)
