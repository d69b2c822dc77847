"""LOOK and NCA on arrays that are hard in one way or another, always by the same programs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import rounding

from jaxpt.losses import look, nca

BATCH, MEMORY, DIM, CLASSES = 7, 24, 5, 3
WIDTH = 24  # no fewer than MEMORY, so that the axes can be the keys


def padded(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    temperature=0.1,
    query_ids=None,
    key_ids=None,
    key_mask=None,
    where=None,
    **k,
):
    """All array arguments in one shape and dtype: compiling is what costs, so tests share it."""

    def pad(x, dtype, *shape, fill=0):
        x = np.asarray(x).astype(dtype)
        return np.pad(x, [(0, n - m) for n, m in zip(shape, x.shape)], constant_values=fill)

    b, n = len(queries), len(keys)
    dtype = jnp.bfloat16 if np.asarray(queries).dtype == jnp.bfloat16 else np.float32
    if query_ids is None:
        query_ids, key_ids = np.full(b, -1), np.arange(n)
    arrays = {
        "queries": pad(queries, dtype, BATCH, WIDTH),
        "keys": pad(keys, dtype, MEMORY, WIDTH),
        "query_labels": pad(query_labels, np.int32, BATCH),
        "key_labels": pad(key_labels, np.int32, MEMORY),
        "query_ids": pad(query_ids, np.int32, BATCH),
        "key_ids": pad(key_ids, np.int32, MEMORY),
        "key_mask": pad(np.ones(n) if key_mask is None else key_mask, bool, MEMORY),
        "where": pad(np.ones(b) if where is None else where, bool, BATCH),
        "temperature": np.float32(temperature),
    }
    if "k" in k:
        arrays["k"] = pad(np.broadcast_to(k["k"], b), np.int32, BATCH, fill=1)
    return arrays


@functools.partial(jax.jit, static_argnames=("loss", "no_positive", "normalize"))
def program(arrays, loss, **static):
    def total(queries, keys):
        losses, stats = loss(**arrays | {"queries": queries, "keys": keys}, **static)
        return losses.sum(), (losses, stats)

    (_, (losses, stats)), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        arrays["queries"], arrays["keys"]
    )
    return losses, stats, *gradients


def evaluate(loss, queries, *args, no_positive=None, normalize=True, **options):
    """(losses, stats, gradient of the summed losses by the queries, the same by the keys)."""
    static = {"normalize": normalize} | ({"no_positive": no_positive} if no_positive else {})
    losses, stats, gradient, key_gradient = program(
        padded(queries, *args, **options), loss, **static
    )
    rows, columns = np.shape(queries)
    return (
        np.asarray(losses[:rows]),
        np.array(stats),
        np.asarray(gradient[:rows, :columns]),
        np.asarray(key_gradient),
    )


def run_look(*args, no_positive="nearest", **options):
    return evaluate(look, *args, no_positive=no_positive, **options)


def run_nca(*args, **options):
    return evaluate(nca, *args, **options)


def gaussian(seed=0):
    """queries, keys, query_labels, key_labels."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(BATCH, DIM)).astype(np.float32),
        rng.normal(size=(MEMORY, DIM)).astype(np.float32),
        rng.integers(CLASSES, size=BATCH).astype(np.int32),
        rng.integers(CLASSES, size=MEMORY).astype(np.int32),
    )


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
        "duplicates",
        "unnormalised",
        "unnormalised bf16",
    )


def masks(seed=2):
    rng = np.random.default_rng(seed)
    return {
        "query_ids": rng.integers(MEMORY, size=BATCH),
        "key_ids": rng.permutation(MEMORY),
        "key_mask": rng.random(MEMORY) < 0.8,
    }


def tolerances(arrays, normalize, temperature):
    """Of losses, which are differences of two logarithms of sums over keys."""
    lengths = (np.linalg.norm(oracles.as_float64(x), axis=1).max() for x in arrays[:2])
    largest = 1.0 if normalize else math.prod(lengths)
    logit = rounding.of_product(DIM, largest) / float(temperature)
    return {"rtol": rounding.FEW, "atol": 2 * rounding.of_log_sum(MEMORY, logit)}
