"""LOOK and NCA over any number of keys: no batch × memory array, forward or backward.

LOOK finds its neighbours with ``knn.search`` and reads their keys again for the gradient; NCA reads
all keys in blocks, twice. Keys may lie in equal parts on the devices of an axis. The gradient is in
reverse mode.
"""

import functools

import jax
import jax.numpy as jnp

from jaxpt.losses.neighbors_dense import class_counts, share, soft_knn_loss
from jaxpt.ops import knn
from jaxpt.ops import similarity as sim

NCA_BLOCK = 4096  # keys of one block of NCA: several passes over its similarities, so it is small


def look(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    k,
    k_max,
    temperature,
    query_ids,
    key_ids,
    key_mask,
    no_positive,
    balanced,
    normalize,
    where,
    axis_name,
    recall=None,
):
    """(float32 losses, whether no neighbour is a positive, share of positives), each [batch].

    ``k_max`` is how many neighbours are looked for; k, no larger, may be traced.
    """
    queries = sim.rows(queries, normalize, where)
    key_rows = sim.unit_vectors if normalize else None
    counts = _log_counts(key_labels, key_mask, axis_name) if balanced else None
    bias = None if counts is None else -jax.lax.stop_gradient(temperature * counts)

    def find(k, **options):
        s, index = knn.search(
            jax.lax.stop_gradient(queries),
            keys,
            k,
            query_ids=query_ids,
            key_ids=key_ids,
            key_mask=key_mask,
            key_bias=bias,
            key_rows=key_rows,
            axis_name=axis_name,
            **options,
        )
        return jnp.where(index >= 0, s, 0.0), index

    s, index = find(k_max, recall=recall)
    neighbors = (index >= 0) & (jnp.arange(k_max) < jnp.broadcast_to(k, index.shape[:1])[:, None])
    positives = neighbors & (knn.take(key_labels, index, axis_name) == query_labels[:, None])
    missing = ~jnp.any(positives, axis=-1)
    purity = share(positives, neighbors)
    still_missing = missing
    if no_positive == "nearest":

        def nothing():
            return jnp.zeros((len(s), 1)), jnp.full((len(s), 1), -1, jnp.int32)

        nearest_s, nearest = jax.lax.cond(
            _anywhere(missing, axis_name),
            lambda: find(1, query_labels=query_labels, key_labels=key_labels),
            nothing,
        )
        joins = missing[:, None] & (nearest >= 0)
        s, index = jnp.concatenate([s, nearest_s], 1), jnp.concatenate([index, nearest], 1)
        neighbors = jnp.concatenate([neighbors, joins], 1)
        positives = jnp.concatenate([positives, joins], 1)
        still_missing, no_positive = ~jnp.any(positives, axis=-1), "drop"
    s = knn.attach_gradient(s, queries, keys, index, key_rows, axis_name)
    if counts is not None:  # the bias has no gradient by the temperature: it is put back here
        s = s + (jax.lax.stop_gradient(temperature) - temperature) * knn.take(
            counts, index, axis_name
        )
    losses = soft_knn_loss(
        s, neighbors, positives, None, None, still_missing, temperature, no_positive
    )
    return losses, missing, purity


def nca(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    temperature,
    query_ids,
    key_ids,
    key_mask,
    normalize,
    where,
    axis_name,
):
    """The same with all keys as neighbours."""
    queries = sim.rows(queries, normalize, where)
    total, same, n_total, n_same = _log_sums(
        queries / temperature,
        (query_ids, query_labels),
        knn.Keys(keys, key_ids, key_labels, key_mask, None),
        sim.unit_vectors if normalize else None,
        axis_name,
    )
    missing = n_same == 0
    losses = jnp.where(missing, 0.0, jnp.maximum(total - same, 0.0))
    return losses, missing, n_same / jnp.maximum(n_total, 1)


def _log_counts(labels, mask, axis_name):
    """Log of how many keys of all devices have each key's class: float32 [memory]."""
    counts = class_counts(sim.gather(labels, axis_name), sim.gather(mask, axis_name))
    if axis_name is not None:
        own = jax.lax.axis_index(axis_name) * len(labels)
        counts = jax.lax.dynamic_slice_in_dim(counts, own, len(labels))
    return jnp.log(counts)


def _anywhere(condition, axis_name):
    """Whether it holds somewhere on any device: all must take the same branch."""
    found = jnp.any(condition)
    return found if axis_name is None else jax.lax.pmax(found.astype(jnp.int32), axis_name) > 0


# NCA's sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _log_sums(queries, of_queries, keys, key_rows, axis_name):
    """log Σ e^{q·z} over all admissible keys and over those of the query's label, and how many
    they are; each [batch]. An empty sum is 0, as in ``masked_logsumexp``."""
    return _forward(queries, of_queries, keys, key_rows, axis_name)[0]


def _forward(queries, of_queries, keys, key_rows, axis_name):
    everyone = jax.tree.map(lambda x: sim.gather(x, axis_name), (queries, *of_queries))

    def visit(sums, block):
        s, same = _block_of_similarities(everyone, block, key_rows)
        for_class = jnp.where(same, s, -jnp.inf)
        total, of_class, n_total, n_same = sums
        return (
            jnp.logaddexp(total, jax.nn.logsumexp(s, axis=0)),
            jnp.logaddexp(of_class, jax.nn.logsumexp(for_class, axis=0)),
            n_total + jnp.sum(s > -jnp.inf, axis=0, dtype=jnp.int32),
            n_same + jnp.sum(for_class > -jnp.inf, axis=0, dtype=jnp.int32),
        )

    rows = everyone[0].shape[0]
    nothing, none = jnp.full(rows, -jnp.inf), jnp.zeros(rows, jnp.int32)
    total, same, n_total, n_same = _over_blocks(visit, (nothing, nothing, none, none), keys)
    total, same = (_own_log_sum(x, axis_name) for x in (total, same))
    n_total, n_same = (knn.own_sum(x, axis_name) for x in (n_total, n_same))
    return (total, same, n_total, n_same), (queries, of_queries, keys, total, same)


def _backward(key_rows, axis_name, residuals, slopes):
    queries, of_queries, keys, *sums = residuals
    everyone, *rest = jax.tree.map(
        lambda x: sim.gather(x, axis_name), ((queries, *of_queries), *sums, *slopes[:2])
    )
    total, of_class, slope_total, slope_class = rest

    def visit(gradient, block):
        s, same = _block_of_similarities(everyone, block, key_rows)
        weights = slope_total * jnp.exp(s - total) + slope_class * jnp.where(
            same, jnp.exp(s - of_class), 0.0
        )
        vectors = _rows(block, key_rows)
        return gradient + jnp.matmul(weights.T, vectors, precision=jax.lax.Precision.HIGHEST)

    gradient = _over_blocks(visit, jnp.zeros(everyone[0].shape, jnp.float32), keys)
    return knn.own_sum(gradient, axis_name), None, None


_log_sums.defvjp(_forward, _backward)


def _block_of_similarities(everyone, block, key_rows):
    """float32 [keys, batch], −∞ where not admissible; and where the labels are the same."""
    queries, ids, labels = everyone
    s = knn.similarities(knn.Queries(queries, ids, None), block._replace(labels=None), key_rows)
    return s, block.labels[:, None] == labels[None, :]


def _rows(block, key_rows):
    """The block's keys; those that are masked are zero, whatever they hold."""
    vectors = knn.float_rows(block.vectors, key_rows)
    return vectors if block.mask is None else jnp.where(block.mask[:, None], vectors, 0.0)


def _own_log_sum(log_sums, axis_name):
    """Of the devices' parts [rows of all devices]: the log of their sum at the own rows, or 0."""
    if axis_name is not None:
        parts = jax.lax.all_to_all(log_sums, axis_name, split_axis=0, concat_axis=0, tiled=True)
        log_sums = jax.nn.logsumexp(parts.reshape(jax.lax.axis_size(axis_name), -1), axis=0)
    return jnp.where(log_sums > -jnp.inf, log_sums, 0.0)


def _over_blocks(visit, value, keys):
    """``value = visit(value, block)`` for the keys in blocks, the last one shorter."""

    block = functools.partial(knn.block_of, keys)
    whole, rest = divmod(keys.vectors.shape[0], NCA_BLOCK)
    if whole:
        starts = NCA_BLOCK * jnp.arange(whole, dtype=jnp.int32)
        value, _ = jax.lax.scan(
            lambda value, start: (visit(value, block(start, NCA_BLOCK)), None), value, starts
        )
    return visit(value, block(whole * NCA_BLOCK, rest)) if rest else value
