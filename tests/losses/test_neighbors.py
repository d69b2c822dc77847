import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from jaxpt.losses import NO_POSITIVE, look, nca
from jaxpt.losses.similarity import masked_logsumexp

BATCH, MEMORY, DIM, CLASSES = 7, 24, 5, 3
WIDTH = 24  # no fewer than MEMORY, so that the axes can be the keys


def padded(queries, keys, query_labels, key_labels, *, temperature=0.1, query_ids=None,
           key_ids=None, key_mask=None, where=None, **k):
    """All array arguments in one shape and dtype: compiling is what costs, so tests share it."""

    def pad(x, dtype, *shape, fill=0):
        x = np.asarray(x).astype(dtype)
        return np.pad(x, [(0, n - m) for n, m in zip(shape, x.shape)], constant_values=fill)

    b, n = len(queries), len(keys)
    dtype = jnp.bfloat16 if np.asarray(queries).dtype == jnp.bfloat16 else np.float32
    if query_ids is None:
        query_ids, key_ids = np.full(b, -1), np.arange(n)
    arrays = {
        "queries": pad(queries, dtype, BATCH, WIDTH), "keys": pad(keys, dtype, MEMORY, WIDTH),
        "query_labels": pad(query_labels, np.int32, BATCH),
        "key_labels": pad(key_labels, np.int32, MEMORY),
        "query_ids": pad(query_ids, np.int32, BATCH), "key_ids": pad(key_ids, np.int32, MEMORY),
        "key_mask": pad(np.ones(n) if key_mask is None else key_mask, bool, MEMORY),
        "where": pad(np.ones(b) if where is None else where, bool, BATCH),
        "temperature": np.float32(temperature)}
    if "k" in k:
        arrays["k"] = pad(np.broadcast_to(k["k"], b), np.int32, BATCH, fill=1)
    return arrays


@functools.partial(jax.jit, static_argnames=("loss", "no_positive", "normalize"))
def program(arrays, loss, **static):
    def total(queries, keys):
        losses, stats = loss(**arrays | {"queries": queries, "keys": keys}, **static)
        return losses.sum(), (losses, stats)

    (_, (losses, stats)), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        arrays["queries"], arrays["keys"])
    return losses, stats, *gradients


def evaluate(loss, queries, *args, no_positive=None, normalize=True, **options):
    """(losses, stats, gradient of the summed losses by the queries, the same by the keys)."""
    static = {"normalize": normalize} | ({"no_positive": no_positive} if no_positive else {})
    losses, stats, gradient, key_gradient = program(padded(queries, *args, **options), loss,
                                                    **static)
    rows, columns = np.shape(queries)
    return (np.asarray(losses[:rows]), np.array(stats), np.asarray(gradient[:rows, :columns]),
            np.asarray(key_gradient))


def run_look(*args, no_positive="nearest", **options):
    return evaluate(look, *args, no_positive=no_positive, **options)


def run_nca(*args, **options):
    return evaluate(nca, *args, **options)


def gaussian(seed=0):
    """queries, keys, query_labels, key_labels."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(BATCH, DIM)).astype(np.float32),
            rng.normal(size=(MEMORY, DIM)).astype(np.float32),
            rng.integers(CLASSES, size=BATCH).astype(np.int32),
            rng.integers(CLASSES, size=MEMORY).astype(np.int32))


def case(name):
    """(arrays, normalize); where ties are meant, every product is exact in float32."""
    queries, keys, query_labels, key_labels = gaussian()
    rng = np.random.default_rng(1)
    if name == "bf16":
        queries, keys = queries.astype(jnp.bfloat16), keys.astype(jnp.bfloat16)
    elif name == "ties":
        axes = np.concatenate([np.eye(DIM), -np.eye(DIM)])
        queries, keys = (4 * axes[rng.integers(2 * DIM, size=len(x))] for x in (queries, keys))
    elif name == "duplicates":
        queries, keys = np.round(queries), np.round(keys[np.arange(MEMORY) % 4])
    elif name == "zero vectors":
        queries[::2], keys[::3] = 0, 0
    elif name == "single class":
        query_labels[:], key_labels[:] = 1, 1
    elif name == "no positive":
        query_labels += CLASSES
    elif name == "tiny":
        queries, keys = queries * np.float32(1e-30), keys * np.float32(1e-30)
    elif name == "huge":
        queries, keys = queries * np.float32(1e30), keys * np.float32(1e30)
    elif name == "unnormalised":
        queries, keys = 30 * queries, 30 * keys
    elif name == "unnormalised bf16":
        queries, keys = (3 * queries).astype(jnp.bfloat16), (3 * keys).astype(jnp.bfloat16)
    return (queries, keys, query_labels, key_labels), name not in (
        "duplicates", "unnormalised", "unnormalised bf16")


def masks(seed=2):
    rng = np.random.default_rng(seed)
    return {"query_ids": rng.integers(MEMORY, size=BATCH), "key_ids": rng.permutation(MEMORY),
            "key_mask": rng.random(MEMORY) < 0.8}


def rounding(arrays, normalize, temperature):
    """Float32 rounding of the largest logit, several times over."""
    largest = 1.0 if normalize else np.abs(
        oracles.as_float64(arrays[0]) @ oracles.as_float64(arrays[1]).T).max()
    return {"rtol": 1e-5, "atol": 1e-6 * (1 + largest / float(temperature))}


# Values


@pytest.mark.parametrize("no_positive, expected", [
    ("nearest", math.log(1 + math.exp(-5) + math.exp(-20)) + 20),
    ("drop", 0.0),
    ("floor", math.log(1 + math.exp(-5)) + 5),
])
def test_a_query_without_a_positive_among_two_neighbors(no_positive, expected):
    keys = [[1, 0], [0.5, math.sqrt(0.75)], [-1, 0], [0, 1], [0, 1]]
    losses, stats, *_ = run_look([[2, 0]], keys, [0], [1, 1, 0, 0, 1], k=2,
                                 key_mask=np.arange(5) < 3, no_positive=no_positive)
    np.testing.assert_allclose(losses, [expected], rtol=1e-5)
    np.testing.assert_array_equal(stats, (1, no_positive == "drop", 0))


def test_the_loss_is_minus_the_log_of_the_positives_share():
    losses, stats, *_ = run_look([[1, 0]], [[1, 0], [0, 1], [-1, 0]], [0], [1, 0, 0], k=2,
                                 temperature=0.5)
    np.testing.assert_allclose(losses, [math.log(1 + math.exp(2))], rtol=1e-6)
    np.testing.assert_allclose(stats, (0, 0, 0.5))


def test_stats_count_queries():
    # Neighbours of the four queries, by label: {0, 0}, {0, 1}, {1, 1} and {1, 1}.
    queries = [[1, 0], [1, 1], [0, 1], [0, 1]]
    keys = [[1, 0], [1, -0.1], [0, 1], [-0.1, 1]]
    _, stats, *_ = run_look(queries, keys, [0, 0, 0, 1], [0, 0, 1, 1], k=2, no_positive="floor")
    np.testing.assert_allclose(stats, (1 / 4, 2 / 4, (1 + 0.5 + 0 + 1) / 4))


def test_the_optional_arguments_are_optional():
    args = gaussian()
    losses, stats = jax.jit(functools.partial(look, k=6))(*args)
    expected, missing, purity = oracles.look(*args, k=6, temperature=0.1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats, (missing.mean(), (losses == 0).mean(), purity.mean()),
                               rtol=1e-6)
    assert [x.dtype for x in (losses, *stats)] == [jnp.float32] * 4
    losses, stats = jax.jit(nca)(*args)
    np.testing.assert_allclose(losses, oracles.nca(*args, temperature=0.1)[0], rtol=1e-5, atol=1e-5)
    assert [x.dtype for x in (losses, *stats)] == [jnp.float32] * 4


@pytest.mark.parametrize("k", [1, 6, MEMORY, 100])
@pytest.mark.parametrize("name, remedies", [(name, NO_POSITIVE) for name in (
    "gaussian", "ties", "duplicates", "zero vectors", "single class", "no positive", "tiny", "huge",
    "unnormalised")] + [("bf16", ["nearest"]), ("unnormalised bf16", ["floor"])])
def test_look_equals_the_oracle(name, remedies, k):
    arrays, normalize = case(name)
    for no_positive in remedies:
        for options in {}, masks():
            for temperature in np.float32(0.02), np.float32(1.0):
                options = options | {"k": k, "temperature": temperature, "normalize": normalize,
                                     "no_positive": no_positive}
                losses, stats, *_ = run_look(*arrays, **options)
                expected, missing, purity = oracles.look(*arrays, **options)
                assert losses.dtype == np.float32
                np.testing.assert_allclose(losses, expected,
                                           **rounding(arrays, normalize, temperature))
                np.testing.assert_allclose(
                    stats, (missing.mean(), (losses == 0).mean(), purity.mean()), rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "zero vectors", "no positive", "tiny", "bf16"])
def test_nca_equals_the_oracle(name):
    arrays, normalize = case(name)
    for options in {}, masks():
        options = options | {"temperature": np.float32(0.05), "normalize": normalize}
        losses, stats, *_ = run_nca(*arrays, **options)
        expected, missing, purity = oracles.nca(*arrays, **options)
        np.testing.assert_allclose(losses, expected, **rounding(arrays, normalize, 0.05))
        np.testing.assert_allclose(
            stats, (missing.mean(), (losses == 0).mean(), purity.mean()), rtol=1e-6)


small_ints = st.integers(-2, 2)


@given(queries=hnp.arrays(np.int32, (3, 3), elements=small_ints),
       keys=hnp.arrays(np.int32, (8, 3), elements=small_ints),
       labels=hnp.arrays(np.int32, 11, elements=st.integers(0, 2)),
       ids=hnp.arrays(np.int32, 11, elements=st.integers(0, 4)),
       mask=hnp.arrays(np.bool_, 8),
       k=hnp.arrays(np.int32, 3, elements=st.integers(1, 10)),
       temperature=st.sampled_from([np.float32(0.05), np.float32(1), np.float32(10)]),
       no_positive=st.sampled_from(NO_POSITIVE))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_look_equals_the_oracle_where_most_keys_tie(
        queries, keys, labels, ids, mask, k, temperature, no_positive):
    arrays = queries, keys, labels[:3], labels[3:]
    options = {"k": k, "temperature": temperature, "no_positive": no_positive, "key_mask": mask,
               "query_ids": ids[:3], "key_ids": ids[3:], "normalize": False}
    losses, stats, *_ = run_look(*arrays, **options)
    expected, missing, purity = oracles.look(*arrays, **options)
    np.testing.assert_allclose(losses, expected, **rounding(arrays, False, temperature))
    np.testing.assert_allclose(stats[[0, 2]], (missing.mean(), purity.mean()), rtol=1e-6)


# The neighbourhood


@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_keys_outside_the_neighborhood_do_not_matter(no_positive):
    queries, keys, query_labels, key_labels = gaussian(3)
    s = oracles.unit(queries) @ oracles.unit(keys).T
    for i in range(BATCH):
        inside = oracles.largest(s[i], 9, range(MEMORY))
        assert query_labels[i] in key_labels[inside]  # else "nearest" would look outside
        outside = np.setdiff1d(np.arange(MEMORY), inside)
        changed, relabelled = keys.copy(), key_labels.copy()
        changed[outside], relabelled[outside] = -queries[i], query_labels[i]
        before, after = (run_look(queries[i:i + 1], z, query_labels[i:i + 1], y, k=9,
                                  no_positive=no_positive)
                         for z, y in ((keys, key_labels), (changed, relabelled)))
        for x, y in zip(before, after):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_similarities_outside_the_neighborhood_get_exactly_no_gradient():
    # The keys are the axes, so the gradient by the query is that by its similarities.
    s = np.random.default_rng(0).normal(size=(6, 12))
    *_, gradient, _ = run_look(s, np.eye(12), np.arange(6) % 2, np.arange(12) % 2, k=5,
                               normalize=False, no_positive="floor")
    for i in range(6):
        assert set(np.flatnonzero(gradient[i])) == set(oracles.largest(s[i], 5, range(12)))


def test_the_gradient_by_similarities_is_softmax_over_neighbors_minus_over_positives():
    rng = np.random.default_rng(1)
    s, tau = rng.normal(size=(6, 12)), 0.3
    query_labels, key_labels = np.arange(6) % 2, rng.integers(2, size=12)
    expected = np.zeros((6, 12))
    for i in range(6):
        inside = oracles.largest(s[i], 7, range(12))
        positives = [j for j in inside if key_labels[j] == query_labels[i]]
        for sign, group in (1, inside), (-1, positives):
            weights = np.exp(s[i, group] / tau)
            expected[i, group] += sign * weights / weights.sum() / tau
    *_, gradient, _ = run_look(s, np.eye(12), query_labels, key_labels, k=7, temperature=tau,
                               normalize=False, no_positive="drop")
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_floor_only_repels():
    *_, gradient, _ = run_look([[3, 1, 2, 0]], np.eye(4), [0], [1, 1, 1, 0], k=3, temperature=1,
                               normalize=False, no_positive="floor")
    weights = np.exp([3, 1, 2])
    np.testing.assert_allclose(gradient[0], [*weights / weights.sum(), 0], rtol=1e-5)


@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_a_query_whose_neighbors_all_share_its_label_teaches_exactly_nothing(no_positive):
    rng = np.random.default_rng(0)
    keys = np.repeat(np.eye(2, DIM), 12, axis=0) + 0.1 * rng.normal(size=(24, DIM))
    labels, ids = np.repeat([0, 1], 12), np.arange(24)
    args = keys[::4], keys, labels[::4], labels
    options = {"query_ids": ids[::4], "key_ids": ids, "no_positive": no_positive}
    losses, stats, gradient, _ = run_look(*args, k=11, **options)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, (0, 1, 1))
    np.testing.assert_array_equal(gradient, 0)
    # One neighbour more is the nearest of the other class.
    losses, _, gradient, _ = run_look(*args, k=12, **options)
    assert (losses > 0).all() and gradient.any(axis=1).all()


@pytest.mark.parametrize("no_positive", ["nearest", "drop"])
def test_the_whole_memory_as_neighbors_gives_nca(no_positive):
    args = gaussian(4)
    args[2][0] = CLASSES  # one query without any positive
    for k in MEMORY, MEMORY + 1:
        for options in {}, masks():
            with_look = run_look(*args, k=k, no_positive=no_positive, **options)
            with_nca = run_nca(*args, **options)
            for x, y in zip(with_look, with_nca):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**20), k=st.integers(1, MEMORY),
       no_positive=st.sampled_from(NO_POSITIVE))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_order_of_the_memory_does_not_matter(seed, k, no_positive):
    queries, keys, query_labels, key_labels = gaussian(seed)
    options, order = masks(seed), np.random.default_rng(seed).permutation(MEMORY)
    shuffled = options | {name: options[name][order] for name in ("key_ids", "key_mask")}
    before, after = (
        run_look(queries, z, query_labels, y, k=k, no_positive=no_positive, **kw)
        for z, y, kw in ((keys, key_labels, options), (keys[order], key_labels[order], shuffled)))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after[1][[0, 2]], before[1][[0, 2]], rtol=1e-6)


@pytest.mark.parametrize("c", [4.0, 0.3])
@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_scaling_similarities_and_temperature_alike_changes_nothing(no_positive, c):
    queries, *rest = gaussian(5)
    before, after = (
        run_look(scale * queries, *rest, k=4, temperature=scale * 0.7, normalize=False,
                 no_positive=no_positive)[0] for scale in (1.0, c))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_lengths_matter_only_without_normalisation():
    queries, keys, *labels = gaussian(6)
    stretched = np.linspace(0.5, 3, MEMORY)[:, None] * keys
    same, other = ([run_look(queries, z, *labels, k=4, normalize=n)[0] for z in (keys, stretched)]
                   for n in (True, False))
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(other[0], other[1], rtol=0.1)


def test_keys_with_the_querys_id_leave_before_the_selection():
    # A collapsed cluster: every similarity ties, so the two neighbours are the lowest indices.
    keys = np.full((6, 4), 0.3, jnp.bfloat16)
    labels, ids = np.array([0, 1, 0, 1, 1, 0]), np.arange(10, 16)
    losses, stats, *_ = run_look(keys, keys, labels, labels, k=2, query_ids=ids, key_ids=ids)
    # Neighbours {1, 2}, {0, 2}, {0, 1}, {0, 1}, …: query 1 alone needs a third of its own label.
    np.testing.assert_allclose(losses, np.log([2, 3, 2, 2, 2, 2]), rtol=1e-6)
    np.testing.assert_allclose(stats, (1 / 6, 0, 5 / 12), rtol=1e-6)


def test_every_copy_with_the_querys_id_leaves():
    keys = [[1, 0], [1, 0], [0.9, 0.1], [0.8, -0.1]]
    losses, stats, *_ = run_look(keys[:1], keys, [0], [0, 0, 1, 1], k=2, query_ids=[7],
                                 key_ids=[7, 7, 8, 9], no_positive="drop")
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, (1, 1, 0))


# k


def test_k_may_differ_between_queries():
    args, k = gaussian(7), np.array([1, 2, 3, 5, 8, 24, 99])
    losses, *_ = run_look(*args, k=k)
    for i in range(BATCH):
        np.testing.assert_allclose(losses[i], run_look(*args, k=k[i])[0][i], rtol=1e-6)


def test_a_schedule_of_k_does_not_compile_anew():
    args, traces = gaussian(8), []

    @jax.jit
    def step(k):
        traces.append(k)
        return look(*args, k=k)[0]

    for k in 1, 6, 24:
        np.testing.assert_allclose(step(k), oracles.look(*args, k=k)[0], rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


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
        np.testing.assert_allclose(np.sum(gradient[rows] * direction[rows]),
                                   oracles.slope(loss, queries, direction), rtol=1e-4, atol=1e-5)


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
        losses, stats, gradient, _ = run_look(*args, k=5, temperature=temperature, key_mask=mask,
                                              no_positive=no_positive)
        assert all(np.isfinite(x).all() for x in (losses, stats, gradient)) and (losses >= 0).all()
        assert not gradient[0].any()  # of a zero vector
    # The last mask was an empty memory.
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, (1, 1, 0))
    np.testing.assert_array_equal(gradient, 0)


def test_similarities_are_full_float32_where_compiler_or_hardware_would_round():
    # Seen in the program alone: on a CPU, a compiled one hides the difference.
    (queries, keys, *labels), _ = case("bf16")
    for loss in functools.partial(look, k=3), nca:
        program = str(jax.make_jaxpr(functools.partial(loss, normalize=False))(
            queries, keys, *labels))
        assert f"f32[{BATCH},{MEMORY}] = dot_general" in program
        assert program.count("dot_general") == program.count("(Precision.HIGHEST, Pr") == 1


def test_the_log_of_an_empty_sum_and_its_gradient_are_zero():
    logits, where = jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([[True, True], [False, False]])
    value, gradient = jax.value_and_grad(lambda x: masked_logsumexp(x, where).sum())(logits)
    np.testing.assert_allclose(value, math.log(math.exp(1) + math.exp(2)), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_allclose(gradient[0].sum(), 1, rtol=1e-6)


# where


@pytest.mark.parametrize("run", [functools.partial(run_look, k=4, no_positive="floor"), run_nca])
def test_where_is_the_same_as_leaving_the_queries_out(run):
    queries, keys, query_labels, key_labels = gaussian(15)
    query_labels[1] = CLASSES
    where = np.array([1, 1, 0, 1, 0, 1, 0], bool)
    losses, stats, gradient, _ = run(queries, keys, query_labels, key_labels, where=where)
    kept, kept_stats, kept_gradient, _ = run(queries[where], keys, query_labels[where], key_labels)
    np.testing.assert_allclose(losses[where], kept, rtol=1e-6)
    np.testing.assert_allclose(stats, kept_stats, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], kept_gradient, rtol=1e-6)
    assert not losses[~where].any() and not gradient[~where].any()


def test_where_may_leave_out_every_query():
    losses, stats, *_ = run_look(*gaussian(15), k=4, where=np.zeros(BATCH, bool))
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, 0)


# Several devices


def batch_as_memory():
    rng = np.random.default_rng(16)
    z = rng.normal(size=(32, DIM)).astype(np.float32)
    return z, rng.integers(2, size=32), np.arange(32), rng.random(32) < 0.9


def in_batch(axis_name=None):
    def losses(z, labels, ids, mask):
        return look(z, z, labels, labels, k=5, query_ids=ids, key_ids=ids, key_mask=mask,
                    axis_name=axis_name)[0]
    return losses


def test_keys_gathered_by_shard_map_give_the_losses_and_gradients_of_the_full_batch(mesh):
    z, *rest = batch_as_memory()

    def both(losses):
        def total(z):
            values = losses(z, *rest)
            return values.sum(), values
        gradient, values = jax.jit(jax.grad(total, has_aux=True))(z)
        return values, gradient

    def sharded(axis_name):
        return jax.shard_map(in_batch(axis_name), mesh=mesh, in_specs=P("shard"),
                             out_specs=P("shard"))

    full, gathered, alone = both(in_batch()), both(sharded("shard")), both(sharded(None))
    np.testing.assert_allclose(gathered[0], full[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gathered[1], full[1], rtol=1e-4, atol=1e-4)
    assert not np.allclose(alone[0], full[0], rtol=0.1)


def test_keys_gathered_by_vmap_give_the_losses_of_the_full_batch():
    args = batch_as_memory()
    parts = [x.reshape(8, 4, *x.shape[1:]) for x in args]
    full = oracles.look(args[0], args[0], args[1], args[1], k=5, query_ids=args[2],
                        key_ids=args[2], key_mask=args[3])[0]
    gathered = jax.jit(jax.vmap(in_batch("shard"), axis_name="shard"))(*parts)
    np.testing.assert_allclose(gathered.reshape(-1), full, rtol=1e-5, atol=1e-5)


def test_nca_gathers_keys_too():
    z, labels, *_ = batch_as_memory()

    @functools.partial(jax.vmap, axis_name="shard")
    def losses(z, labels):
        return nca(z[:, ::-1], z, labels, labels, axis_name="shard")[0]

    gathered = jax.jit(losses)(z.reshape(8, 4, DIM), labels.reshape(8, 4)).reshape(-1)
    np.testing.assert_allclose(gathered, oracles.nca(z[:, ::-1], z, labels, labels)[0],
                               rtol=1e-5, atol=1e-5)


# Bad arguments


@pytest.mark.parametrize("change, error, message", [
    ({"k": 0}, ValueError, "k must be a whole number of at least 1, got 0"),
    ({"k": np.int64(-3)}, ValueError, "k must be a whole number of at least 1, got -3"),
    ({"k": 2.5}, ValueError, "k must be a whole number of at least 1, got 2.5"),
    ({"k": jnp.ones(2, int)}, ValueError, "broadcast"),
    ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0"),
    ({"temperature": np.float32(-1)}, ValueError, "temperature must be positive, got -1"),
    ({"no_positive": "ignore"}, ValueError, "no_positive must be one of .*got 'ignore'"),
    ({"queries": np.ones((BATCH, DIM), int)}, TypeError, "queries must be floating point, got"),
    ({"keys": np.ones((MEMORY, DIM), int)}, TypeError, "keys must be floating point, got"),
    ({"keys": np.ones((MEMORY, 9), np.float32)}, ValueError, "dimension 5 but keys 9"),
    ({"queries": np.ones(DIM, np.float32)}, ValueError, r"queries must have shape \[rows, dim\]"),
    ({"query_labels": np.ones(3, int)}, ValueError, r"query_labels must have shape \[7\]"),
    ({"key_labels": np.ones((MEMORY, 1), int)}, ValueError, r"key_labels must have shape \[24\]"),
    ({"query_ids": np.arange(BATCH)}, ValueError, "give both or neither"),
    ({"key_ids": np.arange(MEMORY)}, ValueError, "give both or neither"),
    ({"query_ids": np.arange(3), "key_ids": np.arange(MEMORY)}, ValueError, "query_ids must have"),
    ({"query_ids": np.arange(BATCH), "key_ids": np.arange(3)}, ValueError, "key_ids must have"),
    ({"key_mask": np.ones(3, bool)}, ValueError, r"key_mask must have shape \[24\], got .*3"),
    ({"where": np.ones((BATCH, 1), bool)}, ValueError, r"where must have shape \[7\], got .*7, 1"),
])
def test_bad_arguments_are_named(change, error, message):
    names = ("queries", "keys", "query_labels", "key_labels")
    arguments = dict(zip(names, gaussian(), strict=True)) | {"k": 3} | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: look(**arguments))
    if not {"k", "no_positive"} & set(change):
        del arguments["k"]
        with pytest.raises(error, match=message):
            jax.eval_shape(lambda: nca(**arguments))


def test_nan_in_a_masked_key_reaches_neither_loss_nor_gradient():
    keys = jnp.array([[1.0, 0.0], [jnp.nan, jnp.nan], [0.0, 1.0]])
    labels, mask = jnp.array([0, 0, 1]), jnp.array([True, False, True])

    def loss(queries):
        return jnp.sum(look(queries, keys, jnp.array([0]), labels, k=2, key_mask=mask)[0])

    value, gradient = jax.value_and_grad(loss)(jnp.array([[1.0, 1.0]]))
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all() and jnp.any(gradient != 0)
