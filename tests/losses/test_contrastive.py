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

from jaxpt.losses import info_nce, sup_con

BATCH, MEMORY, DIM = 10, 12, 4
TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)


@functools.partial(jax.jit, static_argnames=("normalize",))
def sup_con_program(embeddings, labels, temperature, where, normalize):
    def total(z):
        losses = sup_con(z, labels, temperature=temperature, where=where, normalize=normalize)
        return losses.sum(), losses
    gradient, losses = jax.grad(total, has_aux=True)(embeddings)
    return losses, gradient


def run_sup_con(embeddings, labels, *, temperature=0.1, where=None, normalize=True):
    """(losses, gradient of their sum), always by the same program."""
    where = np.ones(len(labels), bool) if where is None else where
    return map(np.asarray, sup_con_program(embeddings, labels, np.float32(temperature), where,
                                           normalize))


def case(name):
    """(embeddings, labels, normalize)."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    labels = rng.integers(3, size=BATCH)
    if name == "bf16":
        z = z.astype(jnp.bfloat16)
    elif name == "duplicates":
        z = z[np.arange(BATCH) // 3]
    elif name == "zero vectors":
        z[::2] = 0
    elif name == "single class":
        labels[:] = 1
    elif name == "some without a positive":
        labels[:4] = [5, 6, 7, 8]
    elif name == "all without a positive":
        labels = np.arange(BATCH)
    elif name == "all scales":
        z *= np.geomspace(1e-30, 1e30, BATCH, dtype=np.float32)[:, None]
    elif name == "unnormalised":
        z *= 30
    elif name == "unnormalised bf16":
        z = (3 * z).astype(jnp.bfloat16)
    return z, labels, not name.startswith("unnormalised")


CASES = ("gaussian", "bf16", "duplicates", "zero vectors", "single class",
         "some without a positive", "all without a positive", "all scales", "unnormalised",
         "unnormalised bf16")


def rounding(embeddings, normalize, temperature):
    z = oracles.as_float64(embeddings)
    largest = 1.0 if normalize else np.abs(z @ z.T).max()
    return {"rtol": 1e-5, "atol": 1e-6 * (1 + largest / float(temperature))}


# SupCon


@pytest.mark.parametrize("labels, expected", [
    ([0, 0, 1, 1], [math.log(3)] * 4),
    ([0, 0, 0, 0], [math.log(3)] * 4),
    ([0, 0, 1, 2], [math.log(3), math.log(3), 0, 0]),
    ([0, 1, 2, 3], [0] * 4),
])
def test_corners_of_a_tetrahedron_give_log_3_wherever_there_is_a_positive(labels, expected):
    for temperature in 0.1, 1.0:
        losses = jax.jit(sup_con)(TETRAHEDRON, np.array(labels), temperature=temperature)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        assert losses.dtype == jnp.float32


def test_the_mean_stands_outside_of_the_logarithm():
    z = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    losses = jax.jit(sup_con)(z, np.zeros(3, int), temperature=1.0)
    total = math.log(math.e + 1)
    # For the first anchor: positives at cosine 1 and 0, so (total − 1)/2 + total/2.
    np.testing.assert_allclose(losses, [total - 0.5, total - 0.5, math.log(2)], rtol=1e-6)


@pytest.mark.parametrize("temperature", [np.float32(0.02), np.float32(0.5)])
@pytest.mark.parametrize("name", CASES)
def test_sup_con_equals_the_oracle(name, temperature):
    z, labels, normalize = case(name)
    for where in np.ones(BATCH, bool), np.arange(BATCH) % 3 > 0:
        options = {"temperature": temperature, "where": where, "normalize": normalize}
        losses, gradient = run_sup_con(z, labels, **options)
        np.testing.assert_allclose(losses, oracles.sup_con(z, labels, **options),
                                   **rounding(z, normalize, temperature))
        assert losses.dtype == np.float32 and np.isfinite(gradient.astype(np.float32)).all()


@given(z=hnp.arrays(np.int32, (BATCH, DIM), elements=st.integers(-2, 2)),
       labels=hnp.arrays(np.int32, BATCH, elements=st.integers(0, 4)),
       where=hnp.arrays(np.bool_, BATCH), temperature=st.sampled_from([0.05, 1.0, 10.0]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_sup_con_equals_the_oracle_with_duplicates_and_zeros(z, labels, where, temperature):
    z = z.astype(np.float32)
    losses, gradient = run_sup_con(z, labels, where=where, temperature=temperature)
    expected = oracles.sup_con(z, labels, where=where, temperature=temperature)
    np.testing.assert_allclose(losses, expected, **rounding(z, True, temperature))
    assert np.isfinite(gradient).all() and not gradient[~where].any()


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_sup_con_is_finite_at_extreme_temperatures_and_lengths(temperature):
    z, labels, _ = case("all scales")
    z[0] = 0
    losses, gradient = run_sup_con(z, labels, temperature=temperature)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all() and not gradient[0].any()


def test_an_anchor_without_a_positive_has_no_gradient():
    z, labels, _ = case("some without a positive")
    weight = (np.arange(BATCH) < 4).astype(np.float32)

    def loss_of_the_lonely(z):
        return jnp.sum(weight * sup_con(z, labels))

    np.testing.assert_array_equal(jax.jit(jax.grad(loss_of_the_lonely))(z), 0)


@pytest.mark.parametrize("normalize", [True, False])
def test_sup_con_gradients_equal_the_oracles_slope(normalize):
    z, labels, _ = case("some without a positive")
    options = {"temperature": 0.5, "normalize": normalize}
    _, gradient = run_sup_con(z, labels, **options)
    for direction in np.random.default_rng(1).normal(size=(4, BATCH, DIM)):
        slope = oracles.slope(lambda z: oracles.sup_con(z, labels, **options).sum(), z, direction)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4, atol=1e-5)


def test_sup_con_gradients_pass_jaxs_own_check():
    z, labels, _ = case("gaussian")
    loss = jax.jit(functools.partial(sup_con, labels=labels, temperature=1.0))
    check_grads(loss, (jnp.asarray(z),), order=1, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2)


def test_sup_con_where_is_the_same_as_leaving_the_rows_out():
    z, labels, _ = case("gaussian")
    where = np.arange(BATCH) % 4 > 0
    losses, gradient = run_sup_con(z, labels, where=where)
    kept, kept_gradient = run_sup_con(z[where], labels[where])
    np.testing.assert_allclose(losses[where], kept, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[where], kept_gradient, rtol=1e-4, atol=1e-4)
    assert not losses[~where].any() and not gradient[~where].any()


def test_the_order_of_the_rows_does_not_matter():
    z, labels, _ = case("gaussian")
    order = np.random.default_rng(2).permutation(BATCH)
    before, after = run_sup_con(z, labels), run_sup_con(z[order], labels[order])
    for x, y in zip(before, after):
        np.testing.assert_allclose(y, x[order], rtol=1e-5, atol=1e-5)


def test_two_views_with_one_label_an_image_give_nt_xent():
    z = oracles.unit(np.random.default_rng(3).normal(size=(BATCH, DIM)))
    image, other = np.arange(BATCH) % 5, (np.arange(BATCH) + 5) % BATCH
    s = z @ z.T / 0.5
    others = ~np.eye(BATCH, dtype=bool)
    expected = np.log(np.exp(s).sum(axis=1, where=others)) - s[np.arange(BATCH), other]
    losses, _ = run_sup_con(z.astype(np.float32), image, temperature=0.5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


def sharded_batch():
    rng = np.random.default_rng(4)
    return (rng.normal(size=(24, DIM)).astype(np.float32), rng.integers(3, size=24),
            rng.random(24) < 0.8)


def test_sup_con_over_eight_devices_gives_losses_and_gradients_of_the_full_batch(mesh):
    z, *rest = sharded_batch()

    def in_batch(axis_name=None):
        return lambda z, labels, where: sup_con(z, labels, where=where, axis_name=axis_name)

    def both(losses):
        def total(z):
            values = losses(z, *rest)
            return jnp.sum(values**2), values  # weights that differ between the anchors
        gradient, values = jax.jit(jax.grad(total, has_aux=True))(z)
        return values, gradient

    def sharded(axis_name):
        return jax.shard_map(in_batch(axis_name), mesh=mesh, in_specs=P("shard"),
                             out_specs=P("shard"))

    full, gathered, alone = both(in_batch()), both(sharded("shard")), both(sharded(None))
    np.testing.assert_allclose(gathered[0], full[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gathered[1], full[1], rtol=1e-4, atol=1e-4)
    assert not np.allclose(alone[0], full[0], rtol=0.1)
    assert not np.allclose(alone[1], full[1], rtol=0.1)


def test_gradients_taken_on_each_device_add_up_to_those_of_the_full_batch(mesh):
    z, labels, where = sharded_batch()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("shard"), out_specs=P("shard"))
    def gradient(z, labels, where):
        return jax.grad(lambda z: sup_con(z, labels, where=where, axis_name="shard").sum())(z)

    _, full = run_sup_con(z, labels, where=where)
    np.testing.assert_allclose(jax.jit(gradient)(z, labels, where), full, rtol=1e-4, atol=1e-4)


def test_sup_con_gathers_under_vmap_too():
    z, labels, where = sharded_batch()
    losses = jax.jit(jax.vmap(
        lambda z, y, w: sup_con(z, y, where=w, axis_name="shard"), axis_name="shard"))(
            z.reshape(8, 3, DIM), labels.reshape(8, 3), where.reshape(8, 3))
    np.testing.assert_allclose(losses.reshape(-1), oracles.sup_con(z, labels, where=where),
                               rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change, error, message", [
    ({"embeddings": np.ones((4, 3), int)}, TypeError, "embeddings must be floating point"),
    ({"embeddings": np.ones(4, np.float32)}, ValueError, r"embeddings must have shape \[rows, dim"),
    ({"labels": np.ones(3, int)}, ValueError, r"labels must have shape \[4\], got shape \(3,\)"),
    ({"where": np.ones((4, 1), bool)}, ValueError, r"where must have shape \[4\], got .*4, 1"),
    ({"temperature": 0}, ValueError, "temperature must be positive, got 0"),
])
def test_bad_arguments_of_sup_con_are_named(change, error, message):
    arguments = {"embeddings": TETRAHEDRON, "labels": np.zeros(4, int)} | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: sup_con(**arguments))


def test_similarities_are_full_float32_where_compiler_or_hardware_would_round():
    # Seen in the program alone: on a CPU, a compiled one hides the difference.
    z = TETRAHEDRON.astype(jnp.bfloat16)
    for loss, args in (sup_con, (z, np.zeros(4, int))), (info_nce, (z, z, z)):
        program = str(jax.make_jaxpr(functools.partial(loss, normalize=False))(*args))
        assert "f32[4,4] = dot_general" in program
        assert program.count("dot_general") == program.count("(Precision.HIGHEST, ") == 1


# InfoNCE


@functools.partial(jax.jit, static_argnames=("normalize",))
def info_nce_program(queries, positives, keys, normalize, **arrays):
    def total(*embeddings):
        losses = info_nce(*embeddings, normalize=normalize, **arrays)
        return losses.sum(), losses
    gradients, losses = jax.grad(total, (0, 1, 2), has_aux=True)(queries, positives, keys)
    return losses, *gradients


def run_info_nce(queries, positives, keys, *, temperature=0.1, query_ids=None, key_ids=None,
                 key_mask=None, where=None, normalize=True):
    """(losses, gradients of their sum by queries, positives and keys), by the same program."""
    b, n = len(queries), len(keys)
    arrays = {
        "query_ids": np.full(b, -1) if query_ids is None else query_ids,
        "key_ids": np.arange(n) if key_ids is None else key_ids,
        "key_mask": np.ones(n, bool) if key_mask is None else key_mask,
        "where": np.ones(b, bool) if where is None else where}
    return map(np.asarray, info_nce_program(
        queries, positives, keys, temperature=np.float32(temperature), normalize=normalize,
        **arrays))


def triple(name="gaussian"):
    """(queries, positives, keys), normalize."""
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=(n, DIM)).astype(np.float32) for n in (BATCH, BATCH, MEMORY)]
    if name == "zero vectors":
        rows = [np.where(np.arange(len(x))[:, None] % 3 == 0, 0, x) for x in rows]
    elif name == "all scales":
        rows = [x * np.geomspace(1e-30, 1e30, len(x), dtype=np.float32)[:, None] for x in rows]
    elif name == "duplicates":
        rows = [np.round(x[np.arange(len(x)) // 3]) for x in rows]
    elif name == "unnormalised":
        rows = [30 * x for x in rows]
    elif name == "unnormalised bf16":
        rows = [3 * x for x in rows]
    if name.endswith("bf16"):
        rows = [x.astype(jnp.bfloat16) for x in rows]
    return rows, not name.startswith("unnormalised")


def test_a_negative_like_the_positive_gives_log_2_and_a_nearer_one_more():
    query, positive = np.array([[1.0, 0.0]], np.float32), np.array([[0.6, 0.8]], np.float32)
    for negative, expected in ([0.6, -0.8], math.log(2)), ([0.8, 0.6], math.log(1 + math.exp(2))):
        losses = jax.jit(info_nce)(query, positive, np.array([negative], np.float32))
        np.testing.assert_allclose(losses, [expected], rtol=1e-5)
        assert losses.dtype == jnp.float32


@pytest.mark.parametrize("temperature", [np.float32(0.02), np.float32(0.5)])
@pytest.mark.parametrize("name", ["gaussian", "bf16", "zero vectors", "all scales", "duplicates",
                                  "unnormalised", "unnormalised bf16"])
def test_info_nce_equals_the_oracle(name, temperature):
    rng, (rows, normalize) = np.random.default_rng(6), triple(name)
    for options in {}, {"query_ids": rng.integers(6, size=BATCH),
                        "key_ids": rng.integers(6, size=MEMORY),
                        "key_mask": rng.random(MEMORY) < 0.7}:
        options = options | {"temperature": temperature, "normalize": normalize}
        losses, gradient, *_ = run_info_nce(*rows, **options)
        assert losses.dtype == np.float32 and np.isfinite(gradient.astype(np.float32)).all()
        np.testing.assert_allclose(losses, oracles.info_nce(*rows, **options),
                                   **rounding(np.concatenate(rows), normalize, temperature))


@given(rows=hnp.arrays(np.int32, (2 * BATCH + MEMORY, DIM), elements=st.integers(-2, 2)),
       ids=hnp.arrays(np.int32, BATCH + MEMORY, elements=st.integers(0, 4)),
       mask=hnp.arrays(np.bool_, MEMORY), temperature=st.sampled_from([0.05, 1.0, 10.0]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_info_nce_equals_the_oracle_with_duplicates_and_zeros(rows, ids, mask, temperature):
    rows = np.split(rows.astype(np.float32), [BATCH, 2 * BATCH])
    options = {"query_ids": ids[:BATCH], "key_ids": ids[BATCH:], "key_mask": mask,
               "temperature": temperature}
    losses, gradient, *_ = run_info_nce(*rows, **options)
    np.testing.assert_allclose(losses, oracles.info_nce(*rows, **options),
                               **rounding(rows[0], True, temperature))
    assert np.isfinite(gradient).all()


def test_info_nce_gradients_flow_into_queries_alone():
    (queries, positives, keys), _ = triple()
    _, gradient, *others = run_info_nce(queries, positives, keys, temperature=0.5)
    assert not any(x.any() for x in others)
    for direction in np.random.default_rng(7).normal(size=(4, BATCH, DIM)):
        slope = oracles.slope(
            lambda q: oracles.info_nce(q, positives, keys, temperature=0.5).sum(), queries,
            direction)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4, atol=1e-5)


def test_info_nce_without_negatives_is_zero():
    rows, _ = triple()
    losses, gradient, *_ = run_info_nce(*rows, key_mask=np.zeros(MEMORY, bool))
    np.testing.assert_allclose(losses, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_info_nce_is_finite_at_extreme_temperatures_and_lengths(temperature):
    (queries, *rest), _ = triple("all scales")
    queries[0] = 0
    losses, gradient, *_ = run_info_nce(queries, *rest, temperature=temperature)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all() and not gradient[0].any()


def test_info_nce_where_zeroes_rows_and_touches_no_other():
    rows, _ = triple()
    where = np.arange(BATCH) % 2 > 0
    (before, *_), (after, gradient, *_) = run_info_nce(*rows), run_info_nce(*rows, where=where)
    np.testing.assert_allclose(after[where], before[where], rtol=1e-6)
    assert before.all() and not after[~where].any() and not gradient[~where].any()


@pytest.mark.parametrize("change, error, message", [
    ({"queries": np.ones((4, 3), int)}, TypeError, "queries must be floating point"),
    ({"keys": np.ones(3, np.float32)}, ValueError, r"keys must have shape \[rows, dim\]"),
    ({"positives": TETRAHEDRON[:2]}, ValueError, r"positives must have the queries' shape \(4, 3"),
    ({"keys": np.ones((4, 2), np.float32)}, ValueError, "dimension 3 but keys 2"),
    ({"temperature": -0.1}, ValueError, "temperature must be positive, got -0.1"),
    ({"query_ids": np.arange(4)}, ValueError, "give both or neither"),
    ({"key_mask": np.ones(3, bool)}, ValueError, r"key_mask must have shape \[4\]"),
    ({"where": np.ones((4, 1), bool)}, ValueError, r"where must have shape \[4\], got .*4, 1"),
])
def test_bad_arguments_of_info_nce_are_named(change, error, message):
    arguments = dict.fromkeys(("queries", "positives", "keys"), TETRAHEDRON) | change
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: info_nce(**arguments))
