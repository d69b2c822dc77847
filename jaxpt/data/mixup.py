"""Mixup (Zhang et al., ICLR 2018): images and labels in pairs, weighed by a draw from Beta(α, α).

Pairs and weight are drawn on the host from (seed, step), for the whole batch and not for the part
of one device: the number of devices changes nothing.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxpt.data.resident import Rows


_STREAM = 1  # apart from the draws of ``order``, which are from (seed, epoch)


class Pairs(NamedTuple):
    """A batch, and what it is mixed with.

    Attributes:
      rows: of the batch.
      partners: of what each is mixed with; None without mixup.
      share: float32 [batch], weight λ of ``rows``, 1 − λ of ``partners``; None without mixup.
    """

    rows: Rows
    partners: Rows | None = None
    share: np.ndarray | None = None


def pairs(rows: Rows, *, alpha: float, seed: int, step: int) -> Pairs:
    """Pairs every example with the one after it; one λ for the batch, as BiT draws it.

    Args:
      rows: of a batch in shuffled order.
      alpha: of the Beta distribution; 0 gives no mixup.
      seed, step: what λ is drawn from.
    """
    if alpha == 0:
        return Pairs(rows)
    share = np.random.default_rng((seed, step, _STREAM)).beta(alpha, alpha)
    partners = Rows(*(np.roll(values, -1, axis=0) for values in rows))
    return Pairs(rows, partners, np.full(len(rows.index), share, np.float32))


def mix(share: jax.Array, own: jax.Array, others: jax.Array) -> jax.Array:
    """λ · own + (1 − λ) · others; share [batch], own and others [batch, …]."""
    share = share.reshape(-1, *[1] * (own.ndim - 1))
    return share * own + (1 - share) * others
