"""LOOK and NCA: values, neighbourhoods, k."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from losses.neighbor_cases import (
    BATCH,
    CLASSES,
    DIM,
    MEMORY,
    case,
    gaussian,
    masks,
    tolerances,
    run_look,
    run_nca,
)

from jaxpt.losses import NO_POSITIVE, look, nca

pytestmark = pytest.mark.usefixtures("unoptimised")


# Values


@pytest.mark.parametrize(
    "no_positive, expected",
    [
        ("nearest", math.log(1 + math.exp(-5) + math.exp(-20)) + 20),
        ("drop", 0.0),
        ("floor", math.log(1 + math.exp(-5)) + 5),
    ],
)
def test_a_query_without_a_positive_among_two_neighbors(no_positive, expected):
    keys = [[1, 0], [0.5, math.sqrt(0.75)], [-1, 0], [0, 1], [0, 1]]
    losses, stats, *_ = run_look(
        [[2, 0]],
        keys,
        [0],
        [1, 1, 0, 0, 1],
        k=2,
        key_mask=np.arange(5) < 3,
        no_positive=no_positive,
    )
    np.testing.assert_allclose(losses, [expected], rtol=1e-5)
    np.testing.assert_array_equal(stats, (1, no_positive == "drop", 0))


def test_the_loss_is_minus_the_log_of_the_positives_share():
    losses, stats, *_ = run_look(
        [[1, 0]], [[1, 0], [0, 1], [-1, 0]], [0], [1, 0, 0], k=2, temperature=0.5
    )
    np.testing.assert_allclose(
        losses, [math.log(1 + math.exp(2))], rtol=rounding.FEW, atol=rounding.FEW
    )
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
    np.testing.assert_allclose(
        stats,
        (missing.mean(), (losses == 0).mean(), purity.mean()),
        rtol=rounding.FEW,
        atol=rounding.FEW,
    )
    assert [x.dtype for x in (losses, *stats)] == [jnp.float32] * 4
    losses, stats = jax.jit(nca)(*args)
    np.testing.assert_allclose(losses, oracles.nca(*args, temperature=0.1)[0], rtol=1e-5, atol=1e-5)
    assert [x.dtype for x in (losses, *stats)] == [jnp.float32] * 4


@pytest.mark.parametrize("k", [1, 6, MEMORY, 100])
@pytest.mark.parametrize(
    "name, remedies",
    [
        (name, NO_POSITIVE)
        for name in (
            "gaussian",
            "ties",
            "duplicates",
            "zero vectors",
            "single class",
            "no positive",
            "tiny",
            "huge",
            "unnormalised",
        )
    ]
    + [("bf16", ["nearest"]), ("unnormalised bf16", ["floor"])],
)
def test_look_equals_the_oracle(name, remedies, k):
    arrays, normalize = case(name)
    for no_positive in remedies:
        for options in {}, masks():
            for temperature in np.float32(0.02), np.float32(1.0):
                options = options | {
                    "k": k,
                    "temperature": temperature,
                    "normalize": normalize,
                    "no_positive": no_positive,
                }
                losses, stats, *_ = run_look(*arrays, **options)
                expected, missing, purity = oracles.look(*arrays, **options)
                assert losses.dtype == np.float32
                np.testing.assert_allclose(
                    losses, expected, **tolerances(arrays, normalize, temperature)
                )
                np.testing.assert_allclose(
                    stats,
                    (missing.mean(), (losses == 0).mean(), purity.mean()),
                    rtol=rounding.FEW,
                    atol=rounding.FEW,
                )


@pytest.mark.parametrize("name", ["gaussian", "zero vectors", "no positive", "tiny", "bf16"])
def test_nca_equals_the_oracle(name):
    arrays, normalize = case(name)
    for options in {}, masks():
        options = options | {"temperature": np.float32(0.05), "normalize": normalize}
        losses, stats, *_ = run_nca(*arrays, **options)
        expected, missing, purity = oracles.nca(*arrays, **options)
        np.testing.assert_allclose(losses, expected, **tolerances(arrays, normalize, 0.05))
        np.testing.assert_allclose(
            stats,
            (missing.mean(), (losses == 0).mean(), purity.mean()),
            rtol=rounding.FEW,
            atol=rounding.FEW,
        )


small_ints = st.integers(-2, 2)


@given(
    queries=hnp.arrays(np.int32, (3, 3), elements=small_ints),
    keys=hnp.arrays(np.int32, (8, 3), elements=small_ints),
    labels=hnp.arrays(np.int32, 11, elements=st.integers(0, 2)),
    ids=hnp.arrays(np.int32, 11, elements=st.integers(0, 4)),
    mask=hnp.arrays(np.bool_, 8),
    k=hnp.arrays(np.int32, 3, elements=st.integers(1, 10)),
    temperature=st.sampled_from([np.float32(0.05), np.float32(1), np.float32(10)]),
    no_positive=st.sampled_from(NO_POSITIVE),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_look_equals_the_oracle_where_most_keys_tie(
    queries, keys, labels, ids, mask, k, temperature, no_positive
):
    arrays = queries, keys, labels[:3], labels[3:]
    options = {
        "k": k,
        "temperature": temperature,
        "no_positive": no_positive,
        "key_mask": mask,
        "query_ids": ids[:3],
        "key_ids": ids[3:],
        "normalize": False,
    }
    losses, stats, *_ = run_look(*arrays, **options)
    expected, missing, purity = oracles.look(*arrays, **options)
    np.testing.assert_allclose(losses, expected, **tolerances(arrays, False, temperature))
    np.testing.assert_allclose(
        stats[[0, 2]], (missing.mean(), purity.mean()), rtol=rounding.FEW, atol=rounding.FEW
    )


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
        before, after = (
            run_look(
                queries[i : i + 1], z, query_labels[i : i + 1], y, k=9, no_positive=no_positive
            )
            for z, y in ((keys, key_labels), (changed, relabelled))
        )
        for x, y in zip(before, after):
            np.testing.assert_allclose(x, y, rtol=rounding.FEW, atol=rounding.FEW)


def test_similarities_outside_the_neighborhood_get_exactly_no_gradient():
    # The keys are the axes, so the gradient by the query is that by its similarities.
    s = np.random.default_rng(0).normal(size=(6, 12))
    *_, gradient, _ = run_look(
        s,
        np.eye(12),
        np.arange(6) % 2,
        np.arange(12) % 2,
        k=5,
        normalize=False,
        no_positive="floor",
    )
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
    *_, gradient, _ = run_look(
        s,
        np.eye(12),
        query_labels,
        key_labels,
        k=7,
        temperature=tau,
        normalize=False,
        no_positive="drop",
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_floor_only_repels():
    *_, gradient, _ = run_look(
        [[3, 1, 2, 0]],
        np.eye(4),
        [0],
        [1, 1, 1, 0],
        k=3,
        temperature=1,
        normalize=False,
        no_positive="floor",
    )
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


@given(
    seed=st.integers(0, 2**20), k=st.integers(1, MEMORY), no_positive=st.sampled_from(NO_POSITIVE)
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_the_order_of_the_memory_does_not_matter(seed, k, no_positive):
    queries, keys, query_labels, key_labels = gaussian(seed)
    options, order = masks(seed), np.random.default_rng(seed).permutation(MEMORY)
    shuffled = options | {name: options[name][order] for name in ("key_ids", "key_mask")}
    before, after = (
        run_look(queries, z, query_labels, y, k=k, no_positive=no_positive, **kw)
        for z, y, kw in ((keys, key_labels, options), (keys[order], key_labels[order], shuffled))
    )
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        after[1][[0, 2]], before[1][[0, 2]], rtol=rounding.FEW, atol=rounding.FEW
    )


@pytest.mark.parametrize("c", [4.0, 0.3])
@pytest.mark.parametrize("no_positive", NO_POSITIVE)
def test_scaling_similarities_and_temperature_alike_changes_nothing(no_positive, c):
    queries, *rest = gaussian(5)
    before, after = (
        run_look(
            scale * queries,
            *rest,
            k=4,
            temperature=scale * 0.7,
            normalize=False,
            no_positive=no_positive,
        )[0]
        for scale in (1.0, c)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_lengths_matter_only_without_normalisation():
    queries, keys, *labels = gaussian(6)
    stretched = np.linspace(0.5, 3, MEMORY)[:, None] * keys
    same, other = (
        [run_look(queries, z, *labels, k=4, normalize=n)[0] for z in (keys, stretched)]
        for n in (True, False)
    )
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(other[0], other[1], rtol=0.1)


def test_keys_with_the_querys_id_leave_before_the_selection():
    # A collapsed cluster: every similarity ties, so the two neighbours are the lowest indices.
    keys = np.full((6, 4), 0.3, jnp.bfloat16)
    labels, ids = np.array([0, 1, 0, 1, 1, 0]), np.arange(10, 16)
    losses, stats, *_ = run_look(keys, keys, labels, labels, k=2, query_ids=ids, key_ids=ids)
    # Neighbours {1, 2}, {0, 2}, {0, 1}, {0, 1}, …: query 1 alone needs a third of its own label.
    bound = 2 * rounding.of_log_sum(6, rounding.of_product(4) / 0.1)
    np.testing.assert_allclose(losses, np.log([2, 3, 2, 2, 2, 2]), rtol=0, atol=bound)
    np.testing.assert_allclose(stats, (1 / 6, 0, 5 / 12), rtol=rounding.FEW, atol=rounding.FEW)


def test_every_copy_with_the_querys_id_leaves():
    keys = [[1, 0], [1, 0], [0.9, 0.1], [0.8, -0.1]]
    losses, stats, *_ = run_look(
        keys[:1],
        keys,
        [0],
        [0, 0, 1, 1],
        k=2,
        query_ids=[7],
        key_ids=[7, 7, 8, 9],
        no_positive="drop",
    )
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(stats, (1, 1, 0))


# k


def test_k_may_differ_between_queries():
    args, k = gaussian(7), np.array([1, 2, 3, 5, 8, 24, 99])
    losses, *_ = run_look(*args, k=k)
    for i in range(BATCH):
        np.testing.assert_allclose(
            losses[i], run_look(*args, k=k[i])[0][i], rtol=rounding.FEW, atol=rounding.FEW
        )


def test_a_schedule_of_k_does_not_compile_anew():
    args, traces = gaussian(8), []

    @jax.jit
    def step(k):
        traces.append(k)
        return look(*args, k=k)[0]

    for k in 1, 6, 24:
        np.testing.assert_allclose(step(k), oracles.look(*args, k=k)[0], rtol=1e-5, atol=1e-5)
    assert len(traces) == 1
