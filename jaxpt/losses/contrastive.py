"""Contrastive losses over the views of a batch."""

import jax
import jax.numpy as jnp

from jaxpt.losses import similarity as sim


def sup_con(embeddings, labels, *, temperature=0.1, normalize=True, where=None, axis_name=None):
    """Supervised contrastive loss, the *out* form (the mean stands outside of the logarithm).

    Every row is an anchor; all other rows are its contrast, those with its label its positives::

        loss_i = 1/|P(i)| Σ_{p∈P(i)} ( log Σ_{a≠i} exp(s_ia/τ) − s_ip/τ )

    Several views of an image are simply several rows with its label. An anchor without a positive
    has loss 0 and gradient 0, never NaN.

    Args:
      embeddings: float [batch, dim].
      labels: int [batch].
      temperature: τ > 0; the paper's 0.1.
      normalize: scale rows to length one first.
      where: bool [batch]; False rows are neither anchors nor contrast, and get loss 0.
      axis_name: where given, the contrast is the rows of all devices along that axis, and
        gradients flow back to the device that a row came from.

    Returns:
      float32 losses [batch]. Average them over the anchors yourself.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0 or shapes that do not match.

    Example:
      Four unit vectors to the corners of a tetrahedron are all equally far apart: whatever the
      labels, each anchor's positives share 3 equal weights, and the loss is log 3.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import sup_con
      >>> corners = jnp.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
      >>> print([f"{x:.4f}" for x in sup_con(corners, jnp.array([0, 0, 1, 1]))])
      ['1.0986', '1.0986', '1.0986', '1.0986']

    References:
      Khosla et al., "Supervised contrastive learning", NeurIPS 2020, equation 2.
    """
    sim.check_embeddings("embeddings", embeddings)
    sim.check_rows("labels", labels, embeddings.shape[0])
    sim.check_rows("where", where, embeddings.shape[0])
    sim.check_temperature(temperature)
    anchors = sim.unit_vectors(embeddings) if normalize else embeddings.astype(jnp.float32)
    contrast, contrast_labels, contrast_where = (
        sim.gather(x, axis_name) for x in (anchors, labels, where))
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * anchors.shape[0]
    own_row = (first + jnp.arange(anchors.shape[0]))[:, None]
    others = own_row != jnp.arange(contrast.shape[0])[None, :]
    if where is not None:
        others &= contrast_where[None, :]
    logits = sim.similarities(anchors, contrast) / temperature
    positives = others & (labels[:, None] == contrast_labels[None, :])
    n_positives = jnp.sum(positives, axis=-1)
    mean_positive = (jnp.sum(jnp.where(positives, logits, 0.0), axis=-1)
                     / jnp.maximum(n_positives, 1))
    counts = n_positives > 0 if where is None else where & (n_positives > 0)
    return jnp.where(counts, sim.masked_logsumexp(logits, others) - mean_positive, 0.0)


def info_nce(queries, positives, keys, *, temperature=0.1, query_ids=None, key_ids=None,
             key_mask=None, normalize=True, where=None):
    """InfoNCE: each query's own positive against a queue of keys.

    loss_i = log( e^{s_i+/τ} + Σ_j e^{s_ij/τ} ) − s_i+/τ. No gradient flows into positives or keys.

    Args:
      queries: float [batch, dim].
      positives: float [batch, dim], row i being the positive of query i.
      keys: float [memory, dim], the negatives.
      temperature: τ > 0.
      query_ids, key_ids: int [batch], [memory]; keys with the query's id are no negatives of it.
      key_mask: bool [memory]; False keys do not exist.
      normalize: scale all rows to length one first.
      where: bool [batch]; False queries get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0 or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import info_nce
      >>> query, key = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> print(f"{info_nce(query, key, key)[0]:.4f}")  # positive and negative alike: log 2
      0.6931

    References:
      van den Oord et al., arXiv:1807.03748; He et al., "Momentum contrast", CVPR 2020.
    """
    for name, array in ("queries", queries), ("positives", positives), ("keys", keys):
        sim.check_embeddings(name, array)
    if positives.shape != queries.shape:
        raise ValueError(f"positives must have the queries' shape {queries.shape}, got "
                         f"{positives.shape}.")
    if queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries have dimension {queries.shape[1]} but keys {keys.shape[1]}.")
    sim.check_rows("where", where, queries.shape[0])
    sim.check_temperature(temperature)
    queries, positives, keys = (sim.unit_vectors(x) if normalize else x.astype(jnp.float32)
                                for x in (queries, positives, keys))
    positives, keys = jax.lax.stop_gradient((positives, keys))
    own = jnp.sum(queries * positives, axis=-1, keepdims=True)
    negatives = sim.candidates((queries.shape[0], keys.shape[0]), query_ids, key_ids, key_mask)
    logits = jnp.concatenate([own, sim.similarities(queries, keys)], axis=1) / temperature
    included = jnp.concatenate([jnp.ones(own.shape, bool), negatives], axis=1)
    losses = sim.masked_logsumexp(logits, included) - logits[:, 0]
    return losses if where is None else jnp.where(where, losses, 0.0)
