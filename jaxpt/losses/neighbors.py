"""Losses of soft nearest-neighbour classifiers: LOOK and NCA."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.losses import neighbors_dense, neighbors_streamed
from jaxpt.ops import similarity as sim

NO_POSITIVE = ("nearest", "drop", "floor")
NEIGHBOR_FORMS = ("auto", "dense", "streamed")
DENSE_MEMORY = 2048  # keys up to which "auto" is dense
KEYS_PER_NEIGHBOR = 40  # and up to so many for each neighbour, as selecting costs more than masking
SMALL_MATRIX = 2**24  # similarities, 64 MiB, up to which it is
LARGEST_MATRIX = 2**28  # similarities, 1 GiB, up to which it is where it must be


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


def look(
    queries: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    k: int | jax.Array,
    temperature: float | jax.Array = 0.1,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    no_positive: str = "nearest",
    gate: float | None = None,
    balanced: bool = False,
    robustness: float = 0.0,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    form: str = "auto",
    k_max: int | None = None,
    recall: float | None = None,
) -> tuple[jax.Array, NeighborStats]:
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
      point. Keys come from a memory of an EMA encoder (``jaxpt.ops.memory``), several times the
      batch. k, temperature and memory of the paper could not be read by us; jaxpt's configs use
      k = 50 of 1,200 keys (digits) and temperature 0.1.

    Args:
      queries: float [batch, dim], embeddings of anything.
      keys: float [memory, dim].
      query_labels, key_labels: int [batch], [memory].
      k: neighbours per query, an int, or an int32 scalar or [batch] array that may be traced (a
        schedule costs no compilation, but see ``form``). At least the memory's size means all.
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
        needs none. Streamed, the keys stay where they are and only candidates travel.
      form: "dense" holds a few arrays batch × memory; "streamed" none, forward or backward: blocks
        of keys are compared one after another and only the neighbours are looked at again
        (``jaxpt.ops.knn``; reverse mode only). Both agree to rounding. "auto" is dense up to 2,048
        keys, up to 40 keys for each neighbour while the matrix has at most 2²⁴ entries, up to 8
        while it has at most 2²⁸, and where ``gate`` or a traced k needs it.
      k_max: static bound of a traced k, with which it can be streamed; a larger k is cut to it.
      recall: None finds the exact neighbours. Between 0 and 1, "streamed" alone is approximate: the
        share of them that is to be found, faster on TPUs (see ``jaxpt.ops.knn.search``).

    Returns:
      (float32 losses [batch], NeighborStats).

    Raises:
      TypeError: for integer embeddings.
      ValueError: for k < 1, temperature <= 0, an unknown ``no_positive``, gate <= 0, robustness
        or recall outside 0 … 1, shapes that do not match, only one of the ids, an unknown form or
        one that cannot be: "streamed" with a gate or a traced k without ``k_max``, "auto" with
        either and more than 2²⁸ similarities.

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
    if k_max is not None and not (isinstance(k_max, numbers.Integral) and k_max >= 1):
        raise ValueError(f"k_max must be a whole number of at least 1, got {k_max}.")
    if no_positive not in NO_POSITIVE:
        raise ValueError(f"no_positive must be one of {NO_POSITIVE}, got {no_positive!r}.")
    if isinstance(gate, numbers.Real) and not 0 < gate < math.inf:
        raise ValueError(f"gate must be positive and finite, got {gate}.")
    if not 0 <= robustness <= 1:
        raise ValueError(f"robustness must lie in 0 … 1, got {robustness}.")
    if recall is not None and not 0 < recall < 1:
        raise ValueError(f"recall must lie between 0 and 1, or be None for exact, got {recall}.")
    common = _common(
        queries,
        keys,
        query_labels,
        key_labels,
        temperature,
        normalize,
        axis_name,
        {"query_ids": query_ids, "key_ids": key_ids, "key_mask": key_mask, "where": where},
    )
    memory = _memory(keys, axis_name)
    k_max = k if isinstance(k, numbers.Integral) else k_max
    form = _choose_form(form, queries.shape[0], memory, k_max, gate)
    common |= {"k": k, "no_positive": no_positive, "balanced": balanced}
    if form == "dense":
        losses, missing, purity = neighbors_dense.look(gate=gate, **common)
    else:
        losses, missing, purity = neighbors_streamed.look(
            k_max=min(int(k_max), memory), recall=recall, **common
        )
    if robustness:
        losses = -jnp.expm1(-robustness * losses) / robustness
    return _finish(losses, missing, purity, where)


def nca(
    queries: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    form: str = "auto",
) -> tuple[jax.Array, NeighborStats]:
    """Neighbourhood components analysis, also called soft nearest-neighbour loss or SNCA.

    ``look`` with all keys as neighbours: −log Σ_{same class} e^{s/τ} / Σ_{all} e^{s/τ}, the query
    itself left out by id. A query without a same-class key has loss 0, as in SNCA.

    Use:
      As ``look``, where a k is one knob too many, with nearly its results on jaxpt's small sets.
      Temperature 0.05, 128 dimensions and a memory of the whole training set in Wu et al.

    Args:
      queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
        normalize, where, axis_name, form: as for ``look``; streamed, all keys are read in blocks
        twice, once for the gradient.

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
    common = _common(
        queries,
        keys,
        query_labels,
        key_labels,
        temperature,
        normalize,
        axis_name,
        {"query_ids": query_ids, "key_ids": key_ids, "key_mask": key_mask, "where": where},
    )
    form = _choose_form(form, queries.shape[0], _memory(keys, axis_name), 1)
    of_form = neighbors_dense.nca if form == "dense" else neighbors_streamed.nca
    return _finish(*of_form(**common), where)


def _common(queries, keys, query_labels, key_labels, temperature, normalize, axis_name, optional):
    """After all checks: the arguments that all forms of both losses take, arrays of NumPy too."""
    sim.check_embeddings("queries", queries)
    sim.check_keys("queries", queries, keys)
    sim.check_temperature(temperature)
    sim.check_rows("query_labels", query_labels, queries.shape[0])
    sim.check_rows("key_labels", key_labels, keys.shape[0])
    sim.check_rows("where", optional["where"], queries.shape[0])
    sim.check_ids(
        (queries.shape[0], keys.shape[0]),
        *(optional[name] for name in ("query_ids", "key_ids", "key_mask")),
    )
    arrays = {
        "queries": queries,
        "keys": keys,
        "query_labels": query_labels,
        "key_labels": key_labels,
        **optional,
    }
    return jax.tree.map(jnp.asarray, arrays) | {
        "temperature": temperature,
        "normalize": normalize,
        "axis_name": axis_name,
    }


def _memory(keys, axis_name):
    """How many keys all devices have."""
    return keys.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _choose_form(form, batch, memory, k_max, gate=None):
    """ "dense" or "streamed" for ``form``, or an error where that form cannot be.

    ``k_max`` is None where k has no bound that is known when tracing.
    """
    if form not in NEIGHBOR_FORMS:
        raise ValueError(f"form must be one of {NEIGHBOR_FORMS}, got {form!r}.")
    fits = batch * memory <= LARGEST_MATRIX
    if form == "auto":
        dense_only = gate is not None or k_max is None
        dense = (
            dense_only
            or memory <= DENSE_MEMORY
            or (fits and memory < 8 * k_max)
            or (batch * memory <= SMALL_MATRIX and memory <= KEYS_PER_NEIGHBOR * k_max)
        )
        form = "dense" if dense else "streamed"
        if dense_only and not fits:
            form_needs = "gate weighs every key" if gate is not None else "k is traced"
            raise ValueError(
                f"{form_needs}, which takes a matrix of {batch} × {memory} similarities, more than "
                f"{LARGEST_MATRIX}: use a smaller memory or batch, "
                + ("no gate" if gate is not None else "an int k, or k_max")
                + ', or form="dense" to insist.'
            )
    elif form == "streamed" and gate is not None:
        raise ValueError('gate weighs every key: it needs form "dense" or "auto".')
    elif form == "streamed" and k_max is None:
        raise ValueError('a traced k needs k_max, the largest that it will be, in form "streamed".')
    return form


def _finish(losses, missing, purity, where):
    stats = NeighborStats(
        no_positive=sim.masked_mean(missing, where),
        zero_loss=sim.masked_mean(losses == 0, where),
        purity=sim.masked_mean(purity, where),
    )
    if where is not None:
        losses = jnp.where(where, losses, 0.0)
    return losses, jax.lax.stop_gradient(stats)
