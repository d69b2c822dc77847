import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import oracles_batch
import pytest
import rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

from jaxpt.losses import cosine_softmax, cross_entropy, entropy, prototype_softmax, reverse_gradient

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, CLASSES, MEMORY, DIM = 6, 5, 20, 3
AXES = np.eye(DIM, dtype=np.float32)
fast = jax.jit(cross_entropy, static_argnames="label_smoothing")


@functools.partial(jax.jit, static_argnames="label_smoothing")
def gradient_of(logits, labels, **options):
    return jax.grad(lambda x: cross_entropy(x, labels, **options).sum())(logits)


def random(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, CLASSES)).astype(np.float32), rng.integers(CLASSES, size=BATCH)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_equal_logits_give_the_log_of_the_number_of_classes(smoothing):
    losses = fast(np.full((2, 4), 7.0, np.float32), np.array([0, 3]), label_smoothing=smoothing)
    np.testing.assert_allclose(losses, [math.log(4)] * 2, rtol=rounding.FEW, atol=rounding.FEW)
    assert losses.dtype == jnp.float32


def test_smoothing_spreads_its_share_over_all_classes_the_right_one_included():
    loss = fast(np.array([[math.log(3.0), 0.0]], np.float32), np.array([0]), label_smoothing=0.2)
    # p = (3/4, 1/4) against the target (0.9, 0.1).
    np.testing.assert_allclose(
        loss, [0.9 * math.log(4 / 3) + 0.1 * math.log(4)], rtol=rounding.FEW, atol=rounding.FEW
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    "scale, dtype",
    [(1, np.float32), (100, np.float32), (1e30, np.float32), (1, jnp.bfloat16), (300, jnp.float16)],
)
def test_it_equals_the_oracle(scale, dtype, smoothing, request):
    if dtype == jnp.float16:
        request.getfixturevalue("float16")
    logits, labels = random()
    logits = (scale * logits).astype(dtype)
    losses = fast(logits, labels, label_smoothing=smoothing)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6 * scale)
    assert losses.dtype == jnp.float32


@given(
    logits=hnp.arrays(np.float32, (BATCH, CLASSES), elements=st.floats(-50, 50, width=16)),
    labels=hnp.arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1)),
    smoothing=st.sampled_from([0.0, 0.1]),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_it_equals_the_oracle_and_its_gradients_sum_to_zero(logits, labels, smoothing):
    losses = fast(logits, labels, label_smoothing=smoothing)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    gradient = gradient_of(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=rounding.FEW)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_is_softmax_minus_target(smoothing):
    logits, labels = random(1)
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        gradient_of(logits, labels, label_smoothing=smoothing),
        softmax - target,
        rtol=1e-5,
        atol=1e-6,
    )


def test_gradients_pass_jaxs_own_check():
    logits, labels = random(2)
    loss = functools.partial(fast, labels=labels, label_smoothing=0.1)
    check_grads(loss, (jnp.asarray(logits),), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    "row, label, expected", [([0.0, -np.inf, 0.0], 0, math.log(2)), ([3e38, -3e38, -3e38], 0, 0.0)]
)
def test_classes_ruled_out_by_their_logit_cost_nothing_without_smoothing(row, label, expected):
    logits, labels = np.array([row], np.float32), np.array([label])
    np.testing.assert_allclose(
        fast(logits, labels), [expected], rtol=rounding.FEW, atol=rounding.FEW
    )
    assert np.isfinite(gradient_of(logits, labels)).all()


def test_a_label_outside_of_the_classes_gives_nan_in_its_own_row_alone():
    logits, labels = random(3)
    bad = np.where(np.arange(BATCH) == 1, -1, labels)
    bad[4] = CLASSES
    losses = fast(logits, bad)
    np.testing.assert_array_equal(np.isnan(losses), np.isin(np.arange(BATCH), [1, 4]))
    good = ~np.isnan(losses)
    np.testing.assert_allclose(losses[good], oracles.cross_entropy(logits, labels)[good], rtol=1e-5)


def test_where_zeroes_rows_even_with_a_label_outside():
    logits, labels = random(4)
    where = np.arange(BATCH) % 2 == 0
    losses = fast(logits, np.where(where, labels, -1), where=where)
    np.testing.assert_array_equal(losses[~where], 0)
    np.testing.assert_allclose(
        losses[where], fast(logits, labels)[where], rtol=rounding.FEW, atol=rounding.FEW
    )
    for masked in 0, np.nan:
        gradient = gradient_of(np.where(where[:, None], logits, masked), labels, where=where)
        assert gradient[where].any(axis=1).all() and not gradient[~where].any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"logits": np.ones((3, 2), int)},
            TypeError,
            "logits must be floating point, got dtype int",
        ),
        ({"logits": np.ones(3, np.float32)}, ValueError, r"logits must be \[batch, classes\]"),
        ({"labels": np.zeros(2, int)}, ValueError, r"got shapes \(3, 2\) and \(2,\)"),
        ({"labels": np.zeros((3, 2), np.float32)}, ValueError, r"got shapes \(3, 2\) and \(3, 2\)"),
        (
            {"label_smoothing": 1.0},
            ValueError,
            "label_smoothing must be at least 0 and below 1, got 1",
        ),
        ({"label_smoothing": -0.1}, ValueError, "got -0.1"),
        ({"where": np.ones((3, 1), bool)}, ValueError, r"where must have shape \[3\], got .*3, 1"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"logits": np.ones((3, 2), np.float32), "labels": np.zeros(3, int)} | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: cross_entropy(**arguments))


# Cosine softmax


def test_cosine_softmax_knows_directions_alone_and_divides_by_the_temperature():
    losses = jax.jit(cosine_softmax)(5 * AXES, 7 * AXES, np.array([0, 1, 0]), temperature=0.5)
    right = math.log(1 + 2 * math.exp(-2))
    np.testing.assert_allclose(
        losses, [right, right, 2 + right], rtol=rounding.FEW, atol=rounding.FEW
    )
    assert losses.dtype == jnp.float32


def test_cosine_softmax_is_the_cross_entropy_of_the_cosines():
    rng = np.random.default_rng(5)
    z, w = (rng.normal(size=(n, DIM)).astype(np.float32) for n in (BATCH, CLASSES))
    labels, where = rng.integers(CLASSES, size=BATCH), np.arange(BATCH) != 2
    cosines = (oracles.unit(z) @ oracles.unit(w).T / 0.2).astype(np.float32)
    options = {"label_smoothing": 0.3, "where": where}
    losses = jax.jit(functools.partial(cosine_softmax, temperature=0.2, **options))(z, w, labels)
    np.testing.assert_allclose(losses, fast(cosines, labels, **options), rtol=1e-5)


def test_cosine_softmax_teaches_embeddings_and_prototypes_alike():
    def total(z, w):
        return cosine_softmax(z, w, jnp.array([0]), temperature=1.0).sum()

    z_gradient, w_gradient = jax.jit(jax.grad(total, (0, 1)))(2 * AXES[:1], AXES[:2])
    share = 1 / (1 + math.e)  # of the wrong class; only what turns the vectors is left
    np.testing.assert_allclose(z_gradient, [[0, share / 2, 0]], rtol=1e-5)
    np.testing.assert_allclose(w_gradient, [[0, 0, 0], [share, 0, 0]], rtol=1e-5)


def test_nan_in_a_masked_embedding_reaches_neither_loss_nor_gradient():
    z, where = AXES.copy(), np.array([True, False, True])
    z[1] = np.nan

    def total(z, w):
        return cosine_softmax(z, w, jnp.array([1, 9, 1]), where=where).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(z, AXES)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"embeddings": np.ones((3, 2), int)}, TypeError, "embeddings must be floating point"),
        ({"prototypes": np.ones((5, 2), int)}, TypeError, "prototypes must be floating point"),
        ({"prototypes": np.ones((5, 4), np.float32)}, ValueError, "dimension 2 but prototypes 4"),
        (
            {"prototypes": np.ones(2, np.float32)},
            ValueError,
            r"prototypes must have shape \[rows, dim",
        ),
        ({"labels": np.zeros(5, int)}, ValueError, r"got shapes \(3, 5\) and \(5,\)"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be"),
        ({"where": np.ones(5, bool)}, ValueError, r"where must have shape \[3\]"),
    ],
)
def test_bad_arguments_of_cosine_softmax_are_named(change, error, message):
    arguments = {
        "embeddings": np.ones((3, 2), np.float32),
        "labels": np.zeros(3, int),
        "prototypes": np.ones((5, 2), np.float32),
    } | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: cosine_softmax(**arguments))


# Prototype softmax

ocm = jax.jit(prototype_softmax, static_argnames=("classes", "normalize"))


def labelled_memory(seed=0):
    """(queries, keys, query_labels, key_labels), classes 0 … 3 in the memory."""
    rng = np.random.default_rng(seed)
    return (
        *(rng.normal(size=(n, DIM)).astype(np.float32) for n in (BATCH, MEMORY)),
        rng.integers(CLASSES - 1, size=BATCH),
        np.arange(MEMORY) % (CLASSES - 1),
    )


def test_a_class_is_the_direction_of_the_mean_of_its_unit_keys():
    # Class 0: two keys to either side of the first axis, one of them long. Class 1: the third axis.
    keys = np.array([[1, 1, 0], [30, -30, 0], [0, 0, 2]], np.float32)
    losses = ocm(AXES, keys, np.array([0, 0, 1]), np.array([0, 0, 1]), classes=2, temperature=0.5)
    right = math.log(1 + math.exp(-2))
    np.testing.assert_allclose(losses, [right, math.log(2), right], rtol=1e-5)
    raw = ocm(
        AXES,
        keys,
        np.array([0, 0, 1]),
        np.array([0, 0, 1]),
        classes=2,
        temperature=10.0,
        normalize=False,
    )  # plain means: (15.5, −14.5, 0) and (0, 0, 2)
    np.testing.assert_allclose(
        raw,
        [math.log(1 + math.exp(-1.55)), math.log(1 + math.exp(1.45)), math.log(1 + math.exp(-0.2))],
        rtol=1e-5,
    )


def test_classes_without_a_key_are_not_in_the_softmax_and_cost_their_queries_nothing():
    labels, memory = np.array([0, 1, 2]), np.array([0, 1, 1])
    losses = ocm(AXES[[0, 0, 0]], AXES, labels, memory, classes=900)
    np.testing.assert_allclose(losses, ocm(AXES[[0, 0, 0]], AXES, labels, memory, classes=3))
    assert losses[:2].all() and losses[2] == 0


def test_keys_in_no_class_and_masked_keys_do_not_exist_even_nan():
    queries, keys, query_labels, key_labels = labelled_memory()
    gone = np.arange(MEMORY) % 3 == 0
    expected = ocm(queries, keys[~gone], query_labels, key_labels[~gone], classes=CLASSES)
    keys[gone] = np.nan
    none_own = {"query_ids": np.full(BATCH, -1), "key_ids": np.arange(MEMORY)}
    for outside in -1, -2, CLASSES, 2**31 - 1:
        labels = np.where(gone, outside, key_labels)
        for ids in {}, none_own:
            losses = ocm(queries, keys, query_labels, labels, classes=CLASSES, **ids)
            np.testing.assert_allclose(losses, expected, rtol=1e-5)

    def total(queries):
        return prototype_softmax(
            queries, keys, query_labels, key_labels, classes=CLASSES, key_mask=~gone
        ).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(queries)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_querys_own_keys_are_left_out_of_its_class_alone():
    keys, labels = AXES, np.array([0, 0, 1])
    query = np.ones((1, 3), np.float32)

    def loss(own, label):
        ids = np.where(np.isin(np.arange(3), own), 7, np.arange(3))
        return ocm(
            query,
            keys,
            np.array([label]),
            labels,
            classes=2,
            temperature=1.0,
            query_ids=np.array([7]),
            key_ids=ids,
        )[0]

    mean, alone = math.sqrt(2 / 3), math.sqrt(1 / 3)  # cosines with two axes' mean and with one
    np.testing.assert_allclose(loss([], 0), math.log(1 + math.exp(alone - mean)), rtol=1e-5)
    np.testing.assert_allclose(loss([0], 0), math.log(2), rtol=1e-5)
    np.testing.assert_allclose(loss([2], 0), math.log(1 + math.exp(alone - mean)), rtol=1e-5)
    assert loss([0, 1], 0) == loss([2], 1) == 0  # nothing is left of the class


def test_what_is_left_of_a_large_class_is_exact():
    rng = np.random.default_rng(6)
    # All but one of a class's thousand keys are the query's own, and far from the last one.
    keys = np.concatenate([np.repeat(AXES[:1], 1000, axis=0), AXES[1:]])
    keys += 1e-3 * rng.normal(size=keys.shape).astype(np.float32)
    labels, ids = np.repeat([0, 1], [1001, 1]), np.repeat([0, 1], [1000, 2])
    arguments = AXES[1:2], keys, np.array([0]), labels
    options = {"classes": 2, "temperature": 0.01, "query_ids": np.array([0]), "key_ids": ids}
    queries_side = np.array([[0, 1, 0.99]], np.float32)
    for queries in arguments[0], queries_side:
        losses = ocm(queries, *arguments[1:], **options)
        np.testing.assert_allclose(
            losses,
            oracles_batch.prototype_softmax(queries, *arguments[1:], **options),
            rtol=1e-4,
            atol=1e-6,
        )


def test_a_query_label_outside_of_the_classes_gives_nan_unless_masked():
    queries, keys, query_labels, key_labels = labelled_memory()
    query_labels[[1, 4]] = -1, CLASSES
    losses = ocm(queries, keys, query_labels, key_labels, classes=CLASSES)
    np.testing.assert_array_equal(np.isnan(losses), np.isin(np.arange(BATCH), [1, 4]))
    where = ~np.isnan(losses)
    queries[~where] = np.nan

    def total(queries):
        masked = prototype_softmax(
            queries, keys, query_labels, key_labels, classes=CLASSES, where=where
        )
        return masked.sum(), masked

    gradient, masked = jax.jit(jax.grad(total, has_aux=True))(queries)
    np.testing.assert_allclose(masked, np.where(where, losses, 0), rtol=1e-5)
    assert gradient[where].all() and not gradient[~where].any()


def test_no_gradient_flows_into_the_keys():
    queries, keys, *labels = labelled_memory()
    options = {"query_ids": np.arange(BATCH), "key_ids": np.arange(MEMORY)}
    gradient = jax.jit(
        jax.grad(
            lambda q, k: prototype_softmax(q, k, *labels, classes=CLASSES, **options).sum(), (0, 1)
        )
    )(queries, keys)
    assert gradient[0].any(axis=1).all() and not gradient[1].any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"queries": np.ones((3, 2), int)}, TypeError, "queries must be floating point"),
        ({"keys": np.ones((5, 2), int)}, TypeError, "keys must be floating point"),
        ({"keys": np.ones((5, 4), np.float32)}, ValueError, "dimension 2 but keys 4"),
        ({"query_labels": np.zeros(5, int)}, ValueError, r"query_labels must have shape \[3\]"),
        ({"key_labels": np.zeros(3, int)}, ValueError, r"key_labels must have shape \[5\]"),
        ({"query_ids": np.zeros(3, int)}, ValueError, "give both or neither"),
        ({"key_mask": np.ones(3, bool)}, ValueError, r"key_mask must have shape \[5\]"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"where": np.ones(5, bool)}, ValueError, r"where must have shape \[3\]"),
    ],
)
def test_bad_arguments_of_prototype_softmax_are_named(change, error, message):
    arguments = {
        "queries": np.ones((3, 2), np.float32),
        "keys": np.ones((5, 2), np.float32),
        "query_labels": np.zeros(3, int),
        "key_labels": np.zeros(5, int),
    } | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: prototype_softmax(**arguments, classes=2))


def test_entropy_of_known_distributions():
    p = np.array([[0.5, 0.5, 0, 0], [0.25] * 4, [1, 0, 0, 0], [0.5, 0.25, 0.125, 0.125]])
    logits = np.log(np.maximum(p, 1e-30)).astype(np.float32)
    wanted = np.array([1, 2, 0, 1.75]) * math.log(2)
    np.testing.assert_allclose(entropy(logits), wanted, atol=1e-6)
    with pytest.raises(TypeError, match="logits must be floating point"):
        entropy(np.ones((2, 3), int))
    with pytest.raises(ValueError, match="logits must have shape"):
        entropy(np.ones(3, np.float32))


def test_a_reversed_gradient_changes_no_bit_of_the_value():
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    x = np.concatenate([x, x * 1e-30, x * 1e30, [0.0, -0.0]]).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(reverse_gradient)(x), x)
    plain, reversed_ = (
        jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x[:100])
        for f in (lambda x: x, reverse_gradient)
    )
    np.testing.assert_allclose(reversed_, -plain, rtol=1e-6)
    with pytest.raises(TypeError, match="x must be floating point"):
        reverse_gradient(np.arange(3))
