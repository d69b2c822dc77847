"""Losses that distil from a target encoder without negatives: DINO, BYOL and SimSiam."""

import numbers

import jax
import jax.numpy as jnp

from jaxpt.ops import similarity as sim


def dino(
    student: jax.Array,
    teacher: jax.Array,
    centre: jax.Array,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    where: jax.Array | None = None,
) -> jax.Array:
    """DINO loss, by which student views predict the teacher's prototypes for *other* views.

    The cross-entropy H is averaged over all pairs (t, s) of a teacher view and a different student
    view::

        loss_i = mean over s ≠ t of H( softmax((teacher_ti − centre)/τ_t), softmax(student_si/τ_s) )

    View t of the teacher is view t of the student: pass the views that both see first. Centring
    prevents one prototype from dominating, and sharpening (τ_t < τ_s) prevents a uniform
    distribution; without either one the features collapse. Update the centre with ``move_centre``
    *after* the loss.

    Use:
      Images without labels, mainly with vision transformers. Caron et al.: 65,536
      prototypes, 2 large and 8 to 10 small crops, EMA from 0.996 to 1, AdamW.

    Args:
      student: float [views_s, batch, prototypes], logits.
      teacher: float [views_t, batch, prototypes], views_t ≤ views_s; no gradient flows into it.
      centre: float [prototypes]; no gradient flows into it.
      student_temperature: τ_s > 0.
      teacher_temperature: τ_t > 0; published runs warm it up from 0.04 to 0.07.
      where: bool [batch]; False examples get loss 0.

    Returns:
      float32 losses [batch].

    Raises:
      TypeError: for integer logits.
      ValueError: for a temperature <= 0, shapes that do not match, or no pair of different views.

    Example:
      The teacher's view 0 is uniform over two prototypes and the student's view 1 has odds 1 : 3:
      ½ log 4 + ½ log 4/3.

      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import dino
      >>> student = 0.1 * jnp.log(jnp.array([[[1.0, 1.0]], [[1.0, 3.0]]]))
      >>> print(f"{dino(student, jnp.zeros((1, 1, 2)), jnp.zeros(2))[0]:.4f}")
      0.8370

    References:
      Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.
    """
    _check_logits("student", student)
    _check_logits("teacher", teacher)
    _check_centre(centre, teacher)
    views_s, views_t = jnp.shape(student)[0], jnp.shape(teacher)[0]
    if jnp.shape(student)[1:] != jnp.shape(teacher)[1:] or not 1 <= views_t <= views_s:
        raise ValueError(
            "the teacher's views must be the first of the student's, got shapes "
            f"{jnp.shape(teacher)} and {jnp.shape(student)}."
        )
    if views_s == 1:
        raise ValueError(
            "student must have at least 2 views, as dino compares different views, got 1."
        )
    sim.check_temperature(student_temperature, "student_temperature")
    sim.check_temperature(teacher_temperature, "teacher_temperature")
    sim.check_rows("where", where, jnp.shape(student)[1])
    if where is not None:  # a NaN in a masked row must not reach the gradient
        student = jnp.where(where[:, None], student, 0)
    targets = jax.lax.stop_gradient(
        jax.nn.softmax((_float32(teacher) - _float32(centre)) / teacher_temperature, axis=-1)
    )
    log_p = jax.nn.log_softmax(_float32(student) / student_temperature, axis=-1)
    pairs = -jnp.einsum("tbk,sbk->bts", targets, log_p, precision=jax.lax.Precision.HIGHEST)
    different = ~jnp.eye(views_t, views_s, dtype=bool)
    losses = jnp.sum(pairs, axis=(1, 2), where=different) / (views_t * (views_s - 1))
    return losses if where is None else jnp.where(where, losses, 0.0)


def move_centre(
    centre: jax.Array,
    teacher: jax.Array,
    *,
    momentum: float = 0.9,
    where: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Updates DINO's centre, an exponential moving average of the teacher's outputs.

    new = m · centre + (1 − m) · mean of the teacher's outputs over views, batch and devices.

    Use:
      Once per step, after ``dino``.

    Args:
      centre: float [prototypes].
      teacher: float [views, batch, prototypes].
      momentum: m, 0 ≤ m < 1.
      where: bool [batch]; False examples are ignored. If all are False, the centre is unchanged.
      axis_name: mapped axis; the mean is then over the examples of all its devices.

    Returns:
      float32 [prototypes], without gradient.

    Raises:
      TypeError: for integer outputs.
      ValueError: for a momentum outside [0, 1) or shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import move_centre
      >>> print([f"{x:.1f}" for x in move_centre(jnp.array([1.0, 0]), jnp.array([[[0.0, 2]]]))])
      ['0.9', '0.2']

    References:
      Caron et al., ICCV 2021, equation 4.
    """
    _check_logits("teacher", teacher)
    _check_centre(centre, teacher)
    sim.check_rows("where", where, jnp.shape(teacher)[1])
    if isinstance(momentum, numbers.Real) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}.")
    views, rows = jnp.shape(teacher)[:2]
    kept = jnp.ones(rows, bool) if where is None else where
    total = jnp.sum(_float32(teacher), axis=(0, 1), where=kept[None, :, None])
    count = views * jnp.sum(kept)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), _float32(centre))
    return jax.lax.stop_gradient(momentum * _float32(centre) + (1 - momentum) * mean)


def _float32(x):
    return jnp.asarray(x).astype(jnp.float32)


def _check_logits(name, logits):
    sim.check_floats(name, logits)
    if jnp.ndim(logits) != 3:
        raise ValueError(
            f"{name} must have shape [views, batch, prototypes], got shape {jnp.shape(logits)}."
        )


def _check_centre(centre, teacher):
    sim.check_floats("centre", centre)
    sim.check_rows("centre", centre, jnp.shape(teacher)[2])


def cosine_regression(
    predictions: jax.Array, targets: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Squared distance between unit vectors, 2 − 2·cos(prediction, target).

    This is BYOL's loss. SimSiam minimises −cos, which is half of it minus 1 and has half its
    gradient. Both methods are symmetric in the views: call this function once for each order and
    add the results (BYOL) or average them (SimSiam). Without a predictor or a moving target,
    training collapses to constant embeddings with loss 0.

    Use:
      Images without labels, without negatives, with small batches. BYOL: EMA from 0.99 or 0.996 to
      1, head 4096-256, LARS; SimSiam: no EMA, learning rate 0.05 per 256 images, predictor of width
      512.

    Args:
      predictions: float [batch, dim], the predictor's output for one view.
      targets: float [batch, dim], the target encoder's output for the other view; no gradient flows
        into it.
      where: bool [batch]; False rows get loss 0.

    Returns:
      float32 losses [batch], in 0 … 4 up to rounding. A zero row in either argument gives loss 2
      and gradient 0.

    Raises:
      TypeError: for integer embeddings.
      ValueError: for shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxpt.losses import cosine_regression
      >>> prediction = jnp.array([[3.0, 4.0]])
      >>> print(f"{cosine_regression(prediction, jnp.array([[2.0, 0.0]]))[0]:.4f}")  # cosine 0.6
      0.8000

    References:
      Grill et al., "Bootstrap your own latent", NeurIPS 2020, equation 2; Chen and He, "Exploring
      simple Siamese representation learning", CVPR 2021.
    """
    sim.check_embeddings("predictions", predictions)
    sim.check_like("targets", targets, "predictions", predictions)
    sim.check_rows("where", where, predictions.shape[0])
    targets = jax.lax.stop_gradient(sim.rows(targets, where=where))
    losses = 2 - 2 * jnp.sum(sim.rows(predictions, where=where) * targets, axis=-1)
    return losses if where is None else jnp.where(where, losses, 0.0)
