"""Durations, schedules and optimizers from a config."""

import math
import re

import jax
import jax.numpy as jnp
import optax

from jaxpt.errors import require
from jaxpt.train import parts

OPTIMIZERS = ("sgd", "adamw", "lars")
_NO_MATRICES = ("cls_token", "positions")  # parameters of several axes that are not matrices
_UNITS = ("steps", "epochs", "examples")


def steps(duration: str, *, batch_size: int, n_examples: int) -> int:
    """Converts a duration to steps.

    Args:
      duration: "100 steps", "60 epochs" or "50000 examples"; fractions of epochs are allowed.
      batch_size: examples per step.
      n_examples: examples per epoch.

    Returns:
      The number of steps, rounded to the nearest integer.

    Raises:
      InputError: for text that is not a duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w+)\s*", str(duration))
    unit = match and next((u for u in _UNITS if match[2] in (u, u.removesuffix("s"))), None)
    require(
        bool(unit),
        f"a duration reads like '60 epochs', '500 steps' or '10000 examples', got {duration!r}.",
    )
    amount = float(match[1])
    per_unit = {"steps": 1.0, "epochs": n_examples / batch_size, "examples": 1 / batch_size}
    return round(amount * per_unit[unit])


def learning_rate(config, *, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Learning-rate schedule: linear warm-up to ``config.learning_rate``, then cosine to zero."""
    _check_size(config, "learning_rate")
    require(
        warmup_steps < total_steps,
        f"a warm-up of {warmup_steps} steps leaves nothing of the "
        f"{total_steps} steps of training: shorten it.",
    )
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup_steps else config.learning_rate,
        config.learning_rate,
        warmup_steps,
        total_steps,
    )


def make_optimizer(config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Makes the optimizer that a config names.

    Weight decay and LARS's trust ratio are not applied to vectors and scalars (biases, scales of
    normalization layers and of branches), nor to a ViT's class token and positions.

    Args:
      config: ConfigDict with ``name`` (one of ``OPTIMIZERS``), ``momentum``, ``weight_decay`` and
        ``clip_norm``, the maximum norm of the gradient (0 for no clipping).
      schedule: learning rate over steps.

    Raises:
      InputError: for an unknown name.
    """
    require(
        config.name in OPTIMIZERS,
        f"optimizer.name must be one of {OPTIMIZERS}, got {config.name!r}.",
    )
    for name in "momentum", "weight_decay", "clip_norm":
        _check_size(config, name)
    optimizer = _unclipped(config, schedule)
    clip = config.get("clip_norm", 0.0)
    return optax.chain(_cut_to(clip), optimizer) if clip else optimizer


def _unclipped(config, schedule):
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=_matrices)
    if config.name == "lars":
        return optax.lars(
            schedule,
            config.weight_decay,
            weight_decay_mask=_matrices,
            trust_ratio_mask=_matrices,
            momentum=config.momentum,
        )
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_matrices),
        optax.sgd(schedule, momentum=config.momentum),
    )


def _cut_to(longest):
    """Like ``optax.clip_by_global_norm``, but also correct for sharded gradients."""

    def cut(updates, _):
        factor = jnp.minimum(1.0, longest / parts.norm(updates))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(cut)


def _check_size(config, name):
    value = config.get(name, 0.0)  # not every optimizer has momentum
    require(
        0 <= value < math.inf, f"optimizer.{name} must be finite and not negative, got {value}."
    )


def _matrices(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim > 1 and getattr(path[-1], "key", None) not in _NO_MATRICES, params
    )


def step_decay(
    rate: float, *, total_steps: int, warmup_steps: int, at, factor: float
) -> optax.Schedule:
    """Schedule with linear warm-up from zero to ``rate`` and drops by ``factor``.

    Args:
      rate: the highest learning rate.
      total_steps: number of training steps.
      warmup_steps: number of warm-up steps at the start, included in ``total_steps``.
      at: fractions of ``total_steps`` at which the rate drops, increasing, each above 0 and below
        1.
      factor: of each drop, above 0 and at most 1.

    Raises:
      InputError: for fractions or a factor out of range, or a warm-up as long as the training.
    """
    require(
        all(0 < share < 1 for share in at) and list(at) == sorted(at),
        f"schedule.at must be increasing fractions between 0 and 1, got {tuple(at)}.",
    )
    require(0 < factor <= 1, f"schedule.factor must be above 0 and at most 1, got {factor}.")
    drops = optax.piecewise_constant_schedule(
        rate, {round(share * total_steps): factor for share in at}
    )
    require(
        warmup_steps < total_steps,
        f"a warm-up of {warmup_steps} steps leaves nothing of the "
        f"{total_steps} steps of training: shorten it.",
    )
    if not warmup_steps:
        return drops
    return lambda step: jnp.minimum(1.0, step / warmup_steps) * drops(step)
