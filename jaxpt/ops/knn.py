"""Nearest-neighbour search, exact by default, shared by losses, kNN monitor and evaluators.

On accelerators a few queries at a time are compared with all keys, in a bounded workspace. GPUs
select the k largest similarities by two short sorts (``selection.largest``), TPUs by thresholds,
without sorting or gathering more than k entries. The rest of this page is about CPUs, where reading
less matters more, and about the approximate search.

Keys are read in blocks, so that no batch × keys array exists, and selected in two rounds. A group
is ``group_size`` consecutive keys. The first round finds the k groups with the largest maxima. The
second round compares only the keys of these groups (and is skipped if a group is one key).

This is exact: for a key outside the chosen groups there are k keys that are at least as near, the
best of each chosen group. Ties go to the lower group in the first round and to the lower key in the
second, so ties between keys go to the lower index. Sorts see n / group_size and k · group_size
entries instead of n.
"""

import functools
import numbers
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.ops import selection
from jaxpt.ops import similarity as sim


class Queries(NamedTuple):
    """Queries with the attributes that decide which keys are admissible; [batch, …] or None."""

    vectors: jax.Array
    ids: jax.Array | None
    labels: jax.Array | None
    sources: jax.Array | None = None


class Keys(NamedTuple):
    """Keys with the attributes that decide which are admissible; [n, …] or None.

    Similarities are multiplied by ``scale``, then ``bias`` is added.
    """

    vectors: jax.Array
    ids: jax.Array | None
    labels: jax.Array | None
    mask: jax.Array | None
    bias: jax.Array | None
    sources: jax.Array | None = None
    scale: jax.Array | None = None


def float_rows(vectors: jax.Array, normalize: bool) -> jax.Array:
    """Converts stored keys to float32 and, optionally, scales them to length one: [n, dim]."""
    return sim.unit_vectors(vectors) if normalize else vectors.astype(jnp.float32)


def block_of(keys: Keys, start: int | jax.Array, size: int) -> Keys:
    """Slices ``size`` keys, beginning at ``start``."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), keys)


@jax.custom_vjp
def products(queries: jax.Array, keys: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Inner products of queries and keys: float32 [batch, n].

    If keys must be converted, no copy of all of them is made, and neither for the gradient by the
    queries: the TPU's compiler converts them within the product, on other platforms it happens to
    a few at a time. No gradient flows into the keys. Reverse mode only.

    Args:
      queries: float32 [batch, dim].
      keys: float [n, dim].
      mask: bool [n]; False keys, which may hold NaN, count as zero vectors. None if all are True.
    """
    size = _converted_at_once(keys, mask)

    def in_parts(queries, keys, mask):
        def visit(number, s):
            start = jnp.minimum(number * size, len(keys) - size)
            part = _product(queries, _converted(keys, mask, start, size).T)
            return jax.lax.dynamic_update_slice_in_dim(s, part, start, axis=1)

        empty = jnp.zeros((len(queries), len(keys)), jnp.float32)
        return jax.lax.fori_loop(0, -(-len(keys) // size), visit, empty)

    def at_once(queries, keys, mask):
        return _product(queries, _converted(keys, mask, 0, len(keys)).T)

    if size == len(keys):
        return at_once(queries, keys, mask)
    return jax.lax.platform_dependent(queries, keys, mask, tpu=at_once, default=in_parts)


def _products_forward(queries, keys, mask):
    return products(queries, keys, mask), (keys, mask)


def _products_backward(residuals, slopes):
    keys, mask = residuals
    size = _converted_at_once(keys, mask)

    def in_parts(slopes, keys, mask):
        def visit(number, gradient):
            start = jnp.minimum(number * size, len(keys) - size)
            part = jax.lax.dynamic_slice_in_dim(slopes, start, size, axis=1)
            # The last part starts earlier, with keys that were there before.
            part = jnp.where(start + jnp.arange(size) >= number * size, part, 0.0)
            return gradient + _product(part, _converted(keys, mask, start, size))

        nothing = jnp.zeros((len(slopes), keys.shape[1]), jnp.float32)
        return jax.lax.fori_loop(0, -(-len(keys) // size), visit, nothing)

    def at_once(slopes, keys, mask):
        return _product(slopes, _converted(keys, mask, 0, len(keys)))

    if size == len(keys):
        gradient = at_once(slopes, keys, mask)
    else:
        gradient = jax.lax.platform_dependent(slopes, keys, mask, tpu=at_once, default=in_parts)
    return gradient, None, None


products.defvjp(_products_forward, _products_backward)


def _product(x, y):
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _converted_at_once(keys, mask):
    """Number of keys that ``products`` converts at a time; all if they are used as they are."""
    as_they_are = keys.dtype == jnp.float32 and mask is None
    return len(keys) if as_they_are else min(len(keys), max(1, CONVERTED // keys.shape[1]))


def _converted(keys, mask, start, size):
    if size < len(keys):
        keys, mask = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), (keys, mask)
        )
    vectors = keys.astype(jnp.float32)
    return vectors if mask is None else jnp.where(mask[:, None], vectors, 0.0)


def similarities(queries: Queries, keys: Keys, normalize: bool) -> jax.Array:
    """Similarities of keys and queries, −∞ if a key is not admissible: float32 [n, batch].

    NaN is replaced by ∞. Keys are rows, so that maxima over groups of keys are vectorised over the
    queries.
    """
    vectors = float_rows(keys.vectors, normalize)
    products = _product(vectors, queries.vectors.T)
    return _compared(products, lambda x: x[:, None], lambda x: x[None, :], queries, keys)


def compared(
    products: jax.Array, queries: Queries, keys: Keys, columns: jax.Array | None = None
) -> jax.Array:
    """Makes similarities of products; −∞ if a key is not admissible, and ∞ for NaN.

    Args:
      products: float32 [batch, m].
      queries, keys: the queries, and all keys.
      columns: int32 [batch, m], which keys these are; None if they are all in order.
    """
    of_keys = (lambda x: x[None, :]) if columns is None else (lambda x: x[columns])
    return _compared(products, of_keys, lambda x: x[:, None], queries, keys)


def _compared(s, of_key, of_query, queries: Queries, keys: Keys):
    if keys.scale is not None:
        s = s * of_key(keys.scale)
    if keys.bias is not None:
        s = s + of_key(keys.bias)
    # The place of NaN in top_k depends on backend and sign, and −0 comes after 0.
    s = jnp.where(jnp.isnan(s), jnp.inf, jnp.where(s == 0, 0.0, s))
    allowed = jnp.ones(s.shape, bool)
    if keys.mask is not None:
        allowed &= of_key(keys.mask)
    if keys.ids is not None:
        allowed &= of_key(keys.ids) != of_query(queries.ids)
    if keys.labels is not None:
        allowed &= of_key(keys.labels) == of_query(queries.labels)
    if keys.sources is not None:
        allowed &= of_key(keys.sources) == of_query(queries.sources)
    return jnp.where(allowed, s, -jnp.inf)


FORMS = ("auto", "blocks", "groups", "thresholds")
LARGEST_BLOCK, SMALLEST_BLOCK = 2**14, 2**10  # keys per matrix product
BLOCK = 2**22  # similarities per matrix product: 16 MiB, which still fits caches
BLOCKS_PER_SELECTION = 8  # matrix products between two selections of groups
LARGEST_GROUP = 16  # keys
CHUNK = 2**16  # floats of gathered keys held at a time on CPUs
TILES = 64, 8, 1  # a chunk has a multiple of the largest that adds few rows
WORKSPACE = 2**29  # bytes of similarities, or of gathered keys, held at a time on accelerators
CONVERTED = 2**23  # floats of converted keys held at a time by ``products``, 32 MiB
SEGMENT = 128  # consecutive keys among which a selected key is looked up


def _checked(search):
    @functools.wraps(search)
    def checked(queries, keys, k, **options):
        sim.check_embeddings("queries", queries)
        sim.check_embeddings("keys", keys)
        sim.check_untracked("knn.search", queries, keys)
        if not isinstance(k, numbers.Integral):
            raise TypeError(f"k must be an int, got a {type(k).__name__}.")
        for rows, names in (
            (len(queries), ("query_ids", "query_labels")),
            (len(keys), ("key_ids", "key_labels", "key_mask", "key_bias")),
        ):
            for name in names:
                sim.check_rows(name, options.get(name), rows)
        return search(queries, keys, int(k), **options)

    return checked


@_checked  # outside ``jit``, which truncates integers to 32 bits
@functools.partial(
    jax.jit,
    static_argnames=(
        *("k", "normalize", "form", "block_size", "group_size", "axis_name", "recall", "workspace"),
    ),
)
def search(
    queries: jax.Array,
    keys: jax.Array,
    k: int,
    *,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    query_labels: jax.Array | None = None,
    key_labels: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    key_bias: jax.Array | None = None,
    normalize: bool = False,
    form: str = "auto",
    block_size: int | None = None,
    group_size: int | None = None,
    axis_name: str | None = None,
    recall: float | None = None,
    workspace: int = WORKSPACE,
) -> tuple[jax.Array, jax.Array]:
    """Finds the k nearest keys of every query by inner product, in bounded memory.

    Products are float32. Temporaries do not grow with the number of keys, but for a float32 copy of
    bfloat16 keys on CPUs, where XLA does not slice these.

    Args:
      queries: float [batch, dim]; unit rows give cosines.
      keys: float [n, dim].
      k: number of neighbours; fewer are found if fewer keys are admissible.
      query_ids, key_ids: int32 [batch], [n]; a key with its query's id is left out before the
        selection (leave-one-out). Both or neither.
      query_labels, key_labels: int [batch], [n]; only keys with the query's label are admissible.
        Both or neither.
      key_mask: bool [n]; False keys are never neighbours.
      key_bias: float32 [n], added to all similarities of each key.
      normalize: scale the keys to length one before the comparison; queries are taken as they are.
      form: "blocks" compares all queries with a few keys at a time. "groups" and "thresholds"
        compare a few queries with all keys, and differ in how they select. "auto" is "blocks" on
        CPUs, or if ``recall`` is given, "thresholds" on TPUs and "groups" elsewhere. Neither the
        form nor a size affects the result.
      block_size: keys per product of "blocks"; None chooses it from the batch.
      group_size: keys per group of "blocks"; None chooses it from n / k.
      axis_name: mapped axis over which keys (with ids, labels, mask and bias) and queries are split
        evenly, in device order; each device passes its own part. Each device compares its keys with
        the queries of all devices, and k candidates per query are exchanged. Indices refer to the
        keys of all devices in device order.
      recall: None is exact. A number between 0 and 1 selects the candidates of each pass over the
        keys with ``jax.lax.approx_max_k``, which is faster on TPUs and is expected to miss at most
        1 − recall of the neighbours. On CPUs and GPUs it is exact as well, and not faster.
      workspace: bytes of similarities held at a time, except by "blocks"; one query is the least.

    Returns:
      (similarities float32 [batch, k] in descending order, indices int32 [batch, k]). Ties go to
      the lower index. If there are fewer than k neighbours, the rest has similarity −∞ and index
      −1. A NaN similarity counts as ∞, so that it does not go unnoticed.

    Raises:
      TypeError: if an array is of another type, or k is not an int.
      ValueError: if k, block_size or group_size < 1, recall is not between 0 and 1, the form is
        unknown, or neither "auto" nor "blocks" although recall is given, there are no queries or no
        keys, only one of the ids or one of the labels is given, NumPy ids or labels
        do not fit 32 bits, or shapes do not match.
    """
    if recall is not None and not 0 < recall < 1:
        raise ValueError(f"recall must lie between 0 and 1, or be None for exact, got {recall}.")
    expected = FORMS if recall is None else FORMS[:2]
    if form not in expected:
        raise ValueError(f"form must be one of {expected}, got {form!r}.")
    _check_together(
        queries,
        keys,
        {"k": k, "block_size": block_size, "group_size": group_size},
        {"ids": (query_ids, key_ids), "labels": (query_labels, key_labels)},
    )
    n = keys.shape[0]
    asked = Queries(queries.astype(jnp.float32), query_ids, query_labels)
    asked = jax.tree.map(lambda x: sim.gather(x, axis_name), asked)
    stored = Keys(keys, key_ids, key_labels, key_mask, key_bias)
    in_rows = functools.partial(_search_in_rows, k=k, normalize=normalize, workspace=workspace)
    forms = {
        "blocks": functools.partial(
            _search_in_blocks,
            k=k,
            normalize=normalize,
            sizes=(block_size, group_size),
            recall=recall,
        ),
        "groups": functools.partial(in_rows, form="groups"),
        "thresholds": functools.partial(in_rows, form="thresholds"),
    }
    if form == "auto" and recall is None:
        of_platform = {"cpu": "blocks", "tpu": "thresholds", "default": "groups"}
        found = jax.lax.platform_dependent(
            asked, stored, **{platform: forms[name] for platform, name in of_platform.items()}
        )
    else:
        found = forms["blocks" if form == "auto" else form](asked, stored)
    similarities, indices = found
    if axis_name is None:
        return similarities, indices
    first = n * jax.lax.axis_index(axis_name)
    indices = jnp.where(indices >= 0, first + indices, -1)
    # Each device receives the candidates of its queries from all devices. Lower devices come first,
    # so ties still go to the lower index.
    similarities, indices = (
        jax.lax.all_to_all(x, axis_name, split_axis=0, concat_axis=1, tiled=True)
        for x in (similarities, indices)
    )
    return _largest(similarities, indices, k)


def measured_recall(
    queries: jax.Array, keys: jax.Array, k: int, *, recall: float, **options: Any
) -> jax.Array:
    """Measures the recall of the approximate search against the exact one: float32 scalar.

    The recall is 1 if there are no neighbours.

    Args:
      queries: a few queries, as each costs an exact search.
      keys, k, recall, options: as for ``search``.
    """
    exact, found = (search(queries, keys, k, recall=r, **options)[1] for r in (None, recall))
    there = exact >= 0
    hits = there & jnp.any(exact[:, :, None] == found[:, None, :], axis=-1)
    return jnp.where(jnp.any(there), jnp.sum(hits) / jnp.maximum(jnp.sum(there), 1), 1.0)


def choose_block_size(batch: int) -> int:
    """Keys per product for ``batch`` queries; on CPUs, products larger than the caches are slow."""
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, BLOCK // batch))


def choose_group_size(n: int, k: int) -> int:
    """Keys per group: a power of two up to 16 near √(n / k) / 2, where both rounds cost the same.

    Returns 1, which needs no second round, for up to 100 keys per neighbour: there, sorting k
    entries costs as much as comparing all keys.
    """
    if n <= 100 * k:
        return 1
    size = 4
    while size < LARGEST_GROUP and (4 * size) ** 2 * k <= n * 2:
        size *= 2
    return size


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attach_gradient(similarities, queries, keys, indices, normalize=False, axis_name=None):
    """Makes the similarities returned by ``search`` differentiable with respect to the queries.

    ``search`` itself is not differentiable. The selection has no gradient; the gradient through the
    similarities is a weighted sum of the found keys, which the backward pass gathers again for a
    few queries at a time. No gradient flows into the keys. Reverse mode only.

    Args:
      similarities, indices: the results of ``search``.
      queries, keys, normalize, axis_name: the arguments of ``search``.

    Returns:
      float32 [batch, k], the similarities, unchanged.
    """
    return similarities


def _attach_forward(similarities, queries, keys, indices, normalize, axis_name):
    # By the rule itself, or second derivatives would take the similarities for constants.
    attached = attach_gradient(similarities, queries, keys, indices, normalize, axis_name)
    return attached, (queries, keys, indices)


def _attach_backward(normalize, axis_name, residuals, weights):
    queries, keys, indices = jax.tree.map(jnp.asarray, residuals)
    weights, indices = (sim.gather(x, axis_name) for x in (weights, indices))
    indices = _local_indices(indices, keys.shape[0], axis_name)

    def weighted_sum(of_query):
        weight, index = of_query
        # Masked keys may hold NaN, for which a zero weight is not enough.
        vectors = jnp.where(index[:, None] >= 0, float_rows(keys[index], normalize), 0.0)
        return jnp.matmul(weight, vectors, precision=jax.lax.Precision.HIGHEST)

    def of_all(floats):
        size = _chunk(*indices.shape, keys.shape[1], floats)
        return lambda *arrays: jax.lax.map(weighted_sum, arrays, batch_size=size)

    gradient = jax.lax.platform_dependent(
        weights, indices, cpu=of_all(CHUNK), default=of_all(WORKSPACE // 4)
    )
    gradient = own_sum(gradient, axis_name).astype(queries.dtype)
    return None, gradient, None, None


attach_gradient.defvjp(_attach_forward, _attach_backward)


def take(values: jax.Array, indices: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Returns ``values[indices]`` for values that are split over the devices; 0 for index −1.

    Args:
      values: [n], numbers; with ``axis_name``, this device's part.
      indices: int32 [batch, k], as returned by ``search``.
      axis_name: as for ``search``.

    Returns:
      [batch, k], with the dtype of ``values``.
    """
    indices = _local_indices(sim.gather(indices, axis_name), values.shape[0], axis_name)
    return own_sum(jnp.where(indices >= 0, jnp.asarray(values)[indices], 0), axis_name)


def own_sum(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Sums arrays with the rows of all devices over the devices; returns this device's rows."""
    if axis_name is None:
        return array
    return jax.lax.psum_scatter(array, axis_name, scatter_dimension=0, tiled=True)


def _local_indices(indices, n, axis_name):
    """Converts global indices to indices into this device's n keys; −1 for keys of others."""
    if axis_name is None:
        return indices
    local = indices - n * jax.lax.axis_index(axis_name)
    return jnp.where((indices >= 0) & (local >= 0) & (local < n), local, -1)


def rows_at_once(batch: int, row_bytes: int, workspace: int) -> int:
    """Number of rows per chunk of ``map_chunks``: chunks are of equal length.

    It is a multiple of the rows that the hardware takes together, if the workspace allows.
    """
    most = max(1, workspace // row_bytes)
    if batch <= most:
        return batch
    for tile in TILES:
        chunks = -(-batch // max(1, most // tile * tile))
        rows = -(-batch // (chunks * tile)) * tile
        if tile <= most and (tile != TILES[0] or rows * chunks <= 1.1 * batch):
            break
    return min(batch, rows)


def map_chunks(function: Callable, arrays: Any, row_bytes: int, workspace: int) -> Any:
    """Maps ``function(*arrays)`` over as many rows at a time as fit the workspace.

    Args:
      function: maps arrays [rows, …] to a pytree of arrays [rows, …], each row by itself.
      arrays: tuple of pytrees of arrays [batch, …].
      row_bytes: bytes of workspace per row.
      workspace: bytes; one row at a time is the least.

    Returns:
      The results for all rows, [batch, …].
    """
    batch = len(jax.tree.leaves(arrays)[0])
    rows = rows_at_once(batch, row_bytes, workspace)
    chunks = -(-batch // rows)
    if chunks == 1:
        return function(*arrays)

    def split(x):
        missing = [(0, chunks * rows - batch)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, missing, mode="edge").reshape(chunks, rows, *x.shape[1:])

    found = jax.lax.map(lambda chunk: function(*chunk), jax.tree.map(split, arrays))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:batch], found)


def _search_in_rows(queries, keys, *, k, normalize, workspace, form):
    """Search on accelerators; returns (similarities, indices), each [batch, k]."""
    n = len(keys.vectors)
    if normalize:  # the similarities instead of the keys, which spares a copy of these
        keys = keys._replace(scale=sim.inverse_lengths(keys.vectors.astype(jnp.float32)))

    def of_chunk(queries):
        s = products(queries.vectors, keys.vectors, None)
        if form == "groups":
            adjusted = lambda s, columns: compared(s, queries, keys, columns)  # noqa: E731
            values, columns = selection.largest(s, min(k, n), adjusted)
        else:
            values, columns = _largest_in_row(compared(s, queries, keys), min(k, n))
        return values, jnp.where(values > -jnp.inf, columns, -1)

    return _filled(*map_chunks(of_chunk, (queries,), row_bytes(n, form), workspace), k)


def row_bytes(n: int, form: str) -> int:
    """Bytes of workspace for one query and n keys."""
    # Beside the products: some for groups, or as much for similarities or gradients.
    return (5 if form == "groups" else 8) * n


def _largest_in_row(s, k):
    """Does the same as ``selection.largest``, without sorting more than k entries.

    Which they are is known from a threshold. Where the j-th of them is, from counts of them in
    segments of the row, so that only k segments are read again and no more than k entries sorted.
    """
    n, size = s.shape[1], min(SEGMENT, s.shape[1])
    edge = selection.edge_of_largest(s, k)
    marked = (s > -jnp.inf) & selection.inside(s, edge)
    segments = -(-n // size)
    marked = jnp.pad(marked, ((0, 0), (0, segments * size - n))).reshape(-1, segments, size)
    counts = jnp.sum(marked, axis=-1, dtype=jnp.int32)
    ends = jnp.cumsum(counts, axis=-1)
    order = jnp.arange(k, dtype=jnp.int32)
    segment = jnp.sum(ends[:, None, :] <= order[:, None], axis=-1, dtype=jnp.int32)
    there = segment < segments
    segment = jnp.minimum(segment, segments - 1)
    rank = order - jnp.take_along_axis(ends - counts, segment, axis=1)
    entries, columns, of_segment = selection.entries_of_groups(s, segment, size)
    of_segment &= entries > -jnp.inf
    passed = jnp.cumsum(of_segment & selection.inside(entries, edge, columns), axis=-1)
    place = jnp.sum(passed <= rank[..., None], axis=-1, keepdims=True, dtype=jnp.int32)
    place = jnp.minimum(place, size - 1)
    values = jnp.take_along_axis(entries, place, axis=-1)[..., 0]
    # In ascending order of columns, so ties go to the lower index.
    columns = jnp.take_along_axis(columns, place, axis=-1)[..., 0]
    return _largest(jnp.where(there, values, -jnp.inf), columns, k)


def _search_in_blocks(queries, keys, *, k, normalize, sizes, recall):
    """Search on CPUs; returns (similarities, indices), each [batch, k]."""
    n, (block_size, group_size) = keys.vectors.shape[0], sizes
    group_size = min(n, group_size or (choose_group_size(n, k) if recall is None else 1))
    block_size = block_size or choose_block_size(queries.vectors.shape[0])
    found = _best_groups(queries, keys, k, normalize, block_size, group_size, recall)
    if group_size > 1:
        found = _best_keys(queries, keys, k, normalize, jnp.sort(found[1], axis=1), group_size)
    return _filled(*found, k)


def _best_groups(queries, keys, k, normalize, block_size, group_size, recall=None):
    """Finds the min(k, number of groups) groups with the largest maxima.

    Returns:
      (maxima float32, group numbers int32), each [batch, groups], largest first; −∞ and −1 if no
      group with an admissible key is left.
    """
    n, batch = keys.vectors.shape[0], queries.vectors.shape[0]
    k = min(k, -(-n // group_size))
    block_size = max(block_size // group_size, 1) * group_size

    def visit(best, start, size):
        maxima = _maxima_of_groups(queries, keys, normalize, start, size, block_size, group_size)
        known, among = best[0].shape[1], None
        if recall is not None:  # only new maxima, so that groups found before are not lost
            maxima, among = jax.lax.approx_max_k(
                maxima, min(k, maxima.shape[1]), recall_target=recall
            )
        # Earlier groups come first, so ties go to the lower group.
        maxima, place = jax.lax.top_k(jnp.concatenate([best[0], maxima], axis=1), k)
        new = place - known
        if among is not None:
            new = jnp.take_along_axis(among, jnp.maximum(new, 0), axis=1)
        number = start // group_size + new
        if known:
            kept = jnp.take_along_axis(best[1], jnp.minimum(place, known - 1), axis=1)
            number = jnp.where(place < known, kept, number)
        return maxima, jnp.where(maxima > -jnp.inf, number, -1)

    best = jnp.zeros((batch, 0), jnp.float32), jnp.zeros((batch, 0), jnp.int32)
    stride = BLOCKS_PER_SELECTION * block_size
    whole, rest = divmod(n, stride)
    if whole:
        best = (jnp.full((batch, k), -jnp.inf, jnp.float32), jnp.full((batch, k), -1, jnp.int32))
        starts = stride * jnp.arange(whole, dtype=jnp.int32)
        best, _ = jax.lax.scan(lambda b, start: (visit(b, start, stride), None), best, starts)
    return visit(best, whole * stride, rest) if rest else best


def _maxima_of_groups(queries, keys, normalize, start, size, block_size, group_size):
    """Largest similarity per group of ``size`` keys from ``start`` on: float32 [batch, groups]."""

    def of_block(start, size):
        s = similarities(queries, block_of(keys, start, size), normalize)
        s = jnp.pad(s, ((0, -size % group_size), (0, 0)), constant_values=-jnp.inf)
        return jnp.max(s.reshape(-1, group_size, s.shape[1]), axis=1)

    whole, rest = divmod(size, block_size)
    parts = []
    if whole:
        starts = start + block_size * jnp.arange(whole, dtype=jnp.int32)
        maxima = jax.lax.map(lambda first: of_block(first, block_size), starts)
        parts.append(maxima.reshape(-1, maxima.shape[-1]))
    if rest:
        parts.append(of_block(start + whole * block_size, rest))
    return jnp.concatenate(parts).T


def _best_keys(queries, keys, k, normalize, groups, group_size):
    """Finds the k nearest keys, or all, within groups in ascending order.

    Returns:
      (similarities, indices), each [batch, k].
    """
    n, dim = keys.vectors.shape

    def of_query(query, groups):
        first = jnp.maximum(groups, 0) * group_size
        # The last group may be incomplete. Its slice starts earlier, and the keys that belong to
        # the previous group are masked.
        start = jnp.minimum(first, n - group_size)
        index = start[:, None] + jnp.arange(group_size, dtype=jnp.int32)
        gathered = jax.tree.map(
            lambda x: jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(x, i, group_size))(start),
            keys,
        )
        gathered = jax.tree.map(lambda x: x.reshape((index.size,) + x.shape[2:]), gathered)
        one = jax.tree.map(lambda x: x[None], query)
        s = similarities(one, gathered, normalize)[:, 0]
        meant = (index >= first[:, None]) & (groups >= 0)[:, None]
        return jnp.where(meant.reshape(-1), s, -jnp.inf), index.reshape(-1)

    s, index = jax.lax.map(
        lambda a: of_query(*a),
        (queries, groups),
        batch_size=_chunk(*groups.shape, group_size * dim, CHUNK),
    )
    return _largest(s, index, min(k, s.shape[1]))


def _largest(values, indices, k):
    """Returns each row's k largest values, the first of ties, and their indices; −1 for −∞."""
    values, place = jax.lax.top_k(values, k)
    return values, jnp.where(values > -jnp.inf, jnp.take_along_axis(indices, place, axis=1), -1)


def _filled(values, indices, k):
    """Pads to k columns with −∞ and −1."""
    missing = ((0, 0), (0, k - values.shape[1]))
    return (
        jnp.pad(values, missing, constant_values=-jnp.inf),
        jnp.pad(indices, missing, constant_values=-1),
    )


def _chunk(batch, gathered, floats, most):
    """Number of queries whose gathered keys, at most ``most`` floats, are held at a time."""
    return max(1, min(batch, most // (gathered * floats)))


def _check_together(queries, keys, numbers_of, pairs):
    """Checks what no argument of ``search`` shows by itself, and numbers that must be positive."""
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(
            "queries must be [batch, dim] and keys [n, dim], got "
            f"{[*queries.shape]} and {[*keys.shape]}."
        )
    for what, array in ("queries", queries), ("keys", keys):
        if array.shape[0] == 0:
            raise ValueError(f"there are no {what} to search{' for' * (what == 'queries')}.")
    for name, number in numbers_of.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    for what, (of_queries, of_keys) in pairs.items():
        if (of_queries is None) != (of_keys is None):
            raise ValueError(f"query_{what} and key_{what} belong together: give both or neither.")
