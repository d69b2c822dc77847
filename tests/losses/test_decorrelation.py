import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles_batch
import pytest
import rounding
from jax.sharding import PartitionSpec as P

from jaxpt import losses
from jaxpt.losses import barlow_twins, vicreg

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, DIM = 24, 5
# Two uncorrelated features of variance 1 (biased): all four corners of a square.
CORNERS = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
BOTH = pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])


def pair(seed=0):
    first, noise = np.random.default_rng(seed).normal(size=(2, BATCH, DIM)).astype(np.float32)
    return first, first + 0.5 * noise


def evaluate(name, first, second, **options):
    """(value, gradients by both views)."""
    value, gradients = jax.jit(
        jax.value_and_grad(functools.partial(getattr(losses, name), **options), (0, 1))
    )(first, second)
    return value, *gradients


# Barlow Twins


@pytest.mark.parametrize(
    "second, expected",
    [
        (CORNERS, 0),
        (CORNERS[:, ::-1], 2 + 0.5 * 2),
        (-CORNERS, 2 * 4),
        (0 * CORNERS, 2),
        (CORNERS * [1, -1], 4),
        (CORNERS + 9, 0),
        (CORNERS[:, [0, 0]], 1 + 0.5),
    ],
)
def test_barlow_twins_of_a_squares_corners(second, expected):
    value = jax.jit(barlow_twins)(CORNERS, second.astype(np.float32), redundancy=0.5)
    np.testing.assert_allclose(value, expected, atol=1e-4)  # the 1e-5 beside variances of 1
    assert value.shape == () and value.dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-2, 1e2, 1e10, 1e30])
def test_barlow_twins_adds_its_epsilon_to_variances_and_survives_all_lengths(scale):
    first, second = pair()
    value, *gradients = evaluate("barlow_twins", scale * first, scale * second)
    expected = oracles_batch.barlow_twins(scale * first, scale * second)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("constant", [0.1, 1000.1, 1.1e10, 1.1e30])
def test_a_constant_column_has_correlation_zero_exactly(constant):
    first, second = (x[:21] for x in pair())  # so many that a sum of the constant is rounded
    first[:, 1] = second[:, 1] = constant
    value, *gradients = evaluate("barlow_twins", first, second)
    first, second = first.copy(), second.copy()  # JAX may still read the others
    first[:, 1] = second[:, 1] = 0
    np.testing.assert_array_equal(value, jax.jit(barlow_twins)(first, second))
    assert all(np.isfinite(x).all() for x in gradients)


def test_barlow_twins_of_very_different_columns_equals_the_oracle():
    first, second = pair()
    first *= np.array([1e-4, 1e-2, 1, 1e3, 1e20], np.float32)
    second = second + np.array([0, 1e2, -1e3, 3, 1], np.float32)
    np.testing.assert_allclose(
        jax.jit(barlow_twins)(first, second), oracles_batch.barlow_twins(first, second), rtol=1e-4
    )


# VICReg


NARROW = 1 - math.sqrt(1 / 3 + 1e-4)  # of half the square's corners: unbiased variance 1/4 · 4/3


@pytest.mark.parametrize(
    "second, weights, expected",
    [
        (CORNERS, (1, 1, 1), 0),
        (CORNERS + 3, (1, 1, 1), 9),
        (CORNERS / 2, (1, 0, 0), 1 / 4),
        (CORNERS / 2, (0, 1, 0), NARROW / 2),
        (CORNERS / 2, (2, 3, 5), 2 / 4 + 3 * NARROW / 2),
    ],
)
def test_vicreg_of_a_squares_corners(second, weights, expected):
    value = jax.jit(vicreg)(
        CORNERS, second, **dict(zip(("invariance", "variance", "covariance"), weights))
    )
    np.testing.assert_allclose(value, expected, rtol=rounding.FEW, atol=rounding.FEW)
    assert value.shape == () and value.dtype == jnp.float32


def test_vicreg_adds_the_squared_covariances_of_both_views():
    line = CORNERS[:, [0, 0]]  # covariance 4/3 twice a view, over 2 features
    for second, views in (line, 2), (CORNERS, 1), (-line, 2), (CORNERS[:, [1, 1]], 2):
        value = jax.jit(vicreg)(line, second, invariance=0.0, variance=0.0)
        np.testing.assert_allclose(
            value, views * (4 / 3) ** 2, rtol=rounding.FEW, atol=rounding.FEW
        )


def test_covariances_of_different_views_do_not_count_in_vicreg():
    spread = CORNERS * 2
    value = jax.jit(vicreg)(spread, spread[:, ::-1], invariance=0.0)
    np.testing.assert_allclose(value, 0, atol=1e-6)


# Both


@BOTH
def test_they_equal_the_oracle(name):
    rng = np.random.default_rng(1)
    for where in None, rng.random(BATCH) < 0.7, np.arange(BATCH) == 3, np.zeros(BATCH, bool):
        for dtype in np.float32, jnp.bfloat16:
            first, second = (x.astype(dtype) for x in pair())
            value, *gradients = evaluate(name, first, second, where=where)
            expected = getattr(oracles_batch, name)(first, second, where=where)
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
            assert value.dtype == jnp.float32
            for gradient in gradients:
                assert np.isfinite(gradient.astype(np.float32)).all()
                assert where is None or not gradient[~where].any()


@BOTH
def test_nan_in_a_masked_row_reaches_neither_value_nor_gradient(name):
    first, second = pair()
    where = np.arange(BATCH) % 3 > 0
    before, *_ = evaluate(name, first, second, where=where)
    first, second = first.copy(), second.copy()  # JAX may still read the others
    first[~where], second[~where] = np.nan, np.inf
    value, *gradients = evaluate(name, first, second, where=where)
    np.testing.assert_array_equal(value, before)
    for gradient in gradients:
        assert gradient[where].all() and not gradient[~where].any()


@BOTH
def test_the_order_of_rows_does_not_matter_but_that_of_one_view_does(name):
    first, second = pair()
    order = np.random.default_rng(2).permutation(BATCH)
    loss = jax.jit(getattr(losses, name))
    np.testing.assert_allclose(loss(first[order], second[order]), loss(first, second), rtol=1e-5)
    assert loss(first, second[order]) > 1.1 * loss(first, second)


def parameters_and_views():
    rng = np.random.default_rng(3)
    weights = np.eye(DIM) + 0.3 * rng.normal(size=(DIM, DIM))
    return weights.astype(np.float32), *pair(), rng.random(BATCH) < 0.8


def mapped(mapping, function, mesh):
    """The function of (weights, first, second, where) over 8 devices, the last three split."""
    if mapping == "shard_map":
        return jax.jit(
            jax.shard_map(
                lambda *args: jax.tree.map(lambda x: x[None], function(*args)),
                mesh=mesh,
                in_specs=(P(), *[P("shard")] * 3),
                out_specs=P("shard"),
                check_vma=False,
            )
        )
    inner = jax.pmap(function, axis_name="shard", in_axes=(None, 0, 0, 0))
    return lambda weights, *rows: inner(weights, *(x.reshape(8, -1, *x.shape[1:]) for x in rows))


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@BOTH
def test_training_on_eight_devices_uses_the_gradient_of_the_full_batch(name, mapping, mesh):
    # As methods do: each device differentiates, then gradients of what they share are averaged.
    def step(axis_name, reduce, weights, first, second, where):
        def loss(weights):
            return getattr(losses, name)(
                first @ weights, second @ weights**2, where=where, axis_name=axis_name
            )

        value, gradient = jax.value_and_grad(loss)(weights)
        return value, reduce(gradient)

    def average(gradient):
        return jax.lax.pmean(gradient, "shard")

    arguments = parameters_and_views()
    value, gradient = jax.jit(functools.partial(step, None, lambda x: x))(*arguments)
    values, gradients = mapped(mapping, functools.partial(step, "shard", average), mesh)(*arguments)
    alone, alone_gradients = mapped(mapping, functools.partial(step, None, average), mesh)(
        *arguments
    )
    np.testing.assert_allclose(values, [value] * 8, rtol=1e-5)
    np.testing.assert_allclose(gradients, [gradient] * 8, rtol=1e-4, atol=1e-5)
    assert not np.allclose(alone.mean(), value, rtol=0.05)
    assert not np.allclose(alone_gradients[0], gradient, rtol=0.05)


@BOTH
def test_where_shard_map_tracks_what_varies_the_averaged_loss_is_differentiated(name, mesh):
    def loss(weights, first, second, where, axis_name=None):
        value = getattr(losses, name)(
            first @ weights, second @ weights**2, where=where, axis_name=axis_name
        )
        return value if axis_name is None else jax.lax.pmean(value, axis_name)

    weights, *rows = parameters_and_views()
    sharded = jax.shard_map(
        jax.value_and_grad(functools.partial(loss, axis_name="shard")),
        mesh=mesh,
        in_specs=(P(), *[P("shard")] * 3),
        out_specs=P(),
    )
    full = jax.jit(jax.value_and_grad(loss))(weights, *rows)
    for ours, expected in zip(jax.jit(sharded)(weights, *rows), full):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"first": np.ones((3, 2), int)}, TypeError, "first must be floating point"),
        ({"second": np.ones((3, 2), int)}, TypeError, "second must be floating point"),
        ({"first": np.ones(3, np.float32)}, ValueError, r"first must have shape \[rows, dim\]"),
        (
            {"second": np.ones((3, 4), np.float32)},
            ValueError,
            r"second must have the shape of first, \(3, 2\), got \(3, 4\)",
        ),
        ({"where": np.ones((3, 1), bool)}, ValueError, r"where must have shape \[3\]"),
    ],
)
@BOTH
def test_bad_arguments_are_named(name, change, error, message):
    arguments = dict.fromkeys(("first", "second"), np.ones((3, 2), np.float32)) | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: getattr(losses, name)(**arguments))
