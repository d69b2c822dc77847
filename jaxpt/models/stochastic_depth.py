"""Stochastic depth, which drops residual branches of random examples (Huang et al., ECCV 2016)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

RNG = "stochastic_depth"  # name of the random key in ``encode``
_STREAM = 1 << 22  # separates these draws from those of views and of mixup


class StochasticDepth(nn.Module):
    """Zeroes a residual branch for a random share of the examples and rescales it for the others.

    Without a random key named ``RNG``, as in evaluation and in target encoders, it does nothing.

    Attributes:
      rate: share of examples whose branch is zeroed, 0 … 1.
    """

    rate: float

    @nn.compact
    def __call__(self, branch):
        """Maps float [batch, …] to the same shape."""
        if self.rate == 0 or not self.has_rng(RNG):
            return branch
        keep = jax.random.bernoulli(
            self.make_rng(RNG), 1 - self.rate, (branch.shape[0],) + (1,) * (branch.ndim - 1)
        )
        return jnp.where(keep, branch / (1 - self.rate), 0).astype(branch.dtype)


def rates(rate: float, blocks: int) -> list[float]:
    """Returns the rate of each block, linear from 0 in the first to ``rate`` in the last."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def key_of(batch):
    """Returns the random key of a device's part of a batch.

    It depends on the run's seed and on epoch and id of the part's first example, so it differs
    between steps and between devices.
    """
    root = jax.random.fold_in(jax.random.key(batch.seed), _STREAM)
    return jax.random.fold_in(jax.random.fold_in(root, batch.epoch[0]), batch.id[0])
