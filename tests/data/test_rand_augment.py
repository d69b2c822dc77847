"""Each operation beside PIL's, and how often each is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxpt.data import augment

pytestmark = pytest.mark.usefixtures("unoptimised")

operate = jax.jit(augment.rand_operation)
STRENGTHS = (-1.0, -0.4, 0.3, 0.9, 1.0)


def warped(image, matrix):
    fill = (128,) * len(image.getbands())
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.NEAREST,
        fillcolor=fill if len(fill) > 1 else fill[0],
    )


def by_pil(name, image, strength):
    size = abs(strength)
    width, height = image.size
    enhancers = {
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return enhancers[name](image).enhance(1 + 0.9 * strength)
    return {
        "identity": lambda: image,
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * size)),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - size)),
        "rotate": lambda: image.rotate(
            30 * strength, fillcolor=(128,) * 3 if len(image.getbands()) == 3 else 128
        ),
        "shear_x": lambda: warped(image, (1, 0.3 * strength, 0, 0, 1, 0)),
        "shear_y": lambda: warped(image, (1, 0, 0, 0.3 * strength, 1, 0)),
        "translate_x": lambda: warped(image, (1, 0, 150 / 331 * strength * width, 0, 1, 0)),
        "translate_y": lambda: warped(image, (1, 0, 0, 0, 1, 150 / 331 * strength * height)),
    }[name]()


@pytest.fixture(scope="module", params=[3, 1], ids=["colour", "grey"])
def picture(request):
    """Smooth and noisy at once, dark on one side, not square, within 20 … 200."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :17] / 24
    waves = np.stack([np.sin(4 * x), np.cos(3 * y), x * y], axis=-1) * 60 + 100
    pixels = np.clip(waves + 15 * rng.normal(size=waves.shape), 20, 200).astype(np.uint8)
    return pixels[..., : request.param]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", augment.RAND_OPERATIONS)
def test_operation_is_that_of_pil(name, strength, picture):
    image = Image.fromarray(picture.squeeze())
    expected = np.asarray(by_pil(name, image, strength), float).reshape(picture.shape)
    found = np.asarray(
        operate(picture.astype(np.float32), augment.RAND_OPERATIONS.index(name), strength)
    )
    assert (found == np.round(found)).all() and found.min() >= 0 and found.max() <= 255
    if augment.RAND_OPERATIONS.index(name) >= augment.RAND_OPERATIONS.index("rotate"):
        # PIL steps through the image in 16 fractional bits: pixels at an edge may go either way.
        assert (found == expected).all(axis=-1).mean() > 0.98
    elif name in ("identity", "equalize", "posterize", "solarize"):
        np.testing.assert_array_equal(found, expected)
    else:
        assert np.abs(found - expected).max() <= 1  # where PIL's float falls just below a number
        assert (found == expected).mean() > 0.98


def test_equalize_of_many_pixels_rounds_as_pil_does():
    pixels = np.random.default_rng(1).normal(100, 25, (60, 50, 3)).clip(0, 255).astype(np.uint8)
    found = operate(pixels.astype(np.float32), augment.RAND_OPERATIONS.index("equalize"), 0.5)
    np.testing.assert_array_equal(found, ImageOps.equalize(Image.fromarray(pixels)))


def test_strength_0_changes_nothing_but_by_operations_without_strength(picture):
    for name in set(augment.RAND_OPERATIONS) - {"auto_contrast", "equalize"}:
        found = operate(picture.astype(np.float32), augment.RAND_OPERATIONS.index(name), 0.0)
        np.testing.assert_array_equal(found, picture, err_msg=name)


def test_flat_images_stay():
    flat = np.full((5, 6, 3), 77.0, np.float32)
    for name in "auto_contrast", "equalize", "contrast", "sharpness", "rotate":
        found = np.asarray(operate(flat, augment.RAND_OPERATIONS.index(name), 0.0))
        np.testing.assert_array_equal(found, flat, err_msg=name)


def test_every_operation_is_drawn_equally_often_and_in_both_directions(monkeypatch):
    monkeypatch.setattr(
        augment,
        "rand_operation",
        lambda image, which, strength: (
            jnp.where(jnp.arange(2)[:, None, None] == 0, which, 100 + jnp.sign(strength))
            + 0 * image
        ),
    )
    views = 255 * jax.jit(
        jax.vmap(lambda key: augment.rand_augment(key, jnp.zeros((2, 1, 1)), 1, 5.0))
    )(jax.random.split(jax.random.key(1), 4200))
    which, sign = np.round(np.asarray(views)[..., 0, 0]).astype(int).T
    counts = np.bincount(which, minlength=14)
    assert len(counts) == 14 and abs(counts - 300).max() < 4 * np.sqrt(300)
    assert abs(np.mean(sign == 101) - 0.5) < 0.04 and set(sign) == {99, 101}
    assert abs(np.corrcoef(which, sign)[0, 1]) < 0.07


def test_n_operations_follow_one_another(picture):
    key, image = jax.random.key(3), picture / np.float32(255)
    draws, signs = jax.random.split(key)
    which = jax.random.randint(draws, (3,), 0, 14)
    sign = np.where(jax.random.bernoulli(signs, shape=(3,)), 1.0, -1.0)
    expected = picture.astype(np.float32)
    for i in range(3):
        expected = operate(expected, which[i], sign[i] * 0.7)
    found = jax.jit(augment.rand_augment, static_argnums=2)(key, image, 3, 7.0)
    np.testing.assert_allclose(found, expected / 255, atol=1e-6)
