"""Cost of each loss: temporary memory and time of value and gradient.

    python benchmarks/cost.py

Batch 1,024, dimension 128, memory 4,096, float32. Temporaries are those that XLA reports for the
compiled program. "S" is one similarity matrix: batch × memory, or batch × batch for losses within
the batch. Times are medians of several runs in one process; they are compared with one product of
the embeddings with their contrast, of which forward and backward pass need at least two. The last
rows are optax's ntxent and two straightforward implementations. Adds a record to
benchmarks/records/cost.jsonl.
"""

import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import optax

from jaxpt import losses, records

RECORDS = pathlib.Path(__file__).parent / "records" / "cost.jsonl"
BATCH, MEMORY, DIM, CLASSES = 1024, 4096, 128, 100
REPEATS = 7
PATIENCE = 20.0  # seconds; programs that have taken longer in total are not repeated further


def arrays():
    """All inputs that a loss may need, drawn once."""
    keys = jax.random.split(jax.random.key(0), 8)

    def rows(i, n, dim=DIM):
        return jax.random.normal(keys[i], (n, dim))

    def ints(i, n):
        return jax.random.randint(keys[i], (n,), 0, CLASSES)

    return {
        "x": rows(0, BATCH),
        "other": rows(1, BATCH),
        "memory": rows(2, MEMORY),
        "prototypes": rows(3, CLASSES),
        "labels": ints(4, BATCH),
        "key_labels": ints(5, MEMORY),
        "ids": jnp.arange(BATCH) // 2,
        "example": jnp.arange(BATCH),
        "key_ids": jnp.arange(MEMORY),
    }


def programs():
    """(name, source of the contrast, function of the embeddings and the other arrays)."""

    def memory(a):
        return a["memory"], a["labels"], a["key_labels"]

    def ids(a):
        return {"query_ids": a["example"], "key_ids": a["key_ids"]}

    def with_own(name):
        return lambda x, a: getattr(losses, name)(x, a["other"], *memory(a), **ids(a))

    def look(**options):
        return lambda x, a: losses.look(x, *memory(a), **options, **ids(a))[0]

    yield "look k=50", "memory", look(k=50)
    yield "look k=400", "memory", look(k=400)
    yield "look k=50, gate", "memory", look(k=50, gate=20.0)
    yield "look k=50, balanced", "memory", look(k=50, balanced=True)
    yield "nca", "memory", lambda x, a: losses.nca(x, *memory(a), **ids(a))[0]
    for name in "sup_moco", "exemplar", "mask_con", "grafit":
        yield name, "memory", with_own(name)
    yield (
        "info_nce, queue",
        "memory",
        lambda x, a: losses.info_nce(x, a["other"], a["memory"], **ids(a)),
    )
    yield (
        "prototype_softmax",
        "memory",
        lambda x, a: losses.prototype_softmax(x, *memory(a), classes=CLASSES, **ids(a)),
    )
    yield "nn_clr", "memory", lambda x, a: losses.nn_clr(a["other"], x, a["memory"])
    yield "sup_con, out", "batch", lambda x, a: losses.sup_con(x, a["labels"])
    yield "sup_con, in", "batch", lambda x, a: losses.sup_con(x, a["labels"], form="in")
    yield "spread", "batch", lambda x, a: losses.spread(x, a["labels"], a["ids"])
    yield "nt_xent", "batch", lambda x, a: losses.nt_xent(x, a["ids"])
    yield "info_nce, in batch", "batch", lambda x, a: losses.info_nce(x, a["other"])
    yield (
        "cosine_softmax",
        "batch",
        lambda x, a: losses.cosine_softmax(x, a["prototypes"], a["labels"]),
    )
    yield "cosine_regression", "batch", lambda x, a: losses.cosine_regression(x, a["other"])
    yield "barlow_twins", "batch", lambda x, a: losses.barlow_twins(x, a["other"])
    yield "vicreg", "batch", lambda x, a: losses.vicreg(x, a["other"])
    yield (
        "dino",
        "batch",
        lambda x, a: losses.dino(
            x.reshape(2, -1, DIM), a["other"].reshape(2, -1, DIM), jnp.zeros(DIM)
        ),
    )
    yield "optax ntxent", "batch", lambda x, a: optax.losses.ntxent(x, a["labels"], temperature=0.1)
    yield "obvious SupCon", "batch", lambda x, a: obvious_sup_con(x, a["labels"])
    yield "obvious kNN by top_k, k=50", "memory", lambda x, a: obvious_look(x, *memory(a), k=50)


def obvious_sup_con(x, labels):
    """SupCon as it is often written, with all pairs of rows as an array B × B × D."""
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    s = jnp.sum(x[:, None, :] * x[None, :, :], axis=-1) / 0.1
    others = ~jnp.eye(len(x), dtype=bool)
    log_p = s - jax.nn.logsumexp(jnp.where(others, s, -jnp.inf), axis=1, keepdims=True)
    positives = others & (labels[:, None] == labels[None, :])
    return -jnp.sum(jnp.where(positives, log_p, 0.0), axis=1) / jnp.maximum(positives.sum(1), 1)


def obvious_look(x, keys, labels, key_labels, k):
    """LOOK by ``lax.top_k``, sorting and gathering, without leave-one-out."""
    x, keys = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (x, keys))
    s, index = jax.lax.top_k(x @ keys.T / 0.1, k)
    same = key_labels[index] == labels[:, None]
    p = jnp.sum(jnp.where(same, jax.nn.softmax(s), 0.0), axis=1)
    return -jnp.log(jnp.maximum(p, 1e-12))


def cost(loss, x, a) -> dict[str, float]:
    """Temporaries in MB and the median milliseconds of value-and-gradient.

    All arrays are arguments of the program, so that XLA cannot fold computations as constants.
    """
    return measure(jax.value_and_grad(lambda x, a: jnp.mean(loss(x, a))), x, a)


def measure(function, *arguments) -> dict[str, float]:
    """Temporaries in MB and the median milliseconds of any function."""
    program = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    seconds = []
    while len(seconds) < REPEATS and sum(seconds) < PATIENCE:
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - began)
    return {
        "temporaries_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
        "milliseconds": 1e3 * statistics.median(seconds),
    }


def markdown(record: dict) -> str:
    """Table of the costs in a record."""
    lines = [
        "| loss | contrast | temporaries, MB | in S | ms | in products |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, c in record["costs"].items():
        lines.append(
            f"| {name} | {c['contrast']} | {c['temporaries_mb']:.1f} | "
            f"{c['temporaries_mb'] / c['matrix_mb']:.1f} | {c['milliseconds']:.1f} | "
            f"{c['milliseconds'] / c['product_milliseconds']:.1f} |"
        )
    s = record["shapes"]
    lines.append(
        f"\nBatch {s['batch']:,}, memory {s['memory']:,}, dimension {s['dim']}; an array "
        f"batch × batch × dimension takes {s['batch'] ** 2 * s['dim'] * 4 / 1e6:.0f} MB. "
        f"{record['device']}, "
        f"jax {record['packages']['jax']}, {record['date']}."
    )
    return "\n".join(lines)


def main() -> None:
    a = arrays()
    record = {
        "shapes": {"batch": BATCH, "memory": MEMORY, "dim": DIM, "classes": CLASSES},
        "repeats": REPEATS,
        "costs": {},
        **records.surroundings(),
    }
    floors = {
        contrast: measure(lambda x, other: x @ other.T, a["x"], a[other])["milliseconds"]
        for contrast, other in (("memory", "memory"), ("batch", "other"))
    }
    for name, contrast, loss in programs():
        columns = {"memory": MEMORY, "batch": BATCH}[contrast]
        record["costs"][name] = cost(loss, a["x"], a) | {
            "product_milliseconds": floors[contrast],
            "matrix_mb": BATCH * columns * 4 / 1e6,
            "contrast": contrast,
        }
        print(name, flush=True)
    records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    main()
