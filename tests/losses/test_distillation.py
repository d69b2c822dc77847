import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles_batch
import pytest
import rounding
from jax.sharding import PartitionSpec as P

from jaxpt.losses import dino, move_centre

pytestmark = pytest.mark.usefixtures("unoptimised")

VIEWS, BATCH, PROTOTYPES = 4, 6, 5


def logits(views, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(views, BATCH, PROTOTYPES)).astype(np.float32)


# DINO


@pytest.mark.parametrize("views_s, views_t", [(2, 1), (2, 2), (5, 2)])
def test_a_student_that_knows_nothing_has_the_log_of_the_number_of_prototypes(views_s, views_t):
    losses = jax.jit(dino)(
        np.zeros((views_s, BATCH, PROTOTYPES), np.float32),
        logits(views_t),
        np.zeros(PROTOTYPES, np.float32),
    )
    np.testing.assert_allclose(
        losses, [math.log(PROTOTYPES)] * BATCH, rtol=rounding.FEW, atol=rounding.FEW
    )
    assert losses.dtype == jnp.float32


def test_a_view_does_not_teach_itself():
    # Each view is sure of a prototype of its own, each pair of views 100/0.1 nats apart.
    sure = 100 * np.eye(3, dtype=np.float32)[:, None]
    losses = jax.jit(dino)(sure, sure[:2], np.zeros(3, np.float32))
    np.testing.assert_allclose(losses, [1000], rtol=rounding.FEW, atol=rounding.FEW)
    alike = np.repeat(sure[:1], 2, axis=0)  # sure of the same one
    np.testing.assert_allclose(jax.jit(dino)(alike, alike, np.zeros(3, np.float32)), [0], atol=1e-6)


def test_centre_and_temperatures_act_where_they_should():
    # Teacher: softmax((log 9 + 1 − 1, 0)/2) = (3/4, 1/4). Student: softmax((log 2, 0)/0.5) = 4 : 1.
    teacher = np.array([[[math.log(9) + 1, 0.0]]], np.float32)
    student = np.array([[[55.0, 0.0]], [[math.log(2), 0.0]]], np.float32)
    loss = jax.jit(dino)(
        student,
        teacher,
        np.array([1, 0], np.float32),
        student_temperature=0.5,
        teacher_temperature=2.0,
    )
    np.testing.assert_allclose(
        loss, [0.75 * math.log(5 / 4) + 0.25 * math.log(5)], rtol=rounding.FEW, atol=rounding.FEW
    )


def test_gradients_flow_into_the_student_alone():
    def total(student, teacher, centre):
        return dino(student, teacher, centre).sum()

    student, teacher, centre = logits(VIEWS), logits(2, seed=1), np.ones(PROTOTYPES, np.float32)
    gradient, *others = jax.jit(jax.grad(total, (0, 1, 2)))(student, teacher, centre)
    assert not any(x.any() for x in others)
    # Of a view that is no teacher's: softmax − the teachers' mean, over τ, by its share of pairs.
    softmax, targets = (
        np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
        for x in (student[3] / 0.1, (teacher - centre) / 0.04)
    )
    expected = (softmax - targets.mean(axis=0)) / 0.1 / 3
    np.testing.assert_allclose(gradient[3], expected, rtol=1e-3, atol=1e-5)


def test_nan_in_a_masked_example_reaches_neither_loss_nor_gradient():
    student, teacher = logits(VIEWS), logits(2, seed=1)
    student[:, 2] = teacher[:, 2] = np.nan
    where = np.arange(BATCH) != 2

    def total(student):
        return dino(student, teacher, np.zeros(PROTOTYPES, np.float32), where=where).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(student)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert not gradient[:, 2].any() and gradient[:, where].any(axis=(0, 2)).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"student": np.ones((3, 2, 4), int)}, TypeError, "student must be floating point"),
        ({"teacher": np.ones((2, 2, 4), int)}, TypeError, "teacher must be floating point"),
        ({"centre": np.ones(4, int)}, TypeError, "centre must be floating point"),
        (
            {"student": np.ones((2, 4), np.float32)},
            ValueError,
            r"student must have shape \[views, batch, prototypes\], got shape \(2, 4\)",
        ),
        ({"centre": np.ones((1, 4), np.float32)}, ValueError, r"centre must have shape \[4\]"),
        (
            {"teacher": np.ones((2, 1, 4), np.float32)},
            ValueError,
            r"got shapes \(2, 1, 4\) and \(3, 2",
        ),
        (
            {"teacher": np.ones((4, 2, 4), np.float32)},
            ValueError,
            "must be the first of the student's",
        ),
        (
            {"teacher": np.ones((0, 2, 4), np.float32)},
            ValueError,
            "must be the first of the student's",
        ),
        (
            dict.fromkeys(("student", "teacher"), np.ones((1, 2, 4), np.float32)),
            ValueError,
            "student must have at least 2 views",
        ),
        ({"student_temperature": 0.0}, ValueError, "student_temperature must be positive"),
        ({"teacher_temperature": -1.0}, ValueError, "teacher_temperature must be positive"),
        ({"where": np.ones((2, 1), bool)}, ValueError, r"where must have shape \[2\]"),
    ],
)
def test_bad_arguments_of_dino_are_named(change, error, message):
    arguments = {
        "student": np.ones((3, 2, 4), np.float32),
        "teacher": np.ones((2, 2, 4), np.float32),
        "centre": np.ones(4, np.float32),
    } | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: dino(**arguments))


# The centre


@pytest.mark.parametrize("where", [None, np.arange(BATCH) % 3 > 0, np.zeros(BATCH, bool)])
def test_the_centre_moves_to_the_mean_over_views_and_examples(where):
    teacher, centre = logits(2), logits(1, seed=1)[0, 0]
    moved = jax.jit(move_centre)(centre, teacher, momentum=0.7, where=where)
    expected = oracles_batch.move_centre(centre, teacher, momentum=0.7, where=where)
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
    if where is not None and not where.any():
        np.testing.assert_allclose(moved, centre, rtol=rounding.FEW, atol=rounding.FEW)
    bf16 = jax.jit(move_centre)(centre, teacher.astype(jnp.bfloat16), where=where)
    assert moved.dtype == bf16.dtype == jnp.float32


def test_a_centre_that_is_the_mean_stays_and_momentum_0_takes_the_mean():
    teacher = logits(3)
    mean = teacher.mean(axis=(0, 1))
    for centre, momentum in (mean, 0.9), (7 + mean, 0.0):
        moved = jax.jit(move_centre)(centre, teacher, momentum=momentum)
        np.testing.assert_allclose(moved, mean, rtol=1e-5, atol=1e-6)


def test_the_centre_has_no_gradient():
    gradients = jax.jit(jax.grad(lambda c, t: move_centre(c, t).sum(), (0, 1)))(
        np.ones(PROTOTYPES, np.float32), logits(2)
    )
    assert not any(x.any() for x in gradients)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap", "vmap"])
def test_the_centre_is_that_of_the_examples_of_all_devices(mapping, mesh):
    rng = np.random.default_rng(2)
    teacher = rng.normal(size=(2, 24, PROTOTYPES)).astype(np.float32)
    centre, where = np.ones(PROTOTYPES, np.float32), np.arange(24) < 10  # some devices have none

    def move(teacher, where):
        return move_centre(centre, teacher, where=where, axis_name="shard")

    if mapping == "shard_map":
        moved = jax.jit(
            jax.shard_map(
                move,
                mesh=mesh,
                in_specs=(P(None, "shard"), P("shard")),
                out_specs=P(),
                check_vma=False,
            )
        )(teacher, where)[None]
    else:
        parts = np.swapaxes(teacher.reshape(2, 8, 3, PROTOTYPES), 0, 1), where.reshape(8, 3)
        moved = (jax.pmap if mapping == "pmap" else jax.vmap)(move, axis_name="shard")(*parts)
    for row in moved:
        np.testing.assert_allclose(
            row, oracles_batch.move_centre(centre, teacher, where=where), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"teacher": np.ones((2, 3, 4), int)}, TypeError, "teacher must be floating point"),
        ({"centre": np.ones(3, np.float32)}, ValueError, r"centre must have shape \[4\]"),
        ({"momentum": 1.0}, ValueError, "momentum must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, ValueError, "got -0.1"),
        ({"where": np.ones(2, bool)}, ValueError, r"where must have shape \[3\]"),
    ],
)
def test_bad_arguments_of_move_centre_are_named(change, error, message):
    arguments = {
        "teacher": np.ones((2, 3, 4), np.float32),
        "centre": np.ones(4, np.float32),
    } | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: move_centre(**arguments))
