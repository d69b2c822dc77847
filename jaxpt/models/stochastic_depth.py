"""Stochastic depth (Huang et al., ECCV 2016): branches that are left out of some examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp

RNG = "stochastic_depth"  # what ``encode`` calls its key
_STREAM = 1 << 22  # apart from the draws of views and of mixup


class StochasticDepth(nn.Module):
    """Zeroes a residual branch in a share of the examples, and scales it up in the others.

    Without a key of that name, as in evaluation and in target encoders, branches stay.

    Attributes:
      rate: that share, 0 … 1.
    """

    rate: float

    @nn.compact
    def __call__(self, branch):
        """float [batch, …] → the same."""
        if self.rate == 0 or not self.has_rng(RNG):
            return branch
        keep = jax.random.bernoulli(
            self.make_rng(RNG), 1 - self.rate, (branch.shape[0],) + (1,) * (branch.ndim - 1)
        )
        return jnp.where(keep, branch / (1 - self.rate), 0).astype(branch.dtype)


def rates(rate: float, blocks: int) -> list[float]:
    """Of every block, from 0 in the first to ``rate`` in the last."""
    return [rate * i / max(blocks - 1, 1) for i in range(blocks)]


def key_of(batch):
    """The key of a device's part of a batch: from the run's seed, and the epoch and id of its first
    example, so that no two steps and no two devices have the same."""
    root = jax.random.fold_in(jax.random.key(batch.seed), _STREAM)
    return jax.random.fold_in(jax.random.fold_in(root, batch.epoch[0]), batch.id[0])
