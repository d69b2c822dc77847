import numpy as np
import pytest

from jaxpt.data.feed import Resident, Rows, batch_at, gather, rows_of_step


def stream(length, **options):
    return batch_at(0, length, **options)


@pytest.mark.parametrize("n, size", [(12, 4), (13, 4), (10, 7), (5, 12), (1, 3)])
def test_every_pass_holds_every_example_once(n, size):
    passes = 3
    indices, epochs = [], []
    for position in range(0, n * passes + size, size):  # as the loop asks: batch by batch
        i, e = batch_at(position, size, n=n, seed=4)
        assert i.shape == e.shape == (size,) and i.dtype == e.dtype == np.int32
        indices.append(i)
        epochs.append(e)
    indices, epochs = np.concatenate(indices), np.concatenate(epochs)
    np.testing.assert_array_equal(epochs, np.arange(len(epochs)) // n)
    for epoch in range(passes):
        assert sorted(indices[epochs == epoch]) == list(range(n))


@pytest.mark.parametrize("position", [0, 1, 9, 10, 11, 25, 40])
@pytest.mark.parametrize("size", [1, 3, 10, 24])
def test_a_batch_is_a_slice_of_the_stream(position, size):
    whole = stream(80, n=10, seed=1)
    part = batch_at(position, size, n=10, seed=1)
    for a, b in zip(part, whole):
        np.testing.assert_array_equal(a, b[position : position + size])


def test_asking_again_gives_the_same():
    first, _ = batch_at(60, 40, n=100, seed=3)
    first_copy = first.copy()
    first[:] = -1  # what the caller does to its batch must not reach the next caller
    for seed in range(9):  # more than any cache of permutations holds
        stream(100, n=100, seed=seed)
    np.testing.assert_array_equal(batch_at(60, 40, n=100, seed=3)[0], first_copy)


def test_other_seeds_and_passes_have_other_orders():
    orders = [
        tuple(batch_at(100 * epoch, 100, n=100, seed=seed)[0])
        for seed in range(3)
        for epoch in range(3)
    ]
    orders.append(tuple(range(100)))  # nor is any of them the set's own order
    assert len(set(orders)) == len(orders)


def test_shuffling_reaches_every_place():
    # Which example comes first: over many seeds, each about equally often.
    first = [stream(1, n=5, seed=seed)[0][0] for seed in range(1000)]
    assert np.bincount(first, minlength=5).min() > 140


def test_rows_of_step_follow_each_other():
    whole, epochs = stream(35, n=10, seed=2)
    for step in range(5):
        rows = rows_of_step(step, 7, n=10, seed=2)
        np.testing.assert_array_equal(rows.index, whole[7 * step : 7 * step + 7])
        np.testing.assert_array_equal(rows.epoch, epochs[7 * step : 7 * step + 7])


def test_gather_takes_the_rows_of_all_arrays():
    data = Resident(
        np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1),
        np.arange(6) * 10,
        np.arange(6) + 100,
        np.int32(5),
    )
    batch = gather(data, Rows(np.array([4, 0, 4]), np.array([2, 2, 3])))
    np.testing.assert_array_equal(batch.image.ravel(), [4, 0, 4])
    np.testing.assert_array_equal(batch.label, [40, 0, 40])
    np.testing.assert_array_equal(batch.id, [104, 100, 104])
    np.testing.assert_array_equal(batch.epoch, [2, 2, 3])
    assert batch.seed == 5
