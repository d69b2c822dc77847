"""Jitter, hue, greyscale, blur and solarise beside NumPy, colorsys, scipy and PIL."""

import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageOps

from jaxpt.data import augment

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")

DRAWS = 4800


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((9, 7, 3)).astype(np.float32)


def close(a, b, atol=2e-6):
    np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=atol)


def turned(image, turn):
    def one(pixel):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turn) % 1, s, v)

    return np.apply_along_axis(one, -1, image.astype(float))


def jittered(image, factors, turn, order):
    """One step after the other, each on the whole image, as the words say."""
    x = image.astype(float)
    for step in order:
        luma = x @ [0.299, 0.587, 0.114] if x.shape[-1] == 3 else x[..., 0]
        if step == 0:
            x = factors[0] * x
        elif step == 1:
            x = factors[1] * x + (1 - factors[1]) * luma.mean()
        elif step == 2:
            x = factors[2] * x + (1 - factors[2]) * luma[..., None]
        elif x.shape[-1] == 3:
            x = turned(x, turn)
        x = np.clip(x, 0, 1)
    return x


class TestJitter:
    ORDERS = list(itertools.permutations(range(4)))

    @pytest.mark.parametrize("channels", [3, 1])
    def test_every_order_is_the_steps_one_after_another(self, image, channels):
        image = image[..., :channels]
        factors, turn = np.array([1.5, 1.6, 0.3], np.float32), 0.2
        views = jax.jit(
            jax.vmap(lambda order: augment.jitter(image, jnp.array(factors), turn, order))
        )(np.array(self.ORDERS))
        for view, order in zip(views, self.ORDERS, strict=True):
            close(view, jittered(image, factors, turn, order), 1e-5)
        if channels == 3:  # they do differ
            assert len({np.asarray(view).round(3).tobytes() for view in views}) > 12

    def test_without_hue_the_hue_stays_and_no_order_is_lost(self, image):
        factors = np.array([1.5, 1.6, 0.3], np.float32)
        views = jax.jit(
            jax.vmap(
                lambda order: augment.jitter(image, jnp.array(factors), 0.3, order, hues=False)
            )
        )(np.array(self.ORDERS))
        for view, order in zip(views, self.ORDERS, strict=True):
            close(view, jittered(image, factors, 0.0, order), 1e-5)

    def test_draws(self):
        keys = jax.random.split(jax.random.key(0), DRAWS)
        factors, turns, orders = jax.jit(
            jax.vmap(lambda key: augment.draw_jitter(key, (0.4, 1.5, 0.2, 0.1)))
        )(keys)
        for values, low, high in (
            (factors[:, 0], 0.6, 1.4),
            (factors[:, 1], 0.0, 2.5),
            (factors[:, 2], 0.8, 1.2),
            (turns, -0.1, 0.1),
        ):
            places = (np.asarray(values) - low) / (high - low)
            assert 0 <= places.min() + 1e-6 and places.max() <= 1 + 1e-6
            assert_even(np.histogram(places, 8, (0, 1))[0])
        assert np.abs(np.corrcoef([*np.asarray(factors).T, turns]) - np.eye(4)).max() < 0.06
        _, counts = np.unique(orders, axis=0, return_counts=True)
        assert len(counts) == 24
        assert_even(counts)


def assert_even(counts):
    expected, freedom = np.sum(counts) / len(counts), len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom), counts


class TestHue:
    @pytest.mark.parametrize("turn", [0.0, 0.1, -0.37, 0.5])
    def test_is_that_of_colorsys(self, image, turn):
        close(jax.jit(augment.turn_hue)(image, turn), turned(image, turn))

    def test_corners_of_the_cube_and_greys(self):
        cube = np.array(list(itertools.product([0.0, 0.5, 1.0], repeat=3)), np.float32)[None]
        close(jax.jit(augment.turn_hue)(cube, 1 / 3), turned(cube, 1 / 3))


class TestGrey:
    def test_is_the_luma_of_pil_in_every_channel(self, image):
        pixels = (image * 255).round().astype(np.uint8)
        expected = np.asarray(Image.fromarray(pixels).convert("L")) / 255
        found = np.asarray(jax.jit(augment.grey)(pixels / np.float32(255)))
        close(found, np.repeat(expected[..., None], 3, axis=-1), 0.51 / 255)

    def test_one_channel_stays(self, image):
        np.testing.assert_array_equal(augment.grey(image[..., :1]), image[..., :1])


class TestBlur:
    @pytest.mark.parametrize("by_taps", [False, True])
    @pytest.mark.parametrize("sigma, radius", [(0.1, 1), (0.7, 3), (2.0, 3), (2.0, 9)])
    def test_is_that_of_scipy(self, image, sigma, radius, by_taps):
        expected = scipy.ndimage.gaussian_filter(
            image.astype(float), (sigma, sigma, 0), mode="nearest", radius=(radius, radius, 0)
        )
        blur = jax.jit(functools.partial(augment.blur, radius=radius, by_taps=by_taps))
        close(blur(image, sigma), expected)

    def test_its_kernel_is_a_tenth_of_the_side_and_odd(self):
        sides = [augment.blur_radius((side, 500, 3), 0.1) * 2 + 1 for side in (8, 28, 96, 224)]
        assert sides == [3, 3, 11, 23]


def test_solarise_is_that_of_pil():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(every))) / 255
    close(augment.solarise(every / np.float32(255)), expected)
