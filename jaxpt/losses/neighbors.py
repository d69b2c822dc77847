"""Losses of soft nearest-neighbour classifiers: LOOK and NCA."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt import knn
from jaxpt.losses import similarity as sim

NO_POSITIVE = ("nearest", "drop", "floor")


class NeighborStats(NamedTuple):
    """What to watch while training; float32 scalars, means over the queries that count.

    Attributes:
      no_positive: share of queries without a same-class item among their neighbours.
      zero_loss: share of queries whose loss is exactly 0 (they teach nothing).
      purity: mean share of a query's neighbours that have its label.
    """

    no_positive: jax.Array
    zero_loss: jax.Array
    purity: jax.Array


def look(queries, keys, query_labels, key_labels, *, k, temperature=0.1, query_ids=None,
         key_ids=None, key_mask=None, no_positive="nearest", gate=None, balanced=False,
         robustness=0.0, normalize=True, where=None, axis_name=None):
    """Leave-one-out k-nearest-neighbour loss (LOOK).

    The negative log-probability that a softmax-weighted kNN classifier, which may not use the
    query itself, gives the query's label::

        p(c|i) = Σ_{j∈N_k(i), y_j=c} exp(s_ij/τ) / Σ_{j∈N_k(i)} exp(s_ij/τ)

    N_k(i) are the k keys most similar to query i. A class may therefore have several modes: a
    same-class key outside the neighbourhood pulls nothing, and a query whose neighbours all share
    its label has loss and gradient exactly 0. With k at least the number of keys this is ``nca``.

    Leave-one-out is done by id *before* the selection. Without ids nothing is left out: then no
    key may come from its query's own image, or it becomes the nearest positive of everything.
    The selection is not differentiated, and no gradient flows into the keys. Similarities,
    selection and log-sum-exp are float32 whatever the inputs are. Ties at the edge of the
    neighbourhood go to the lower index.

    ``gate``, ``balanced`` and ``robustness`` go beyond the paper; at their defaults the loss is the
    one above.

    Use:
      To pre-train on coarse labels for tasks that need finer ones: a class need not collapse to a
      point. Keys come from a memory of an EMA encoder (``jaxpt.memory``) several times the batch.
      k, temperature and memory of the paper are not public; jaxpt's configs use k = 50 of 1,200
      keys (digits) and temperature 0.1.

    Args:
      queries: float [batch, dim], embeddings of anything.
      keys: float [memory, dim].
      query_labels, key_labels: int [batch], [memory].
      k: neighbours per query, an int, or an int32 scalar or [batch] array that may be traced (a
        schedule costs no compilation). At least the memory's size means all.
      temperature: τ > 0; 0.1 is jaxpt's default.
      query_ids, key_ids: int [batch], [memory]; keys with the query's id are left out.
      key_mask: bool [memory]; False keys do not exist (empty slots, say).
      no_positive: what a query without a same-class neighbour does. "nearest": its nearest
        same-class key joins the neighbours (jaxpt's default); "drop": loss 0; "floor": the missing
        numerator is held at the weight of its furthest neighbour, a pure repulsion. Where no
        admissible key has the label at all, "nearest" drops.
      gate: β > 0 softens the edge: every key takes part, its weight times σ(β (s_ij − b_i)), the
        edge b_i halfway between the k-th and the next similarity. β → ∞ is the hard edge.
      balanced: for long-tailed keys: e^{s/τ} is divided by how often the key's class occurs among
        the keys, for the selection and for the weights. With equally frequent classes nothing
        changes. ``gate`` then sees the similarities so shifted.
      robustness: q in 0 … 1, a number known when tracing, for noisy labels: (1 − p^q) / q in place
        of −log p: no more than 1/q, with p^q times the gradient, so that a query at odds with all
        its neighbours hardly pulls. 0 is −log p.
      normalize: scale all rows to length one first. Turn off only for inner products of your own.
      where: bool [batch]; False queries get loss 0 and count in no statistic.
      axis_name: where given, the keys of all devices along that axis are gathered first, each
        device passing its own part (its batch, say). A memory that is the same on all devices
        needs none.

    Returns:
      (float32 losses [batch], NeighborStats).

    Raises:
      TypeError: for integer embeddings.
      ValueError: for k < 1, temperature <= 0, an unknown ``no_positive``, gate <= 0, robustness
        outside 0 … 1, shapes that do not match, or only one of the ids.

    Example:
      Two keys of the query's class at cosine 1 and −1, one of another at 1. The two nearest are
      equally near and disagree: loss log 2.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import look
      >>> query, keys = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
      >>> losses, stats = look(query, keys, jnp.array([0]), jnp.array([0, 0, 1]), k=2)
      >>> print(f"{losses[0]:.4f}, purity {stats.purity:.1f}")
      0.6931, purity 0.5

    References:
      Feng et al., "Rethinking supervised pre-training for better downstream transferring",
      ICLR 2022, arXiv:2110.06014, for the idea; the formula is jaxpt's reading of it. Zhang and
      Sabuncu, NeurIPS 2018, for (1 − p^q) / q.
    """
    if isinstance(k, numbers.Real) and not (isinstance(k, numbers.Integral) and k >= 1):
        raise ValueError(f"k must be a whole number of at least 1, got {k}.")
    if no_positive not in NO_POSITIVE:
        raise ValueError(f"no_positive must be one of {NO_POSITIVE}, got {no_positive!r}.")
    if isinstance(gate, numbers.Real) and not 0 < gate < math.inf:
        raise ValueError(f"gate must be positive and finite, got {gate}.")
    if not 0 <= robustness <= 1:
        raise ValueError(f"robustness must lie in 0 … 1, got {robustness}.")
    s, same, candidates, *of_keys = _compare(
        queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
        normalize, where, axis_name)
    if balanced:
        s = s - temperature * jnp.log(_class_counts(*of_keys))
    neighbors = knn.mask_of_largest(jax.lax.stop_gradient(s), k, candidates)
    positives = neighbors & same
    missing = ~jnp.any(positives, axis=-1)
    log_gate = None if gate is None else _log_gate(s, neighbors, candidates, gate)
    losses = _soft_knn_loss(s, neighbors, positives, candidates, candidates & same, missing,
                            temperature, no_positive, log_gate)
    if robustness:
        losses = -jnp.expm1(-robustness * losses) / robustness
    return _finish(losses, missing, neighbors, positives, where)


def nca(queries, keys, query_labels, key_labels, *, temperature=0.1, query_ids=None, key_ids=None,
        key_mask=None, normalize=True, where=None, axis_name=None):
    """Neighbourhood components analysis, also called soft nearest-neighbour loss or SNCA.

    ``look`` with all keys as neighbours: −log Σ_{same class} e^{s/τ} / Σ_{all} e^{s/τ}, the query
    itself left out by id. A query without a same-class key has loss 0, as in SNCA.

    Use:
      As ``look``, where a k is one knob too many, with nearly its results on jaxpt's small sets.
      Temperature 0.05, 128 dimensions and a memory of the whole training set in Wu et al.

    Args:
      queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
        normalize, where, axis_name: as for ``look``.

    Returns:
      (float32 losses [batch], NeighborStats).

    Raises:
      TypeError, ValueError: as ``look``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import nca
      >>> query, keys = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, -1.0], [0.0, 2.0]])
      >>> losses, _ = nca(query, keys, jnp.array([0]), jnp.array([0, 1, 2]))
      >>> print(f"{losses[0]:.4f}")  # log 3: three keys, all at cosine 0
      1.0986

    References:
      Goldberger et al., NIPS 2004; Wu et al., "Improving generalization via scalable neighborhood
      component analysis", ECCV 2018.
    """
    s, same, candidates, *_ = _compare(
        queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
        normalize, where, axis_name)
    positives = candidates & same
    missing = ~jnp.any(positives, axis=-1)
    losses = _soft_knn_loss(s, candidates, positives, candidates, positives, missing, temperature,
                            "drop")
    return _finish(losses, missing, candidates, positives, where)


def _compare(queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
             normalize, where, axis_name):
    """After all checks: similarities, same-label mask and candidate mask, each [batch, memory],
    and the labels and the mask [memory] of the keys of all devices."""
    sim.check_embeddings("queries", queries)
    sim.check_keys("queries", queries, keys)
    sim.check_temperature(temperature)
    sim.check_rows("query_labels", query_labels, queries.shape[0])
    sim.check_rows("key_labels", key_labels, keys.shape[0])
    sim.check_rows("key_mask", key_mask, keys.shape[0])
    sim.check_rows("where", where, queries.shape[0])
    keys, key_labels, key_ids, key_mask = (
        sim.gather(x, axis_name) for x in (keys, key_labels, key_ids, key_mask))
    s = sim.similarities(sim.rows(queries, normalize, where),
                         jax.lax.stop_gradient(sim.rows(keys, normalize, key_mask)))
    candidates = sim.candidates(s.shape, query_ids, key_ids, key_mask)
    return s, query_labels[:, None] == key_labels[None, :], candidates, key_labels, key_mask


def _class_counts(labels, mask):
    """How many keys have each key's class: float32 [memory]."""
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    in_order = jnp.sort(labels)
    before = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32),
                                         mask[jnp.argsort(labels)].astype(jnp.int32)]))
    count = (before[jnp.searchsorted(in_order, labels, side="right")]
             - before[jnp.searchsorted(in_order, labels, side="left")])
    return jnp.maximum(count, 1).astype(jnp.float32)  # 1 where all keys of the class are masked


def _log_gate(s, neighbors, candidates, gate):
    """log σ(gate · (s − edge)); 0 where all candidates are neighbours, so that there is no edge."""
    last = jnp.min(s, axis=-1, where=neighbors, initial=jnp.inf)
    following = jnp.max(s, axis=-1, where=candidates & ~neighbors, initial=-jnp.inf)
    has_edge = jnp.isfinite(following)
    edge = jax.lax.stop_gradient(jnp.where(has_edge, (last + following) / 2, 0.0))
    return jnp.where(has_edge[:, None], jax.nn.log_sigmoid(gate * (s - edge[:, None])), 0.0)


def _soft_knn_loss(s, neighbors, positives, candidates, same_class, missing, temperature,
                   no_positive, log_gate=None):
    """log Σ_neighbors e^{s/τ} − log Σ_positives e^{s/τ}, and the remedy where positives miss.

    With ``log_gate`` all candidates are neighbours, each with the weight of its gate.
    """
    logits = s / temperature
    missing_loss = 0.0
    if no_positive == "nearest":
        nearest = same_class & (jnp.argmax(jnp.where(same_class, s, -jnp.inf), axis=-1)[:, None]
                                == jnp.arange(s.shape[1])[None, :])
        nearest &= missing[:, None]
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


def _finish(losses, missing, neighbors, positives, where):
    share = jnp.sum(positives, axis=-1) / jnp.maximum(jnp.sum(neighbors, axis=-1), 1)
    stats = NeighborStats(
        no_positive=sim.masked_mean(missing, where),
        zero_loss=sim.masked_mean(losses == 0, where),
        purity=sim.masked_mean(share, where))
    if where is not None:
        losses = jnp.where(where, losses, 0.0)
    return losses, jax.lax.stop_gradient(stats)
