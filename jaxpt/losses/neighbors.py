"""Losses of soft nearest-neighbour classifiers, LOOK and NCA, in several forms.

The *dense* form computes the whole matrix of similarities, [batch, memory], which suits small
memories. The *chunked* form does the same for a few queries at a time, in a bounded workspace, and
keeps only their losses and gradients. It reads long rows and neither sorts nor gathers, which suits
TPUs. The *gathered* form, of LOOK alone, is chunked, too, but finds the neighbours by short sorts
and gathers their keys for the gradient, which suits GPUs. The *streamed* form compares blocks of
keys that fit the caches of a CPU, and never holds more than the neighbours. ``form="auto"`` picks
the fastest for the platform that the program is compiled for.
"""

import functools
import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.ops import knn, selection
from jaxpt.ops import similarity as sim
from jaxpt.ops.knn import Keys, Queries

NO_POSITIVE = ("nearest", "drop", "floor")
NEIGHBOR_FORMS = ("auto", "dense", "chunked", "gathered", "streamed")
# Limits up to which "auto" is dense; see ``_choose_forms``.
DENSE_MEMORY = 2048  # keys
KEYS_PER_NEIGHBOR = 40  # keys per neighbour: for a large k, selecting costs more than masking
SMALL_MATRIX = 2**24  # similarities, 64 MiB, up to which ``KEYS_PER_NEIGHBOR`` applies
LARGEST_MATRIX = 2**28  # similarities, 1 GiB, up to which a CPU holds them for a large k or a gate
GATHERED_SHARE = 100  # keys per neighbour from which on GPUs gather, as measured on an H100
NCA_BLOCK = 4096  # keys per block of streamed NCA, small because a block is read several times


class NeighborStats(NamedTuple):
    """Training statistics of a neighbour loss; float32 scalars, means over the unmasked queries.

    Attributes:
      no_positive: share of queries without a same-class key among their neighbours.
      zero_loss: share of queries whose loss is exactly 0 (they contribute no gradient).
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
    label_sources: jax.Array | None = None,
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
    workspace: int = knn.WORKSPACE,
) -> tuple[jax.Array, NeighborStats]:
    """Leave-one-out k-nearest-neighbour loss (LOOK).

    The negative log-probability that a softmax-weighted kNN classifier, which excludes the query
    itself from its neighbours, assigns to the query's label::

        p(c|i) = Σ_{j∈N_k(i), y_j=c} exp(s_ij/τ) / Σ_{j∈N_k(i)} exp(s_ij/τ)

    N_k(i) is the set of the k keys most similar to query i. A class may therefore have several
    modes: a same-class key outside the neighbourhood does not pull, and a query whose neighbours
    all share its label has loss and gradient exactly 0. If k is at least the number of keys, the
    loss is ``nca``. The formula is a reconstruction from the paper's abstract and the first
    lines of its introduction: we had no access to its sections on method and experiments.

    Keys with the query's id are left out *before* the selection (leave-one-out). Without ids
    nothing is left out: make sure that no key comes from the image of its query, as it would be
    the query's nearest neighbour and a positive. The selection is not differentiated, and no
    gradient flows into the keys. Similarities, selection and log-sum-exp are computed in float32
    for all input dtypes. Ties at the edge of the neighbourhood go to the lower index.

    ``gate``, ``balanced`` and ``robustness`` are extensions beyond the paper; at their defaults the
    loss is the formula above.

    Use:
      Pre-training on coarse labels for tasks that need finer ones, since a class need not collapse
      to a point. Take the keys from a memory of an EMA encoder (``jaxpt.ops.memory``) that holds
      several batches. k, temperature and memory are jaxpt's, not the paper's: on digits k = 50 of
      1,200 keys and temperature 0.1.

    Args:
      queries: float [batch, dim], embeddings.
      keys: float [memory, dim].
      query_labels, key_labels: int [batch], [memory].
      k: neighbours per query, an int, or an int32 scalar or [batch] array that may be traced (so a
        schedule does not recompile, but see ``form``). A k of at least the memory's size selects
        all keys.
      temperature: τ > 0; 0.1 is jaxpt's default.
      query_ids, key_ids: int [batch], [memory]; keys with the query's id are left out.
      key_mask: bool [memory]; False keys are ignored (empty slots, for example).
      label_sources: int [classes], the source of every class, if several datasets with label spaces
        of their own are mixed: a query is then compared only with the keys of its source. None
        compares with all.
      no_positive: treatment of a query without a same-class neighbour. "nearest" (jaxpt's default)
        adds its nearest same-class key to the neighbours, or drops the query if no admissible key
        has its label; "drop" gives it loss 0; "floor" replaces the missing numerator by the weight
        of its furthest neighbour, held constant, so the query is only repelled.
      gate: β > 0 softens the edge of the neighbourhood: every key takes part, with its weight
        multiplied by σ(β (s_ij − b_i)), where b_i is halfway between the k-th and the next
        similarity. β → ∞ is the hard edge.
      balanced: for long-tailed keys, divides e^{s/τ} by the number of keys of the key's class, both
        for the selection and for the weights. No effect if all classes are equally frequent.
        ``gate`` then applies to the shifted similarities.
      robustness: q in 0 … 1, for noisy labels; static. Replaces −log p by (1 − p^q) / q, which is
        at most 1/q and multiplies the gradient by p^q, so a query that disagrees with all its
        neighbours hardly pulls. 0 means −log p.
      normalize: scale all rows to length one first. Turn off only to use other inner products.
      where: bool [batch]; False queries get loss 0 and are left out of the statistics.
      axis_name: mapped axis along which the keys of all devices are gathered first, each device
        passing its own part (for example its batch). Leave it out if the memory is the same on all
        devices. In the streamed form keys stay on their device and only candidates are exchanged.
      form: "dense" holds a few arrays of batch × memory. "chunked" holds them for as many queries
        as ``workspace`` allows, and computes their gradient at once. "gathered" does so, too, but
        holds the neighbours alone for the gradient. "streamed" holds none: it finds the neighbours
        (``jaxpt.ops.knn``) and reads only these again. All agree to rounding; all but "dense" are
        differentiable in reverse mode only. "auto" is dense up to 2,048 keys. For more keys it
        depends on the platform. On accelerators it is chunked, on GPUs gathered from 100 keys per
        neighbour on, or streamed if keys of several devices are compared (``axis_name``). On CPUs
        it is dense up to 40 keys per neighbour if the matrix has at most 2²⁴ entries, up to 8 if it
        has at most 2²⁸, and streamed otherwise. With ``gate`` or a traced k, which need all
        similarities, it is chunked, but on CPUs dense up to 2²⁸ entries.
      k_max: static upper bound of a traced k, required to stream or gather; a larger k is cut to
        k_max.
      recall: None finds the exact neighbours. A number between 0 and 1, which has an effect only in
        the streamed form, is the share of them to be found by an approximate search, faster on TPUs
        (see ``jaxpt.ops.knn.search``).
      workspace: bytes for the chunked and gathered forms; one query at a time is the least.

    Returns:
      (float32 losses [batch], NeighborStats).

    Raises:
      TypeError: for integer embeddings.
      ValueError: for k < 1, temperature <= 0, an unknown ``no_positive``, gate <= 0, robustness
        or recall outside 0 … 1, workspace < 1, shapes that do not match, only one of the ids, an
        unknown form or an impossible one: "streamed" or "gathered" with a gate, or with a traced k
        without ``k_max``.

    Example:
      Two keys of the query's class have cosine 1 and −1, one key of another class has cosine 1. The
      two nearest keys are equally near and have different labels: loss log 2.

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
    _check_workspace(workspace)
    asked, stored, shared = _prepared(
        Queries(queries, query_ids, query_labels),
        Keys(keys, key_ids, key_labels, key_mask, None),
        Shared(temperature, normalize, axis_name, workspace),
        where,
        label_sources,
    )
    memory = _memory(stored, shared.axis_name)
    if isinstance(k, numbers.Integral):
        k = k_max = min(int(k), memory)
    else:
        sim.check_array("k", k)
        if not jnp.issubdtype(k.dtype, jnp.integer):
            raise TypeError(f"k must be integers, got dtype {k.dtype}.")

    def dense(asked, stored):
        return _dense_look(asked, stored, shared, k, no_positive, gate, balanced)

    def chunked(asked, stored):
        return _chunked_look(asked, stored, shared, k, no_positive, gate, balanced)

    def gathered(asked, stored):
        ks = k, min(int(k_max), memory)
        return _gathered_look(asked, stored, shared, ks, no_positive, balanced)

    def streamed(asked, stored):
        ks = k, min(int(k_max), memory)
        return _streamed_look(asked, stored, shared, ks, no_positive, balanced, recall)

    forms = _choose_forms(form, (queries.shape[0], memory), k_max, gate, shared.axis_name)
    losses, missing, purity = _in_form(
        forms,
        {"dense": dense, "chunked": chunked, "gathered": gathered, "streamed": streamed},
        asked,
        stored,
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
    label_sources: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    form: str = "auto",
    workspace: int = knn.WORKSPACE,
) -> tuple[jax.Array, NeighborStats]:
    """Neighbourhood components analysis, also called soft nearest-neighbour loss or SNCA.

    Equals ``look`` with all keys as neighbours: −log Σ_{same class} e^{s/τ} / Σ_{all} e^{s/τ},
    where keys with the query's id are left out. A query without a same-class key has loss 0, as in
    SNCA.

    Use:
      The same purpose as ``look`` without k to tune; on jaxpt's small data sets the results are
      nearly the same. Wu et al.: temperature 0.05, 128 dimensions, a memory of the whole training
      set.

    Args:
      queries, keys, query_labels, key_labels, temperature, query_ids, key_ids, key_mask,
        label_sources, normalize, where, axis_name, form, workspace: as for ``look``. The streamed
        form reads all keys in blocks twice, the second time for the gradient.

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
    _check_workspace(workspace)
    asked, stored, shared = _prepared(
        Queries(queries, query_ids, query_labels),
        Keys(keys, key_ids, key_labels, key_mask, None),
        Shared(temperature, normalize, axis_name, workspace),
        where,
        label_sources,
    )
    shape = queries.shape[0], _memory(stored, shared.axis_name)
    if form == "gathered":
        raise ValueError('nca compares all keys: it needs form "dense", "chunked" or "streamed".')
    cpu, _, accelerator = _choose_forms(form, shape, 1, None, shared.axis_name)
    found = _in_form(
        (cpu, accelerator, accelerator),
        {
            "dense": lambda *arrays: _dense_nca(*arrays, shared),
            "chunked": lambda *arrays: _chunked_nca(*arrays, shared),
            "streamed": lambda *arrays: _streamed_nca(*arrays, shared),
        },
        asked,
        stored,
    )
    return _finish(*found, where)


class Shared(NamedTuple):
    """Settings shared by both losses and both forms.

    Attributes:
      temperature: τ.
      normalize: whether the stored keys are scaled to length one before the comparison.
      axis_name: mapped axis along which the keys are split over the devices; None if they are not.
      workspace: bytes of similarities that are held at a time, if they are chunked.
    """

    temperature: float | jax.Array
    normalize: bool
    axis_name: str | None
    workspace: int = knn.WORKSPACE


def _prepared(queries: Queries, keys: Keys, shared: Shared, where, label_sources):
    """Checks the arguments and returns them as JAX arrays, with the queries preprocessed.

    Queries and keys have their sources if there are ``label_sources``.
    """
    sim.check_embeddings("queries", queries.vectors)
    sim.check_keys("queries", queries.vectors, keys.vectors)
    sim.check_untracked("a loss of neighbours", queries.vectors, keys.vectors)
    if queries.vectors.shape[0] == 0:
        raise ValueError("queries must have at least one row, got none.")
    rows, n = queries.vectors.shape[0], keys.vectors.shape[0]
    sim.check_temperature(shared.temperature)
    sim.check_rows("query_labels", queries.labels, rows)
    sim.check_rows("key_labels", keys.labels, n)
    sim.check_rows("where", where, rows)
    sim.check_ids((rows, n), queries.ids, keys.ids, keys.mask)
    queries, keys, where = jax.tree.map(jnp.asarray, (queries, keys, where))
    queries, keys = (
        x._replace(sources=sim.sources_of(label_sources, x.labels)) for x in (queries, keys)
    )
    vectors = sim.rows(queries.vectors, shared.normalize, where)
    if shared.axis_name is not None and jax.lax.axis_size(shared.axis_name) == 1:
        # A single device has all keys, and so the choice of all forms.
        shared = shared._replace(axis_name=None)
    return queries._replace(vectors=vectors), keys, shared


def _check_workspace(workspace):
    if not (isinstance(workspace, numbers.Integral) and workspace >= 1):
        raise ValueError(f"workspace must be a number of bytes, at least 1, got {workspace}.")


def _memory(keys: Keys, axis_name) -> int:
    """Number of keys over all devices."""
    n = keys.vectors.shape[0]
    return n if axis_name is None else n * jax.lax.axis_size(axis_name)


def _choose_forms(form, shape, k_max, gate, axis_name) -> tuple[str, str, str]:
    """Resolves ``form`` to those on CPUs, GPUs and TPUs; raises ValueError if it is impossible.

    ``shape`` is (batch, memory). ``k_max`` is None if k is traced and has no static bound.
    """
    if form not in NEIGHBOR_FORMS:
        raise ValueError(f"form must be one of {NEIGHBOR_FORMS}, got {form!r}.")
    needs_all = gate is not None or k_max is None
    if form in ("gathered", "streamed") and gate is not None:
        raise ValueError('gate weighs every key: it needs form "dense", "chunked" or "auto".')
    if form in ("gathered", "streamed") and needs_all:
        raise ValueError(f'form "{form}" with a traced k needs k_max, an upper bound of k.')
    if form != "auto":
        return form, form, form
    batch, memory = shape
    if memory <= DENSE_MEMORY:
        return "dense", "dense", "dense"
    fits, is_small = batch * memory <= LARGEST_MATRIX, batch * memory <= SMALL_MATRIX
    if needs_all:
        return "dense" if fits else "chunked", "chunked", "chunked"
    many = (fits and memory < 8 * k_max) or (is_small and memory <= KEYS_PER_NEIGHBOR * k_max)
    on_cpu = "dense" if many else "streamed"
    if axis_name is not None:
        return on_cpu, "streamed", "streamed"
    return on_cpu, "gathered" if memory >= GATHERED_SHARE * k_max else "chunked", "chunked"


def _in_form(forms, functions, *arrays):
    """Calls the function of the form for the platform that the program is compiled for."""
    if len(set(forms)) == 1:
        return functions[forms[0]](*arrays)
    cpu, gpu, tpu = (functions[form] for form in forms)
    return jax.lax.platform_dependent(*arrays, cpu=cpu, tpu=tpu, default=gpu)


def _finish(losses, missing, purity, where):
    stats = NeighborStats(
        no_positive=sim.masked_mean(missing, where),
        zero_loss=sim.masked_mean(losses == 0, where),
        purity=sim.masked_mean(purity, where),
    )
    if where is not None:
        losses = jnp.where(where, losses, 0.0)
    return losses, jax.lax.stop_gradient(stats)


# Dense form: the whole matrix of similarities


class Nearest(NamedTuple):
    """The nearest keys of each query, which are known before its neighbours; [batch].

    Attributes:
      of_all: float32, largest similarity to a candidate; −∞ if there is none.
      of_class: float32, largest similarity to a candidate of the query's class; −∞ likewise.
      column: int32, where that candidate is, the first of ties.
      missing: bool, whether it is not a neighbour, so that no neighbour is a positive.
    """

    of_all: jax.Array
    of_class: jax.Array
    column: jax.Array
    missing: jax.Array


class Masks(NamedTuple):
    """Roles of each key for each query; bool [batch, n].

    Attributes:
      neighbors: the keys that the classifier uses.
      positives: the neighbours that have the query's label.
      candidates: the admissible keys, from which neighbours are selected.
      same_class: the candidates that have the query's label.
    """

    neighbors: jax.Array
    positives: jax.Array
    candidates: jax.Array
    same_class: jax.Array


def _dense_look(queries: Queries, keys: Keys, shared: Shared, k, no_positive, gate, balanced):
    """Dense LOOK.

    Returns:
      (float32 losses, bool: no neighbour is a positive, share of positives among the neighbours),
      each [batch].
    """
    keys = jax.tree.map(lambda x: sim.gather(x, shared.axis_name), keys)
    s, candidates, same_class = _compared(queries, keys, shared)
    if balanced:
        s = s - shared.temperature * jnp.log(class_counts(keys.labels, keys.mask))
    # The loss needs the set of neighbours, not their order, so a mask is enough.
    marked = jnp.where(candidates, jax.lax.stop_gradient(s), -jnp.inf)
    neighbors = selection.mask_of_largest(marked, k)
    masks = Masks(neighbors, neighbors & same_class, candidates, same_class)
    return _classified(s, masks, shared.temperature, no_positive, gate)


def _dense_nca(queries: Queries, keys: Keys, shared: Shared):
    """Dense NCA: ``_dense_look`` with all admissible keys as neighbours."""
    keys = jax.tree.map(lambda x: sim.gather(x, shared.axis_name), keys)
    s, candidates, same_class = _compared(queries, keys, shared)
    masks = Masks(candidates, same_class, candidates, same_class)
    return _classified(s, masks, shared.temperature, "drop")


def _classified(s, masks: Masks, temperature, no_positive, gate=None, nearest=None):
    """Losses and statistics of the classifier, as ``_dense_look`` returns them.

    ``nearest`` spares passes over the similarities; None if they are not known.
    """
    log_gate = None if gate is None else _log_gate(s, masks, gate)
    losses = _soft_knn_loss(s, masks, temperature, no_positive, log_gate, nearest)
    missing = ~jnp.any(masks.positives, axis=-1) if nearest is None else nearest.missing
    return losses, missing, _share(masks)


def _compared(queries: Queries, keys: Keys, shared: Shared):
    """Returns (similarities, candidates, candidates of the query's class), each [batch, n]."""
    vectors = sim.rows(keys.vectors, shared.normalize, keys.mask)
    s = sim.similarities(queries.vectors, jax.lax.stop_gradient(vectors))
    candidates = _candidates(s.shape, queries, keys)
    return s, candidates, candidates & (queries.labels[:, None] == keys.labels[None, :])


def _candidates(shape, queries: Queries, keys):
    of_keys = keys.ids, keys.mask, queries.sources, keys.sources
    return sim.candidates(shape, queries.ids, *of_keys)


def _share(masks: Masks):
    """Share of positives among the neighbours of each row; 0 for a row without neighbours."""
    # Not as integers, which the TPU's compiler would count in a pass of their own.
    neighbors, positives = (
        jnp.sum(x, axis=-1, dtype=jnp.float32) for x in (masks.neighbors, masks.positives)
    )
    return positives / jnp.maximum(neighbors, 1)


def class_counts(labels, mask):
    """Number of unmasked keys of each key's class, at least 1: float32 [memory]."""
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    in_order = jnp.sort(labels)
    before = jnp.cumsum(
        jnp.concatenate([jnp.zeros(1, jnp.int32), mask[jnp.argsort(labels)].astype(jnp.int32)])
    )
    count = (
        before[jnp.searchsorted(in_order, labels, side="right")]
        - before[jnp.searchsorted(in_order, labels, side="left")]
    )
    return jnp.maximum(count, 1).astype(jnp.float32)  # a fully masked class: log stays finite


def _log_gate(s, masks: Masks, gate):
    """log σ(gate · (s − edge)) [batch, n]; 0 in rows where all candidates are neighbours."""
    last = jnp.min(s, axis=-1, where=masks.neighbors, initial=jnp.inf)
    beyond = masks.candidates & ~masks.neighbors
    following = jnp.max(s, axis=-1, where=beyond, initial=-jnp.inf)
    has_edge = jnp.isfinite(following)
    edge = jax.lax.stop_gradient(jnp.where(has_edge, (last + following) / 2, 0.0))
    return jnp.where(has_edge[:, None], jax.nn.log_sigmoid(gate * (s - edge[:, None])), 0.0)


def _soft_knn_loss(s, masks: Masks, temperature, no_positive, log_gate=None, nearest=None):
    """log Σ_neighbors e^{s/τ} − log Σ_positives e^{s/τ}, with ``no_positive`` applied: [batch].

    With ``log_gate`` all candidates take part, each weighted by its gate.
    """
    neighbors, positives, candidates, same_class = masks
    missing = ~jnp.any(positives, axis=-1) if nearest is None else nearest.missing
    logits = s / temperature
    missing_loss = 0.0
    if no_positive == "nearest":
        if nearest is None:
            column = jax.lax.cond(  # most steps can skip this pass over the matrix
                jnp.any(missing),
                lambda: jnp.argmax(jnp.where(same_class, s, -jnp.inf), axis=-1),
                lambda: jnp.zeros(len(s), int),
            )
        else:
            column = nearest.column
        joins = column[:, None] == jnp.arange(s.shape[1])[None, :]
        joins &= same_class & missing[:, None]
        # Only rows without a positive are changed.
        neighbors, positives = neighbors | joins, positives | joins
        if nearest is None:
            missing = ~jnp.any(positives, axis=-1)
        else:
            missing = nearest.of_class == -jnp.inf
        log_gate = None if log_gate is None else jnp.where(joins, 0.0, log_gate)
    if log_gate is not None:
        logits = logits + log_gate
    if no_positive == "floor":
        furthest = jnp.min(logits, axis=-1, where=neighbors, initial=jnp.inf)
        has_neighbor = jnp.any(neighbors, axis=-1)
        furthest = jax.lax.stop_gradient(jnp.where(has_neighbor, furthest, 0.0))
    if log_gate is not None:
        neighbors, positives = candidates, same_class
    largest = [None, None]
    if nearest is not None and log_gate is None:
        largest = [x / jnp.ravel(temperature) for x in (nearest.of_all, nearest.of_class)]
    total = sim.masked_logsumexp(logits, neighbors, largest[0])
    if no_positive == "floor":
        missing_loss = jnp.where(has_neighbor, total - furthest, 0.0)
    losses = total - sim.masked_logsumexp(logits, positives, largest[1])
    # Rounding may make a zero loss slightly negative.
    return jnp.where(missing, missing_loss, jnp.maximum(losses, 0.0))


# Chunked form: a few queries and all keys at a time. A query's loss depends on no other query, so
# its gradient is computed along with it, while its similarities are there. Reverse mode only.


class Candidates(NamedTuple):
    """All keys, as the chunked form compares them; [memory, …] or None.

    Attributes:
      vectors: as stored; masked ones may hold NaN.
      scale: one over their lengths, if similarities are cosines. Scaling the similarities instead
        of the keys spares a copy of the keys.
      log_counts: log of ``class_counts``, if balanced.
      ids, labels, mask, sources: as in ``Keys``.
    """

    vectors: jax.Array
    scale: jax.Array | None
    log_counts: jax.Array | None
    ids: jax.Array | None
    labels: jax.Array
    mask: jax.Array | None
    sources: jax.Array | None


def _chunked_look(queries: Queries, keys: Keys, shared: Shared, k, no_positive, gate, balanced):
    """Chunked LOOK; returns the same values as ``_dense_look``."""
    static_k = int(k) if isinstance(k, numbers.Integral) else None
    traced_k = None if static_k else jnp.broadcast_to(jnp.asarray(k), queries.labels.shape)
    vectors, temperature = queries.vectors, shared.temperature
    if gate is None:
        vectors, temperature = _with_gradient_by(temperature, vectors)
    return _in_chunks(
        functools.partial(_look_of_chunk, static_k, no_positive),
        knn.row_bytes(_memory(keys, shared.axis_name), "thresholds"),
        shared.workspace,
        (vectors, *_columns(len(vectors), temperature, gate)),
        (queries._replace(vectors=None), traced_k),
        _all_keys(keys, shared, balanced),
    )


def _gathered_look(queries: Queries, keys: Keys, shared: Shared, ks, no_positive, balanced):
    """Gathered LOOK; returns the same values as ``_dense_look``.

    ``ks`` is (k, k_max), as for ``_streamed_look``.
    """
    k, k_max = ks
    vectors, temperature = _with_gradient_by(shared.temperature, queries.vectors)
    stored = _all_keys(keys, shared, balanced)
    return _in_chunks(
        functools.partial(_look_of_gathered_chunk, k_max, no_positive),
        knn.row_bytes(_memory(keys, shared.axis_name), "groups"),
        shared.workspace,
        (vectors, *_columns(len(vectors), temperature)),
        (queries._replace(vectors=None), jnp.broadcast_to(k, queries.labels.shape)),
        Keys(
            stored.vectors,
            stored.ids,
            stored.labels,
            stored.mask,
            -temperature * stored.log_counts if balanced else None,
            stored.sources,
            stored.scale,
        ),
    )


def _chunked_nca(queries: Queries, keys: Keys, shared: Shared):
    """Chunked NCA; returns the same values as ``_dense_nca``."""
    vectors, temperature = _with_gradient_by(shared.temperature, queries.vectors)
    return _in_chunks(
        _nca_of_chunk,
        knn.row_bytes(_memory(keys, shared.axis_name), "thresholds"),
        shared.workspace,
        (vectors, *_columns(len(vectors), temperature)),
        queries._replace(vectors=None),
        _all_keys(keys, shared),
    )


def _with_gradient_by(temperature, vectors):
    """Moves the gradient by the temperature to the queries; returns them and a constant.

    It enters as s/τ alone, so scaling the queries by 1 with the derivative of 1/τ is the same, and
    costs no pass over the similarities.
    """
    constant = jax.lax.stop_gradient(jnp.asarray(temperature, jnp.float32))
    return vectors * (constant / temperature), constant


def _look_of_chunk(static_k, no_positive, differentiable, fixed, keys: Candidates):
    (vectors, temperature, gate), (queries, k) = differentiable, fixed
    s, candidates, same_class = _compared_with_all(vectors, temperature, queries, keys)
    edge = selection.edge_of_largest(s, static_k or k)
    neighbors = candidates & selection.inside(jax.lax.stop_gradient(s), edge)
    masks = Masks(neighbors, neighbors & same_class, candidates, same_class)
    nearest = _nearest(s, same_class, edge)
    if gate is not None:  # −∞ times a gradient of 0 by the temperature would be NaN
        s = jnp.where(candidates, s, 0.0)
    return _classified(s, masks, temperature, no_positive, gate, nearest)


def _look_of_gathered_chunk(k_max, no_positive, differentiable, fixed, keys: Keys):
    (vectors, temperature), (queries, k) = differentiable, fixed
    products = jax.lax.stop_gradient(knn.products(vectors, keys.vectors, None))
    anyone = queries._replace(labels=None), keys._replace(labels=None)

    def similarities(products, columns):
        return knn.compared(products, *anyone, columns)

    def nearest(_):
        of_class = knn.compared(products, queries, keys)
        column, s = jnp.argmax(of_class, axis=-1), jnp.max(of_class, axis=-1)
        return s[:, None], jnp.where(s > -jnp.inf, column, -1)[:, None]

    s, columns = selection.largest(products, k_max, similarities)
    found = _first((s, jnp.where(s > -jnp.inf, columns, -1)), k)
    shared = Shared(temperature, keys.scale is not None, None)
    asked = queries._replace(vectors=vectors)
    return _of_neighbors(found, nearest, asked, keys, shared, no_positive)


def _nca_of_chunk(differentiable, queries, keys: Candidates):
    vectors, temperature = differentiable
    s, candidates, same_class = _compared_with_all(vectors, temperature, queries, keys)
    masks = Masks(candidates, same_class, candidates, same_class)
    return _classified(s, masks, temperature, "drop", nearest=_nearest(s, same_class))


def _nearest(s, same_class, edge: selection.Edge | None = None) -> Nearest:
    """Finds the nearest keys in one pass, as no result depends on another."""
    s = jax.lax.stop_gradient(s)
    of_class = jnp.where(same_class, s, -jnp.inf)
    column, of_class = jnp.argmax(of_class, axis=-1), jnp.max(of_class, axis=-1)
    missing = of_class == -jnp.inf
    if edge is None:
        return Nearest(jnp.max(s, axis=-1), of_class, column, missing)
    missing |= ~selection.inside(of_class, edge, column)
    return Nearest(edge.largest, of_class, column, missing)


def _compared_with_all(vectors, temperature, queries: Queries, keys: Candidates):
    """Returns (similarities, candidates, candidates of the query's class), each [batch, memory].

    The similarity to a key that is no candidate is −∞.
    """
    s = knn.products(vectors, keys.vectors, keys.mask)
    if keys.scale is not None:
        s = s * keys.scale
    if keys.log_counts is not None:
        s = s - temperature * keys.log_counts
    candidates = _candidates(s.shape, queries, keys)
    # Marking them by −∞ lets every later pass read the similarities and nothing else.
    s = jnp.where(candidates, s, -jnp.inf)
    candidates = s != -jnp.inf  # not ``>``, which NaN is not either
    return s, candidates, candidates & (queries.labels[:, None] == keys.labels[None, :])


def _all_keys(keys: Keys, shared: Shared, balanced=False) -> Candidates:
    keys = jax.tree.map(lambda x: sim.gather(x, shared.axis_name), keys)
    scale = None
    if shared.normalize:
        scale = sim.inverse_lengths(keys.vectors.astype(jnp.float32))
        if keys.mask is not None:  # whose keys may hold NaN
            scale = jnp.where(keys.mask, scale, 0.0)
    return Candidates(
        keys.vectors,
        scale,
        jnp.log(class_counts(keys.labels, keys.mask)) if balanced else None,
        keys.ids,
        keys.labels,
        keys.mask,
        keys.sources,
    )


def _columns(rows, *values):
    """Values of each query, float32 [rows, 1], so that each query has its own gradient by them."""
    return (None if x is None else jnp.full((rows, 1), x, jnp.float32) for x in values)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _in_chunks(of_chunk, row_bytes, workspace, differentiable, fixed, keys: Candidates | Keys):
    """Computes ``of_chunk(differentiable, fixed, keys)`` for a few queries at a time.

    ``differentiable`` and ``fixed`` have a row per query; ``of_chunk`` returns the losses first.
    """
    arrays = differentiable, fixed
    return knn.map_chunks(lambda *chunk: of_chunk(*chunk, keys), arrays, row_bytes, workspace)


def _in_chunks_forward(of_chunk, row_bytes, workspace, differentiable, fixed, keys):
    def with_gradient(differentiable, fixed):
        found, pull_back = jax.vjp(lambda x: of_chunk(x, fixed, keys), differentiable)
        losses, missing, purity = found
        slopes = jnp.ones_like(losses), np.zeros(missing.shape, jax.dtypes.float0)
        return found, *pull_back((*slopes, jnp.zeros_like(purity)))

    return knn.map_chunks(with_gradient, (differentiable, fixed), row_bytes, workspace)


def _in_chunks_backward(of_chunk, row_bytes, workspace, gradient, slopes):
    return jax.tree.map(lambda x: x * slopes[0][:, None], gradient), None, None


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


# Streamed form: keys are read in blocks; with an axis they are split evenly over its devices. LOOK
# finds its neighbours with ``knn.search`` and reads their keys again for the gradient. NCA reads
# all keys twice. Only reverse-mode differentiation is supported.


def _streamed_look(queries: Queries, keys: Keys, shared: Shared, ks, no_positive, balanced, recall):
    """Streamed LOOK; returns the same values as ``_dense_look``.

    ``ks`` is (k, k_max): k, which may be traced, and the static number of neighbours to search for.
    """
    (k, k_max), temperature, axis = ks, shared.temperature, shared.axis_name
    counts = _log_counts(keys.labels, keys.mask, axis) if balanced else None
    bias = None if counts is None else -jax.lax.stop_gradient(temperature * counts)

    def find(k, **options):
        return knn.search(
            jax.lax.stop_gradient(queries.vectors),
            keys.vectors,
            k,
            query_ids=queries.ids,
            key_ids=keys.ids,
            key_mask=keys.mask,
            key_bias=bias,
            normalize=shared.normalize,
            axis_name=axis,
            **options,
        )

    def nearest(missing):
        return jax.lax.cond(  # most steps can skip this search
            _anywhere(missing, axis),
            lambda: find(1, query_labels=queries.labels, key_labels=keys.labels),
            lambda: tuple(
                jnp.full((len(missing), 1), -1, dtype) for dtype in (jnp.float32, jnp.int32)
            ),
        )

    found = find(k_max, recall=recall, query_labels=queries.sources, key_labels=keys.sources)
    found = _first(found, k)
    return _of_neighbors(found, nearest, queries, keys, shared, no_positive, counts)


def _first(found, k):
    """The first k that a search has found; the others get the index −1. k may be traced."""
    s, index = found
    wanted = jnp.arange(index.shape[1]) < jnp.broadcast_to(k, index.shape[:1])[:, None]
    return s, jnp.where(wanted, index, -1)


def _of_neighbors(found, nearest, queries, keys, shared: Shared, no_positive, log_counts=None):
    """Losses and statistics from what a search has found, as ``_dense_look`` returns them.

    Args:
      found: (similarities, indices) of the neighbours, [batch, k_max]; −1 for those that are none.
      nearest: maps missing [batch], whether no neighbour is a positive, to (similarities, indices)
        [batch, 1] of the nearest keys of the queries' classes; the index is −1 if there is none.
      queries, keys, shared, no_positive: those of the loss.
      log_counts: float32 [memory], if similarities were shifted by their product with the
        temperature and that needs a gradient.
    """
    (s, index), temperature, axis = found, shared.temperature, shared.axis_name
    neighbors = index >= 0
    positives = neighbors & (knn.take(keys.labels, index, axis) == queries.labels[:, None])
    masks = Masks(neighbors, positives, None, None)
    missing, purity = ~jnp.any(positives, axis=-1), _share(masks)
    if no_positive == "nearest":
        no_positive = "drop"  # what remains are queries whose class has no key at all
        found = nearest(missing)
        joins = missing[:, None] & (found[1] >= 0)
        s, index = (jnp.concatenate(x, axis=1) for x in zip((s, index), found))
        masks = Masks(*(jnp.concatenate([x, joins], 1) for x in (neighbors, positives)), None, None)
    s = jnp.where(index >= 0, s, 0.0)
    s = knn.attach_gradient(s, queries.vectors, keys.vectors, index, shared.normalize, axis)
    if log_counts is not None:  # adds 0, and the gradient by the temperature
        change = jax.lax.stop_gradient(temperature) - temperature
        s = s + change * knn.take(log_counts, index, axis)
    return _soft_knn_loss(s, masks, temperature, no_positive), missing, purity


def _streamed_nca(queries: Queries, keys: Keys, shared: Shared):
    """Streamed NCA; returns the same values as ``_dense_nca``."""
    total, same, n_total, n_same = _log_sums(
        queries.vectors / shared.temperature,
        (queries.ids, queries.labels, queries.sources),
        keys,
        shared.normalize,
        shared.axis_name,
    )
    missing = n_same == 0
    losses = jnp.where(missing, 0.0, jnp.maximum(total - same, 0.0))
    return losses, missing, n_same / jnp.maximum(n_total, 1)


def _log_counts(labels, mask, axis_name):
    """Log of ``class_counts`` over the keys of all devices: float32 [memory]."""
    counts = class_counts(sim.gather(labels, axis_name), sim.gather(mask, axis_name))
    if axis_name is not None:
        own = jax.lax.axis_index(axis_name) * len(labels)
        counts = jax.lax.dynamic_slice_in_dim(counts, own, len(labels))
    return jnp.log(counts)


def _anywhere(condition, axis_name):
    """Returns true on all devices if ``condition`` holds in any row on any device.

    All devices must take the same branch, because the branch contains collectives.
    """
    found = jnp.any(condition)
    return found if axis_name is None else jax.lax.pmax(found.astype(jnp.int32), axis_name) > 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _log_sums(queries, of_queries, keys, normalize, axis_name):
    """log Σ e^{q·z} over all admissible keys and over those with the query's label.

    Returns:
      (log-sum over all, log-sum over the same class, count of all, count of the same class), each
      [batch]. The log of an empty sum is given as 0, as in ``masked_logsumexp``.
    """
    return _forward(queries, of_queries, keys, normalize, axis_name)[0]


def _forward(queries, of_queries, keys, normalize, axis_name):
    everyone = jax.tree.map(lambda x: sim.gather(x, axis_name), (queries, *of_queries))

    def visit(sums, block):
        s, same = _block_of_similarities(everyone, block, normalize)
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


def _backward(normalize, axis_name, residuals, slopes):
    queries, of_queries, keys, *sums = residuals
    everyone, *rest = jax.tree.map(
        lambda x: sim.gather(x, axis_name), ((queries, *of_queries), *sums, *slopes[:2])
    )
    total, of_class, slope_total, slope_class = rest

    def visit(gradient, block):
        s, same = _block_of_similarities(everyone, block, normalize)
        weights = slope_total * jnp.exp(s - total) + slope_class * jnp.where(
            same, jnp.exp(s - of_class), 0.0
        )
        vectors = _rows(block, normalize)
        return gradient + jnp.matmul(weights.T, vectors, precision=jax.lax.Precision.HIGHEST)

    gradient = _over_blocks(visit, jnp.zeros(everyone[0].shape, jnp.float32), keys)
    return knn.own_sum(gradient, axis_name), None, None


_log_sums.defvjp(_forward, _backward)


def _block_of_similarities(everyone, block, normalize):
    """Similarities, −∞ for keys that are not admissible, and equality of labels: [keys, batch]."""
    queries, ids, labels, sources = everyone
    s = knn.similarities(
        knn.Queries(queries, ids, None, sources), block._replace(labels=None), normalize
    )
    return s, block.labels[:, None] == labels[None, :]


def _rows(block, normalize):
    """Preprocessed keys of the block; masked keys become zero, as they may hold NaN."""
    vectors = knn.float_rows(block.vectors, normalize)
    return vectors if block.mask is None else jnp.where(block.mask[:, None], vectors, 0.0)


def _own_log_sum(log_sums, axis_name):
    """Adds the devices' log-sums [rows of all devices] and returns this device's rows.

    The log of an empty sum is given as 0.
    """
    if axis_name is not None:
        parts = jax.lax.all_to_all(log_sums, axis_name, split_axis=0, concat_axis=0, tiled=True)
        log_sums = jax.nn.logsumexp(parts.reshape(jax.lax.axis_size(axis_name), -1), axis=0)
    return jnp.where(log_sums > -jnp.inf, log_sums, 0.0)


def _over_blocks(visit, value, keys):
    """Folds ``value = visit(value, block)`` over the blocks of keys; the last may be shorter."""
    block = functools.partial(knn.block_of, keys)
    whole, rest = divmod(keys.vectors.shape[0], NCA_BLOCK)
    if whole:
        starts = NCA_BLOCK * jnp.arange(whole, dtype=jnp.int32)
        value, _ = jax.lax.scan(
            lambda value, start: (visit(value, block(start, NCA_BLOCK)), None), value, starts
        )
    return visit(value, block(whole * NCA_BLOCK, rest)) if rest else value
