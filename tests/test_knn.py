import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpt import knn

BATCH, N, DIM = 5, 18, 4
fast_mask = jax.jit(knn.mask_of_largest)


def expected_mask(values, k, where):
    """The k largest of every row by sorting: (value, lower index) in falling order."""
    marked = np.zeros(values.shape, bool)
    for i, row in enumerate(values):
        inside = oracles.largest(row, max(np.broadcast_to(k, len(values))[i], 0),
                                 np.flatnonzero(where[i]))
        marked[i, inside] = True
    return marked


def gaussian(seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, N)).astype(np.float32)


EVERYWHERE = np.ones((BATCH, N), bool)

# mask_of_largest


@pytest.mark.parametrize("k", [1, 2, 9, 17, 18])
@pytest.mark.parametrize("values", [
    gaussian(), -np.abs(gaussian()), np.round(gaussian()) + 0.0, np.zeros((BATCH, N), np.float32),
    np.float32(1e37) * gaussian(), np.float32(1e-30) * gaussian()])
def test_the_marked_are_those_of_top_k(values, k):
    places = jax.lax.top_k(values, k)[1]
    expected = np.zeros(values.shape, bool)
    np.put_along_axis(expected, np.asarray(places), True, axis=1)
    np.testing.assert_array_equal(fast_mask(values, np.full(BATCH, k), EVERYWHERE), expected)


# No subnormals: whether they count as zero is up to the hardware.
floats = st.sampled_from([-np.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3e38,
                          np.inf])


@given(values=hnp.arrays(np.float32, (BATCH, N), elements=floats),
       k=hnp.arrays(np.int32, BATCH, elements=st.integers(-1, N + 2)),
       where=hnp.arrays(np.bool_, (BATCH, N)))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_ties_zeros_infinities_and_masks_are_as_in_a_stable_sort(values, k, where):
    np.testing.assert_array_equal(fast_mask(values, k, where), expected_mask(values, k, where))


@given(seed=st.integers(0, 2**20), k=st.integers(0, N))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_exactly_k_are_marked_and_none_outside_is_larger(seed, k):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(BATCH, N)) * 10.0**rng.integers(-30, 30)).astype(np.float32)
    marked = np.asarray(fast_mask(values, np.full(BATCH, k), EVERYWHERE))
    np.testing.assert_array_equal(marked.sum(axis=1), k)
    lowest_in = np.min(values, axis=1, where=marked, initial=np.inf)
    assert (lowest_in >= np.max(values, axis=1, where=~marked, initial=-np.inf)).all()


def test_minus_zero_ties_with_zero():
    values = np.tile(np.array([-0.0, 0.0, -0.0], np.float32), (BATCH, N // 3))
    for f in fast_mask, knn.mask_of_largest:  # compilers may simplify what eager code keeps
        np.testing.assert_array_equal(f(values, np.full(BATCH, 4), EVERYWHERE),
                                      np.tile(np.arange(N) < 4, (BATCH, 1)))


def test_entries_outside_where_are_never_marked_however_large():
    values = gaussian(1)
    values[:, ::2] = np.inf
    where = np.tile(np.arange(N) % 2 == 1, (BATCH, 1))
    for k in 1, 9, 10, 100:
        marked = np.asarray(fast_mask(values, np.full(BATCH, k), where))
        np.testing.assert_array_equal(marked.sum(axis=1), min(k, 9))
        assert not (marked & ~where).any()


def test_a_row_without_entries_marks_none():
    where = EVERYWHERE.copy()
    where[2] = False
    marked = np.asarray(fast_mask(gaussian(2), np.full(BATCH, 3), where))
    np.testing.assert_array_equal(marked.sum(axis=1), [3, 3, 0, 3, 3])


def test_k_may_be_an_int_a_scalar_or_one_for_each_row():
    values = gaussian(3)
    for k in 3, jnp.int32(3), np.array([0, 1, 3, N, N + 5]):
        np.testing.assert_array_equal(fast_mask(values, k, EVERYWHERE),
                                      expected_mask(values, k, EVERYWHERE))


def test_a_traced_k_compiles_once():
    values, traces = gaussian(4), []

    @jax.jit
    def marked(k):
        traces.append(k)
        return knn.mask_of_largest(values, k, EVERYWHERE)

    for k in 0, 1, 7, 30:
        np.testing.assert_array_equal(marked(k), expected_mask(values, k, EVERYWHERE))
    assert len(traces) == 1


def test_it_works_under_vmap():
    values = np.round(gaussian(5))
    k = np.arange(1, BATCH + 1)
    marked = jax.jit(jax.vmap(lambda v, k, w: knn.mask_of_largest(v[None], k, w[None])[0]))(
        values, k, EVERYWHERE)
    np.testing.assert_array_equal(marked, expected_mask(values, k, EVERYWHERE))


# search


def integers(seed=0):
    """Queries and keys whose products are exact in float32 and often tie."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-2, 3, size=(BATCH, DIM)).astype(np.float32),
            rng.integers(-2, 3, size=(N, DIM)).astype(np.float32))


def expected_neighbors(queries, keys, k, query_ids=None, key_ids=None, key_mask=None):
    s = oracles.as_float64(queries) @ oracles.as_float64(keys).T
    values, places = np.full((len(s), k), -np.inf), np.full((len(s), k), -1)
    for i, row in enumerate(s):
        allowed = oracles.admissible(i, len(keys), query_ids, key_ids, key_mask)
        inside = oracles.largest(row, k, allowed)
        values[i, :len(inside)], places[i, :len(inside)] = row[inside], inside
    return values, places


def check_search(queries, keys, k, block_size, **options):
    similarities, indices = knn.search(queries, keys, k, block_size=block_size, **options)
    values, places = expected_neighbors(queries, keys, k, **options)
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_allclose(similarities, values, rtol=1e-5, atol=1e-6)
    assert similarities.dtype == jnp.float32 and indices.dtype == jnp.int32


@pytest.mark.parametrize("block_size", [1, 4, 6, 17, 18, 1000])
def test_any_block_size_gives_the_neighbors_of_the_oracle(block_size):
    check_search(*integers(), 5, block_size)


@pytest.mark.parametrize("seed", range(5))
def test_masked_keys_and_own_ids_are_never_found(seed):
    rng = np.random.default_rng(seed)
    check_search(*integers(seed), 5, 4, query_ids=rng.integers(4, size=BATCH),
                 key_ids=rng.integers(4, size=N), key_mask=rng.random(N) < 0.6)


def test_where_too_few_keys_are_admissible_minus_infinity_and_minus_one_fill_up():
    mask, ids = np.isin(np.arange(N), [2, 11, 12]), np.arange(N)
    queries, keys = integers(1)
    check_search(queries, keys, 5, 4, query_ids=np.array([2, 11, 12, 0, 1]), key_ids=ids,
                 key_mask=mask)
    similarities, indices = knn.search(queries, keys, 5, block_size=4,
                                       key_mask=np.zeros(N, bool))
    assert np.isneginf(similarities).all() and (indices == -1).all()


def test_k_may_exceed_the_number_of_keys():
    check_search(*integers(2), N + 3, 7)


def test_id_zero_is_an_id_like_any_other():
    # Blocks are padded with zeros: the padding must not stand for example 0, nor shadow it.
    queries, keys = integers(3)
    check_search(queries, keys, 4, 5, query_ids=np.zeros(BATCH, int), key_ids=np.arange(N))


def test_leave_one_out_comes_before_the_selection():
    keys = np.ones((N, DIM), jnp.bfloat16)  # collapsed: the query itself is not first
    _, indices = knn.search(keys[3:5], keys, 3, query_ids=np.array([3, 0]), key_ids=np.arange(N),
                            block_size=4)
    np.testing.assert_array_equal(indices, [[0, 1, 2], [1, 2, 3]])


def test_products_are_float32_whatever_the_inputs():
    rng = np.random.default_rng(4)
    check_search(rng.normal(size=(BATCH, DIM)).astype(jnp.bfloat16),
                 rng.normal(size=(N, DIM)).astype(jnp.bfloat16), 3, 5)


def test_similarities_are_full_float32_where_compiler_or_hardware_would_round():
    queries, keys = (x.astype(jnp.bfloat16) for x in integers())
    program = str(jax.make_jaxpr(lambda q, z: knn.search(q, z, 3))(queries, keys))
    assert f"f32[{BATCH},{N}] = dot_general" in program
    assert program.count("dot_general") == program.count("(Precision.HIGHEST, ") == 1


@pytest.mark.parametrize("change, message", [
    ({"k": 0}, "k must be at least 1, got 0"),
    ({"keys": np.ones((0, DIM), np.float32)}, "there are no keys to search"),
    ({"query_ids": np.arange(BATCH - 1), "key_ids": np.arange(N)}, "query_ids must have shape"),
    ({"query_ids": np.arange(BATCH), "key_ids": np.arange(N + 1)}, "key_ids must have shape"),
    ({"key_mask": np.ones((N, 1), bool)}, "key_mask must have shape"),
    ({"query_ids": np.arange(BATCH)}, "give both or neither"),
    ({"key_ids": np.arange(N)}, "give both or neither"),
])
def test_bad_arguments_of_search_are_named(change, message):
    queries, keys = integers()
    with pytest.raises(ValueError, match=message):
        knn.search(**{"queries": queries, "keys": keys, "k": 2} | change)
