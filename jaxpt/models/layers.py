"""Layers that networks share, normalisation and stochastic depth, and their computation dtypes."""

import functools
from typing import Any, Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require

STOCHASTIC_DEPTH = "stochastic_depth"  # name of the random key in ``encode``
_STREAM = 1 << 22  # separates the draws of stochastic depth from those of views and of mixup
_NORMS = ("batch", "sync_batch", "group", "groupN")
_GROUP_SIZE = 8  # channels per group of "group": narrow layers get no groups of a single channel


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
        kind in _NORMS[:3] or groups > 0,
        f"norm must be one of {_NORMS}, N a number of groups, got {kind!r}.",
    )
    if kind == "group":
        return functools.partial(nn.GroupNorm, num_groups=None, group_size=_GROUP_SIZE, dtype=dtype)
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
    divisor = _GROUP_SIZE if kind == "group" else _groups(kind) or 1
    require(
        all(width % divisor == 0 for width in widths),
        f"norm {kind} needs widths that are multiples of {divisor}, got {tuple(widths)}.",
    )


def layer_norm(dtype: Any) -> Callable[..., nn.Module]:
    """Returns a constructor of LayerNorm with ε 1e-6, as in timm's ViTs and ConvNeXts."""
    return functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False, dtype=dtype)


class StochasticDepth(nn.Module):
    """Zeroes a residual branch for a random share of the examples and rescales it for the others.

    See Huang et al., ECCV 2016. Without a random key named ``STOCHASTIC_DEPTH``, as in evaluation
    and in target encoders, it does nothing.

    Attributes:
      rate: share of examples whose branch is zeroed, 0 … 1.
    """

    rate: float

    @nn.compact
    def __call__(self, branch):
        """Maps float [batch, …] to the same shape."""
        if self.rate == 0 or not self.has_rng(STOCHASTIC_DEPTH):
            return branch
        keep = jax.random.bernoulli(
            self.make_rng(STOCHASTIC_DEPTH),
            1 - self.rate,
            (branch.shape[0],) + (1,) * (branch.ndim - 1),
        )
        return jnp.where(keep, branch / (1 - self.rate), 0).astype(branch.dtype)


def drop_rates(rate: float, blocks: int) -> list[float]:
    """Returns the ``StochasticDepth`` rate of each block, linear from 0 to ``rate`` in the last."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def stochastic_depth_key(batch):
    """Returns the random key of stochastic depth for a device's part of a batch.

    It depends on the run's seed and on epoch and id of the part's first example, so it differs
    between steps and between devices.
    """
    root = jax.random.fold_in(jax.random.key(batch.seed), _STREAM)
    return jax.random.fold_in(jax.random.fold_in(root, batch.epoch[0]), batch.id[0])


def compute_dtype(name: str) -> Any:
    """Returns the computation dtype with this name; parameters are always float32."""
    require(name in ("float32", "bfloat16"), f"dtype must be float32 or bfloat16, got {name!r}.")
    return jnp.dtype(name)
