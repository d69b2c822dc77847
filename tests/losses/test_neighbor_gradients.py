"""LOOK and NCA: gradients, masks, bad arguments."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding
from jax.test_util import check_grads
from losses.neighbor_cases import BATCH, CLASSES, DIM, MEMORY, gaussian, run_look, run_nca

from jaxpt.losses import NO_POSITIVE, look, nca
from jaxpt.ops.similarity import masked_logsumexp

# Gradients


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_gradients_equal_the_oracles_slope(no_positive, normalize):
    queries, *rest = gaussian(9)
    rest[1][0] = CLASSES
    options = {"k": 4, "temperature": 0.5, "normalize": normalize}
    gradient = run_look(queries, *rest, no_positive=no_positive, **options)[2]
    missing = oracles.look(queries, *rest, **options)[1]
    assert missing.any() and not missing.all()
    # The floor itself is a constant, which a difference quotient cannot know.
    rows = ~missing if no_positive == "floor" else np.ones(BATCH, bool)

    def loss(q):
        return oracles.look(q, *rest, no_positive=no_positive, **options)[0][rows].sum()

    for direction in np.random.default_rng(0).normal(size=(4, BATCH, DIM)):
        np.testing.assert_allclose(
            np.sum(gradient[rows] * direction[rows]),
            oracles.slope(loss, queries, direction),
            rtol=1e-4,
            atol=1e-5,
        )


def test_gradients_pass_jaxs_own_check():
    queries, *rest = gaussian(10)
    loss = jax.jit(lambda q: look(q, *rest, k=6, temperature=1.0, no_positive="drop")[0])
    check_grads(loss, (jnp.asarray(queries),), order=1, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)


def test_no_gradient_flows_into_keys():
    args = gaussian(11)
    for no_positive in NO_POSITIVE:
        *_, gradient, key_gradient = run_look(*args, k=5, no_positive=no_positive)
        assert gradient.any() and not key_gradient.any()
    *_, gradient, key_gradient = run_nca(*args)
    assert gradient.any() and not key_gradient.any()


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_nothing_is_ever_nan(no_positive, temperature):
    queries, keys, *labels = gaussian(12)
    scales = np.array([0, 1e-30, 1e-10, 1, 1e10, 1e30, 1], np.float32)[:, None]
    args = scales * queries, np.resize(scales, (MEMORY, 1)) * keys, *labels
    for mask in np.ones(MEMORY, bool), np.arange(MEMORY) == 3, np.zeros(MEMORY, bool):
        losses, stats, gradient, _ = run_look(
            *args, k=5, temperature=temperature, key_mask=mask, no_positive=no_positive
        )
        assert all(np.isfinite(x).all() for x in (losses, stats, gradient)) and (losses >= 0).all()
        assert not gradient[0].any()  # of a zero vector
    # The last mask was an empty memory.
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, (1, 1, 0))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (look, "chunked"),
        (look, "gathered"),
        (look, "streamed"),
        (nca, "chunked"),
        (nca, "streamed"),
    ],
)
def test_second_derivatives_are_those_of_the_dense_form(loss, form):
    queries, *others = gaussian(3)
    options = {"k": 6} if loss is look else {}

    def penalty(queries, form):
        def total(queries):
            return loss(queries, *others, temperature=0.5, form=form, **options)[0].sum()

        return jnp.sum(jax.grad(total)(queries) ** 2)

    found, expected = (
        jax.jit(jax.grad(penalty), static_argnums=1)(queries, f) for f in (form, "dense")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_the_log_of_a_sum_that_vanishes_is_not_that_of_an_empty_one():
    """As where the largest entry was rounded elsewhere."""
    value = masked_logsumexp(jnp.array([[1e9]]), jnp.array([[True]]), jnp.array([2e9]))
    assert not np.isfinite(value)  # and not 0


def test_the_log_of_an_empty_sum_and_its_gradient_are_zero():
    logits, where = jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([[True, True], [False, False]])
    value, gradient = jax.value_and_grad(lambda x: masked_logsumexp(x, where).sum())(logits)
    np.testing.assert_allclose(
        value, math.log(math.exp(1) + math.exp(2)), rtol=rounding.FEW, atol=rounding.FEW
    )
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_allclose(gradient[0].sum(), 1, rtol=rounding.FEW, atol=rounding.FEW)


# where


@pytest.mark.parametrize("run", [functools.partial(run_look, k=4, no_positive="floor"), run_nca])
def test_where_is_the_same_as_leaving_the_queries_out(run):
    queries, keys, query_labels, key_labels = gaussian(15)
    query_labels[1] = CLASSES
    where = np.array([1, 1, 0, 1, 0, 1, 0], bool)
    losses, stats, gradient, _ = run(queries, keys, query_labels, key_labels, where=where)
    kept, kept_stats, kept_gradient, _ = run(queries[where], keys, query_labels[where], key_labels)
    np.testing.assert_allclose(losses[where], kept, rtol=rounding.FEW, atol=rounding.FEW)
    np.testing.assert_allclose(stats, kept_stats, rtol=rounding.FEW, atol=rounding.FEW)
    np.testing.assert_allclose(gradient[where], kept_gradient, rtol=rounding.FEW, atol=rounding.FEW)
    assert not losses[~where].any() and not gradient[~where].any()


def test_where_may_leave_out_every_query():
    losses, stats, *_ = run_look(*gaussian(15), k=4, where=np.zeros(BATCH, bool))
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, 0)


# Bad arguments


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"k": 0}, ValueError, "k must be a whole number of at least 1, got 0"),
        ({"k": np.int64(-3)}, ValueError, "k must be a whole number of at least 1, got -3"),
        ({"k": 2.5}, ValueError, "k must be a whole number of at least 1, got 2.5"),
        ({"k": jnp.ones(2, int)}, ValueError, "broadcast"),
        ({"k": jnp.float32(2)}, TypeError, "k must be integers, got dtype float32"),
        ({"k": [2] * BATCH}, TypeError, "k must be an array, got a list"),
        (
            {"queries": np.ones((0, DIM), np.float32), "query_labels": np.ones(0, int)},
            ValueError,
            "queries must have at least one row",
        ),
        (
            {"key_labels": jnp.ones(MEMORY, jnp.uint32)},
            ValueError,
            "key_labels are uint32, which JAX confuses with negative ones: use int32",
        ),
        (
            {"temperature": jnp.ones(BATCH)},
            ValueError,
            r"temperature must be a scalar, got shape \(7,\)",
        ),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0"),
        ({"temperature": np.float32(-1)}, ValueError, "temperature must be positive, got -1"),
        ({"temperature": math.inf}, ValueError, "temperature must be finite, got inf"),
        (
            {"keys": np.ones((0, DIM), np.float32), "key_labels": np.ones(0, int)},
            ValueError,
            "keys must have at least one row",
        ),
        ({"no_positive": "ignore"}, ValueError, "no_positive must be one of .*got 'ignore'"),
        ({"queries": np.ones((BATCH, DIM), int)}, TypeError, "queries must be floating point, got"),
        ({"keys": np.ones((MEMORY, DIM), int)}, TypeError, "keys must be floating point, got"),
        ({"keys": np.ones((MEMORY, 9), np.float32)}, ValueError, "dimension 5 but keys 9"),
        (
            {"queries": np.ones(DIM, np.float32)},
            ValueError,
            r"queries must have shape \[rows, dim\]",
        ),
        ({"query_labels": np.ones(3, int)}, ValueError, r"query_labels must have shape \[7\]"),
        (
            {"key_labels": np.ones((MEMORY, 1), int)},
            ValueError,
            r"key_labels must have shape \[24\]",
        ),
        ({"query_ids": np.arange(BATCH)}, ValueError, "give both or neither"),
        ({"key_ids": np.arange(MEMORY)}, ValueError, "give both or neither"),
        (
            {"query_ids": np.arange(3), "key_ids": np.arange(MEMORY)},
            ValueError,
            "query_ids must have",
        ),
        ({"query_ids": np.arange(BATCH), "key_ids": np.arange(3)}, ValueError, "key_ids must have"),
        ({"key_mask": np.ones(3, bool)}, ValueError, r"key_mask must have shape \[24\], got .*3"),
        (
            {"where": np.ones((BATCH, 1), bool)},
            ValueError,
            r"where must have shape \[7\], got .*7, 1",
        ),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    names = ("queries", "keys", "query_labels", "key_labels")
    arguments = dict(zip(names, gaussian(), strict=True)) | {"k": 3} | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: look(**arguments))
    if not {"k", "no_positive"} & set(change):
        del arguments["k"]
        with pytest.raises(error, match=message):
            jax.eval_shape(lambda: nca(**arguments))
