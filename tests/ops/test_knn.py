import collections
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding
from jax.sharding import PartitionSpec

from jaxpt.ops import knn, selection

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, N, DIM = 5, 18, 4
OF_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a bound of CPU programs")
PARTS_OF_A_CHOICE = {"case", "constant", "return"}
ROWS = "groups", "thresholds"  # forms that compare a few queries with all keys


def integers(seed=0):
    """Queries and keys whose products are exact in float32 and often tie."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-2, 3, size=(BATCH, DIM)).astype(np.float32),
        rng.integers(-2, 3, size=(N, DIM)).astype(np.float32),
    )


def expected_neighbors(queries, keys, k, query_ids=None, key_ids=None, key_mask=None):
    s = oracles.as_float64(queries) @ oracles.as_float64(keys).T
    values, places = np.full((len(s), k), -np.inf), np.full((len(s), k), -1)
    for i, row in enumerate(s):
        allowed = oracles.admissible(i, len(keys), query_ids, key_ids, key_mask)
        inside = oracles.largest(row, k, allowed)
        values[i, : len(inside)], places[i, : len(inside)] = row[inside], inside
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_in_parts_have_the_values_and_the_gradient_of_the_whole(monkeypatch, dtype):
    """Keys that are masked or converted are taken seven at a time; the last part is shorter."""
    monkeypatch.setattr(knn, "CONVERTED", 7 * DIM)
    queries, keys = integers(4)
    mask, weights = np.arange(N) % 3 > 0, np.random.default_rng(5).integers(9, size=(BATCH, N))
    expected = np.where(mask, queries @ keys.T, 0), (weights * mask) @ keys
    keys[~mask] = np.nan

    def total(queries):
        s = knn.products(queries, jnp.asarray(keys, dtype), mask)
        return jnp.sum(s * weights), s

    gradient, s = jax.jit(jax.grad(total, has_aux=True))(queries)
    np.testing.assert_array_equal(s, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.parametrize("seed", range(5))
def test_masked_keys_and_own_ids_are_never_found(seed):
    rng = np.random.default_rng(seed)
    check_search(
        *integers(seed),
        5,
        4,
        query_ids=rng.integers(4, size=BATCH),
        key_ids=rng.integers(4, size=N),
        key_mask=rng.random(N) < 0.6,
    )


def test_where_too_few_keys_are_admissible_minus_infinity_and_minus_one_fill_up():
    mask, ids = np.isin(np.arange(N), [2, 11, 12]), np.arange(N)
    queries, keys = integers(1)
    check_search(
        queries, keys, 5, 4, query_ids=np.array([2, 11, 12, 0, 1]), key_ids=ids, key_mask=mask
    )
    similarities, indices = knn.search(queries, keys, 5, block_size=4, key_mask=np.zeros(N, bool))
    assert np.isneginf(similarities).all() and (indices == -1).all()


def test_k_may_exceed_the_number_of_keys():
    check_search(*integers(2), N + 3, 7)


def test_id_zero_is_an_id_like_any_other():
    # Blocks are padded with zeros: the padding must not stand for example 0, nor shadow it.
    queries, keys = integers(3)
    check_search(queries, keys, 4, 5, query_ids=np.zeros(BATCH, int), key_ids=np.arange(N))


def test_leave_one_out_comes_before_the_selection():
    keys = np.ones((N, DIM), jnp.bfloat16)  # collapsed: the query itself is not first
    _, indices = knn.search(
        keys[3:5], keys, 3, query_ids=np.array([3, 0]), key_ids=np.arange(N), block_size=4
    )
    np.testing.assert_array_equal(indices, [[0, 1, 2], [1, 2, 3]])


def test_products_are_float32_whatever_the_inputs():
    rng = np.random.default_rng(4)
    check_search(
        rng.normal(size=(BATCH, DIM)).astype(jnp.bfloat16),
        rng.normal(size=(N, DIM)).astype(jnp.bfloat16),
        3,
        5,
    )


def test_similarities_are_full_float32_where_compiler_or_hardware_would_round():
    queries, keys = (x.astype(jnp.bfloat16) for x in integers())
    program = str(jax.make_jaxpr(lambda q, z: knn.search(q, z, 3, group_size=2))(queries, keys))
    products = program.count("dot_general")
    assert f"f32[{N},{BATCH}] = dot_general" in program and f"bf16[{N},{BATCH}]" not in program
    assert products == program.count("(Precision.HIGHEST, ") > 1


def crowd(seed):
    """Many ties, and every condition on keys at once; 8 queries and 16 keys, for 1 … 8 devices."""
    rng = np.random.default_rng(seed)
    queries, keys = (rng.integers(-2, 3, size=(n, 3)).astype(np.float32) for n in (8, 16))
    return (
        queries,
        keys,
        {
            "query_ids": rng.integers(5, size=8),
            "key_ids": rng.integers(5, size=16),
            "query_labels": rng.integers(2, size=8),
            "key_labels": rng.integers(2, size=16),
            "key_mask": rng.random(16) < 0.8,
            "key_bias": rng.integers(-1, 2, size=16).astype(np.float32),
        },
    )


def sorted_crowd(queries, keys, k, options):
    """By a stable sort of the whole matrix."""
    s = queries @ keys.T + options["key_bias"]
    allowed = (
        options["key_mask"]
        & (options["query_ids"][:, None] != options["key_ids"])
        & (options["query_labels"][:, None] == options["key_labels"])
    )
    s = np.pad(np.where(allowed, s, -np.inf), ((0, 0), (0, k)), constant_values=-np.inf)
    order = np.argsort(-s, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(s, order, axis=1)
    return values, np.where(values > -np.inf, order, -1)


def assert_found(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize(
    "k, group_size, block_size",
    [
        (1, 1, 1),
        (1, 4, 4),
        (2, 2, 1),
        (3, 2, 5),
        (3, 3, 4),
        (3, 5, 100),
        (5, 3, 3),
        (5, 16, 16),
        (16, 1, 7),
        (16, 4, 4),
        (19, 3, 6),
    ],
)
def test_groups_and_blocks_change_nothing(k, group_size, block_size):
    for seed in range(20):
        queries, keys, options = crowd(seed)
        found = knn.search(
            queries, keys, k, group_size=group_size, block_size=block_size, **options
        )
        assert_found(found, sorted_crowd(queries, keys, k, options))


def traced_anew(**options):
    """``search`` with what is patched now: its own ``jit`` would keep what it traced before."""
    return jax.jit(functools.partial(inspect.unwrap(knn.search), **options))


@pytest.mark.parametrize(
    "form, platform", [*zip(ROWS, ("GPU", "TPU"), strict=True), ("thresholds", "GPU")]
)
@pytest.mark.parametrize("k", [1, 3, 16, 19])
@pytest.mark.parametrize("workspace", [1, 400, 2**20])
def test_rows_and_blocks_find_the_same(k, workspace, form, platform, monkeypatch):
    monkeypatch.setattr(knn, "SEGMENT", 5)
    monkeypatch.setattr(selection, "CPU", getattr(selection, platform))
    search = traced_anew(k=k, form=form, workspace=workspace)
    for seed in range(20):
        queries, keys, options = crowd(seed)
        found = search(queries, keys, **options)
        assert_found(found, sorted_crowd(queries, keys, k, options))


def over_devices(function, shards):
    """``function`` of arrays whose rows lie in equal parts on the devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:shards]), ("shard",))
    rows = PartitionSpec("shard")
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    )


@pytest.mark.parametrize(
    "shards, k, form",
    [
        *((shards, k, "blocks") for shards, k in ((1, 3), (2, 3), (4, 16), (8, 3), (8, 18))),
        *((shards, k, form) for shards, k in ((2, 3), (8, 18)) for form in ROWS),
    ],
)
def test_keys_on_several_devices_give_the_same(shards, k, form):
    sizes = {"group_size": 2, "block_size": 2}
    search = over_devices(
        lambda queries, keys, options: knn.search(
            queries, keys, k, form=form, axis_name="shard", **sizes, **options
        ),
        shards,
    )
    for seed in range(20):
        queries, keys, options = crowd(seed)
        assert_found(search(queries, keys, options), sorted_crowd(queries, keys, k, options))


@pytest.mark.parametrize("form", knn.FORMS[1:])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_normalized_keys_have_length_one_and_queries_stay_as_they_are(
    form, dtype, masked, monkeypatch
):
    monkeypatch.setattr(knn, "CONVERTED", 7 * DIM)  # some keys at a time
    rng, k = np.random.default_rng(5), 7
    queries = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    lengths = np.append(10.0 ** rng.integers(-28, 29, size=N - 1), 0)  # and one of length zero
    keys = jnp.asarray(rng.normal(size=(N, DIM)) * lengths[:, None], dtype)
    mask, bias = rng.random(N) < (0.7 if masked else 1), rng.normal(size=N).astype(np.float32)
    unit = oracles.as_float64(keys)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-100)
    with_ones, with_bias = (
        np.hstack(x) for x in ((queries, np.ones((BATCH, 1))), (unit, bias[:, None]))
    )
    expected = expected_neighbors(with_ones, with_bias, k, key_mask=mask)
    options = {"key_mask": mask} if masked else {}
    keys = jnp.where(mask[:, None], keys, jnp.nan)
    sizes = {"block_size": 5, "group_size": 2}
    search = traced_anew(k=k, form=form, normalize=True, **sizes)
    found = search(queries, keys, key_bias=bias, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    largest = np.linalg.norm(queries, axis=1).max()
    bound = rounding.of_product(DIM, largest) + rounding.of_sum(1, np.abs(expected[0]).max())
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=bound)
    assert found[0].dtype == jnp.float32


def test_each_platform_has_its_form(monkeypatch):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 8), (2000, 8))]

    def operations(platform, **options):
        """How often each is in the program, but for those by which a platform chooses."""
        traced = jax.jit(lambda q, z: knn.search(q, z, 3, **options)).trace(*shapes)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        counts = collections.Counter(re.findall(r"(?:stablehlo|chlo)\.\w+", text))
        assert ("7xui32" in text) == (counts["stablehlo.bitcast_convert"] > 0)
        return {x: n for x, n in counts.items() if x.split(".")[1] not in PARTS_OF_A_CHOICE}

    for platform, form in ("cpu", "blocks"), ("cuda", "groups"), ("tpu", "thresholds"):
        monkeypatch.setattr(selection, "CPU", selection.TPU)  # only to count the same everywhere
        found, *others = (operations(platform, form=f) for f in knn.FORMS)
        assert [others[i] == found for i in range(3)] == [f == form for f in knn.FORMS[1:]]
        assert operations(platform, recall=0.9) == operations(platform, form="blocks", recall=0.9)
        if form != "blocks":  # GPUs have no thresholds and no loop; TPUs sort what they found
            assert ("stablehlo.bitcast_convert" in found) == (form == "thresholds")
            assert ("stablehlo.while" in found) == (form == "thresholds")
            assert found["chlo.top_k"] == (2 if form == "groups" else 1)


def test_the_group_size_grows_with_keys_and_shrinks_with_k():
    sizes = {
        (100, 50): 1,
        (4000, 100): 1,
        (10_000, 100): 1,
        (10_001, 100): 4,
        (65536, 400): 8,
        (200_000, 20): 16,
        (1_281_167, 400): 16,
        (1, 1): 1,
    }
    assert {shape: knn.choose_group_size(*shape) for shape in sizes} == sizes


def test_blocks_are_smaller_for_more_queries():
    sizes = {1: 16384, 256: 16384, 512: 8192, 1024: 4096, 4096: 1024, 10**6: 1024}
    assert {batch: knn.choose_block_size(batch) for batch in sizes} == sizes


def temporaries(n, batch=16, conditions=False, **options):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((batch, 8), (n, 8))]
    if conditions:
        for of, size in ("query", batch), ("key", n):
            for what in "ids", "labels":
                options[f"{of}_{what}"] = jax.ShapeDtypeStruct((size,), jnp.int32)
        options["key_mask"] = jax.ShapeDtypeStruct((n,), bool)
        options["key_bias"] = jax.ShapeDtypeStruct((n,), jnp.float32)
    arrays.append({x: y for x, y in options.items() if isinstance(y, jax.ShapeDtypeStruct)})
    options = {x: y for x, y in options.items() if x not in arrays[2]}
    search = jax.jit(lambda q, z, named: knn.search(q, z, 10, **named, **options))
    return search.lower(*arrays).compile().memory_analysis().temp_size_in_bytes


@OF_CPU
def test_temporaries_do_not_grow_with_the_keys():
    options = {"normalize": True, "block_size": 512, "group_size": 8}
    few, many = (temporaries(n, **options) for n in (45_001, 90_001))
    assert many <= few + 1024 < 4 * 16 * 45_001


@OF_CPU
@pytest.mark.parametrize(
    "form, most",
    [
        # The products of eight queries, and on CPUs what is made of them, eight bytes of ten.
        ("groups", 2),
        # Products and similarities, and as much for the marks and for ties, which are rare.
        ("thresholds", 3),
    ],
)
def test_rows_keep_to_their_workspace(form, most):
    n = 20_001
    workspace = 8 * knn.row_bytes(n, form)  # eight queries at a time
    found, of_all = (
        temporaries(n, batch=64, form=form, workspace=x, conditions=True)
        for x in (workspace, 8 * workspace)
    )
    assert found < most * workspace < of_all


def test_chunks_of_rows_are_as_even_as_the_hardware_allows():
    rows = {
        (batch, most): knn.rows_at_once(batch, 100, 100 * most + 99)
        for batch in (*range(1, 70), 256, 1000, 1024)
        for most in (1, 2, 7, 8, 9, 23, 24, 64, 80, 1000)
    }
    for (batch, most), size in rows.items():
        assert 1 <= size <= min(batch, most)
        step = 8 if most >= 8 else 1
        assert size % step == 0 or size == batch  # what a TPU stores together
        chunks = -(-batch // size)
        if size == batch:
            assert batch <= most
        elif size % 64:  # no more chunks than needed, and none of more rows
            assert chunks == -(-batch // (most - most % step))
            assert size <= step or chunks < -(-batch // (size - step))
        else:
            assert chunks * size <= 1.1 * batch
    assert rows[1024, 80] == rows[256, 80] == 64 and rows[1000, 1000] == 1000
    assert knn.rows_at_once(5, 100, 1) == 1  # the least
    assert rows[69, 64] == 40 and rows[9, 7] == 5


@pytest.mark.parametrize(
    "form, group_size", [("blocks", 1), ("blocks", 3), *((form, None) for form in ROWS)]
)
def test_what_is_not_a_number_is_found_first(form, group_size):
    for sign in 1, -1:
        queries, keys = integers(6)
        queries[1], keys[[8, 13]] = sign * np.nan, sign * np.nan
        found = knn.search(queries, keys, 4, form=form, group_size=group_size, block_size=6)
        s = queries @ np.nan_to_num(keys).T  # in no array that JAX may still read
        s[1], s[:, [8, 13]] = np.inf, np.inf
        order = np.argsort(-s, axis=1, kind="stable")[:, :4]
        assert_found(found, (np.take_along_axis(s, order, axis=1), order))


# attach_gradient and take


def slope(queries, keys, weights, k=3, axis_name=None, normalize=False, **options):
    """The gradient of the weighted sum of what was found."""

    def total(q):
        how = {"axis_name": axis_name, "normalize": normalize}
        s, index = knn.search(jax.lax.stop_gradient(q), keys, k, **how, **options)
        s = jnp.where(index >= 0, s, 0.0)
        return jnp.sum(weights * knn.attach_gradient(s, q, keys, index, normalize, axis_name))

    return jax.grad(total)(queries)


def slope_by_hand(queries, keys, weights, k, options):
    index = sorted_crowd(queries, keys, k, options)[1]
    found = np.where(index[:, :, None] >= 0, np.nan_to_num(keys)[index], 0)
    return np.einsum("bk,bkd->bd", weights, found)


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_the_gradient_is_the_weighted_sum_of_the_keys_found(shards, k=3):
    gradient = over_devices(
        lambda q, z, w, options: slope(q, z, w, k=k, axis_name="shard", **options), shards
    )
    for seed in range(5):
        queries, keys, options = crowd(seed)
        weights = np.random.default_rng(seed).integers(-3, 4, size=(8, k)).astype(np.float32)
        np.testing.assert_array_equal(
            gradient(queries, keys, weights, options),
            slope_by_hand(queries, keys, weights, k, options),
        )


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_is_by_keys_of_length_one_if_they_are_normalized(shards, dtype, k=3):
    gradient = over_devices(
        lambda q, z, w, options: slope(q, z, w, k=k, axis_name="shard", normalize=True, **options),
        shards,
    )
    rng = np.random.default_rng(7)
    queries, weights = (rng.normal(size=(8, n)).astype(np.float32) for n in (3, k))
    keys = jnp.asarray(rng.normal(size=(16, 3)), dtype)
    unit = oracles.as_float64(keys)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    options = crowd(7)[2]
    keys = jnp.where(options["key_mask"][:, None], keys, jnp.nan)
    np.testing.assert_allclose(
        gradient(queries, keys, weights, options),
        slope_by_hand(queries, unit, weights, k, options),
        rtol=0,
        atol=np.abs(weights).sum(axis=1).max() * (rounding.of_unit_row(3) + rounding.of_sum(k)),
    )


def test_masked_keys_may_hold_anything_and_keys_get_no_gradient():
    queries, keys, options = crowd(1)
    weights = np.ones((8, 16), np.float32)
    keys[~options["key_mask"]] = np.nan
    gradient = jax.jit(functools.partial(slope, k=16))(queries, keys, weights, **options)
    np.testing.assert_array_equal(
        gradient, slope_by_hand(queries, np.nan_to_num(keys), weights, 16, options)
    )
    of_keys = jax.grad(
        lambda z: knn.attach_gradient(jnp.ones((8, 1)), queries, z, jnp.zeros((8, 1), int)).sum()
    )(jnp.asarray(keys))
    assert not of_keys.any()


@pytest.mark.parametrize("shards", [1, 4])
def test_take_looks_up_what_lies_on_other_devices(shards):
    values, index = np.arange(100, 116), np.arange(-1, 15).reshape(8, 2)
    taken = over_devices(lambda v, i: knn.take(v, i, "shard"), shards)(values, index)
    np.testing.assert_array_equal(taken, np.where(index < 0, 0, values[index]))
    np.testing.assert_array_equal(taken, knn.take(values, index))


# Bad arguments


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"keys": np.ones((0, DIM), np.float32)}, "there are no keys to search"),
        ({"queries": np.ones((0, DIM), np.float32)}, "there are no queries to search for"),
        ({"queries": np.ones(DIM)}, r"queries must have shape \[rows, dim\], got shape \(4,\)"),
        ({"keys": np.ones((N, 3))}, r"got \[5, 4\] and \[18, 3\]"),
        ({"query_ids": np.arange(BATCH - 1), "key_ids": np.arange(N)}, "query_ids must have shape"),
        ({"query_ids": np.arange(BATCH), "key_ids": np.arange(N + 1)}, "key_ids must have shape"),
        ({"key_mask": np.ones((N, 1), bool)}, "key_mask must have shape"),
        ({"key_bias": np.ones(3)}, "key_bias must have shape"),
        (
            {"query_labels": np.ones(3, int), "key_labels": np.ones(N, int)},
            "query_labels must have shape",
        ),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"block_size": -1}, "block_size must be at least 1, got -1"),
        ({"form": "rows"}, "form must be one of .*'blocks', 'groups', 'thresholds'.*, got 'rows'"),
        *(
            (
                {"form": form, "recall": 0.9},
                rf"form must be one of \('auto', 'blocks'\), got '{form}'",
            )
            for form in ROWS
        ),
        ({"key_labels": np.arange(N)}, "query_labels and key_labels belong together"),
        ({"query_ids": np.arange(BATCH)}, "give both or neither"),
        ({"key_ids": np.arange(N)}, "give both or neither"),
    ],
)
def test_bad_arguments_of_search_are_named(change, message):
    queries, keys = integers()
    with pytest.raises(ValueError, match=message):
        knn.search(**{"queries": queries, "keys": keys, "k": 2} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 2.0}, "k must be an int, got a float"),
        ({"k": jnp.int32(2)}, "k must be an int, got a "),
        ({"keys": [[1.0, 2.0]]}, "keys must be an array, got a list"),
        ({"queries": np.ones((2, 3), int)}, "queries must be floating point, got dtype int32"),
        ({"key_mask": np.ones(N, int)}, "key_mask must be booleans, got dtype int64"),
        (
            {"query_ids": np.ones(BATCH), "key_ids": np.ones(N, int)},
            "query_ids must be integers, got dtype float64",
        ),
    ],
)
def test_arguments_of_other_types_are_named(change, message):
    queries, keys = integers()
    with pytest.raises(TypeError, match=message):
        knn.search(**{"queries": queries, "keys": keys, "k": 2} | change)


@pytest.mark.parametrize("form", knn.FORMS)
def test_zeros_of_both_signs_tie(form):
    keys = np.array([[0.0], [-0.0], [0.0]], np.float32)
    _, index = knn.search(np.array([[-1.0]], np.float32), keys, 3, form=form)
    np.testing.assert_array_equal(index, [[0, 1, 2]])


class TestApproximate:
    """On this backend ``approx_max_k`` is exact, so that a worse one stands in for it."""

    def arrays(self, n=300, batch=6, dim=5):
        rng = np.random.default_rng(0)
        return (
            rng.normal(size=(batch, dim)).astype(np.float32),
            rng.normal(size=(n, dim)).astype(np.float32),
        )

    @pytest.mark.parametrize("k, block_size", [(7, 16), (7, 300), (40, 3), (400, 16)])
    def test_with_an_exact_choice_of_candidates_it_is_exact(self, k, block_size):
        mask = np.arange(300) % 3 > 0
        exact, approximate = (
            knn.search(*self.arrays(), k, key_mask=mask, recall=recall, block_size=block_size)
            for recall in (None, 0.9)
        )
        np.testing.assert_array_equal(exact[1], approximate[1])
        np.testing.assert_allclose(exact[0], approximate[0], rtol=rounding.FEW, atol=rounding.FEW)

    def test_the_recall_that_is_measured_is_the_share_of_neighbours_found(self, monkeypatch):
        def second_best_on(values, k, *, recall_target):
            del recall_target
            found, place = jax.lax.top_k(values, min(k + 1, values.shape[1]))
            return found[:, 1:], place[:, 1:]

        monkeypatch.setattr(jax.lax, "approx_max_k", second_best_on)
        queries, keys = self.arrays()
        assert float(knn.measured_recall(queries, keys, 8, recall=0.77)) == pytest.approx(7 / 8)
        nothing = {"key_mask": np.zeros(300, bool)}
        assert float(knn.measured_recall(queries, keys, 8, recall=0.77, **nothing)) == 1

    @pytest.mark.parametrize("recall", [0, 1, -0.5, 1.5])
    def test_another_recall_is_refused(self, recall):
        with pytest.raises(ValueError, match="recall must lie between 0 and 1"):
            knn.search(*self.arrays(), 3, recall=recall)
