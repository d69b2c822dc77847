"""Supervised contrastive losses over a memory, or with instance discrimination within classes."""

import jax
import jax.numpy as jnp

from jaxpt.losses import contrastive
from jaxpt.ops import similarity as sim
from jaxpt.ops.knn import Keys, Queries


def sup_moco(
    queries: jax.Array,
    positives: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.07,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """SupMoCo loss, the *out* form of ``sup_con`` over a queue of labelled keys.

    The positives P(i) of a query are its own positive and the keys of its class. Its candidates
    A(i) are its own positive and all keys::

        loss_i = 1/|P(i)| Σ_{p∈P(i)} ( log Σ_{a∈A(i)} e^{s_ia/τ} − s_ip/τ )

    Use:
      Like ``sup_con``, if batches are too small to hold several images of every class. Majumder et
      al.: 64,000 keys, EMA 0.999, τ 0.07.

    Args:
      queries: float [batch, dim].
      positives: float [batch, dim]; row i is the target encoder's embedding of another view of
        query i's image. No gradient flows into it.
      keys: float [memory, dim]; no gradient flows into them.
      query_labels, key_labels: int [batch], [memory].
      temperature: τ > 0; 0.07 is the paper's.
      query_ids, key_ids: int [batch], [memory]; keys with the query's id are left out.
      key_mask: bool [memory]; False keys are ignored (empty slots, for example).
      normalize: scale all rows to length one first.
      where: bool [batch]; False queries get loss 0.
      axis_name: mapped axis along which the keys of all devices are gathered first, each device
        passing its own part. Leave it out if the memory is the same on all devices.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, shapes that do not match, or only one of the ids.

    Example:
      One key of the query's class and one key of another class. Both keys and the query's own
      positive have cosine 0: three equal weights, loss log 3.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import sup_moco
      >>> query, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> keys = jnp.array([[0.0, 1.0], [0.0, -1.0]])
      >>> print(f"{sup_moco(query, other, keys, jnp.array([0]), jnp.array([0, 1]))[0]:.4f}")
      1.0986

    References:
      Majumder et al., "Supervised momentum contrastive learning for few-shot classification",
      arXiv:2101.11058.
    """
    s, candidates, own, same, *_ = _compare(
        Queries(queries, query_ids, query_labels),
        positives,
        Keys(keys, key_ids, key_labels, key_mask, None),
        temperature,
        normalize,
        where,
        axis_name,
    )
    return contrastive.cross_entropy_of(
        s / temperature, candidates, _shares(candidates & same), where
    )


def exemplar(
    queries: jax.Array,
    positives: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.2,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Exemplar v2 loss, InfoNCE with the keys of other classes as the only negatives.

    Images of the same class are neither pushed apart nor pulled together::

        loss_i = log( e^{s_i+/τ} + Σ_{y_j≠y_i} e^{s_ij/τ} ) − s_i+/τ

    Use:
      Instance discrimination that uses labels only to remove false negatives, so coarse labels do
      little harm. Zhao et al.: MoCo v2's settings.

    Args:
      queries, positives, keys, query_labels, key_labels, query_ids, key_ids, key_mask, normalize,
        where, axis_name: as for ``sup_moco``.
      temperature: τ > 0; 0.2 is MoCo v2's.

    Returns:
      float32 losses [batch]; 0 for a query without a key of another class.

    Raises:
      TypeError, ValueError: as ``sup_moco``.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import exemplar
      >>> query, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> keys = jnp.array([[1.0, 0.0], [0.0, -1.0]])  # the near key has the query's label
      >>> print(f"{exemplar(query, other, keys, jnp.array([0]), jnp.array([0, 1]))[0]:.4f}")
      0.6931

    References:
      Zhao et al., "What makes instance discrimination good for transfer learning?", ICLR 2021.
    """
    s, candidates, own, same, *_ = _compare(
        Queries(queries, query_ids, query_labels),
        positives,
        Keys(keys, key_ids, key_labels, key_mask, None),
        temperature,
        normalize,
        where,
        axis_name,
    )
    return contrastive.cross_entropy_of(s / temperature, own | (candidates & ~same), own, where)


def mask_con(
    queries: jax.Array,
    positives: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    target_temperature: float = 0.05,
    weight: float = 1.0,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """MaskCon loss, a cross-entropy with soft targets that favour near keys of the same class.

    With q_i a query, v_i its own positive, Q the keys and S(i) the admissible keys of its class::

        z_ij = e^{(v_i·Q_j − max_{l∈S(i)} v_i·Q_l)/τ_t} for j ∈ S(i), 0 for other keys
        t_i  = w·[1, z_i] / (1 + Σ_j z_ij) + (1 − w)·[1, 0]   (own positive first)
        loss_i = −Σ_j t_ij log softmax([q_i·v_i, q_i·Q]/τ)_j

    The own positive thus has the same weight as the nearest key of its class: the softmax over S(i)
    is divided by its largest entry, the own positive is added with weight 1, and the sum is
    normalised to 1. w = 0 is ``info_nce``; w = 1 with τ_t → ∞ is ``sup_moco``. No gradient flows
    into the targets.

    Use:
      Coarse labels if fine classes matter; the published loss most similar to ``look``. Feng and
      Patras: τ 0.1, target τ 0.05, weight 0.5 to 1, 8,192 keys, EMA 0.99.

    Args:
      queries, positives, keys, query_labels, key_labels, query_ids, key_ids, key_mask, normalize,
        where, axis_name: as for ``sup_moco``.
      temperature: τ > 0; 0.1 is the paper's.
      target_temperature: τ_t > 0; 0.05 and 0.1 are the paper's.
      weight: w in 0 … 1, share of the soft target in the target; the paper uses 0.5 to 1.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for a temperature <= 0, a weight outside 0 … 1, shapes that do not match, or only
        one of the ids.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import mask_con
      >>> query, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> keys = jnp.array([[0.0, 1.0], [0.0, -1.0]])  # all at cosine 0: log 3 for any target
      >>> print(f"{mask_con(query, other, keys, jnp.array([0]), jnp.array([0, 1]))[0]:.4f}")
      1.0986

    References:
      Feng and Patras, "MaskCon: masked contrastive learning for coarse-labelled dataset",
      CVPR 2023, and its code, from which the treatment of the own positive and the weight is taken.
    """
    sim.check_temperature(target_temperature, "target_temperature")
    sim.check_weight(weight)
    s, candidates, own, same, positives, keys = _compare(
        Queries(queries, query_ids, query_labels),
        positives,
        Keys(keys, key_ids, key_labels, key_mask, None),
        temperature,
        normalize,
        where,
        axis_name,
    )
    soft = _soft_targets(positives, keys, (candidates & same)[:, 1:], target_temperature)
    targets = weight * soft + (1 - weight) * own
    return contrastive.cross_entropy_of(s / temperature, candidates, targets, where)


def grafit(
    queries: jax.Array,
    positives: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    weight: float = 0.5,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Grafit loss in MaskCon's formulation, a class loss and an instance loss over one queue.

    loss = w·sup_moco + (1 − w)·info_nce, both with temperature τ. In Grafit's own paper the class
    loss is that of a nearest-neighbour classifier (``nca``); to get it, combine ``nca`` and
    ``info_nce``.

    Use:
      Like ``mask_con`` but simpler: a fixed mixture, weight 0.5.

    Args:
      queries, positives, keys, query_labels, key_labels, query_ids, key_ids, key_mask, normalize,
        where, axis_name: as for ``sup_moco``.
      temperature: τ > 0; 0.1 as in MaskCon's comparison.
      weight: w in 0 … 1, share of the class loss; 0.5 as in MaskCon's comparison.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, a weight outside 0 … 1, shapes that do not match, or only
        one of the ids.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import grafit
      >>> query, other = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> keys = jnp.array([[0.0, 1.0], [0.0, -1.0]])
      >>> print(f"{grafit(query, other, keys, jnp.array([0]), jnp.array([0, 1]))[0]:.4f}")  # log 3
      1.0986

    References:
      Touvron et al., "Grafit: learning fine-grained image representations with coarse labels",
      ICCV 2021; Feng and Patras, CVPR 2023, for this form of it.
    """
    sim.check_weight(weight)
    s, candidates, own, same, *_ = _compare(
        Queries(queries, query_ids, query_labels),
        positives,
        Keys(keys, key_ids, key_labels, key_mask, None),
        temperature,
        normalize,
        where,
        axis_name,
    )
    targets = weight * _shares(candidates & same) + (1 - weight) * own
    return contrastive.cross_entropy_of(s / temperature, candidates, targets, where)


def _compare(queries: Queries, positives, keys: Keys, temperature, normalize, where, axis_name):
    """Extends ``contrastive.own_and_keys`` by a mask of the query's class.

    Returns:
      (similarities, candidates, own, same class), each [batch, 1 + memory], then the preprocessed
      positives and keys. The own positive counts as same class.
    """
    s, candidates, own, *targets = contrastive.own_and_keys(
        queries, positives, keys, temperature, normalize, where, axis_name
    )
    rows = queries.vectors.shape[0]
    sim.check_rows("query_labels", queries.labels, rows)
    sim.check_rows("key_labels", keys.labels, keys.vectors.shape[0])
    same = queries.labels[:, None] == sim.gather(keys.labels, axis_name)[None, :]
    same = jnp.concatenate([jnp.ones((rows, 1), bool), same], axis=1)
    return s, candidates, own, same, *targets


def _shares(positives):
    """Uniform targets over a mask [batch, n] that has at least one entry in each row."""
    return positives.astype(jnp.float32) / jnp.sum(positives, axis=-1, keepdims=True)


def _soft_targets(positives, keys, same_class, temperature):
    """MaskCon's soft targets [batch, 1 + memory]; rows sum to 1, the own positive comes first."""
    s = sim.similarities(positives, keys)
    nearest = jnp.max(s, axis=-1, keepdims=True, where=same_class, initial=-jnp.inf)
    z = jnp.where(same_class, jnp.exp((s - nearest) / temperature), 0.0)
    z = jnp.concatenate([jnp.ones_like(nearest), z], axis=1)
    return jax.lax.stop_gradient(z / jnp.sum(z, axis=-1, keepdims=True))


def spread(
    embeddings: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    weight: float = 0.5,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """SupCon plus class-conditional InfoNCE, which keeps the images of a class apart.

    ::

        loss_i = (1 − w)·sup_con_i + w·( log Σ_{a≠i, y_a=y_i} e^{s_ia/τ} − mean_{p} s_ip/τ )

    where p runs over the other views of i's image, and sup_con is the *out* form. The first term is
    0 for an anchor without another row of its class, the second for one without another view.

    The authors' code compares each pair of views separately and leaves the other positives out of
    SupCon's denominator; here all views are rows of one batch, as in ``sup_con``.

    Use:
      Like ``sup_con``, for tasks that suffer from its collapsed classes (coarse to fine, transfer);
      needs two views of each image. Chen et al.: τ 0.5, weight 0.5.

    Args:
      embeddings: float [batch, dim], all views.
      labels: int [batch].
      ids: int [batch]; rows with the same id are views of the same image and share its label.
      temperature: τ > 0; 0.5 is the authors'.
      weight: w in 0 … 1, share of the class-conditional term; 0.5 in the authors' code.
      normalize: scale rows to length one first.
      where: bool [batch]; False rows are neither anchors nor contrast, and get loss 0.
      axis_name: mapped axis over which the contrast extends: the rows of all devices. Gradients
        flow back to the device that a row came from.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, a weight outside 0 … 1 or shapes that do not match.

    Example:
      The corners of a tetrahedron as two views of each of two images of one class: SupCon is log 3,
      and so is the class-conditional term.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import spread
      >>> corners = jnp.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
      >>> print(f"{spread(corners, jnp.zeros(4, int), jnp.array([0, 0, 1, 1]))[0]:.4f}")
      1.0986

    References:
      Chen et al., "Perfectly balanced: improving transfer and robustness of supervised contrastive
      learning", ICML 2022.
    """
    contrastive.check_batch(embeddings, where, temperature)
    sim.check_weight(weight)
    sim.check_rows("labels", labels, embeddings.shape[0])
    sim.check_rows("ids", ids, embeddings.shape[0])
    s, others = contrastive.in_batch(sim.rows(embeddings, normalize, where), where, axis_name)
    same_class, same_image = (
        x[:, None] == sim.gather(x, axis_name)[None, :] for x in (labels, ids)
    )
    logits, classmates = s / temperature, others & same_class
    by_class = contrastive.mean_over_positives(logits, others, classmates, "out", where)
    by_image = contrastive.mean_over_positives(
        logits, classmates, classmates & same_image, "out", where
    )
    return (1 - weight) * by_class + weight * by_image
