"""Values of single losses and what they turn into; test_every_loss.py has what holds of all."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.losses import exemplar, grafit, info_nce, mask_con, nt_xent, spread, sup_con, sup_moco

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, MEMORY, DIM = 6, 14, 4
AXES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
# One query at cosine 0.6 with its own positive; keys at cosines 1, 0, −1, the first two of its
# class. The own positive is at 0.6, 0.8 and −0.6 with the keys.
QUERY, OWN, KEYS = AXES[:1], np.array([[0.6, 0.8]], np.float32), AXES[:3]
LABELS = np.array([0]), np.array([0, 0, 1])
TOTAL = math.log(math.exp(0.6) + math.e + 1 + math.exp(-1))  # over all candidates, at τ = 1
LOSSES = sup_moco, exemplar, mask_con, grafit


def compiled(loss, **options):
    return jax.jit(functools.partial(loss, **options))


def drawn(seed=0):
    """queries, positives, keys, query_labels, key_labels."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(n, DIM)).astype(np.float32) for n in (BATCH, BATCH, MEMORY)]
    return *rows, rng.integers(3, size=BATCH), rng.integers(3, size=MEMORY)


def same(losses, expected, rtol=1e-5):
    np.testing.assert_allclose(losses, expected, rtol=rtol, atol=1e-6)


# Closed forms


def test_sup_moco_averages_over_own_positive_and_class():
    losses = compiled(sup_moco, temperature=1.0)(QUERY, OWN, KEYS, *LABELS)
    same(losses, [TOTAL - (0.6 + 1 + 0) / 3])


def test_exemplar_leaves_the_keys_of_the_class_out():
    losses = compiled(exemplar, temperature=1.0)(QUERY, OWN, KEYS, *LABELS)
    same(losses, [math.log(math.exp(0.6) + math.exp(-1)) - 0.6])


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_grafit_weighs_the_class_against_the_instance(weight):
    losses = compiled(grafit, temperature=1.0, weight=weight)(QUERY, OWN, KEYS, *LABELS)
    same(losses, [TOTAL - weight * 1.6 / 3 - (1 - weight) * 0.6])


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("target_temperature", [0.05, 0.5])
def test_mask_cons_own_positive_weighs_as_much_as_the_nearest_key(weight, target_temperature):
    losses = compiled(
        mask_con, temperature=1.0, target_temperature=target_temperature, weight=weight
    )(QUERY, OWN, KEYS, *LABELS)
    # The second key is the nearer one to the own positive (0.8, not 0.6), though not to the query.
    far = math.exp((0.6 - 0.8) / target_temperature)
    soft = (0.6 + 0 + 1 * far) / (1 + 1 + far)
    same(losses, [TOTAL - weight * soft - (1 - weight) * 0.6])


def test_the_query_does_not_choose_mask_cons_targets():
    def pull(query):  # the part of the loss that the targets weigh
        return mask_con(query, OWN, KEYS, *LABELS, temperature=1.0, weight=1.0)[0]

    # −∂loss/∂s is target − softmax; along the second axis the keys are at 0, 1, 0, own at 0.8.
    gradient = jax.jit(jax.grad(pull))(QUERY)[0, 1]
    far = math.exp(-0.2 / 0.05)
    own, second = 1 / (2 + far), 1 / (2 + far)
    shares = math.exp(0.6 - TOTAL), math.exp(-TOTAL)
    same(gradient, (shares[0] - own) * 0.8 + (shares[1] - second), rtol=1e-4)


def test_spread_adds_infonce_within_the_class():
    z, labels, ids = AXES[[0, 0, 1, 2]], np.array([0, 0, 0, 1]), np.array([5, 5, 6, 7])
    by_class = math.log(math.e + 1 + math.exp(-1)) - 0.5
    by_image = math.log(math.e + 1) - 1
    for weight in 0.0, 0.25, 1.0:
        losses = compiled(spread, temperature=1.0, weight=weight)(z, labels, ids)
        same(losses[:2], [(1 - weight) * by_class + weight * by_image] * 2)
        # The third has classmates but no other view, the last neither.
        same(losses[2:], [(1 - weight) * math.log(2 + 1), 0])


@pytest.mark.parametrize(
    "loss, options, value",
    [
        (mask_con, {"weight": 0.5, "target_temperature": 0.05}, 7.357745),
        (mask_con, {"weight": 0.5, "target_temperature": 0.1}, 7.405140),
        (mask_con, {"weight": 1.0, "target_temperature": 0.05}, 7.641303),
        (mask_con, {"weight": 1.0, "target_temperature": 0.1}, 7.736096),
        (grafit, {"weight": 0.5}, 7.352699),
        (grafit, {"weight": 1.0}, 7.631213),
    ],
)
def test_the_mean_is_that_of_mask_cons_own_code(loss, options, value):
    # Run once, models/model.py of github.com/MrChenFeng/MaskCon_CVPR2023 at 3d18a4c.
    rng = np.random.default_rng(0)
    queries, positives = rng.normal(size=(2, 8, 6)).astype(np.float32)
    keys = rng.normal(size=(16, 6)).astype(np.float32)
    labels = rng.integers(3, size=8), rng.integers(3, size=16)
    losses = compiled(loss, temperature=0.1, **options)(queries, positives, keys, *labels)
    same(losses.mean(), value)


# What they turn into


@pytest.mark.parametrize("ids", [False, True])
def test_a_query_of_sup_moco_is_an_anchor_of_sup_con_with_its_own_positive_among_the_keys(ids):
    queries, positives, keys, query_labels, key_labels = drawn()
    key_ids = np.arange(MEMORY) % 3
    memory = {"query_ids": np.full(BATCH, 1), "key_ids": key_ids} if ids else {}
    losses = compiled(sup_moco)(queries, positives, keys, query_labels, key_labels, **memory)
    for i in range(BATCH):
        memory = {"ids": np.ones(1, int), "key_ids": np.append(key_ids, -1)} if ids else {}
        expected = compiled(sup_con, temperature=0.07)(
            queries[i : i + 1],
            query_labels[i : i + 1],
            keys=np.append(keys, positives[i : i + 1], 0),
            key_labels=np.append(key_labels, query_labels[i]),
            **memory,
        )
        same(losses[i], expected[0])


def test_all_are_info_nce_where_no_key_has_the_label():
    queries, positives, keys, query_labels, key_labels = drawn(1)
    expected = compiled(info_nce, temperature=0.1)(queries, positives, keys)
    for loss in LOSSES:
        same(
            compiled(loss, temperature=0.1)(queries, positives, keys, query_labels + 9, key_labels),
            expected,
        )


def test_mask_con_lies_between_info_nce_and_sup_moco():
    arrays = drawn(2)
    instance = compiled(info_nce, temperature=0.1)(*arrays[:3])
    by_class = compiled(sup_moco, temperature=0.1)(*arrays)
    same(compiled(mask_con, weight=0.0)(*arrays), instance)
    same(compiled(mask_con, target_temperature=1e6)(*arrays), by_class, rtol=1e-4)
    same(compiled(grafit, weight=0.0)(*arrays), instance)
    same(compiled(grafit, weight=1.0)(*arrays), by_class)


def test_a_single_class_has_nothing_to_push_apart_in_exemplar():
    queries, positives, keys, *_ = drawn(3)
    losses = compiled(exemplar)(
        queries, positives, keys, np.zeros(BATCH, int), np.zeros(MEMORY, int)
    )
    same(losses, np.zeros(BATCH))


def test_spread_is_sup_con_or_in_one_class_nt_xent():
    z, labels, ids = drawn(4)[2], np.arange(MEMORY) % 4, np.arange(MEMORY) // 2
    by_class = compiled(sup_con, temperature=0.5)(z, labels)
    same(compiled(spread, weight=0.0)(z, labels, ids), by_class)
    same(compiled(spread, weight=1.0)(z, np.zeros(MEMORY, int), ids), compiled(nt_xent)(z, ids))


# Extremes and arguments


@pytest.mark.parametrize(
    "loss, defaults",
    [
        (sup_moco, {"temperature": 0.07}),
        (exemplar, {"temperature": 0.2}),
        (mask_con, {"temperature": 0.1, "target_temperature": 0.05, "weight": 1.0}),
        (grafit, {"temperature": 0.1, "weight": 0.5}),
        (spread, {"temperature": 0.5, "weight": 0.5}),
    ],
)
def test_defaults_are_the_documented_ones(loss, defaults):
    arrays = (
        drawn()
        if loss is not spread
        else (drawn()[2], np.arange(MEMORY) % 3, np.arange(MEMORY) % 6)
    )
    same(compiled(loss)(*arrays), compiled(loss, **defaults)(*arrays))


@pytest.mark.parametrize("target_temperature", [1e-3, 1e3])
def test_mask_cons_targets_are_finite_where_keys_of_other_classes_are_nearest(target_temperature):
    arrays = [QUERY, AXES[:1], np.array([[1, 0], [-1, 0]], np.float32)]

    def loss(*arrays):
        return mask_con(
            *arrays,
            np.array([0]),
            np.array([1, 0]),
            temperature=1.0,
            target_temperature=target_temperature,
        )[0]

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)
    # The far key is the only one of its class, and so its target is that of the own positive.
    same(value, math.log(2 * math.e + 1 / math.e))
    assert all(jnp.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_weights_outside_0_1_are_refused(weight):
    arrays = drawn()
    for loss, arguments in (
        (mask_con, arrays),
        (grafit, arrays),
        (spread, (arrays[0], arrays[3], arrays[3])),
    ):
        with pytest.raises(ValueError, match=f"weight must lie in 0 … 1, got {weight}"):
            jax.eval_shape(lambda: loss(*arguments, weight=weight))


def test_a_target_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="^target_temperature must be positive, got 0"):
        jax.eval_shape(lambda: mask_con(*drawn(), target_temperature=0))


@pytest.mark.parametrize("loss", LOSSES)
def test_only_one_of_the_ids_is_refused(loss):
    with pytest.raises(ValueError, match="give both or neither"):
        jax.eval_shape(lambda: loss(*drawn(), key_ids=np.arange(MEMORY)))
