import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpt.ops import selection

BATCH, N = 5, 18


@pytest.fixture(scope="module", params=["CPU", "accelerator"])
def fast_mask(request):
    """``mask_of_largest`` in the form of each kind of device."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "accelerator":
            patch.setattr(selection, "CPU_THRESHOLDS", selection.THRESHOLDS)
        yield jax.jit(lambda *arrays: selection.mask_of_largest(*arrays))


def expected_mask(values, k, where):
    """The k largest of every row by sorting: (value, lower index) in falling order."""
    marked = np.zeros(values.shape, bool)
    for i, row in enumerate(values):
        inside = oracles.largest(
            row, max(np.broadcast_to(k, len(values))[i], 0), np.flatnonzero(where[i])
        )
        marked[i, inside] = True
    return marked


def gaussian(seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, N)).astype(np.float32)


EVERYWHERE = np.ones((BATCH, N), bool)


@pytest.mark.parametrize("k", [1, 2, 9, 17, 18])
@pytest.mark.parametrize(
    "values",
    [
        gaussian(),
        -np.abs(gaussian()),
        np.round(gaussian()) + 0.0,
        np.zeros((BATCH, N), np.float32),
        np.float32(1e37) * gaussian(),
        np.float32(1e-30) * gaussian(),
    ],
)
def test_the_marked_are_those_of_top_k(fast_mask, values, k):
    places = jax.lax.top_k(values, k)[1]
    expected = np.zeros(values.shape, bool)
    np.put_along_axis(expected, np.asarray(places), True, axis=1)
    np.testing.assert_array_equal(fast_mask(values, np.full(BATCH, k), EVERYWHERE), expected)


# No subnormals: whether they count as zero is up to the hardware.
floats = st.sampled_from(
    [-np.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3e38, np.inf]
)


@given(
    values=hnp.arrays(np.float32, (BATCH, N), elements=floats),
    k=hnp.arrays(np.int32, BATCH, elements=st.integers(-1, N + 2)),
    where=hnp.arrays(np.bool_, (BATCH, N)),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_ties_zeros_infinities_and_masks_are_as_in_a_stable_sort(fast_mask, values, k, where):
    np.testing.assert_array_equal(fast_mask(values, k, where), expected_mask(values, k, where))


@given(seed=st.integers(0, 2**20), k=st.integers(0, N))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_exactly_k_are_marked_and_none_outside_is_larger(fast_mask, seed, k):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(BATCH, N)) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
    marked = np.asarray(fast_mask(values, np.full(BATCH, k), EVERYWHERE))
    np.testing.assert_array_equal(marked.sum(axis=1), k)
    lowest_in = np.min(values, axis=1, where=marked, initial=np.inf)
    assert (lowest_in >= np.max(values, axis=1, where=~marked, initial=-np.inf)).all()


def test_minus_zero_ties_with_zero(fast_mask):
    values = np.tile(np.array([-0.0, 0.0, -0.0], np.float32), (BATCH, N // 3))
    for f in fast_mask, selection.mask_of_largest:  # compilers may simplify what eager code keeps
        np.testing.assert_array_equal(
            f(values, np.full(BATCH, 4), EVERYWHERE), np.tile(np.arange(N) < 4, (BATCH, 1))
        )


def test_entries_outside_where_are_never_marked_however_large(fast_mask):
    values = gaussian(1)
    values[:, ::2] = np.inf
    where = np.tile(np.arange(N) % 2 == 1, (BATCH, 1))
    for k in 1, 9, 10, 100:
        marked = np.asarray(fast_mask(values, np.full(BATCH, k), where))
        np.testing.assert_array_equal(marked.sum(axis=1), min(k, 9))
        assert not (marked & ~where).any()


def test_a_row_without_entries_marks_none(fast_mask):
    where = EVERYWHERE.copy()
    where[2] = False
    marked = np.asarray(fast_mask(gaussian(2), np.full(BATCH, 3), where))
    np.testing.assert_array_equal(marked.sum(axis=1), [3, 3, 0, 3, 3])


def test_k_may_be_an_int_a_scalar_or_one_for_each_row(fast_mask):
    values = gaussian(3)
    for k in 3, jnp.int32(3), np.array([0, 1, 3, N, N + 5]):
        np.testing.assert_array_equal(
            fast_mask(values, k, EVERYWHERE), expected_mask(values, k, EVERYWHERE)
        )


def test_a_traced_k_compiles_once():
    values, traces = gaussian(4), []

    @jax.jit
    def marked(k):
        traces.append(k)
        return selection.mask_of_largest(values, k, EVERYWHERE)

    for k in 0, 1, 7, 30:
        np.testing.assert_array_equal(marked(k), expected_mask(values, k, EVERYWHERE))
    assert len(traces) == 1


def test_it_works_under_vmap():
    values = np.round(gaussian(5))
    k = np.arange(1, BATCH + 1)
    marked = jax.jit(jax.vmap(lambda v, k, w: selection.mask_of_largest(v[None], k, w[None])[0]))(
        values, k, EVERYWHERE
    )
    np.testing.assert_array_equal(marked, expected_mask(values, k, EVERYWHERE))


@pytest.mark.parametrize("k", [1, 5, 9, 10])
def test_groups_only_narrow_the_search(k, monkeypatch):
    monkeypatch.setattr(selection, "CPU_THRESHOLDS", selection.THRESHOLDS)
    monkeypatch.setattr(selection, "GROUPED", 64)
    monkeypatch.setattr(selection, "LANES", 4)
    rng, n = np.random.default_rng(k), 20 * selection.GROUP + 5
    marked = jax.jit(lambda v, w: selection.mask_of_largest(v, k, w))
    gaussian = rng.normal(size=(4, n))
    for values in (
        gaussian,
        np.round(gaussian),
        np.sort(gaussian),
        -np.sort(-gaussian),
        np.where(gaussian > 2, np.inf, np.where(gaussian < -1, -np.inf, gaussian)),
        np.where(rng.random((4, n)) < 0.99, -1e30, gaussian),
    ):
        values = values.astype(np.float32)
        for where in np.ones((4, n), bool), rng.random((4, n)) < 0.3, rng.random((4, n)) < 0.02:
            np.testing.assert_array_equal(marked(values, where), expected_mask(values, k, where))


@pytest.mark.parametrize("thresholds", [1, selection.THRESHOLDS])
def test_nan_is_the_largest(thresholds, monkeypatch):
    monkeypatch.setattr(selection, "CPU_THRESHOLDS", thresholds)
    values = gaussian(6)
    values[1, 3], values[2, [4, 9]] = -np.nan, np.nan
    values[0] = np.nan  # all of a row
    marked = jax.jit(lambda v: selection.mask_of_largest(v, 2, EVERYWHERE))(values)
    replaced = np.where(np.isnan(values), np.inf, values)
    np.testing.assert_array_equal(marked, expected_mask(replaced, 2, EVERYWHERE))
