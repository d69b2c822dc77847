"""Mixup: who is mixed with whom, and how much."""

import math

import jax.numpy as jnp
import numpy as np

from jaxpt import losses
from jaxpt.data import mixup
from jaxpt.data.resident import Rows


def test_mixed_labels_in_closed_form():
    rows = Rows(np.array([4, 7, 9], np.int32), np.array([0, 0, 1], np.int32))
    pairs = mixup.pairs(rows, alpha=0.4, seed=5, step=2)
    share = np.random.default_rng((5, 2, 1)).beta(0.4, 0.4)
    np.testing.assert_array_equal(pairs.partners.index, [7, 9, 4])
    np.testing.assert_array_equal(pairs.partners.epoch, [0, 1, 0])
    np.testing.assert_allclose(pairs.share, [share] * 3, rtol=1e-6)
    assert mixup.pairs(rows, alpha=0.0, seed=5, step=2) == (rows, None, None)
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    own, other = (losses.cross_entropy(logits, jnp.array([label])) for label in (0, 1))
    np.testing.assert_allclose(  # λ log 2 + (1 − λ) log 4
        mixup.mix(jnp.array([0.3]), own, other), [0.3 * math.log(2) + 0.7 * math.log(4)],
        rtol=1e-5)
    images = mixup.mix(jnp.array([0.25, 1.0]), jnp.full((2, 2, 2, 1), 4.0), jnp.zeros((2, 2, 2, 1)))
    np.testing.assert_array_equal(images[:, 0, 0, 0], [1.0, 4.0])
