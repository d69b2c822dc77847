"""What each loss costs: temporary memory and time of value-and-gradient.

    python benchmarks/cost.py

Batch 1,024, dimension 128, memory 4,096, float32. Temporaries are XLA's own account of the
compiled program; "S" is one matrix of similarities, batch × memory or, for losses within the batch,
batch × batch. Times are medians of several runs, in one process, beside one product of
the embeddings with their contrast (the floor); the forms of other libraries stand below. Adds a
record to benchmarks/records/cost.jsonl.
"""

import functools
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
PATIENCE = 20.0  # seconds; a form that takes longer in all is not repeated further


def arrays():
    """Everything that a loss may want, drawn once."""
    keys = jax.random.split(jax.random.key(0), 8)

    def rows(i, n, dim=DIM):
        return jax.random.normal(keys[i], (n, dim))

    def ints(i, n):
        return jax.random.randint(keys[i], (n,), 0, CLASSES)

    return {"x": rows(0, BATCH), "other": rows(1, BATCH), "memory": rows(2, MEMORY),
            "prototypes": rows(3, CLASSES), "labels": ints(4, BATCH), "key_labels": ints(5, MEMORY),
            "ids": jnp.arange(BATCH) // 2, "example": jnp.arange(BATCH),
            "key_ids": jnp.arange(MEMORY)}


def programs(a):
    """Of each loss: name, function of the embeddings, and what its contrast is made of."""
    memory = (a["memory"], a["labels"], a["key_labels"])
    ids = {"query_ids": a["example"], "key_ids": a["key_ids"]}
    own = functools.partial
    with_own = {name: own(getattr(losses, name), positives=a["other"], keys=a["memory"],
                          query_labels=a["labels"], key_labels=a["key_labels"], **ids)
                for name in ("sup_moco", "exemplar", "mask_con", "grafit")}
    in_memory = {
        "look k=50": lambda x: losses.look(x, *memory, k=50, **ids)[0],
        "look k=400": lambda x: losses.look(x, *memory, k=400, **ids)[0],
        "look k=50, gate": lambda x: losses.look(x, *memory, k=50, gate=20.0, **ids)[0],
        "look k=50, balanced": lambda x: losses.look(x, *memory, k=50, balanced=True, **ids)[0],
        "nca": lambda x: losses.nca(x, *memory, **ids)[0],
        **with_own,
        "info_nce, queue": lambda x: losses.info_nce(x, a["other"], a["memory"], **ids),
        "prototype_softmax": lambda x: losses.prototype_softmax(x, *memory, classes=CLASSES),
    }
    in_batch = {
        "sup_con, out": lambda x: losses.sup_con(x, a["labels"]),
        "sup_con, in": lambda x: losses.sup_con(x, a["labels"], form="in"),
        "spread": lambda x: losses.spread(x, a["labels"], a["ids"]),
        "nt_xent": lambda x: losses.nt_xent(x, a["ids"]),
        "info_nce, in batch": lambda x: losses.info_nce(x, a["other"]),
        "nn_clr": lambda x: losses.nn_clr(a["other"], x, a["memory"]),
    }
    others = {
        "cosine_softmax": lambda x: losses.cosine_softmax(x, a["prototypes"], a["labels"]),
        "cosine_regression": lambda x: losses.cosine_regression(x, a["other"]),
        "barlow_twins": lambda x: losses.barlow_twins(x, a["other"]),
        "vicreg": lambda x: losses.vicreg(x, a["other"]),
        "dino": lambda x: losses.dino(x.reshape(2, -1, DIM), a["other"].reshape(2, -1, DIM),
                                      jnp.zeros(DIM)),
    }
    elsewhere = {
        "optax.ntxent": lambda x: optax.losses.ntxent(x, a["labels"], temperature=0.1),
        "obvious SupCon": lambda x: obvious_sup_con(x, a["labels"]),
        "obvious kNN loss (top_k)": lambda x: obvious_look(x, *memory, k=50),
    }
    return {"memory": in_memory, "batch": in_batch, "": others | elsewhere}


def obvious_sup_con(x, labels):
    """As it is often written: every pair of rows side by side, B × B × D."""
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    s = jnp.sum(x[:, None, :] * x[None, :, :], axis=-1) / 0.1
    others = ~jnp.eye(len(x), dtype=bool)
    log_p = s - jax.nn.logsumexp(jnp.where(others, s, -jnp.inf), axis=1, keepdims=True)
    positives = others & (labels[:, None] == labels[None, :])
    return -jnp.sum(jnp.where(positives, log_p, 0.0), axis=1) / jnp.maximum(positives.sum(1), 1)


def obvious_look(x, keys, labels, key_labels, k):
    """LOOK by ``lax.top_k``, sorting and gathering."""
    x, keys = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (x, keys))
    s, index = jax.lax.top_k(x @ keys.T / 0.1, k)
    same = key_labels[index] == labels[:, None]
    p = jnp.sum(jnp.where(same, jax.nn.softmax(s), 0.0), axis=1)
    return -jnp.log(jnp.maximum(p, 1e-12))


def cost(loss, x) -> dict[str, float]:
    """Temporaries in MB and the median milliseconds of value-and-gradient."""
    program = jax.jit(jax.value_and_grad(lambda x: jnp.mean(loss(x)))).lower(x).compile()
    jax.block_until_ready(program(x))
    seconds = []
    while len(seconds) < REPEATS and sum(seconds) < PATIENCE:
        began = time.perf_counter()
        jax.block_until_ready(program(x))
        seconds.append(time.perf_counter() - began)
    return {"temporaries_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
            "milliseconds": 1e3 * statistics.median(seconds)}


def markdown(record: dict) -> str:
    """The costs of a record as a table."""
    lines = ["| loss | contrast | temporaries, MB | in S | ms | in products |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, c in record["costs"].items():
        lines.append(f"| {name} | {c['contrast'] or '–'} | {c['temporaries_mb']:.1f} | "
                     f"{c['temporaries_mb'] / c['matrix_mb']:.1f} | {c['milliseconds']:.1f} | "
                     f"{c['milliseconds'] / c['product_milliseconds']:.1f} |")
    s = record["shapes"]
    lines.append(f"\nBatch {s['batch']:,}, memory {s['memory']:,}, dimension {s['dim']}: batch × "
                 f"batch × dim is {s['batch']**2 * s['dim'] * 4 / 1e6:.0f} MB. {record['device']}, "
                 f"jax {record['packages']['jax']}, {record['date']}.")
    return "\n".join(lines)


def main() -> None:
    a = arrays()
    record = {"shapes": {"batch": BATCH, "memory": MEMORY, "dim": DIM, "classes": CLASSES},
              "repeats": REPEATS, "costs": {}, **records.surroundings()}
    for contrast, group in programs(a).items():
        columns = {"memory": MEMORY, "batch": BATCH, "": BATCH}[contrast]
        other = a["memory"] if contrast == "memory" else a["other"]
        floor = cost(lambda x: jnp.sum(x @ other.T, axis=1), a["x"])["milliseconds"]
        matrix = BATCH * columns * 4 / 1e6
        for name, loss in group.items():
            found = cost(lambda x: loss(x), a["x"])
            record["costs"][name] = found | {"product_milliseconds": floor, "matrix_mb": matrix,
                                             "contrast": contrast}
            print(name, flush=True)
    records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    main()
