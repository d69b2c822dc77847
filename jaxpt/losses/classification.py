"""Losses of classifiers over a fixed number of classes."""

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    label_sources: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the softmax cross-entropy between logits and integer labels, in float32.

    Use:
      The baseline of pre-training, and the loss of fine-tuning. ResNet-50 on ImageNet: 90 to 100
      epochs, SGD with learning rate 0.1 per 256 images, weight decay 1e-4, smoothing 0.1.

    Args:
      logits: float [batch, classes].
      labels: int [batch], each in 0 … classes − 1. A label outside this range gives NaN, on which
        the training loop stops, since values cannot be checked inside jit.
      label_smoothing: share α of the target that is spread evenly over all classes, 0 ≤ α < 1.
      label_sources: int [classes], the source of every class, if several datasets with label spaces
        of their own are mixed: the softmax, and the smoothing, are then over the classes of the
        label's source, so that each source has a head of its own. None takes all classes.
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
      Szegedy et al., "Rethinking the Inception architecture", CVPR 2016, for label smoothing.
    """
    sim.check_floats("logits", logits)
    if jnp.ndim(logits) != 2 or jnp.shape(labels) != logits.shape[:1]:
        raise ValueError(
            "logits must be [batch, classes] and labels [batch], got shapes "
            f"{jnp.shape(logits)} and {jnp.shape(labels)}."
        )
    sim.check_rows("labels", labels, logits.shape[0])
    sim.check_rows("where", where, logits.shape[0])
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}.")
    classes, labels = logits.shape[1], sim.wide(labels)
    inside = jnp.clip(labels, 0, classes - 1)
    of_head = None
    if label_sources is not None:
        of_head = head_of(label_sources, inside, classes)
    log_p = jax.nn.log_softmax(sim.rows(logits, False, where), axis=-1, where=of_head)
    own = jnp.take_along_axis(log_p, inside[:, None], axis=-1)[:, 0]
    spread = jnp.mean(log_p, axis=-1, where=of_head) if label_smoothing else 0.0  # 0 · −∞ is NaN
    losses = -(1 - label_smoothing) * own - label_smoothing * spread
    losses = jnp.where((labels >= 0) & (labels < classes), losses, jnp.nan)
    return losses if where is None else jnp.where(where, losses, 0.0)


def head_of(label_sources: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Mask of the classes of each label's source: bool [batch, classes]."""
    if jnp.shape(label_sources) != (classes,):
        raise ValueError(
            f"label_sources must have shape [{classes}], got shape {jnp.shape(label_sources)}."
        )
    of_label = sim.sources_of(label_sources, labels)
    return of_label[:, None] == jnp.asarray(label_sources)[None, :]


def entropy(logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Computes the entropy of the softmax of the logits, in float32.

    loss_i = −Σ_c p_c log p_c, p = softmax(logits_i): 0 for a confident prediction, the logarithm of
    the number of classes for a uniform one.

    Use:
      Semi-supervised learning: the loss of images without labels. Minimised alone, it also rewards
      giving all images one class. In minimax entropy, the features minimise it and the classifier
      maximises it: pass the classifier's parameters through ``reverse_gradient``. Weight 0.1 of
      the mean.

    Args:
      logits: float [batch, classes].
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer logits.
      ValueError: for shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import entropy
      >>> print(f"{entropy(jnp.zeros((1, 4)))[0]:.4f}")  # log 4
      1.3863

    References:
      Grandvalet and Bengio, "Semi-supervised learning by entropy minimization", NeurIPS 2004. Saito
      et al., "Semi-supervised domain adaptation via minimax entropy", ICCV 2019.
    """
    sim.check_embeddings("logits", logits)
    sim.check_rows("where", where, logits.shape[0])
    log_p = jax.nn.log_softmax(sim.rows(logits, False, where), axis=-1)
    # A class that is masked by −∞ adds nothing: p log p goes to 0.
    finite = jnp.where(log_p == -jnp.inf, 0.0, log_p)
    losses = -jnp.sum(jnp.exp(log_p) * finite, axis=-1)
    return losses if where is None else jnp.where(where, losses, 0.0)


def reverse_gradient(x: jax.Array) -> jax.Array:
    """Returns x itself, but with the opposite gradient.

    Use:
      Adversarial objectives in one backward pass: what depends on a loss through
      ``reverse_gradient`` maximises it while everything else minimises it.

    Args:
      x: float array of any shape, of normal numbers below half of the largest.

    Returns:
      an array equal to x, bit for bit.

    Raises:
      TypeError: for an integer array.

    Example:
      >>> import jax
      >>> from jaxpt.losses import reverse_gradient
      >>> print(reverse_gradient(jax.numpy.float32(3)), jax.grad(reverse_gradient)(3.0))
      3.0 -1.0

    References:
      Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015.
    """
    sim.check_floats("x", x)
    return 2 * jax.lax.stop_gradient(x) - x  # exact: doubling is, and so is the difference


def cosine_softmax(
    embeddings: jax.Array,
    prototypes: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.1,
    label_smoothing: float = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross-entropy of cosine logits, a bias-free linear classifier of unit vectors.

    loss_i = −log softmax(cos(z_i, w_c)/τ) at c = y_i. The prototypes w_c are learnt: gradients
    flow into embeddings and prototypes. The logits are at most 1/τ in magnitude, so τ also bounds
    the loss from below: with C classes it is at least log(1 + (C−1)·e^(−2/τ)).

    Use:
      Pre-training with a projector and multi-crop, for features that transfer better than those of
      plain cross-entropy. Plain t-ReX: τ 0.1, 1 large and 8 small crops, 100 epochs.

    Args:
      embeddings: float [batch, dim].
      prototypes: float [classes, dim], one per class.
      labels: int [batch], each in 0 … classes − 1; others give NaN, as in ``cross_entropy``.
      temperature: τ > 0; 0.1 is t-ReX's.
      label_smoothing: as in ``cross_entropy``.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings or prototypes.
      ValueError: for temperature <= 0, a smoothing outside [0, 1) or shapes that do not match.

    Example:
      Cosine 0.6 with the correct class, 0.8 with the other: log(1 + e^((0.8 − 0.6)/0.1)).

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
    """Softmax cross-entropy over the class means of a labelled memory (online class means, OCM).

    The prototype of a class is the mean of the memory's unit keys with its label, scaled to length
    one, so there are no prototypes to learn. Classes without a key are left out of the softmax; a
    query whose own class has no key has loss 0.

    With ids, the mean of a query's class excludes, for that query, the keys with the query's id. A
    key with the query's id but another label stays in the mean of its class.

    Use:
      Like ``cosine_softmax`` but without learnt weights, which specialises less to the training
      classes. t-ReX and t-ReX*: memory 8,192, EMA 0.999, τ 0.1.

    Args:
      queries: float [batch, dim].
      keys: float [memory, dim]; no gradient flows into them.
      query_labels: int [batch], each in 0 … classes − 1; others give NaN.
      key_labels: int [memory]; keys with a label outside this range belong to no class.
      classes: number of classes, an int.
      temperature: τ > 0; 0.1 is t-ReX's.
      query_ids, key_ids: int [batch], [memory].
      key_mask: bool [memory]; False keys are ignored.
      normalize: scale queries, keys and means to length one. Turn off only to use other inner
        products; the means are then plain means.
      where: bool [batch]; False queries get loss 0.
      axis_name: mapped axis along which the keys of all devices are gathered first, as in ``look``.
        Leave it out if the memory is the same on all devices.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, shapes that do not match, or only one of the ids.

    Example:
      The mean of class 0 lies between its two keys, at 45° to the query; the key of class 1 is at
      90°: log(1 + e^(−√½)) at temperature 1.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import prototype_softmax
      >>> query, keys = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
      >>> losses = prototype_softmax(query, keys, jnp.array([0]), jnp.array([0, 0, 1]), classes=2,
      ...                            temperature=1.0)
      >>> print(f"{losses[0]:.4f}")
      0.4008

    References:
      Sariyildiz et al., ICLR 2023 (t-ReX and t-ReX*), equation 2.
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
    query_labels, key_labels = sim.wide(query_labels), sim.wide(key_labels)
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
    """Returns (similarities to the class means, bool: the class has a key), [batch, classes]."""
    # A matrix product, because a segment sum adds in an order that varies between runs on a GPU.
    members = (labels == jnp.arange(classes)[:, None]) & in_class
    counts, sums = jnp.sum(members, axis=1), sim.similarities(members.astype(jnp.float32), keys.T)
    means = sim.rows(sums / jnp.maximum(counts, 1)[:, None], normalize)
    logits = sim.similarities(queries, means)
    return logits, jnp.broadcast_to(counts > 0, logits.shape)


def _masked_means(keys, masks):
    """Mean of the keys [batch, dim] that each row of the bool masks [batch, memory] selects.

    The keys are summed again instead of subtracting the excluded keys from the sum of the class: if
    little is left of a class, rounding errors would dominate the difference.
    """
    sums = sim.similarities(masks.astype(jnp.float32), keys.T)
    return sums / jnp.maximum(jnp.sum(masks, axis=-1, keepdims=True), 1)
