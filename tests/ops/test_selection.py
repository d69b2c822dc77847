import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxpt.ops import selection

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, N = 5, 18
PLATFORMS = {"CPU": selection.CPU, "TPU": selection.TPU, "GPU": selection.GPU}


@pytest.fixture(scope="module", params=PLATFORMS)
def fast_mask(request):
    """``mask_of_largest`` in the form of each kind of device; an int k is static, others traced."""

    @functools.cache
    def with_static(k):
        return jax.jit(lambda values, where: selection.mask_of_largest(values, k, where))

    with_traced = jax.jit(lambda *arrays: selection.mask_of_largest(*arrays))

    def mask(values, k, where):
        return with_static(k)(values, where) if type(k) is int else with_traced(values, k, where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "CPU", PLATFORMS[request.param])
        yield mask


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
    for this in k, np.full(BATCH, k):
        for where in EVERYWHERE, None:  # GPUs sort without a mask alone
            np.testing.assert_array_equal(fast_mask(values, this, where), expected)


STATIC = st.sampled_from([1, 2, 9, 17, 18])  # each is a program of its own
# No subnormals: whether they count as zero is up to the hardware.
floats = st.sampled_from(
    [-np.inf, -3e38, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1.0000001, 3e38, np.inf]
)


@given(
    values=hnp.arrays(np.float32, (BATCH, N), elements=floats),
    k=hnp.arrays(np.int32, BATCH, elements=st.integers(-1, N + 2)),
    where=hnp.arrays(np.bool_, (BATCH, N)),
    static_k=STATIC,
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_ties_zeros_infinities_and_masks_are_as_in_a_stable_sort(
    fast_mask, values, k, where, static_k
):
    for this in k, static_k:
        np.testing.assert_array_equal(
            fast_mask(values, this, where), expected_mask(values, this, where)
        )
        np.testing.assert_array_equal(
            fast_mask(values, this, None), expected_mask(values, this, values > -np.inf)
        )


@given(seed=st.integers(0, 2**20), k=st.integers(0, N), static_k=STATIC)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_exactly_k_are_marked_and_none_outside_is_larger(fast_mask, seed, k, static_k):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(BATCH, N)) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
    for this in np.full(BATCH, k), static_k:
        marked = np.asarray(fast_mask(values, this, EVERYWHERE))
        np.testing.assert_array_equal(marked.sum(axis=1), this)
        lowest_in = np.min(values, axis=1, where=marked, initial=np.inf)
        assert (lowest_in >= np.max(values, axis=1, where=~marked, initial=-np.inf)).all()


def test_minus_zero_ties_with_zero(fast_mask):
    values = np.tile(np.array([-0.0, 0.0, -0.0], np.float32), (BATCH, N // 3))
    for f in fast_mask, selection.mask_of_largest:  # compilers may simplify what eager code keeps
        for k in 4, np.full(BATCH, 4):
            for where in EVERYWHERE, None:
                np.testing.assert_array_equal(
                    f(values, k, where), np.tile(np.arange(N) < 4, (BATCH, 1))
                )


def test_entries_outside_where_are_never_marked_however_large(fast_mask):
    values = gaussian(1)
    values[:, ::2] = np.inf
    where = np.tile(np.arange(N) % 2 == 1, (BATCH, 1))
    for k in 1, 9, 10, 100:
        for this in k, np.full(BATCH, k):
            marked = np.asarray(fast_mask(values, this, where))
            np.testing.assert_array_equal(marked.sum(axis=1), min(k, 9))
            assert not (marked & ~where).any()


def test_without_a_mask_entries_of_minus_infinity_are_ignored(fast_mask):
    values = np.where(np.arange(N) % 4 < 2, -np.inf, gaussian(7)).astype(np.float32)
    values[1] = -np.inf
    for k in 1, 5, 8, 9, N:
        for this in k, np.full(BATCH, k):
            np.testing.assert_array_equal(
                fast_mask(values, this, None), expected_mask(values, k, values > -np.inf)
            )


def test_a_row_without_entries_marks_none(fast_mask):
    where = EVERYWHERE.copy()
    where[2] = False
    for k in 3, np.full(BATCH, 3):
        marked = np.asarray(fast_mask(gaussian(2), k, where))
        np.testing.assert_array_equal(marked.sum(axis=1), [3, 3, 0, 3, 3])


def test_k_may_be_an_int_a_scalar_or_one_for_each_row(fast_mask):
    values = gaussian(3)
    for k in -1, 0, 3, N + 5, jnp.int32(3), np.array([0, 1, 3, N, N + 5]):
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


def test_it_works_under_vmap(fast_mask):
    values = np.round(gaussian(5))
    k = np.arange(1, BATCH + 1)
    marked = jax.vmap(lambda v, k, w: fast_mask(v[None], k, w[None])[0])(values, k, EVERYWHERE)
    np.testing.assert_array_equal(marked, expected_mask(values, k, EVERYWHERE))
    marked = jax.vmap(lambda v: fast_mask(v[None], 3, None)[0])(values)
    np.testing.assert_array_equal(marked, expected_mask(values, 3, EVERYWHERE))


@pytest.mark.parametrize("platform", ["TPU", "GPU"])
@pytest.mark.parametrize("k", [1, 5, 9, 10])
def test_groups_only_narrow_the_search(k, platform, monkeypatch):
    monkeypatch.setattr(selection, "CPU", PLATFORMS[platform])
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
            masked = np.where(where, values, -np.inf)
            expected = expected_mask(masked, k, masked > -np.inf)
            np.testing.assert_array_equal(marked(masked, None), expected)


def test_nan_is_the_largest(fast_mask):
    values = gaussian(6)
    values[1, 3], values[2, [4, 9]] = -np.nan, np.nan
    values[0] = np.nan  # all of a row
    values[3, [2, 15]], values[3, 7] = np.inf, np.nan
    values[4], values[4, 16] = np.round(values[4]), np.nan  # after entries that tie
    replaced = np.where(np.isnan(values), np.inf, values)
    for k in 1, 2, 3, 5, 9, 17:
        for this in k, np.full(BATCH, k):
            for where in EVERYWHERE, None:
                np.testing.assert_array_equal(
                    fast_mask(values, this, where), expected_mask(replaced, k, EVERYWHERE)
                )


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("traced", [False, True])
def test_the_edge_holds_k_entries_and_knows_the_largest(platform, traced, monkeypatch):
    monkeypatch.setattr(selection, "CPU", PLATFORMS[platform])
    rng = np.random.default_rng(9)
    values = np.round(2 * rng.normal(size=(BATCH, N))).astype(np.float32)
    values[0, 5], values[1, :9] = np.nan, -np.inf
    where = rng.random((BATCH, N)) < 0.6
    where[2] = False
    for mask in where, None:
        allowed = values != -np.inf if mask is None else mask
        largest = np.max(
            np.where(np.isnan(values), np.inf, values), axis=1, where=allowed, initial=-np.inf
        )
        for k in 0, 4, N:
            this = jnp.int32(k) if traced else k
            edge = jax.jit(lambda v, this=this, mask=mask: selection.edge_of_largest(v, this, mask))
            edge = edge(values)
            np.testing.assert_array_equal(edge.largest, largest)
            inside = np.asarray(selection.inside(values, edge)) & allowed
            np.testing.assert_array_equal(inside.sum(axis=1), np.minimum(k, allowed.sum(axis=1)))


# By short sorts


def expected_largest(values, k):
    """(values, columns) by a stable sort of whole rows."""
    values = np.where(np.isnan(values), np.inf, values)
    columns = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, columns, axis=1), columns


def rows(kind, n):
    rng = np.random.default_rng(n)
    gaussian, anything = rng.normal(size=(4, n)), [-np.inf, -1, -0.0, 0, 1, np.inf, np.nan, -np.nan]
    some = rng.random((4, n))
    return {
        "gaussian": gaussian,
        "ascending": np.sort(gaussian),
        "descending": -np.sort(-gaussian),
        "ties": rng.integers(-1, 2, size=(4, n)),
        "zeros": np.where(some < 0.5, -0.0, 0.0),
        "zeros above others": np.where(some < 0.8, -1.0, np.where(some < 0.9, -0.0, 0.0)),
        "a few of either sign not numbers": np.where(
            some < 0.02, np.nan, np.where(some < 0.04, -np.nan, gaussian)
        ),
        "all not numbers": np.full((4, n), -np.nan),
        "infinities": np.where(some < 0.1, np.inf, np.where(some > 0.5, -np.inf, gaussian)),
        "few above minus infinity": np.where(some < 0.98, -np.inf, gaussian),
        "all minus infinity": np.full((4, n), -np.inf),
        "huge": 3e38 * np.sign(gaussian),
        "anything": rng.choice(anything, size=(4, n)),
    }[kind].astype(np.float32)


KINDS = (
    *("gaussian", "ascending", "descending", "ties", "zeros", "zeros above others"),
    *("a few of either sign not numbers", "all not numbers", "infinities"),
    *("few above minus infinity", "all minus infinity", "huge", "anything"),
)


@pytest.mark.parametrize(
    "n, k",
    [
        *((1, 1), (2, 1), (2, 2), (3, 1), (3, 2)),
        *((18, 1), (18, 2), (18, 3), (18, 9), (18, 10), (18, 17), (18, 18)),
        *((129, 1), (129, 5), (129, 64), (129, 65), (129, 129)),  # as many groups as k, and none
        *((1000, 1), (1000, 7), (1003, 15), (1003, 100), (4096, 4), (4099, 4)),
        *((40_000, 1), (40_001, 2)),  # groups of the largest size
    ],
)
def test_the_largest_are_those_of_a_stable_sort(n, k):
    largest = jax.jit(lambda values: selection.largest(values, k))
    for kind in KINDS:
        values = rows(kind, n)
        found, columns = largest(values)
        expected = expected_largest(values, k)
        np.testing.assert_array_equal(columns, expected[1], err_msg=kind)
        np.testing.assert_array_equal(found, expected[0], err_msg=kind)
        assert not np.signbit(found[found == 0]).any(), kind
        assert found.dtype == jnp.float32 and columns.dtype == jnp.int32


def sorted_lengths(n, k):
    """Entries per row of every sort."""
    program = jax.make_jaxpr(lambda values: selection.largest(values, k))(np.zeros((2, n), "f4"))
    lengths = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("sort", "top_k"):
                lengths.append(equation.invars[0].aval.shape[-1])
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                visit(inner)

    visit(program.jaxpr)
    return sorted(lengths)


def test_no_sort_sees_whole_rows():
    # Of 128 groups of 32 entries; their numbers; of the entries of 4 groups.
    assert sorted_lengths(4096, 4) == [4, 128, 128]
    for n, k in (100, 1), (1000, 3), (65_536, 400), (200_000, 20):
        # Where both sorts see as many entries, these are √(n · k); a power of two may be off by √2.
        assert k < max(sorted_lengths(n, k)) <= math.sqrt(2 * n * k) + 1 < n
    assert max(sorted_lengths(2**20, 1)) == 2**20 // selection.LARGEST_GROUP
    assert sorted_lengths(100, 51) == [100]  # where groups would spare nothing


@pytest.mark.parametrize("size", [1, 3, 4, 18])
def test_groups_are_read_and_an_incomplete_one_is_told(size):
    values, groups = gaussian(8), -(-N // size)
    asked = np.random.default_rng(size).permuted(np.tile(np.arange(groups), (BATCH, 1)), axis=1)
    found = selection.entries_of_groups(values, asked, size)
    assert [x.shape for x in found] == 3 * [(BATCH, groups, size)]
    for i in range(BATCH):
        for group, entries, columns, there in zip(asked[i], *(x[i] for x in found), strict=True):
            expected = np.arange(N)[group * size : (group + 1) * size]
            np.testing.assert_array_equal(columns[there], expected)
            np.testing.assert_array_equal(entries[there], values[i, expected])


@pytest.mark.parametrize("n, k", [(18, 1), (18, 17), (1003, 7)])
def test_what_is_compared_may_be_adjusted_by_columns(n, k):
    rng = np.random.default_rng(k)
    values, factors = (rng.integers(-3, 4, size=x).astype(np.float32) for x in ((4, n), n))
    allowed = rng.random((4, n)) < 0.4

    @jax.jit
    def largest(values):
        def adjusted(values, columns):
            if columns is None:
                return jnp.where(allowed, values * factors, -jnp.inf)
            of_rows = jnp.take_along_axis(jnp.asarray(allowed), columns, axis=1)
            return jnp.where(of_rows, values * jnp.asarray(factors)[columns], -jnp.inf)

        return selection.largest(values, k, adjusted)

    found = largest(values)
    expected = expected_largest(np.where(allowed, values * factors, -np.inf), k)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_sorting_pays_for_few_of_long_rows_and_in_small_arrays():
    few = 100 * selection.SORTED_SHARE
    assert selection.sorting_pays((2**20, few), 100)
    assert not selection.sorting_pays((2**20, few - 1), 100)
    assert selection.sorting_pays((2**10, 2**12), 2**12)
    assert not selection.sorting_pays((2**10 + 1, 2**12), 2**12)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    "batch, n, k, pays",
    [
        (2**16, 10 * selection.SORTED_SHARE, 10, True),
        (2**16, 10 * selection.SORTED_SHARE - 1, 10, False),
        (4, 9, 9, True),
    ],
)
def test_only_gpus_sort_and_only_where_it_pays(platform, batch, n, k, pays, monkeypatch):
    monkeypatch.setattr(selection, "CPU", PLATFORMS["CPU"])  # ``fast_mask`` may still be there
    values = jax.ShapeDtypeStruct((batch, n), jnp.float32)

    def sorts(function, *arguments):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
        text = lowered.as_text()
        assert ("stablehlo.while" in text) != ("top_k" in text)  # thresholds or sorts, never both
        return "top_k" in text

    assert sorts(lambda v: selection.mask_of_largest(v, k), values) == (platform == "cuda" and pays)
    assert not sorts(selection.mask_of_largest, values, jax.ShapeDtypeStruct((), jnp.int32))
