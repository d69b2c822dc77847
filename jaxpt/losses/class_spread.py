"""A supervised contrastive loss within the batch that keeps the images of a class apart."""

import jax

from jaxpt.losses import contrastive
from jaxpt.losses import similarity as sim


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
    """SupCon and class-conditional InfoNCE, which keeps the images of a class apart.

    ::

        loss_i = (1 − w)·sup_con_i + w·( log Σ_{a≠i, y_a=y_i} e^{s_ia/τ} − mean_{p} s_ip/τ )

    where p are the other views of i's image, and sup_con is the *out* form. An anchor without
    another row of its class has the first part 0, one without another view the second.

    The authors' code compares each pair of views on its own and leaves the other positives out of
    SupCon's denominator; here the views are rows of one batch, as in ``sup_con``.

    Use:
      As ``sup_con`` where its collapsed classes are the trouble (coarse to fine, transfer), with
      two views of each image. Chen et al.: τ 0.5, weight 0.5.

    Args:
      embeddings: float [batch, dim], all views.
      labels: int [batch].
      ids: int [batch]; rows with one id are views of one image and share its label.
      temperature: τ > 0; the authors' 0.5.
      weight: w in 0 … 1, share of the class-conditional part; 0.5 in the authors' code.
      normalize: scale rows to length one first.
      where: bool [batch]; False rows are neither anchors nor contrast, and get loss 0.
      axis_name: where given, the contrast is the rows of all devices along that axis, and
        gradients flow back to the device that a row came from.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer embeddings.
      ValueError: for temperature <= 0, a weight outside 0 … 1 or shapes that do not match.

    Example:
      Corners of a tetrahedron, two images of two views each, one class: SupCon is log 3, and
      so is the class-conditional part.

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
