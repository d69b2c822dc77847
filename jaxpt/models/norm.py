"""Normalisation layers, and computation dtypes, of all networks."""

import functools
from typing import Any, Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxpt.errors import require

KINDS = ("batch", "sync_batch", "group", "groupN")
GROUP_SIZE = 8  # channels per group of "group": narrow layers get no groups of a single channel


def make_norm(
    kind: str, *, train: bool, axis_name: str | None, dtype: Any
) -> Callable[..., nn.Module]:
    """Returns a constructor of normalisation layers.

    Args:
      kind: "batch" (BatchNorm with the statistics of each device's part of the batch), "sync_batch"
        (BatchNorm with those of the whole batch, over ``axis_name``), "group" (GroupNorm with
        groups of 8 channels, equal in training and evaluation) or "groupN" (GroupNorm with N
        groups, ε 1e-5; timm's ``resnet50_gn`` has "group32").
      train: whether BatchNorm uses and updates batch statistics.
      axis_name: the mapped axis, or None outside a mapped function.
      dtype: computation dtype; statistics are always float32.

    Raises:
      InputError: for another kind.
    """
    groups = _groups(kind)
    require(
        kind in KINDS[:3] or groups > 0,
        f"norm must be one of {KINDS}, N a number of groups, got {kind!r}.",
    )
    if kind == "group":
        return functools.partial(nn.GroupNorm, num_groups=None, group_size=GROUP_SIZE, dtype=dtype)
    if groups:
        return functools.partial(nn.GroupNorm, num_groups=groups, epsilon=1e-5, dtype=dtype)
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name if kind == "sync_batch" and train else None,
    )


def _groups(kind: str) -> int:
    """Returns N for "groupN" and 0 for other kinds."""
    number = kind.removeprefix("group")
    return int(number) if number != kind and number.isdecimal() else 0


def check_widths(kind: str, widths) -> None:
    """Raises InputError for widths below 1, or that GroupNorm cannot divide into its groups."""
    require(all(width >= 1 for width in widths), f"widths must be at least 1, got {tuple(widths)}.")
    divisor = GROUP_SIZE if kind == "group" else _groups(kind) or 1
    require(
        all(width % divisor == 0 for width in widths),
        f"norm {kind} needs widths that are multiples of {divisor}, got {tuple(widths)}.",
    )


def layer_norm(dtype: Any) -> Callable[..., nn.Module]:
    """Returns a constructor of LayerNorm with ε 1e-6, as in timm's ViTs and ConvNeXts."""
    return functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False, dtype=dtype)


def compute_dtype(name: str) -> Any:
    """Returns the computation dtype with this name; parameters are always float32."""
    require(name in ("float32", "bfloat16"), f"dtype must be float32 or bfloat16, got {name!r}.")
    return jnp.dtype(name)
