"""The line search of logistic regression: the loss along a step, whose logits are linear in it."""

import jax
import jax.numpy as jnp

EVALUATIONS = 20  # of a line search
ACCEPTED = 0.8  # share of the slope that may be left after a step (approximate Wolfe condition)


def losses(logits, one_hot):
    """(mean cross-entropy [G], residuals p − target [n, G, C]), both with their small digits."""
    own = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1, keepdims=True)
    largest = jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), own)
    shifted = jnp.where(one_hot, 0.0, jnp.exp(logits - largest))
    others = jnp.sum(shifted, axis=-1, keepdims=True)
    lead = own - largest
    values = jnp.log1p(others + jnp.expm1(lead)) - lead
    total = others + jnp.exp(lead)
    return (jnp.mean(values[..., 0], axis=0), jnp.where(one_hot, -others / total, shifted / total))


def line_search(logits, change, one_hot, slope, linear, quadratic):
    """Regula falsi on the slope along a step, which only rises with the length.

    Along the step the penalty's slope is ``linear`` + length · ``quadratic``.

    Returns:
      (length [G], whether it was found [G], losses [G], residuals [n, G, C] at it).
    """

    def visit(carry):
        length, (low, low_slope), (high, high_slope), _, count, *_ = carry
        values, residuals = losses(logits + length[:, None] * change, one_hot)
        here = jnp.mean(jnp.sum(residuals * change, axis=-1), axis=0) + linear + length * quadratic
        found = jnp.abs(here) <= ACCEPTED * jnp.abs(slope)
        beyond = length - here * (length - low) / jnp.maximum(here - low_slope, 1e-30)
        short = here < 0
        low, low_slope = jnp.where(short, length, low), jnp.where(short, here, low_slope)
        high, high_slope = jnp.where(short, high, length), jnp.where(short, high_slope, here)
        share = jnp.where(count % 3 == 2, 0.5, -low_slope / (high_slope - low_slope))
        following = jnp.where(
            jnp.isinf(high), jnp.clip(beyond, 1.1 * length, 10 * length), low + share * (high - low)
        )
        return (
            jnp.where(found, length, following),
            (low, low_slope),
            (high, high_slope),
            found,
            count + 1,
            length,
            values,
            residuals,
        )

    one = jnp.ones_like(slope)
    start = (
        one,
        (0 * one, slope),
        (jnp.inf * one, one),
        one < 0,
        0,
        one,
        one,
        jnp.zeros_like(logits),
    )
    *_, found, _, length, values, residuals = jax.lax.while_loop(
        lambda carry: jnp.any(~carry[3]) & (carry[4] < EVALUATIONS), visit, start
    )
    return length, found, values, residuals
