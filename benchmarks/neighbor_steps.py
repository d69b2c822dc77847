"""Overhead of LOOK in a training step, over SupMoCo and over two encoders without a memory.

Run by ``benchmarks/neighbors.py``. All programs of one comparison run in turns in one process.
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxpt import losses, models
from jaxpt.ops import similarity


def in_turns(programs: dict, repeats: int) -> dict[str, float]:
    """Median milliseconds of each program."""
    for run in programs.values():
        jax.block_until_ready(run())
    seconds = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - began)
    return {name: 1e3 * statistics.median(x) for name, x in seconds.items()}


def memory_of(n, dim, batch, classes):
    """Labelled unit keys with ids, and the labels and ids of the batch."""
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        "keys": similarity.unit_vectors(jax.random.normal(keys[0], (n, dim))),
        "key_labels": jax.random.randint(keys[1], (n,), 0, classes),
        "query_labels": jax.random.randint(keys[2], (batch,), 0, classes),
        "query_ids": jnp.arange(batch),
        "key_ids": jnp.arange(n),
    }


def step_of(encode, params, images, loss):
    """Makes a whole step: keys of the target, queries, loss, AdamW, EMA of the target."""
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(params, target, state, images, memory):
        keys = encode(target, images)
        gradient = jax.grad(lambda p: jnp.mean(loss(encode(p, images), keys, memory)))(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return params, jax.tree.map(lambda t, p: 0.99 * t + 0.01 * p, target, params), state

    return lambda memory: step(params, params, optimizer.init(params), images, memory)


def look(k):
    return lambda q, _, memory: losses.look(q, k=k, **memory)[0]


def sup_moco(q, keys, memory):
    return losses.sup_moco(q, keys, **memory)


def without_memory(q, keys, _):
    return -jnp.sum(similarity.unit_vectors(q) * keys, axis=-1)


def mlp_steps(batch=200, n=4000, k=100, widths=(784, 512, 512, 256), repeats=21):
    """Steps with a 3-layer MLP by LOOK and by SupMoCo over the same memory."""
    drawn = jax.random.split(jax.random.key(0), len(widths))
    params = [
        jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        for key, shape in zip(drawn, zip(widths, widths[1:]))
    ]

    def encode(params, x):
        for weight in params[:-1]:
            x = jax.nn.relu(x @ weight)
        return x @ params[-1]

    memory = memory_of(n, widths[-1], batch, 10)
    images = jax.random.normal(drawn[-1], (batch, widths[0]))
    programs = {
        name: step_of(encode, params, images, loss)
        for name, loss in (("look", look(k)), ("sup_moco", sup_moco))
    }
    return in_turns({name: lambda f=f: f(memory) for name, f in programs.items()}, repeats)


def resnet_steps(batch=256, n=8192, k=100, dim=128, repeats=3):
    """Steps with ResNet-18 at 32 pixels by LOOK and without a memory, and the loss alone."""
    backbone = models.make_backbone(
        ml_collections.ConfigDict(
            {"name": "resnet18", "norm": "batch", "dtype": "float32", "options": {"stem": "small"}}
        )
    )
    encoder = models.Encoder(backbone, models.Projector((512,), dim), channels=3)
    images = jax.random.uniform(jax.random.key(0), (batch, 32, 32, 3))
    params, stats = models.init(encoder, jax.random.key(1), images)

    def encode(params, x):
        return models.encode(encoder, params, stats, x, train=True).output

    memory = memory_of(n, dim, batch, 100)
    programs = {
        name: step_of(encode, params, images, loss)
        for name, loss in (("look", look(k)), ("no memory", without_memory))
    }
    alone = jax.jit(jax.value_and_grad(lambda q, memory: jnp.mean(look(k)(q, None, memory))))
    queries = jax.random.normal(jax.random.key(2), (batch, dim))
    return in_turns(
        {name: lambda f=f: f(memory) for name, f in programs.items()}
        | {"loss alone": lambda: alone(queries, memory)},
        repeats,
    )


if __name__ == "__main__":
    print(json.dumps({"mlp": mlp_steps, "resnet": resnet_steps}[sys.argv[1]]()))
