"""Contrastive losses over the views of a batch, a queue of keys, or both."""

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim
from jaxpt.ops.knn import Keys, Queries

FORMS = ("out", "in")


def sup_con(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    form: str = "out",
    temperature: float | jax.Array = 0.1,
    keys: jax.Array | None = None,
    key_labels: jax.Array | None = None,
    ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    label_sources: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Supervised contrastive loss over a batch and, optionally, a memory.

    Every row is an anchor. Its contrast A(i) is the set of all other rows, and its positives P(i)
    are those with its label. The mean over the positives is taken outside or inside the
    logarithm::

        out: loss_i = 1/|P(i)| Σ_{p∈P(i)} ( log Σ_{a∈A(i)} exp(s_ia/τ) − s_ip/τ )
        in:  loss_i = −log( 1/|P(i)| Σ_{p∈P(i)} exp(s_ip/τ) / Σ_{a∈A(i)} exp(s_ia/τ) )

    *In* is never larger than *out*: one near positive makes it small, whereas *out* pulls all of
    them. Several views of an image are several rows with the same label. An anchor without a
    positive has loss 0 and gradient 0, never NaN.

    With ``keys``, the contrast of an anchor is the other rows of the batch and the keys. No
    gradient flows into the keys.

    Use:
      Pulling each class together into one place, for tasks with the training labels. Needs two
      views and large batches, or a memory. Khosla et al.: τ 0.1; on CIFAR batch 1,024, learning
      rate 0.5, 1,000 epochs; on ImageNet batch 6,144, LARS, 350 epochs.

    Args:
      embeddings: float [batch, dim].
      labels: int [batch].
      form: "out", which the paper found to be better, or "in".
      temperature: τ > 0; 0.1 is the paper's.
      keys: float [memory, dim], a memory that is the same on all devices.
      key_labels: int [memory]; required with keys.
      ids, key_ids: int [batch], [memory]; keys with the anchor's id are left out of its contrast.
        Rows of the batch are never left out by id, since other views of an image are positives.
      key_mask: bool [memory]; False keys are ignored (empty slots, for example).
      label_sources: int [classes], the source of every class, if several datasets with label spaces
        of their own are mixed: the contrast of an anchor is then of its source. None contrasts
        with all.
      normalize: scale rows to length one first.
      where: bool [batch]; False rows are neither anchors nor contrast, and get loss 0.
      axis_name: mapped axis over which the contrast extends: the rows of all devices. Gradients
        flow back to the device that a row came from.

    Returns:
      float32 losses [batch], not averaged over the anchors.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for an unknown form, temperature <= 0, shapes that do not match, only one of the
        ids, or ``key_labels``, ``key_ids`` or ``key_mask`` without keys.

    Example:
      The corners of a tetrahedron are all equally far apart, so for any labels the three other rows
      have equal weights and the loss is log 3.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import sup_con
      >>> corners = jnp.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
      >>> print([f"{x:.4f}" for x in sup_con(corners, jnp.array([0, 0, 1, 1]))])
      ['1.0986', '1.0986', '1.0986', '1.0986']

    References:
      Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equations 2 and 3.
    """
    check_batch(embeddings, where, temperature)
    sim.check_rows("labels", labels, embeddings.shape[0])
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}.")
    anchors = sim.rows(embeddings, normalize, where)
    s, others = in_batch(anchors, where, axis_name)
    others_labels = sim.gather(labels, axis_name)
    if keys is not None:
        _check_memory(embeddings, keys, key_labels)
        memory = in_memory(anchors, keys, ids, key_ids, key_mask, normalize)
        s, others = (jnp.concatenate(pair, axis=1) for pair in zip((s, others), memory))
        others_labels = jnp.concatenate([others_labels, key_labels])
    elif not all(x is None for x in (key_labels, key_ids, key_mask)):
        raise ValueError("key_labels, key_ids and key_mask need keys.")
    if label_sources is not None:
        sources = (sim.sources_of(label_sources, x) for x in (labels, others_labels))
        others &= sim.candidates(s.shape, None, None, None, *sources)
    same = labels[:, None] == others_labels[None, :]
    return mean_over_positives(s / temperature, others, others & same, form, where)


def nt_xent(
    embeddings: jax.Array,
    ids: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Normalised temperature-scaled cross-entropy (NT-Xent), the loss of SimCLR.

    Every row is an anchor, the other views of its image are its positives, and all other rows of
    the batch are its contrast. This is ``sup_con`` with the image as the class. With two views of
    each image::

        loss_i = log Σ_{a≠i} exp(s_ia/τ) − s_ij/τ,  j the other view of i's image

    With more views the mean over the positives is taken outside the logarithm.

    Use:
      Images without labels, with large batches. Chen et al.: τ 0.5 on CIFAR-10 and 0.1 on
      ImageNet, two views with strong augmentation, a projector, LARS.

    Args:
      embeddings: float [batch, dim], all views.
      ids: int [batch]; rows with the same id are views of the same image.
      temperature: τ > 0; 0.5 is SimCLR's for CIFAR-10.
      normalize, where, axis_name: as for ``sup_con``.

    Returns:
      float32 losses [batch]; 0 for an image with a single view.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0 or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import nt_xent
      >>> views = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{nt_xent(views, jnp.array([0, 1, 0, 1]))[0]:.4f}")  # log(e² + 2) − 2
      0.2395

    References:
      Chen et al., "A simple framework for contrastive learning of visual representations",
      ICML 2020, equation 1.
    """
    sim.check_embeddings("embeddings", embeddings)
    sim.check_rows("ids", ids, embeddings.shape[0])
    return sup_con(
        embeddings,
        ids,
        temperature=temperature,
        normalize=normalize,
        where=where,
        axis_name=axis_name,
    )


def info_nce(
    queries: jax.Array,
    positives: jax.Array,
    keys: jax.Array | None = None,
    *,
    temperature: float | jax.Array = 0.1,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE loss, each query's positive against a queue of keys or against the batch.

    ::

        loss_i = log( e^{s_i+/τ} + Σ_j e^{s_ij/τ} ) − s_i+/τ

    With ``keys`` the negatives j are the keys, as in MoCo. Without keys they are the positives of
    the other rows, as in MoCo v3 (which multiplies the loss by 2τ; this function does not). No
    gradient flows into positives or keys.

    Use:
      Images without labels, with small batches if a queue provides the negatives. MoCo v2: 65,536
      keys, EMA 0.999, τ 0.2; MoCo v3: in-batch, predictor, EMA from 0.99, τ 1. Added to a
      supervised loss (``own_view`` of jaxpt's LOOK), it keeps the images of a class apart.

    Args:
      queries: float [batch, dim].
      positives: float [batch, dim], row i being the positive of query i.
      keys: float [memory, dim], the negatives; None takes the negatives from the batch.
      temperature: τ > 0.
      query_ids, key_ids: int [batch], [memory]; keys with the query's id are not its negatives.
        Without keys, ``query_ids`` leaves out the other rows with the query's id.
      key_mask: bool [memory]; False keys are ignored.
      normalize: scale all rows to length one first.
      where: bool [batch]; False queries get loss 0, and their positives are not used as negatives.
      axis_name: mapped axis over which the negatives are gathered: the positives of all devices, or
        their keys, of which each device passes its own part. With keys, leave it out if the queue
        is the same on all devices.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, shapes that do not match, only one of the ids with keys, or
        ``key_ids`` or ``key_mask`` without keys.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import info_nce
      >>> query, key = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> print(f"{info_nce(query, key, key)[0]:.4f}")  # equally near: log 2
      0.6931

    References:
      van den Oord et al., arXiv:1807.03748; He et al., "Momentum contrast", CVPR 2020; Chen et
      al., "An empirical study of training self-supervised vision transformers", ICCV 2021.
    """
    if keys is not None:
        s, candidates, own, *_ = own_and_keys(
            Queries(queries, query_ids, None),
            positives,
            Keys(keys, key_ids, None, key_mask, None),
            temperature,
            normalize,
            where,
            axis_name,
        )
    else:
        if key_ids is not None or key_mask is not None:
            raise ValueError("key_ids and key_mask need keys.")
        check_pairs(queries, positives, temperature, where)
        sim.check_rows("query_ids", query_ids, queries.shape[0])
        queries, positives = (sim.rows(x, normalize, where) for x in (queries, positives))
        s, candidates = in_batch(queries, where, axis_name, jax.lax.stop_gradient(positives))
        own = sim.own_rows(queries.shape[0], axis_name)
        if query_ids is not None:
            candidates &= query_ids[:, None] != sim.gather(query_ids, axis_name)[None, :]
        candidates |= own
    return cross_entropy_of(s / temperature, candidates, own, where)


def nn_clr(
    embeddings: jax.Array,
    predictions: jax.Array,
    keys: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    key_ids: jax.Array | None = None,
    query_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """NNCLR loss, with the key nearest to one view as the positive of the other view's prediction.

    ::

        NN_i = the key most similar to embeddings[i]
        loss_i = log Σ_k e^{NN_i·p_k/τ} − NN_i·p_i/τ,  k over the predictions p of the batch

    Gradients flow into the predictions only, including those used as contrast. The loss is not
    symmetric: call it once for each order of the two views and average.

    Use:
      Images without labels, if augmentations do not cover the variation within a class. Dwibedi et
      al.: τ 0.1, memory 98,304, a predictor, 1,000 epochs.

    Args:
      embeddings: float [batch, dim], projections of the first view.
      predictions: float [batch, dim], predictor outputs of the second view of the same images.
      keys: float [memory, dim], earlier projections, a memory that is the same on all devices.
      temperature: τ > 0; 0.1 is the paper's.
      key_ids, query_ids: int [memory], [batch]; keys with the row's id are not its neighbours.
        The paper has no such rule.
      key_mask: bool [memory]; False keys are ignored (empty slots, for example).
      normalize: scale all rows to length one first.
      where: bool [batch]; False rows get loss 0, and their predictions are not used as contrast.
      axis_name: mapped axis over which the contrast extends: the predictions of all devices.

    Returns:
      float32 losses [batch]; 0 for a row without an admissible key.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, shapes that do not match, or only one of the ids.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import nn_clr
      >>> views, keys = jnp.array([[1.0, 0.1], [0.1, 1.0]]), jnp.eye(2)
      >>> print(f"{nn_clr(views, jnp.eye(2), keys, temperature=1.0)[0]:.4f}")  # log(e + 1) − 1
      0.3133

    References:
      Dwibedi et al., "With a little help from my friends", ICCV 2021, equation 2.
    """
    check_batch(embeddings, where, temperature)
    sim.check_like("predictions", predictions, "embeddings", embeddings)
    sim.check_keys("embeddings", embeddings, keys)
    candidates = sim.candidates((embeddings.shape[0], keys.shape[0]), query_ids, key_ids, key_mask)
    embeddings, predictions = (sim.rows(x, normalize, where) for x in (embeddings, predictions))
    keys = sim.rows(keys, normalize, key_mask)
    to_keys = jnp.where(candidates, sim.similarities(embeddings, keys), -jnp.inf)
    neighbors = jax.lax.stop_gradient(keys[jnp.argmax(to_keys, axis=-1)])
    s, others = in_batch(neighbors, where, axis_name, predictions)
    own = sim.own_rows(embeddings.shape[0], axis_name)
    counts = jnp.any(candidates, axis=-1)
    return cross_entropy_of(
        s / temperature, others | own, own, counts if where is None else counts & where
    )


# Shared parts of the contrastive losses, which supervised.py uses as well.


def in_batch(anchors, where, axis_name, contrast=None):
    """Similarities of the anchors to the rows of all devices.

    Args:
      anchors: float32 [batch, dim].
      where: bool [batch] or None.
      axis_name: mapped axis over which rows are gathered, or None.
      contrast: float32 [batch, dim], the rows to compare with; None means the anchors.

    Returns:
      (similarities, bool mask of the other unmasked rows), each [batch, rows of all devices].
    """
    rows = sim.gather(anchors if contrast is None else contrast, axis_name)
    others = ~sim.own_rows(anchors.shape[0], axis_name)
    if where is not None:
        others &= sim.gather(where, axis_name)[None, :]
    return sim.similarities(anchors, rows), others


def in_memory(anchors, keys, query_ids, key_ids, key_mask, normalize):
    """Similarities of the anchors to the keys, without gradient into the keys.

    Returns:
      (similarities, mask of admissible keys), each [batch, memory].
    """
    allowed = sim.candidates((anchors.shape[0], keys.shape[0]), query_ids, key_ids, key_mask)
    keys = jax.lax.stop_gradient(sim.rows(keys, normalize, key_mask))
    return sim.similarities(anchors, keys), allowed


def own_and_keys(queries: Queries, positives, keys: Keys, temperature, normalize, where, axis_name):
    """Checks the arguments and compares queries with their own positive and with all keys.

    Column 0 of the results is the query's own positive; the others are the keys of all devices.

    Returns:
      (similarities, mask of candidates, mask of the own positive), each [batch, 1 + memory], then
      the preprocessed positives and keys, without gradient.
    """
    check_pairs(queries.vectors, positives, temperature, where)
    sim.check_keys("queries", queries.vectors, keys.vectors)
    sim.check_rows("key_mask", keys.mask, keys.vectors.shape[0])
    keys = jax.tree.map(lambda x: sim.gather(x, axis_name), keys)
    shape = queries.vectors.shape[0], keys.vectors.shape[0]
    allowed = sim.candidates(shape, queries.ids, keys.ids, keys.mask)
    rows, positives = (sim.rows(x, normalize, where) for x in (queries.vectors, positives))
    positives, stored = jax.lax.stop_gradient(
        (positives, sim.rows(keys.vectors, normalize, keys.mask))
    )
    own = jnp.sum(rows * positives, axis=-1, keepdims=True)
    s = jnp.concatenate([own, sim.similarities(rows, stored)], axis=1)
    candidates = jnp.concatenate([jnp.ones_like(own, bool), allowed], axis=1)
    return s, candidates, jnp.broadcast_to(jnp.arange(s.shape[1]) == 0, s.shape), positives, stored


def cross_entropy_of(logits, candidates, targets, where):
    """Cross-entropy log Σ_candidates e^logit − Σ targets·logit per row; 0 for masked rows.

    Args:
      logits: float32 [batch, n].
      candidates: bool [batch, n].
      targets: bool or float32 [batch, n]; each row sums to 1 and is 0 outside the candidates.
      where: bool [batch] or None.

    Returns:
      float32 [batch].
    """
    losses = sim.masked_logsumexp(logits, candidates) - jnp.sum(logits * targets, axis=-1)
    return losses if where is None else jnp.where(where, losses, 0.0)


def mean_over_positives(logits, contrast, positives, form, where):
    """Computes either form of ``sup_con`` from its logits and masks, each [batch, n]: [batch]."""
    n_positives = jnp.sum(positives, axis=-1, dtype=jnp.int32)
    if form == "out":
        pull = jnp.sum(jnp.where(positives, logits, 0.0), axis=-1) / jnp.maximum(n_positives, 1)
    else:
        pull = sim.masked_logsumexp(logits, positives) - jnp.log(jnp.maximum(n_positives, 1))
    counts = n_positives > 0 if where is None else where & (n_positives > 0)
    return jnp.where(counts, sim.masked_logsumexp(logits, contrast) - pull, 0.0)


def check_batch(embeddings, where, temperature, name="embeddings"):
    sim.check_embeddings(name, embeddings)
    sim.check_rows("where", where, embeddings.shape[0])
    sim.check_temperature(temperature)


def check_pairs(queries, positives, temperature, where):
    check_batch(queries, where, temperature, "queries")
    sim.check_like("positives", positives, "queries", queries)


def _check_memory(embeddings, keys, key_labels):
    sim.check_keys("embeddings", embeddings, keys)
    if key_labels is None:
        raise ValueError("keys need key_labels.")
    sim.check_rows("key_labels", key_labels, keys.shape[0])
