"""Durations, schedules and optimizers from a config, and learning rates by depth.

``steps`` reads a duration. ``learning_rate`` and ``step_decay`` are schedules, and
``make_optimizer`` makes the optimizer that follows one. For fine-tuning, ``layer_rates`` gives the
lower layers of a backbone smaller rates, or none, and ``scale_by_depth`` applies them.
"""

import math
import re
from typing import Any, NamedTuple

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
    """Learning-rate schedule: linear warm-up to ``config.learning_rate``, then cosine or drops.

    The cosine ends at ``config.final_rate`` times the rate, 0 by default. With ``config.drop_at``
    the rate drops by ``config.drop_factor`` at these shares of the training instead.
    """
    for name in "learning_rate", "final_rate":
        _check_size(config, name)
    if config.get("drop_at"):
        return step_decay(
            config.learning_rate,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            at=config.drop_at,
            factor=config.drop_factor,
        )
    _check_warmup(warmup_steps, total_steps)
    return optax.warmup_cosine_decay_schedule(
        0.0 if warmup_steps else config.learning_rate,
        config.learning_rate,
        warmup_steps,
        total_steps,
        end_value=config.learning_rate * config.get("final_rate", 0.0),
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
    _check_warmup(warmup_steps, total_steps)
    if not warmup_steps:
        return drops
    return lambda step: jnp.minimum(1.0, step / warmup_steps) * drops(step)


def _check_warmup(warmup_steps, total_steps):
    require(
        warmup_steps < total_steps,
        f"a warm-up of {warmup_steps} steps leaves nothing of the "
        f"{total_steps} steps of training: shorten it.",
    )


def make_optimizer(
    config, schedule: optax.Schedule, *, total_steps: int = 0, freeze_steps: int = 0
) -> optax.GradientTransformation:
    """Makes the optimizer that a config names.

    Vectors are biases, scales of normalization layers and of branches, and a ViT's class token and
    positions. LARS's trust ratio is not applied to them, nor is weight decay, unless
    ``decay_vectors`` is set.

    Args:
      config: ConfigDict with ``name`` (one of ``OPTIMIZERS``), ``momentum``, ``weight_decay``, and
        optionally the other fields of the section ``optimizer`` in configs/pretrain/defaults.py.
      schedule: learning rate over steps.
      total_steps: length of the schedule of weight decay, if it has one.
      freeze_steps: number of steps during which the parameters in ``config.freeze`` are held.

    Raises:
      InputError: for an unknown name, or a setting out of range.
    """
    require(
        config.name in OPTIMIZERS,
        f"optimizer.name must be one of {OPTIMIZERS}, got {config.name!r}.",
    )
    for name in "momentum", "weight_decay", "clip_norm", "vector_rate":
        _check_size(config, name)
    require(
        config.get("weight_decay_end", -1.0) < 0 or config.weight_decay > 0,
        "optimizer.weight_decay_end needs a weight_decay above 0 to start from, got "
        f"{config.weight_decay}.",
    )
    optimizer = _with_rate(config, schedule, total_steps)
    if config.get("constant_predictor", False):
        constant = optax.constant_schedule(config.learning_rate)
        optimizer = optax.partition(
            {True: _with_rate(config, constant, total_steps), False: optimizer}, _in_predictor
        )
    factor = config.get("vector_rate", 1.0)
    if factor != 1:
        # After the optimizer, so that this is the rate of vectors.
        optimizer = optax.chain(optimizer, optax.masked(optax.scale(factor), _vectors))
    clip = config.get("clip_norm", 0.0)
    if clip:
        cut = _cut_each_to(clip) if config.get("clip_each", False) else _cut_to(clip)
        optimizer = optax.chain(cut, optimizer)
    return _held(optimizer, tuple(config.freeze), freeze_steps) if freeze_steps else optimizer


def _with_rate(config, schedule, total_steps):
    """The bare optimizer with weight decay and this learning rate."""
    decay, end = config.weight_decay, config.get("weight_decay_end", -1.0)
    if end >= 0:
        decay = optax.cosine_decay_schedule(decay, total_steps, alpha=end / config.weight_decay)
    decayed = None if config.get("decay_vectors", False) else _matrices
    if config.name == "adamw":
        return optax.adamw(schedule, weight_decay=decay, mask=decayed)
    if config.name == "lars" and config.get("late_rate", False):
        return optax.chain(
            optax.add_decayed_weights(decay, mask=decayed),
            optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), _matrices),
            optax.trace(config.momentum),
            optax.scale_by_learning_rate(schedule),
        )
    if config.name == "lars":
        return optax.lars(
            schedule,
            decay,
            weight_decay_mask=decayed,
            trust_ratio_mask=_matrices,
            momentum=config.momentum,
        )
    return optax.chain(
        optax.add_decayed_weights(decay, mask=decayed),
        optax.sgd(schedule, momentum=config.momentum, nesterov=config.get("nesterov", False)),
    )


def _cut_to(longest):
    """Like ``optax.clip_by_global_norm``, but also correct for sharded gradients."""

    def cut(updates, _):
        factor = jnp.minimum(1.0, longest / parts.norm(updates))
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(cut)


def _cut_each_to(longest):
    """Clips the norm of every array's gradient on its own, as DINO's code does."""
    cut = _cut_to(longest).update
    return optax.stateless(
        lambda updates, _: parts.over_parts(lambda x: cut(x, optax.EmptyState())[0], updates)
    )


class HeldState(NamedTuple):
    """State of ``_held``: the number of updates so far, and the inner optimizer's state."""

    count: jax.Array
    inner: Any


def _held(inner: optax.GradientTransformation, names: tuple[str, ...], steps: int):
    """Holds the parameters in the modules of these names during the first ``steps`` updates.

    ``inner`` sees zero gradients and zero parameters instead, so that neither weight decay nor
    momentum accumulates.
    """

    def held(count, tree):
        def hold(path, x):
            return jnp.where(count < steps, jnp.zeros_like(x), x) if _is_in(path, names) else x

        return jax.tree_util.tree_map_with_path(hold, tree)

    def init(params):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for name in names:
            require(
                any(_is_in(path, (name,)) for path in paths),
                f"optimizer.freeze: the network has no module or parameter {name!r}; it has "
                f"{', '.join(sorted({key for path in paths for key in _names(path)}))}.",
            )
        return HeldState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params):
        updates, inner_state = inner.update(
            held(state.count, updates), state.inner, held(state.count, params)
        )
        return held(state.count, updates), HeldState(state.count + 1, inner_state)

    return optax.GradientTransformation(init, update)


def _check_size(config, name):
    value = config.get(name, 0.0)  # not every optimizer has momentum
    require(
        0 <= value < math.inf, f"optimizer.{name} must be finite and not negative, got {value}."
    )


def _names(path) -> list[str]:
    """Names of modules and of the parameter on a path; a sharded parameter has other keys too."""
    return [part.key for part in path if isinstance(part, jax.tree_util.DictKey)]


def _is_in(path, names) -> bool:
    return not set(names).isdisjoint(_names(path))


def _matrices(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim > 1 and not _is_in(path, _NO_MATRICES), params
    )


def _vectors(params):
    return jax.tree.map(lambda is_matrix: not is_matrix, _matrices(params))


def _in_predictor(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_in(path, ("predictor",)), params)


def depths(params) -> Any:
    """Depth of every parameter of an encoder: 0 … n − 1 in the backbone, n in the head.

    The depth of a backbone's modules is read from their names: the number after "stage", "block" or
    "layer", or else at the end. Names without a number are the stem, at depth 0, except for a final
    normalization, which has the depth of the last part.

    Args:
      params: parameters of an ``Encoder``, {"backbone": …, "head": …}.

    Returns:
      An int for each parameter, in a tree of the same structure.
    """
    numbers = {name: _depth_in(name) for name in params["backbone"]}
    deepest = max(n for n in numbers.values() if n is not None)
    numbers = {name: deepest if n is None else n for name, n in numbers.items()}
    return {
        "backbone": {
            name: jax.tree.map(lambda _: numbers[name], part)
            for name, part in params["backbone"].items()
        },
        **{
            name: jax.tree.map(lambda _: deepest + 1, part)
            for name, part in params.items()
            if name != "backbone"
        },
    }


def count_depths(params) -> int:
    """Number of depths in a backbone, including its stem."""
    return max(jax.tree.leaves(depths({"backbone": params["backbone"]}))) + 1


def layer_rates(params, *, decay: float, frozen: int) -> Any:
    """Learning-rate factor of every parameter: decay^(n − depth), 1 in the head.

    See Howard and Ruder 2018; Clark et al. 2020 across blocks.

    Args:
      params: parameters of an ``Encoder``.
      decay: factor per depth, above 0 and at most 1.
      frozen: number of depths, from the stem on, whose factor is 0.

    Raises:
      InputError: for a decay outside (0, 1], or more frozen depths than there are.
    """
    require(0 < decay <= 1, f"layer_decay must be above 0 and at most 1, got {decay}.")
    total = count_depths(params)
    require(
        0 <= frozen <= total,
        f"freeze must lie between 0 and the {total} parts of this "
        f"backbone (or be -1 for all of them), got {frozen}.",
    )
    return jax.tree.map(
        lambda depth: decay ** (total - depth) if depth >= frozen else 0.0, depths(params)
    )


def scale_by_depth(factors) -> optax.GradientTransformation:
    """Multiplies every update by its factor; after an optimizer, this scales the learning rate."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def _depth_in(name: str) -> int | None:
    """Depth that the name of a module tells; None for that of the last part."""
    found = re.search(r"(?:stage|block|layer)s?_?(\d+)", name) or re.search(r"_(\d+)$", name)
    if found:
        return int(found[1])
    return None if re.search(r"final|last|head|post|^(encoder_)?norm$", name) else 0
