"""Multinomial logistic regression by L-BFGS in JAX, many L2 strengths at a time.

Minimises mean cross-entropy + (l2/2)·‖W‖² over weights W and an unpenalised bias. Few iterations
suffice because:

* Features are centred and rotated into the eigenbasis of their covariance, which changes neither
  the problem nor ‖W‖², and scaled to variance one, which makes the penalty of direction i
  l2/variance_i. In these coordinates the Hessian at W = 0 is diagonal: that of cross-entropy is
  (I − 11ᵀ/C)/C times the covariance there, and Böhning 1992 bounds it everywhere by half of
  (I − 11ᵀ/C) times the same. L-BFGS therefore starts each direction from a diagonal: the penalty
  plus the mean of p(1 − p) of each class at the current weights.
* Logits are linear in W, so the line search needs no matrix product, and an iteration needs two.
* Strengths are solved in groups from strong to weak, each group started from the previous solution.

Large problems run in float32 first and are finished in float64. The loss is computed relative to
the logit of the right class, which keeps its digits when a separable set drives it to zero.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EVALUATIONS = 20  # at most, per line search
ACCEPTED = 0.8  # share of the slope that may remain after a step (approximate Wolfe condition)


def cross_entropies(logits, one_hot):
    """Mean cross-entropy [G] and residuals p − target [n, G, C], accurate even near zero."""
    own = jnp.sum(jnp.where(one_hot, logits, 0.0), axis=-1, keepdims=True)
    largest = jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), own)
    shifted = jnp.where(one_hot, 0.0, jnp.exp(logits - largest))
    others = jnp.sum(shifted, axis=-1, keepdims=True)
    lead = own - largest
    values = jnp.log1p(others + jnp.expm1(lead)) - lead
    total = others + jnp.exp(lead)
    return (jnp.mean(values[..., 0], axis=0), jnp.where(one_hot, -others / total, shifted / total))


def line_search(logits, change, one_hot, slope, linear, quadratic):
    """Line search by regula falsi on the slope, which increases with the length of the step.

    Along the step the penalty's slope is ``linear`` + length · ``quadratic``.

    Returns:
      (length [G], whether one was found [G], losses [G] and residuals [n, G, C] at that length).
    """

    def visit(carry):
        length, (low, low_slope), (high, high_slope), _, count, *_ = carry
        values, residuals = cross_entropies(logits + length[:, None] * change, one_hot)
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


MEMORY = 10  # pairs that L-BFGS keeps
COLUMNS = 512  # strengths × classes per group: enough for full speed of a matrix product
GROUP_BYTES = 2**31  # limit for the arrays of a group of more than one strength
SMALL = 10**8  # multiplications per pass, below which float32 saves less than it costs to compile
IN_A_ROW = 3  # consecutive small gaps after which a strength is finished


class LogisticFit(NamedTuple):
    """Solutions in the order of the strengths, in the coordinates of the given features.

    Attributes:
      weights: float64 [strengths, dim, classes].
      bias: float64 [strengths, classes].
      objective: float64 [strengths], mean cross-entropy + (l2/2)·‖W‖².
      gap: float64 [strengths], relative gap: the decrease of the objective that a further
        quasi-Newton step predicts, divided by the smaller of the objective and the square of the
        entropy of the labels minus the objective. The square matters for strong penalties: they
        leave the objective only slightly below the entropy, and predictions depend on that
        difference.
      gradient_norm: float64 [strengths], norm of the objective's gradient with respect to the
        weights of the directions of variance one.
      iterations: int [strengths].
    """

    weights: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    gradient_norm: np.ndarray
    iterations: np.ndarray


class _State(NamedTuple):
    """State of L-BFGS; D = directions + 1 (the bias), G = strengths of the group, C = classes."""

    weights: jax.Array  # [D, G, C]
    gradient: jax.Array  # [D, G, C]
    curvature: jax.Array  # [G, C], mean of p(1 − p)
    value: jax.Array  # [G]
    gap: jax.Array  # [G]
    steps: jax.Array  # [MEMORY, D, G, C], a ring buffer
    changes: jax.Array  # [MEMORY, D, G, C], changes of the gradient over these steps
    rho: jax.Array  # [MEMORY, G], 1/(step·change); 0 in unused slots
    iterations: jax.Array  # int32 [G]
    small: jax.Array  # int32 [G], consecutive iterations whose gap was small enough
    done: jax.Array  # bool [G]
    count: jax.Array  # int32, iterations of the group


def fit(
    features, targets, classes: int, l2_grid, *, tolerance: float = 1e-9, max_iterations: int = 2000
) -> LogisticFit:
    """Fits multinomial logistic regression for each L2 strength, on JAX's default device.

    Memory holds about n × dim numbers twice and, per group of strengths, strengths × classes ×
    (5n + 25 dim) numbers; a group has at most 512 columns (strengths × classes) and 2 GiB, or is a
    single strength.

    Args:
      features: finite float [n, dim].
      targets: int [n] in 0 … classes − 1, every class at least once: the bias of a class without
        examples has no optimum.
      classes: number of classes.
      l2_grid: positive strengths, in any order.
      tolerance: a strength is finished when ``gap`` is at most this in three consecutive
        iterations. In measurements, the objective is then within 200 tolerances of the optimum.
      max_iterations: limit per group, for float32 and for float64 separately.

    Returns:
      a ``LogisticFit``.

    Warns:
      RuntimeWarning: if a strength has not converged; the message names the strengths and the
        largest gap.
    """
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    whitened, back, penalty = _whiten(features - mean)
    x = np.append(whitened, np.ones((len(whitened), 1)), axis=1)
    problem = x, np.eye(classes, dtype=bool)[targets], np.append(penalty, 0.0)
    l2_grid = np.asarray(l2_grid, np.float64)
    order = np.argsort(-l2_grid, kind="stable")
    size = _group_size(*x.shape, classes, len(order))
    share = np.bincount(targets, minlength=classes) / len(targets)
    parts, start = [], np.zeros((x.shape[1], size, classes))
    start[-1] = np.log(share) - np.log(share).mean()  # the optimum without weights
    entropy = -np.sum(share * np.log(share))
    with jax.enable_x64(True):
        for first in range(0, len(order), size):
            strengths = l2_grid[order[first : first + size]]
            padded = np.pad(strengths, (0, size - len(strengths)), mode="edge")
            solved = _solve(problem, padded, start, entropy, tolerance, max_iterations)
            start = _ahead(padded, solved.weights, l2_grid[order[first + size : first + 2 * size]])
            parts.append(
                [
                    field[: len(strengths)]
                    for field in (
                        np.moveaxis(solved.weights, 1, 0),
                        solved.value,
                        solved.gap / _at_stake(solved.value, entropy),
                        np.sqrt(np.sum(solved.gradient**2, axis=(0, 2))),
                        solved.iterations,
                    )
                ]
            )
    unsorted = np.argsort(order)
    solution, *numbers = [np.concatenate(part)[unsorted] for part in zip(*parts, strict=True)]
    weights = np.matmul(back, solution[:, :-1])
    found = LogisticFit(weights, solution[:, -1] - np.matmul(mean, weights), *numbers)
    _warn(l2_grid, found, tolerance)
    return found


def log_probabilities(features, weights, bias) -> np.ndarray:
    """Log-probabilities, float64 [n, classes], for weights [dim, classes] and bias [classes]."""
    logits = np.asarray(features, np.float64) @ weights + bias
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def _warn(l2_grid, found, tolerance):
    left = np.flatnonzero(~(found.gap <= tolerance))
    if len(left):
        worst = left[np.argmax(np.nan_to_num(found.gap[left], nan=np.inf))]
        warnings.warn(
            f"logistic regression has not converged for l2 = "
            f"{', '.join(f'{l2_grid[i]:.3g}' for i in left)}: at {l2_grid[worst]:.3g} the "
            f"relative gap is {found.gap[worst]:.1g} after "
            f"{found.iterations[worst]} iterations (tolerance {tolerance:.1g}). Use more "
            "iterations or larger strengths.",
            RuntimeWarning,
            stacklevel=3,
        )


def _whiten(centred):
    """Whitens centred features.

    Returns:
      (columns of variance one [n, r], map [dim, r] of their weights to those of the features,
      1/variances [r]).
    """
    basis = None
    if len(centred) < centred.shape[1]:  # the solution lies in the span of the rows
        basis, triangle = np.linalg.qr(centred.T)
        centred = triangle.T
    variances, rotation = np.linalg.eigh(centred.T @ centred / len(centred))
    # Any rotation is exact; if rounding hides a variance, only its scale is less good.
    variances = np.maximum(variances, 1e-14 * variances[-1]) if variances[-1] > 0 else 1.0
    rotation = rotation / np.sqrt(variances)
    back = rotation if basis is None else basis @ rotation
    return centred @ rotation, back, np.broadcast_to(1 / variances, back.shape[1:])


def _group_size(rows, directions, classes, strengths):
    a_strength = 8 * classes * (5 * rows + (2 * MEMORY + 5) * directions)
    most = max(1, min(COLUMNS // classes, GROUP_BYTES // a_strength, strengths))
    groups = -(-strengths // most)
    return -(-strengths // groups)  # even groups, so that padding costs little


def _ahead(l2, weights, following):
    """Start of the next group: linear extrapolation in log l2 through the last two solutions."""
    last, size = weights[:, -1], len(l2)
    slope = np.zeros_like(last)
    if size > 1 and l2[-2] > l2[-1]:
        slope = (last - weights[:, -2]) / np.log(l2[-2] / l2[-1])
    following = np.pad(np.append(l2[-1:], following), (0, size - len(following)), mode="edge")[1:]
    return last[:, None] + slope[:, None] * np.log(l2[-1] / following)[:, None]


def _at_stake(value, entropy):
    """Scale of the relative gap; its floor covers features without information on the labels."""
    return jnp.minimum(value, jnp.maximum(entropy - value, 1e-9 * value) ** 2)


def _solve(problem, l2, start, entropy, tolerance, max_iterations):
    state = None
    small = np.size(problem[0]) * start[0].size < SMALL
    for dtype in (np.float64,) if small else (np.float32, np.float64):
        rounded = [jnp.asarray(a, a.dtype if a.dtype == bool else dtype) for a in problem]
        if state is None:
            state = _blank(jnp.asarray(start, dtype))
        state = jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, state)
        state = _lbfgs(
            rounded,
            jnp.asarray(l2, dtype),
            state,
            # float32 cannot resolve the difference between entropy and objective.
            jnp.asarray(entropy if dtype == np.float64 else np.inf, dtype),
            jnp.asarray(tolerance if dtype == np.float64 else max(tolerance, 1e-8), dtype),
            max_iterations,
        )
    return jax.tree.map(np.asarray, state)


def _blank(weights):
    _, groups, classes = weights.shape
    ring = jnp.zeros((MEMORY, *weights.shape), weights.dtype)
    numbers = jnp.zeros(groups, weights.dtype)
    return _State(
        weights,
        weights,
        jnp.zeros((groups, classes), weights.dtype),
        numbers,
        numbers,
        ring,
        ring,
        jnp.zeros((MEMORY, groups), weights.dtype),
        *jnp.zeros((2, groups), jnp.int32),
        jnp.zeros(groups, bool),
        jnp.int32(0),
    )


@jax.jit
def _lbfgs(problem, l2, state, entropy, tolerance, max_iterations):
    """Runs L-BFGS from a state until every strength of the group is done."""
    x, one_hot, penalty = problem
    rows, (directions, strengths, classes) = len(x), state.weights.shape
    # A penalty of 1e30 already fixes a weight at zero; a larger one might overflow in float32.
    ridge = jnp.minimum(penalty[:, None, None] * l2[:, None], 1e30)
    one_hot = one_hot[:, None, :]

    def logits_of(weights):
        return _product(x, weights.reshape(directions, -1)).reshape(rows, strengths, classes)

    def gradient_of(residuals, weights):
        product = _product(x.T, residuals.reshape(rows, -1)).reshape(weights.shape)
        return product / rows + ridge * weights

    def value_of(losses, weights):
        return losses + 0.5 * _dot(ridge * weights, weights)

    def iterate(carry):
        state, logits = carry
        step = -_inverse_hessian(state, ridge)
        slope = _dot(state.gradient, step)
        gap = -0.5 * slope
        # A single estimate may be small by chance, so several in a row are required.
        small = jnp.where(gap <= tolerance * _at_stake(state.value, entropy), state.small + 1, 0)
        done = state.done | (small >= IN_A_ROW)
        step = jnp.where(done[:, None], 0.0, step)
        change = logits_of(step)
        length, found, losses, residuals = line_search(
            logits,
            change,
            one_hot,
            jnp.where(done, 0.0, slope),
            _dot(ridge * state.weights, step),
            _dot(ridge * step, step),
        )
        step = length[:, None] * step
        logits = logits + length[:, None] * change
        weights = state.weights + step
        gradient = gradient_of(residuals, weights)
        moved = _remember(state, step, gradient - state.gradient)
        return moved._replace(
            weights=weights,
            gradient=gradient,
            curvature=_curvature(residuals),
            value=value_of(losses, weights),
            gap=jnp.where(state.done, state.gap, gap),
            small=small,
            done=done | ~found,
            iterations=state.iterations + ~done,
        ), logits

    logits = logits_of(state.weights)
    losses, residuals = cross_entropies(logits, one_hot)
    state = state._replace(
        gradient=gradient_of(residuals, state.weights),
        curvature=_curvature(residuals),
        value=value_of(losses, state.weights),
        small=0 * state.small,
        done=jnp.zeros(strengths, bool),
    )
    last = state.count + max_iterations
    return jax.lax.while_loop(
        lambda carry: jnp.any(~carry[0].done) & (carry[0].count < last), iterate, (state, logits)
    )[0]


def _product(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _dot(a, b):
    """Inner products over directions and classes: [D, G, C] twice → [G]."""
    return jnp.sum(a * b, axis=(0, 2))


def _curvature(residuals):
    p = jnp.abs(residuals)  # 1 − p for the right class, which gives the same p(1 − p)
    return jnp.mean(p * (1 - p), axis=0)


def _inverse_hessian(state, ridge):
    """The two loops of L-BFGS applied to the gradient (Nocedal & Wright 2006, algorithm 7.4)."""
    diagonal = 1 / (state.curvature + ridge + 1e-10)

    def newest(i):
        return (state.count - 1 - i) % MEMORY

    def backward(i, carry):
        q, alphas = carry
        j = newest(i)
        alpha = state.rho[j] * _dot(state.steps[j], q)
        return q - alpha[:, None] * state.changes[j], alphas.at[j].set(alpha)

    def precondition(q):
        q = diagonal * q
        return q - jnp.mean(q, axis=-1, keepdims=True)  # logits are determined up to a constant

    def forward(i, q):
        j = newest(MEMORY - 1 - i)
        beta = state.rho[j] * _dot(state.changes[j], q)
        return q + (alphas[j] - beta)[:, None] * state.steps[j]

    q, alphas = jax.lax.fori_loop(0, MEMORY, backward, (state.gradient, jnp.zeros_like(state.rho)))
    rho, change = state.rho[newest(0)], state.changes[newest(0)]
    curved = rho * _dot(change, precondition(change))
    scale = jnp.where(curved > 0, 1 / jnp.where(curved > 0, curved, 1.0), 1.0)
    return jax.lax.fori_loop(0, MEMORY, forward, scale[:, None] * precondition(q))


def _remember(state, step, change):
    j = state.count % MEMORY
    product = _dot(step, change)
    rho = jnp.where(product > 0, 1 / jnp.where(product > 0, product, 1.0), 0.0)
    return state._replace(
        steps=state.steps.at[j].set(step),
        rho=state.rho.at[j].set(rho),
        changes=state.changes.at[j].set(change),
        count=state.count + 1,
    )
