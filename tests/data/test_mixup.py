"""Mixup: who is mixed with whom, and how much."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt import losses
from jaxpt.data import mixup


def test_mixed_labels_in_closed_form():
    share = np.random.default_rng((5, 2, 1)).beta(0.4, 0.4)
    drawn = mixup.draw_share(3, alpha=0.4, seed=5, step=2)
    np.testing.assert_allclose(drawn, [share] * 3, rtol=1e-6)
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    own, other = (losses.cross_entropy(logits, jnp.array([label])) for label in (0, 1))
    np.testing.assert_allclose(  # λ log 2 + (1 − λ) log 4
        mixup.mix(jnp.array([0.3]), own, other), [0.3 * math.log(2) + 0.7 * math.log(4)], rtol=1e-5
    )
    images = mixup.mix(jnp.array([0.25, 1.0]), jnp.full((2, 2, 2, 1), 4.0), jnp.zeros((2, 2, 2, 1)))
    np.testing.assert_array_equal(images[:, 0, 0, 0], [1.0, 4.0])


def drawn(steps=400, **alphas):
    draws = jax.jit(
        jax.vmap(lambda step: mixup.draw(3, step, **{"mixup": 0.0, "cutmix": 0.0} | alphas))
    )(np.arange(steps))
    return jax.tree.map(np.asarray, draws)


class TestDraw:
    @pytest.mark.parametrize(
        "alphas, cut",
        [({"mixup": 0.4}, 0.0), ({"cutmix": 0.4}, 1.0), ({"mixup": 0.4, "cutmix": 0.4}, 0.5)],
    )
    def test_which_of_both_and_how_much(self, alphas, cut):
        draws = drawn(**alphas)
        assert abs(draws.cut.mean() - cut) <= 0.1 * (cut == 0.5)
        shares = draws.share
        assert abs(shares.mean() - 0.5) < 0.07
        assert abs(shares.var() - 0.25 / (2 * 0.4 + 1)) < 0.02  # of Beta(α, α)

    def test_each_has_its_own_alpha(self):
        draws = drawn(mixup=0.1, cutmix=50.0)
        assert draws.share[draws.cut].std() < 0.1 < 0.3 < draws.share[~draws.cut].std()

    def test_is_of_seed_and_step_alone(self):
        one = mixup.draw(3, 17, mixup=0.4, cutmix=1.0)
        for there, here in zip(drawn(mixup=0.4, cutmix=1.0), one, strict=True):
            np.testing.assert_allclose(there[17], here, rtol=1e-6)
        assert len(set(drawn(mixup=0.4).share.round(4))) > 200


def over(devices, function, *arrays):
    """The function of each device's rows, over so many devices."""
    split = [jnp.asarray(a).reshape(devices, -1, *a.shape[1:]) for a in arrays]
    out = jax.vmap(function, axis_name="batch")(*split)
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), out)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_partners_are_the_next_examples_of_the_whole_batch(devices):
    rows = np.arange(8)
    found = over(devices, lambda r: mixup.next_example(r, 8 // devices, "batch"), rows)
    np.testing.assert_array_equal(found, np.roll(rows, -1))
    views = over(1, lambda r: mixup.next_example(r, 4, "batch"), rows)  # two views of four
    np.testing.assert_array_equal(views, [1, 2, 3, 0, 5, 6, 7, 4])


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.9), (0.99, 0.3)])
def test_mixed_views_by_hand(cut, centre):
    images = np.random.default_rng(0).random((4, 10, 8, 3)).astype(np.float32)
    share = 0.6
    draw = mixup.Draw(jnp.float32(share), jnp.asarray(cut), jnp.array(centre, jnp.float32))
    one, two = (
        over(devices, lambda x, n=devices: mixup.mix_views(draw, x, 4 // n, "batch"), images)
        for devices in (1, 2)
    )
    expected, own = images.copy(), share
    if cut:
        height, width = int(10 * math.sqrt(1 - share)), int(8 * math.sqrt(1 - share))
        assert (height, width) == (6, 5)
        row, column = int(10 * np.float32(centre[0])), int(8 * np.float32(centre[1]))
        rows = slice(max(0, row - 3), row + 3)
        columns = slice(max(0, math.floor(column - 2.5)), math.floor(column + 2.5))
        expected[:, rows, columns] = np.roll(images, -1, axis=0)[:, rows, columns]
        own = 1 - images[0, rows, columns, 0].size / 80
    else:
        expected = share * images + (1 - share) * np.roll(images, -1, axis=0)
    for found, shares in (one, two):
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(shares, [own] * 4, rtol=1e-5)
