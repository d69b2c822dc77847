"""LOOK and NCA from the whole matrix of similarities, batch × memory.

The form for small memories, for a k that is known only when running, and for the soft gate. LOOK
needs to know which keys are neighbours, never their order: they are a mask of the matrix.
"""

import jax
import jax.numpy as jnp

from jaxpt.ops import selection
from jaxpt.ops import similarity as sim


def look(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    k,
    temperature,
    query_ids,
    key_ids,
    key_mask,
    no_positive,
    gate,
    balanced,
    normalize,
    where,
    axis_name,
):
    """(float32 losses, whether no neighbour is a positive, share of positives), each [batch]."""
    s, same, candidates, *of_keys = _compare(
        queries,
        keys,
        query_labels,
        key_labels,
        query_ids,
        key_ids,
        key_mask,
        normalize,
        where,
        axis_name,
    )
    if balanced:
        s = s - temperature * jnp.log(class_counts(*of_keys))
    neighbors = selection.mask_of_largest(jax.lax.stop_gradient(s), k, candidates)
    positives = neighbors & same
    missing = ~jnp.any(positives, axis=-1)
    log_gate = None if gate is None else _log_gate(s, neighbors, candidates, gate)
    losses = soft_knn_loss(
        s,
        neighbors,
        positives,
        candidates,
        candidates & same,
        missing,
        temperature,
        no_positive,
        log_gate,
    )
    return losses, missing, share(positives, neighbors)


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
    s, same, candidates, *_ = _compare(
        queries,
        keys,
        query_labels,
        key_labels,
        query_ids,
        key_ids,
        key_mask,
        normalize,
        where,
        axis_name,
    )
    positives = candidates & same
    missing = ~jnp.any(positives, axis=-1)
    losses = soft_knn_loss(
        s, candidates, positives, candidates, positives, missing, temperature, "drop"
    )
    return losses, missing, share(positives, candidates)


def share(positives, neighbors):
    """Positives per neighbour in each row; 0 for a row without neighbours."""
    return jnp.sum(positives, axis=-1) / jnp.maximum(jnp.sum(neighbors, axis=-1), 1)


def _compare(
    queries,
    keys,
    query_labels,
    key_labels,
    query_ids,
    key_ids,
    key_mask,
    normalize,
    where,
    axis_name,
):
    """Similarities, same-label mask and candidate mask, each [batch, memory], and the labels and
    the mask [memory] of the keys of all devices."""
    keys, key_labels, key_ids, key_mask = (
        sim.gather(x, axis_name) for x in (keys, key_labels, key_ids, key_mask)
    )
    s = sim.similarities(
        sim.rows(queries, normalize, where),
        jax.lax.stop_gradient(sim.rows(keys, normalize, key_mask)),
    )
    candidates = sim.candidates(s.shape, query_ids, key_ids, key_mask)
    return s, query_labels[:, None] == key_labels[None, :], candidates, key_labels, key_mask


def class_counts(labels, mask):
    """How many keys have each key's class: float32 [memory]."""
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    in_order = jnp.sort(labels)
    before = jnp.cumsum(
        jnp.concatenate([jnp.zeros(1, jnp.int32), mask[jnp.argsort(labels)].astype(jnp.int32)])
    )
    count = (
        before[jnp.searchsorted(in_order, labels, side="right")]
        - before[jnp.searchsorted(in_order, labels, side="left")]
    )
    return jnp.maximum(count, 1).astype(jnp.float32)  # 1 where all keys of the class are masked


def _log_gate(s, neighbors, candidates, gate):
    """log σ(gate · (s − edge)); 0 where all candidates are neighbours, so that there is no edge."""
    last = jnp.min(s, axis=-1, where=neighbors, initial=jnp.inf)
    following = jnp.max(s, axis=-1, where=candidates & ~neighbors, initial=-jnp.inf)
    has_edge = jnp.isfinite(following)
    edge = jax.lax.stop_gradient(jnp.where(has_edge, (last + following) / 2, 0.0))
    return jnp.where(has_edge[:, None], jax.nn.log_sigmoid(gate * (s - edge[:, None])), 0.0)


def soft_knn_loss(
    s,
    neighbors,
    positives,
    candidates,
    same_class,
    missing,
    temperature,
    no_positive,
    log_gate=None,
):
    """log Σ_neighbors e^{s/τ} − log Σ_positives e^{s/τ}, and the remedy where positives miss.

    With ``log_gate`` all candidates are neighbours, each with the weight of its gate.
    """
    logits = s / temperature
    missing_loss = 0.0
    if no_positive == "nearest":
        nearest = jax.lax.cond(  # a pass over the matrix that most steps can do without
            jnp.any(missing),
            lambda: jnp.argmax(jnp.where(same_class, s, -jnp.inf), axis=-1),
            lambda: jnp.zeros(len(s), int),
        )
        nearest = nearest[:, None] == jnp.arange(s.shape[1])[None, :]
        nearest &= same_class & missing[:, None]
        # Where a positive is among the neighbours nothing changes: the masks stay as they are.
        neighbors, positives = neighbors | nearest, positives | nearest
        missing = ~jnp.any(positives, axis=-1)
        log_gate = None if log_gate is None else jnp.where(nearest, 0.0, log_gate)
    if no_positive == "floor":
        furthest = jnp.min(logits, axis=-1, where=neighbors, initial=jnp.inf)
        has_neighbor = jnp.any(neighbors, axis=-1)
        furthest = jax.lax.stop_gradient(jnp.where(has_neighbor, furthest, 0.0))
    if log_gate is not None:
        logits, neighbors, positives = logits + log_gate, candidates, same_class
    total = sim.masked_logsumexp(logits, neighbors)
    if no_positive == "floor":
        missing_loss = jnp.where(has_neighbor, total - furthest, 0.0)
    losses = total - sim.masked_logsumexp(logits, positives)
    # Rounding could leave a loss a hair below zero.
    return jnp.where(missing, missing_loss, jnp.maximum(losses, 0.0))
