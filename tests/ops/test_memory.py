import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rounding
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.losses import look
from jaxpt.ops import memory

pytestmark = pytest.mark.usefixtures("unoptimised")

DIM = 3
push = jax.jit(memory.push)


def batch(start, n, dtype=np.float32):
    """Keys, labels and ids that can be told apart: example i has key (i, i, i) and label i % 4."""
    ids = np.arange(start, start + n, dtype=np.int32)
    return np.repeat(ids[:, None], DIM, axis=1).astype(dtype), ids % 4, ids


def test_an_empty_memory_holds_nothing_valid():
    empty = memory.create(5, DIM)
    assert empty.keys.shape == (5, DIM) and not empty.valid.any() and empty.cursor == 0
    np.testing.assert_array_equal(empty.labels, -1)
    np.testing.assert_array_equal(empty.ids, -1)
    assert [x.dtype.name for x in empty] == ["float32", "int32", "int32", "bool", "int32"]


def test_the_third_batch_wraps_round_over_the_oldest():
    m = memory.create(5, DIM)
    for start in 10, 20, 30:
        m = push(m, *batch(start, 2))
    np.testing.assert_array_equal(m.ids, [31, 11, 20, 21, 30])
    np.testing.assert_array_equal(m.labels, np.array([31, 11, 20, 21, 30]) % 4)
    np.testing.assert_array_equal(m.keys, np.repeat([[31], [11], [20], [21], [30]], DIM, axis=1))
    assert m.valid.all() and m.cursor == 1


@given(sizes=st.lists(st.sampled_from([1, 3, 7]), max_size=12))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_it_holds_the_latest_as_a_queue_does(sizes):
    m, queue, start = memory.create(7, DIM), collections.deque(maxlen=7), 100
    for n in sizes:
        m, start = push(m, *batch(start, n)), start + n
        queue.extend(range(start - n, start))
    m = jax.tree.map(np.asarray, m)
    valid = m.valid
    assert valid.sum() == len(queue)
    assert set(np.asarray(m.ids)[valid].tolist()) == set(queue)
    np.testing.assert_array_equal(m.keys[valid][:, 0], m.ids[valid])
    np.testing.assert_array_equal(m.labels[valid], m.ids[valid] % 4)
    assert m.cursor == sum(sizes) % 7


def test_slots_are_valid_once_written():
    m = push(memory.create(4, DIM), *batch(1, 3))
    np.testing.assert_array_equal(m.valid, [True, True, True, False])


def test_a_batch_as_long_as_the_memory_replaces_all_of_it():
    m = push(push(memory.create(4, DIM), *batch(1, 3)), *batch(10, 4))
    np.testing.assert_array_equal(m.ids, [11, 12, 13, 10])
    assert m.cursor == 3


def test_a_longer_batch_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="batch of 5 keys does not fit a memory of 4"):
        memory.push(memory.create(4, DIM), *batch(0, 5))


@pytest.mark.parametrize("size, dim", [(0, 3), (3, 0)])
def test_a_memory_of_nothing_is_refused(size, dim):
    with pytest.raises(ValueError, match=f"at least 1, got {size} and {dim}"):
        memory.create(size, dim)


def test_pushing_leaves_the_old_memory_alone():
    before = push(memory.create(4, DIM), *batch(1, 2))
    copy = jax.tree.map(np.array, before)
    push(before, *batch(5, 3))
    jax.tree.map(np.testing.assert_array_equal, before, copy)


def test_keys_of_any_float_are_kept_in_float32():
    m = push(memory.create(4, DIM), *batch(1, 2, jnp.bfloat16))
    assert m.keys.dtype == jnp.float32
    np.testing.assert_array_equal(m.keys[:2, 0], [1, 2])


def test_no_gradient_flows_into_pushed_keys():
    keys, labels, ids = batch(1, 2)

    def total(keys):
        return jnp.sum(memory.push(memory.create(4, DIM), keys, labels, ids).keys)

    value, gradient = jax.jit(jax.value_and_grad(total))(keys)
    assert value != 0 and not gradient.any()


def test_it_can_be_carried_through_a_scan():
    keys, labels, ids = (x.reshape(4, 2, *x.shape[1:]) for x in batch(0, 8))
    scanned, _ = jax.lax.scan(
        lambda m, b: (memory.push(m, *b), None), memory.create(5, DIM), (keys, labels, ids)
    )
    looped = memory.create(5, DIM)
    for b in zip(keys, labels, ids):
        looped = push(looped, *b)
    jax.tree.map(np.testing.assert_array_equal, scanned, looped)


def test_unwritten_slots_are_no_neighbors():
    queries = np.eye(3, dtype=np.float32)
    m = push(memory.create(6, DIM), queries, np.array([0, 1, 1]), np.arange(3))
    losses, stats = jax.jit(look)(
        queries,
        m.keys,
        np.array([0, 1, 1]),
        m.labels,
        k=6,
        key_mask=m.valid,
        query_ids=np.arange(3),
        key_ids=m.ids,
    )
    # Two admissible keys at cosine 0: none of the first's label, one of the others'.
    np.testing.assert_allclose(
        losses, [0, np.log(2), np.log(2)], rtol=rounding.FEW, atol=rounding.FEW
    )
    np.testing.assert_allclose(stats, (1 / 3, 1 / 3, 1 / 3), rtol=rounding.FEW, atol=rounding.FEW)


@pytest.mark.parametrize(("keys", "labels"), [((2, 1), (2,)), ((2, 3), (1,)), ((2, 3), (2, 1))])
def test_shapes_that_would_broadcast_are_refused(keys, labels):
    full = memory.create(4, 3)
    with pytest.raises(ValueError, match=r"keys must be \[batch, 3\] and labels and ids \[batch\]"):
        memory.push(full, jnp.zeros(keys), jnp.zeros(labels, int), jnp.zeros(2, int))


# In parts on the devices of an axis


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("kind", ["queue", "bank"])
def test_parts_hold_together_what_the_whole_holds(kind, devices):
    rng, size = np.random.default_rng(0), 24
    axis = {"axis_name": "shard"}

    def step(m, slots, keys, labels, ids, **axis):
        if kind == "queue":
            return memory.push(m, keys, labels, ids, **axis)
        return memory.write(m, slots, keys, labels, ids, momentum=0.5, **axis)

    def split(m):  # as shard_map does, and back
        return m._replace(
            **{
                name: x.reshape(devices, -1, *x.shape[1:])
                for name, x in m._asdict().items()
                if name != "cursor"
            }
        )

    parts = memory.SHARDED
    in_parts = jax.jit(
        jax.vmap(
            lambda m, *rows: step(m, *rows, **axis),
            axis_name="shard",
            in_axes=(parts, None, None, None, None),
            out_axes=parts,
        )
    )
    whole = memory.create(size, DIM)
    of_parts = split(whole)
    for _ in range(9):  # batches of 7 wrap round, and fall across the borders of the parts
        slots = rng.integers(0, size, 7)
        rows = (
            slots,
            unit(np.abs(rng.normal(size=(7, DIM)))),
            rng.integers(0, 4, 7),
            rng.integers(0, 99, 7),
        )
        whole, of_parts = step(whole, *rows), in_parts(of_parts, *rows)
        # Only the bank's keys are computed with. Each write adds the rounding of a row scaled to
        # length one, and at most m = 0.5/√½ of that from before: what is scaled is not shorter
        # than √½, since no key has a negative entry. Over all writes 1/(1 − m) < 4 of it.
        bound = 4 * rounding.of_unit_row(DIM) if kind == "bank" else 0
        np.testing.assert_allclose(split(whole).keys, of_parts.keys, rtol=0, atol=bound)
        for x, y in zip(split(whole)[1:], of_parts[1:]):
            np.testing.assert_array_equal(x, y)


def test_a_batch_may_be_longer_than_a_part_but_not_than_the_whole():
    def pushed(size, n):
        return jax.eval_shape(
            jax.vmap(
                lambda part: memory.push(memory.create(size, DIM), *batch(0, n), axis_name="shard"),
                axis_name="shard",
            ),
            np.arange(2),
        )

    assert pushed(4, 7).keys.shape == (2, 4, DIM)
    with pytest.raises(ValueError, match="batch of 9 keys does not fit a memory of 8"):
        pushed(4, 9)


@pytest.mark.parametrize("kind", ["queue", "bank"])
def test_bfloat16_keys_are_rounded_where_they_are_stored_and_nowhere_else(kind):
    rng = np.random.default_rng(0)
    first, second = (unit(rng.normal(size=(2, DIM))).astype(np.float32) for _ in range(2))
    labels = slots = np.arange(2)
    m = memory.create(2, DIM, "bfloat16")
    if kind == "queue":
        m, expected = push(m, second, labels, slots), second
    else:
        for keys in first, second:
            m = memory.write(m, slots, keys, labels, slots, momentum=0.75)
        stored = np.asarray(jnp.asarray(first, jnp.bfloat16), np.float32)
        expected = unit(0.75 * stored + 0.25 * second)
    assert m.keys.dtype == jnp.bfloat16
    np.testing.assert_array_equal(m.keys, jnp.asarray(expected, jnp.float32).astype(jnp.bfloat16))


# The bank


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_bank_takes_first_keys_as_they_are_and_moves_later_ones():
    first, second = unit(np.array([[3.0, 4, 0], [0, 0, 1]])), unit(np.array([[0, 1.0, 0]]))
    slots, labels, ids = np.array([2, 0]), np.array([7, 8]), np.array([12, 10])
    write = jax.jit(memory.write)
    m = write(memory.create(4, DIM), slots, first, labels, ids, momentum=0.75)
    np.testing.assert_allclose(m.keys[slots], first, rtol=rounding.FEW, atol=rounding.FEW)
    np.testing.assert_array_equal(m.valid, [True, False, True, False])
    np.testing.assert_array_equal(m.ids, [10, -1, 12, -1])
    np.testing.assert_array_equal(m.labels, [8, -1, 7, -1])
    m = write(m, slots[:1], second, labels[:1], ids[:1], momentum=0.75)
    np.testing.assert_allclose(
        m.keys[2], unit(0.75 * first[:1] + 0.25 * second)[0], rtol=rounding.FEW, atol=rounding.FEW
    )
    np.testing.assert_allclose(m.keys[0], first[1], rtol=rounding.FEW, atol=rounding.FEW)


def test_without_momentum_a_bank_replaces():
    m = memory.create(2, DIM)
    for key in np.eye(DIM)[:2]:
        m = memory.write(m, np.array([1]), key[None], np.array([0]), np.array([5]), momentum=0.0)
    np.testing.assert_array_equal(m.keys[1], [0, 1, 0])


def test_of_a_slot_named_twice_the_last_row_counts():
    slots, ids = np.array([1, 0, 1]), np.array([5, 6, 7])
    m = memory.write(memory.create(2, DIM), slots, np.eye(DIM), ids, ids, momentum=0.5)
    np.testing.assert_array_equal(m.ids, [6, 7])
    np.testing.assert_array_equal(m.keys, np.eye(DIM)[[1, 2]])


def test_of_a_slot_of_8_bits_named_twice_the_last_row_counts():
    slots, ids = jnp.array([1, 1], jnp.uint8), np.array([5, 6])
    m = memory.write(memory.create(300, 2), slots, np.eye(2), ids, ids, momentum=0.0)
    np.testing.assert_array_equal(np.flatnonzero(m.valid), [1])
    assert m.ids[1] == 6


def test_rows_of_slots_that_do_not_exist_are_dropped():
    ids = np.array([5, 6])
    for momentum in 0.0, 0.5:
        m = memory.write(
            memory.create(3, 2), np.array([-1, 3]), np.eye(2), ids, ids, momentum=momentum
        )
        assert not m.valid.any() and not m.keys.any()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"slots": np.array([0])}, r"slots must have shape \[2\], got shape \(1,\)"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
    ],
)
def test_a_bank_refuses_other_slots_and_momenta(changes, message):
    arguments = {"slots": np.arange(2), "momentum": 0.5} | changes
    with pytest.raises(ValueError, match=message):
        memory.write(
            memory.create(3, 2), keys=np.eye(2), labels=np.arange(2), ids=np.arange(2), **arguments
        )


def test_a_bank_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"keys must be \[batch, 3\].*\(1, 2\)"):
        memory.write(
            memory.create(2, DIM),
            np.array([0]),
            np.ones((1, 2)),
            np.array([0]),
            np.array([0]),
            momentum=0.5,
        )
