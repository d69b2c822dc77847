"""LOOK beyond the paper: soft edge, balanced classes, noise tolerance."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding
from jax.test_util import check_grads

from jaxpt.losses import NO_POSITIVE, look

BATCH, MEMORY, DIM = 12, 40, 6


@functools.partial(jax.jit, static_argnames=("no_positive", "balanced", "robustness", "soft"))
def program(queries, arrays, k, gate, no_positive, balanced, robustness, soft):
    keys, query_labels, key_labels, query_ids, key_ids, key_mask = arrays

    def total(q):
        losses, _ = look(
            q,
            keys,
            query_labels,
            key_labels,
            k=k,
            temperature=0.2,
            query_ids=query_ids,
            key_ids=key_ids,
            key_mask=key_mask,
            no_positive=no_positive,
            gate=gate if soft else None,
            balanced=balanced,
            robustness=robustness,
        )
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(queries)
    return losses, gradient


def run(queries, arrays, *, k=5, gate=None, no_positive="nearest", balanced=False, robustness=0.0):
    """(losses, gradient of their sum)."""
    return map(
        np.asarray,
        program(
            queries,
            arrays,
            k,
            0.0 if gate is None else gate,
            no_positive,
            balanced,
            robustness,
            gate is not None,
        ),
    )


def example(seed, classes=5, equal=False):
    """(queries, arrays): some queries lack a positive near them, ids and masks matter."""
    rng = np.random.default_rng(seed)
    key_labels = (
        np.arange(MEMORY) % classes
        if equal
        else rng.choice(
            classes, MEMORY, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
        )
    )
    key_mask = np.ones(MEMORY, bool) if equal else rng.random(MEMORY) < 0.8
    return (
        rng.normal(size=(BATCH, DIM)).astype(np.float32),
        (
            rng.normal(size=(MEMORY, DIM)).astype(np.float32),
            rng.integers(classes, size=BATCH),
            key_labels,
            np.arange(BATCH),
            rng.integers(20, size=MEMORY),
            key_mask,
        ),
    )


def weighted_oracle(queries, arrays, *, k, gate, balanced, robustness, temperature=0.2):
    """The classifier with the weight of every key written out; a missing positive is not covered
    (NaN there)."""
    keys, query_labels, key_labels, query_ids, key_ids, key_mask = arrays
    queries, keys = oracles.unit(queries), oracles.unit(keys)
    valid = key_labels[key_mask]
    mean_count = len(valid) / len(set(valid))
    losses = []
    for i, q in enumerate(queries):
        s = {
            j: float(q @ keys[j])
            for j in oracles.admissible(i, MEMORY, query_ids, key_ids, key_mask)
        }
        if balanced:
            s = {
                j: v - temperature * math.log(np.sum(valid == key_labels[j]) / mean_count)
                for j, v in s.items()
            }
        near = sorted(s, key=lambda j: -s[j])
        edge = (s[near[k - 1]] + s[near[k]]) / 2
        weight = {
            j: math.exp(s[j] / temperature)
            * (1 / (1 + math.exp(-gate * (s[j] - edge))) if gate else j in near[:k])
            for j in near
        }
        p = sum(w for j, w in weight.items() if key_labels[j] == query_labels[i]) / sum(
            weight.values()
        )
        is_missing = not any(key_labels[j] == query_labels[i] for j in near[:k])
        losses.append(
            math.nan
            if is_missing
            else (1 - p**robustness) / robustness
            if robustness
            else -math.log(p)
        )
    return np.array(losses)


@pytest.mark.parametrize("form", ["dense", "chunked"])
def test_the_floor_of_a_gated_query_is_the_gated_weight_of_its_furthest_neighbour(form):
    """Keys at cosine 1 and −1, both of another class, k = 1: the edge is at 0."""
    query, keys = jnp.array([[1.0, 0]]), jnp.array([[1.0, 0], [-1, 0]])
    found, _ = look(
        *(query, keys, jnp.array([9]), jnp.array([0, 1])),
        **{"k": 1, "gate": 1.0, "no_positive": "floor", "temperature": 1.0, "form": form},
    )
    near, far = (math.exp(s) / (1 + math.exp(-s)) for s in (1, -1))
    np.testing.assert_allclose(found, math.log((near + far) / near), rtol=rounding.FEW)


@pytest.mark.parametrize(
    "gate, balanced, robustness",
    [(3.0, False, 0.0), (None, True, 0.0), (None, False, 0.5), (30.0, True, 0.7)],
)
def test_equals_the_weights_written_out(gate, balanced, robustness):
    for seed in range(10):
        queries, arrays = example(seed)
        options = {"k": 6, "gate": gate, "balanced": balanced, "robustness": robustness}
        losses, gradient = run(queries, arrays, **options)
        expected = weighted_oracle(queries, arrays, **options)
        covered = ~np.isnan(expected)
        assert 3 < covered.sum() and np.isfinite(gradient).all()
        np.testing.assert_allclose(losses[covered], expected[covered], rtol=2e-4, atol=1e-5)


class TestGate:
    def test_one_key_on_either_side_of_the_edge(self):
        queries = jnp.array([[1.0, 0.0]])
        keys = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # cosines 1 and 0: the edge of k = 1 is 0.5
        losses, _ = look(
            queries, keys, jnp.array([0]), jnp.array([0, 1]), k=1, temperature=1.0, gate=2.0
        )
        inside, outside = math.e / (1 + math.exp(-1)), 1 / (1 + math.e)
        assert float(losses[0]) == pytest.approx(-math.log(inside / (inside + outside)), rel=1e-5)

    @pytest.mark.parametrize("no_positive", NO_POSITIVE)
    def test_a_steep_gate_is_look(self, no_positive):
        for seed in range(5):
            queries, arrays = example(seed)
            soft, _ = run(queries, arrays, gate=1e8, no_positive=no_positive)
            hard, _ = run(queries, arrays, no_positive=no_positive)
            np.testing.assert_allclose(soft, hard, rtol=rounding.FEW, atol=rounding.FEW)

    def test_with_all_keys_as_neighbours_there_is_no_edge(self):
        queries, arrays = example(0)
        for k in MEMORY, 10 * MEMORY:
            soft, _ = run(queries, arrays, k=k, gate=3.0)
            hard, _ = run(queries, arrays, k=k)
            np.testing.assert_allclose(soft, hard, rtol=rounding.FEW, atol=rounding.FEW)

    def test_what_lies_beyond_the_edge_takes_part(self):
        query, labels = jnp.array([[1.0, 0.0]]), jnp.array([0, 1, 0])

        def gradient(last, gate):
            keys = jnp.array([[1.0, 0.2], [1.0, -0.3], last])
            return jax.grad(lambda q: look(q, keys, jnp.array([0]), labels, k=2, gate=gate)[0][0])(
                query
            )

        near, far = [0.5, 0.5], [0.0, 1.0]
        np.testing.assert_array_equal(gradient(near, None), gradient(far, None))
        assert np.abs(gradient(near, 2.0) - gradient(far, 2.0)).max() > 1e-3


class TestBalanced:
    def test_equally_frequent_classes_change_nothing(self):
        for seed in range(5):
            queries, arrays = example(seed, equal=True)
            balanced, _ = run(queries, arrays, balanced=True)
            plain, _ = run(queries, arrays)
            np.testing.assert_allclose(balanced, plain, rtol=rounding.FEW, atol=rounding.FEW)

    def test_a_class_twice_as_frequent_has_half_the_weight(self):
        keys = jnp.ones((3, 2))
        for label, p_plain in (0, 2 / 3), (1, 1 / 3):
            arguments = jnp.ones((1, 2)), keys, jnp.array([label]), jnp.array([0, 0, 1])
            plain, _ = look(*arguments, k=3)
            balanced, _ = look(*arguments, k=3, balanced=True)
            assert float(plain[0]) == pytest.approx(-math.log(p_plain), rel=1e-5)
            assert float(balanced[0]) == pytest.approx(math.log(2), rel=1e-5)

    def test_the_rare_class_is_selected_where_similarities_are_close(self):
        keys = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1]])  # the last is a little further
        arguments = jnp.array([[1.0, 0.0]]), keys, jnp.array([1]), jnp.array([0, 0, 1])
        _, plain = look(*arguments, k=1)
        _, balanced = look(*arguments, k=1, balanced=True)
        assert (float(plain.purity), float(balanced.purity)) == (0, 1)

    def test_masked_keys_do_not_count(self):
        keys, labels = jnp.ones((5, 2)), jnp.array([0, 0, 1, 1, 1])
        mask = jnp.array([True, True, True, False, False])
        losses, _ = look(
            jnp.ones((1, 2)), keys, jnp.array([1]), labels, k=5, key_mask=mask, balanced=True
        )
        assert float(losses[0]) == pytest.approx(math.log(2), rel=1e-5)


class TestRobustness:
    def test_one_is_the_probability_of_being_wrong(self):
        queries, arrays = example(0)
        plain, _ = run(queries, arrays)
        robust, _ = run(queries, arrays, robustness=1.0)
        np.testing.assert_allclose(robust, 1 - np.exp(-plain), rtol=1e-5, atol=1e-6)

    def test_towards_zero_it_is_look(self):
        queries, arrays = example(0)
        plain, plain_gradient = run(queries, arrays)
        robust, robust_gradient = run(queries, arrays, robustness=1e-5)
        np.testing.assert_allclose(robust, plain, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(robust_gradient, plain_gradient, rtol=1e-3, atol=1e-4)

    def test_a_hopeless_query_pulls_less_than_a_doubtful_one(self):
        # At τ = 0.01 a query on top of a key of another class is at odds with everything.
        keys, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])

        def size_of_gradient(query, robustness):
            def loss(q):
                return look(
                    q[None],
                    keys,
                    jnp.array([1]),
                    labels,
                    k=2,
                    temperature=0.1,
                    robustness=robustness,
                )[0][0]

            return float(jnp.linalg.norm(jax.grad(loss)(jnp.array(query))))

        hopeless, doubtful = [1.0, 0.1], [1.0, 0.9]
        assert size_of_gradient(hopeless, 0.7) < size_of_gradient(doubtful, 0.7)
        assert size_of_gradient(hopeless, 0.0) > size_of_gradient(doubtful, 0.0)


def test_gradients_equal_finite_differences():
    # All keys are neighbours, since the selection and the gate's edge are not differentiated.
    queries, (keys, *rest) = example(3)
    for options in {"gate": 4.0}, {"balanced": True}, {"robustness": 0.5}:

        def loss(q):
            return look(q, keys, rest[0], rest[1], k=MEMORY, temperature=0.5, **options)[0]

        check_grads(jax.jit(loss), (queries,), order=1, modes="rev", eps=1e-3, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gate": 0.0}, "gate must be positive and finite, got 0.0"),
        ({"gate": math.nan}, "gate must be positive and finite, got nan"),
        ({"gate": math.inf}, "gate must be positive and finite, got inf"),
        ({"robustness": -0.1}, "robustness must lie in 0 … 1, got -0.1"),
        ({"robustness": 1.1}, "robustness must lie in 0 … 1, got 1.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(options, message):
    queries, (keys, query_labels, key_labels, *_) = example(0)
    with pytest.raises(ValueError, match=message):
        look(queries, keys, query_labels, key_labels, k=3, **options)
