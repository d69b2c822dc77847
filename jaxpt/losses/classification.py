"""Losses of a classifier over a fixed list of classes."""

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross-entropy with integer labels, in float32.

    Use:
      The baseline to beat, and what fine-tuning uses. ImageNet's ResNet-50: 90 to 100 epochs,
      SGD 0.1 for each 256 images, weight decay 1e-4, smoothing 0.1.

    Args:
      logits: float [batch, classes].
      labels: int [batch], each in 0 … classes − 1. A label outside gives NaN, which the training
        loop stops on; arrays cannot be checked inside jit.
      label_smoothing: share α of the target that is spread evenly over all classes, 0 ≤ α < 1.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer logits.
      ValueError: for a smoothing outside [0, 1) or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import cross_entropy
      >>> print(f"{cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0]:.4f}")  # log 4
      1.3863

    References:
      Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, for the smoothing.
    """
    sim.check_floats("logits", logits)
    if jnp.ndim(logits) != 2 or jnp.shape(labels) != logits.shape[:1]:
        raise ValueError(
            "logits must be [batch, classes] and labels [batch], got shapes "
            f"{jnp.shape(logits)} and {jnp.shape(labels)}."
        )
    sim.check_rows("where", where, logits.shape[0])
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
    log_p = jax.nn.log_softmax(sim.rows(logits, False, where), axis=-1)
    classes = logits.shape[1]
    own = jnp.take_along_axis(log_p, jnp.clip(labels, 0, classes - 1)[:, None], axis=-1)[:, 0]
    spread = jnp.mean(log_p, axis=-1) if label_smoothing else 0.0  # else a logit of −∞ gives NaN
    losses = -(1 - label_smoothing) * own - label_smoothing * spread
    losses = jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)
    return losses if where is None else jnp.where(where, losses, 0.0)


def cosine_softmax(
    embeddings: jax.Array,
    prototypes: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    label_smoothing: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross-entropy of cosines: a linear classifier of unit vectors, without a bias.

    loss_i = −log softmax(cos(z_i, w_c)/τ) at c = y_i. The prototypes w_c are learnt: gradients
    flow into both. The scale 1/τ bounds the logits, so that τ also bounds how small the loss can
    get: with C classes no less than log(1 + (C−1)·e^(−2/τ)).

    Use:
      Behind a projector and with multi-crop, for features that transfer better than those of
      plain cross-entropy. t-ReX: τ 0.1, 1 large and 8 small crops, 100 epochs.

    Args:
      embeddings: float [batch, dim].
      prototypes: float [classes, dim], one a class.
      labels: int [batch], each in 0 … classes − 1; one outside gives NaN, as in ``cross_entropy``.
      temperature: τ > 0; t-ReX's 0.1.
      label_smoothing: as in ``cross_entropy``.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings or prototypes.
      ValueError: for temperature <= 0, a smoothing outside [0, 1) or shapes that do not match.

    Example:
      Cosine 0.6 with the own class, 0.8 with the other: log(1 + e^((0.8 − 0.6)/0.1)).

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import cosine_softmax
      >>> print(f"{cosine_softmax(jnp.array([[3.0, 4]]), jnp.eye(2), jnp.array([0]))[0]:.4f}")
      2.1269

    References:
      Sariyildiz et al., "No reason for no supervision: improved generalization in supervised
      models" (t-ReX), ICLR 2023.
    """
    sim.check_embeddings("embeddings", embeddings)
    sim.check_embeddings("prototypes", prototypes)
    if prototypes.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"embeddings have dimension {embeddings.shape[1]} but prototypes {prototypes.shape[1]}."
        )
    sim.check_temperature(temperature)
    sim.check_rows("where", where, embeddings.shape[0])
    cosines = sim.similarities(sim.rows(embeddings, where=where), sim.rows(prototypes))
    return cross_entropy(
        cosines / temperature, labels, label_smoothing=label_smoothing, where=where
    )


def prototype_softmax(
    queries: jax.Array,
    keys: jax.Array,
    query_labels: jax.Array,
    key_labels: jax.Array,
    *,
    classes: int,
    temperature: float | jax.Array = 0.1,
    query_ids: jax.Array | None = None,
    key_ids: jax.Array | None = None,
    key_mask: jax.Array | None = None,
    normalize: bool = True,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Softmax over the class means of a labelled memory (online class means, OCM).

    The prototype of a class is the mean of the memory's unit keys with its label, scaled to length
    one; nothing is learnt but the queries' encoder. Classes without a key are not in the softmax;
    a query whose own class has none has loss 0.

    With ids the keys of a query's own image are left out of the mean of the query's class, for
    that query. A key with its id under another label stays where it is.

    Use:
      As ``cosine_softmax`` without weights to learn, which favours the training classes less.
      t-ReX*: memory 8,192, EMA 0.999, τ 0.1.

    Args:
      queries: float [batch, dim].
      keys: float [memory, dim]; no gradient flows into them.
      query_labels: int [batch], each in 0 … classes − 1; one outside gives NaN.
      key_labels: int [memory]; keys with a label outside are in no class.
      classes: how many classes there are, an int.
      temperature: τ > 0; t-ReX's 0.1.
      query_ids, key_ids: int [batch], [memory].
      key_mask: bool [memory]; False keys do not exist.
      normalize: scale queries, keys and means to length one. Turn off only for inner products of
        your own, with plain means.
      where: bool [batch]; False queries get loss 0.
      axis_name: where given, the keys of all devices along that axis are gathered first, as in
        ``look``. A memory that is the same on all devices needs none.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, shapes that do not match, or only one of the ids.

    Example:
      Class 0 has its mean between its two keys, at 45° of the query, class 1 has its key at 90°:
      log(1 + e^(−√½)) at temperature 1.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import prototype_softmax
      >>> query, keys = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
      >>> losses = prototype_softmax(query, keys, jnp.array([0]), jnp.array([0, 0, 1]), classes=2,
      ...                            temperature=1.0)
      >>> print(f"{losses[0]:.4f}")
      0.4008

    References:
      Sariyildiz et al., ICLR 2023 (t-ReX*).
    """
    sim.check_embeddings("queries", queries)
    sim.check_keys("queries", queries, keys)
    sim.check_rows("query_labels", query_labels, queries.shape[0])
    sim.check_rows("key_labels", key_labels, keys.shape[0])
    sim.check_rows("key_mask", key_mask, keys.shape[0])
    sim.check_rows("where", where, queries.shape[0])
    sim.check_temperature(temperature)
    keys, key_labels, key_ids, key_mask = (
        sim.gather(x, axis_name) for x in (keys, key_labels, key_ids, key_mask)
    )
    admissible = sim.candidates((queries.shape[0], keys.shape[0]), query_ids, key_ids, key_mask)
    in_class = (key_labels >= 0) & (key_labels < classes)
    if key_mask is not None:
        in_class &= key_mask
    queries = sim.rows(queries, normalize, where)
    keys = jax.lax.stop_gradient(sim.rows(keys, normalize, in_class))

    logits, included = _class_logits(queries, keys, key_labels, in_class, classes, normalize)
    own_class = query_labels[:, None] == jnp.arange(classes)
    if query_ids is not None:
        remaining = admissible & (query_labels[:, None] == key_labels)
        own_logits = jnp.sum(queries * sim.rows(_masked_means(keys, remaining), normalize), axis=-1)
        logits = jnp.where(own_class, own_logits[:, None], logits)
        included = jnp.where(own_class, jnp.any(remaining, axis=-1)[:, None], included)
    logits = logits / temperature
    losses = sim.masked_logsumexp(logits, included) - jnp.sum(
        jnp.where(own_class, logits, 0.0), axis=-1
    )
    losses = jnp.where(jnp.any(own_class & included, axis=-1), losses, 0.0)
    losses = jnp.where(jnp.any(own_class, axis=-1), losses, jnp.nan)
    return losses if where is None else jnp.where(where, losses, 0.0)


def _class_logits(queries, keys, labels, in_class, classes, normalize):
    """(similarities of queries and class means, whether the class has a key) [batch, classes]."""
    # A product, not a segment sum, whose order of additions differs from run to run on a GPU.
    members = (labels == jnp.arange(classes)[:, None]) & in_class
    counts, sums = jnp.sum(members, axis=1), sim.similarities(members.astype(jnp.float32), keys.T)
    means = sim.rows(sums / jnp.maximum(counts, 1)[:, None], normalize)
    logits = sim.similarities(queries, means)
    return logits, jnp.broadcast_to(counts > 0, logits.shape)


def _masked_means(keys, masks):
    """The mean [batch, dim] of the keys in each row of bool masks [batch, memory].

    Summed anew, not subtracted from the class's sum: where little is left of a class, the rounding
    of a subtraction would be its direction.
    """
    sums = sim.similarities(masks.astype(jnp.float32), keys.T)
    return sums / jnp.maximum(jnp.sum(masks, axis=-1, keepdims=True), 1)
