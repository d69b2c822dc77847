"""The choice of normalisation layer, one place for all networks."""

import functools
from typing import Any, Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxpt.errors import require

KINDS = ("batch", "sync_batch", "group", "group32")
GROUP_SIZE = 8  # channels a group of "group", so that narrow layers have no groups of one channel
GROUPS = 32  # of "group32"


def make_norm(
    kind: str, *, train: bool, axis_name: str | None, dtype: Any
) -> Callable[..., nn.Module]:
    """A constructor of normalisation layers.

    Args:
      kind: "batch" (statistics of each device's part of the batch), "sync_batch" (of the whole
        batch, over ``axis_name``), "group" (GroupNorm, the same in training and evaluation, in
        groups of 8 channels) or "group32" (in 32 groups, ε 1e-5, as timm's ``resnet50_gn``).
      train: whether BatchNorm uses and updates batch statistics.
      axis_name: the mapped axis, or None outside of one.
      dtype: computation dtype; the statistics are float32 in any case.

    Raises:
      InputError: for another kind.
    """
    require(kind in KINDS, f"norm must be one of {KINDS}, got {kind!r}.")
    if kind == "group":
        return functools.partial(nn.GroupNorm, num_groups=None, group_size=GROUP_SIZE, dtype=dtype)
    if kind == "group32":
        return functools.partial(nn.GroupNorm, num_groups=GROUPS, epsilon=1e-5, dtype=dtype)
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name if kind == "sync_batch" and train else None,
    )


def check_widths(kind: str, widths) -> None:
    """Raises InputError for layers of no width, or that GroupNorm cannot cut into its groups."""
    require(all(width >= 1 for width in widths), f"widths must be at least 1, got {tuple(widths)}.")
    divisor = {"group": GROUP_SIZE, "group32": GROUPS}.get(kind, 1)
    require(
        all(width % divisor == 0 for width in widths),
        f"norm {kind} needs widths that are multiples of {divisor}, got {tuple(widths)}.",
    )


def layer_norm(dtype: Any) -> Callable[..., nn.Module]:
    """A constructor of LayerNorm, ε 1e-6, as timm's ViTs and ConvNeXts have it."""
    return functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False, dtype=dtype)


def compute_dtype(name: str) -> Any:
    """The computation dtype of that name; parameters are float32 in any case."""
    require(name in ("float32", "bfloat16"), f"dtype must be float32 or bfloat16, got {name!r}.")
    return jnp.dtype(name)
