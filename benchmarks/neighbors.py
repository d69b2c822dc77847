"""The neighbour search at full size, compared with other implementations.

    python benchmarks/neighbors.py --oracle-python PYTHON

PYTHON is a Python with torch and faiss-cpu; without it their columns stay empty. LOOK: 256 queries,
a memory of the size of ImageNet's training set, k = 400. kNN: 10,000 queries, 200,000 keys, 512
dimensions, k = 20. Implementations run in turns, each in its own process. Times are medians; memory
is the peak of a process above its memory before the first call. Each part adds a record to
benchmarks/records/neighbors.jsonl; the table shows the latest of each.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import neighbor_oracles
import numpy as np

from jaxpt import losses, records
from jaxpt.ops import knn, similarity

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "records" / "neighbors.jsonl"
LOOK = {"n": 1_281_167, "batch": 256, "dim": 128, "k": 400, "classes": 1000}
KNN = {"n": 200_000, "batch": 10_000, "dim": 512, "k": 20, "classes": 1000}
GROWTH = (160_000, 320_000, 640_000, 1_280_000)
OTHERS = {
    "look": {"top_k": (sys.executable, "neighbors.py", "look_top_k")},
    "knn": {"sklearn": (sys.executable, "neighbor_oracles.py", "knn_sklearn")},
}
PARTS = ("look", "look_nearest", "knn", "mlp", "resnet", "growth")
QUERIES_AT_A_TIME = 1024  # as in jaxpt.evaluation.knn


def look_by_jaxpt(n, batch, dim, k, classes, no_positive="drop"):
    """Value and gradient of LOOK."""
    return value_and_gradient(
        lambda queries, rest: losses.look(
            queries, **rest, k=k, no_positive=no_positive, temperature=neighbor_oracles.TEMPERATURE
        )[0],
        neighbor_oracles.arrays(n, batch, dim, classes),
    )


def value_and_gradient(loss, arrays):
    """Makes a compiled function of the mean loss and the norm of its gradient.

    Its attributes ``program`` and ``arguments`` are what it calls.
    """
    a = jax.tree.map(jnp.asarray, arrays)
    queries = a.pop("queries")
    program = jax.jit(jax.value_and_grad(lambda queries, rest: jnp.mean(loss(queries, rest))))
    program = program.lower(queries, a).compile()

    def run_once():
        value, gradient = program(queries, a)
        return [float(value), float(jnp.linalg.norm(gradient))]

    run_once.program, run_once.arguments = program, (queries, a)
    return run_once


def look_nearest_by_jaxpt(**shapes):
    """Value and gradient of LOOK, with the nearest positive if no neighbour is a positive."""
    return look_by_jaxpt(**shapes, no_positive="nearest")


def knn_by_jaxpt(n, batch, dim, k, classes):
    """Indices of the k nearest by jaxpt."""
    a = neighbor_oracles.arrays(n, batch, dim, classes)
    keys = jnp.asarray(a.pop("keys"))

    def neighbors():
        # As in jaxpt.evaluation.knn, all are under way before the first is read.
        found = [
            knn.search(jnp.asarray(a["queries"][start : start + QUERIES_AT_A_TIME]), keys, k)[1]
            for start in range(0, batch, QUERIES_AT_A_TIME)
        ]
        return np.concatenate([np.asarray(part) for part in found])

    return neighbors


def look_by_top_k(n, batch, dim, k, classes):
    """Straightforward LOOK: all similarities, leave-one-out, ``lax.top_k``."""

    def loss(queries, a):
        s = similarity.unit_vectors(queries) @ a["keys"].T
        s = jnp.where(a["query_ids"][:, None] == a["key_ids"], -jnp.inf, s)
        s, index = jax.lax.top_k(s, k)
        same = a["key_labels"][index] == a["query_labels"][:, None]
        logits = s / neighbor_oracles.TEMPERATURE
        found = jax.nn.logsumexp(logits, 1) - jax.nn.logsumexp(jnp.where(same, logits, -1e30), 1)
        return jnp.where(same.any(1), found, 0.0)

    return value_and_gradient(loss, neighbor_oracles.arrays(n, batch, dim, classes))


JAXPT = {
    "look": look_by_jaxpt,
    "look_nearest": look_nearest_by_jaxpt,
    "look_top_k": look_by_top_k,
    "knn": knn_by_jaxpt,
}


def run(python, script, *arguments) -> dict:
    """Runs a script in its own process, on two cores, and parses the last line it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    output = subprocess.run(
        [python, HERE / script, *map(str, arguments)],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def compared(what, shapes, oracle_python, rounds, repeats, folder=None) -> dict:
    """Runs all implementations in turns: {side: {"seconds": median, "extra_mb": …, "result": …}}.

    Each runs the function ``what`` of its script; ``OTHERS`` are those that need no other Python.
    """
    sides = {"jaxpt": (sys.executable, "neighbors.py", what)} | OTHERS.get(what, {})
    if oracle_python:
        sides["oracle"] = (oracle_python, "neighbor_oracles.py", what)
    found = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (python, script, name) in sides.items():
            saved = [folder / f"{side}.npy"] if folder else []
            found[side].append(run(python, script, name, repeats, json.dumps(shapes), *saved))
    return {side: summary(runs) for side, runs in found.items()}


def summary(runs) -> dict:
    """Medians over all calls and all processes."""
    return {
        "seconds": statistics.median(s for r in runs for s in r["seconds"]),
        "extra_mb": statistics.median(r["extra_mb"] for r in runs),
        "result": runs[0]["result"],
    }


def growth(repeats) -> dict:
    """Time and temporaries by the number of keys, and the exponent of a fitted power law."""
    found = {"n": GROWTH, "seconds": [], "temporaries_mb": []}
    for n in GROWTH:
        shapes = LOOK | {"n": n}
        found["seconds"].append(
            summary([run(sys.executable, "neighbors.py", "look", repeats, json.dumps(shapes))])[
                "seconds"
            ]
        )
        found["temporaries_mb"].append(temporaries(**shapes))
    found["exponent"] = exponent(GROWTH, found["seconds"])
    return found


def exponent(x, y) -> float:
    """Exponent of the power law fitted to positive values."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def temporaries(n, batch, dim, k, classes) -> float:
    """Temporaries of value and gradient in MB, as XLA reports them."""
    ints = [jax.ShapeDtypeStruct((rows,), jnp.int32) for rows in (batch, n, batch, n)]
    floats = [jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (batch, n)]
    program = jax.value_and_grad(
        lambda q, z, a, b, i, j: jnp.mean(
            losses.look(q, z, a, b, k=k, query_ids=i, key_ids=j, no_positive="drop")[0]
        )
    )
    compiled = jax.jit(program).lower(*floats, *ints).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def markdown(found: list[dict]) -> str:
    """Tables of all machines, the latest first."""
    devices = dict.fromkeys(record["device"] for record in reversed(found))
    return "\n\n".join(
        machine_markdown([record for record in found if record["device"] == device])
        for device in devices
    )


def machine_markdown(found: list[dict]) -> str:
    """Table of times, ratios and floors in the latest record of each part."""
    newest = {record["part"]: record for record in found}
    lines = [
        "| what | jaxpt | compared with | ratio | floor |",
        "| --- | ---: | ---: | ---: | --- |",
    ]

    def line(what, ours, theirs, unit, digits, floor=""):
        beside = ratio = ""
        if theirs is not None:
            beside, ratio = f"{theirs:,.{digits}f} {unit}", f"{ours / theirs:.3g}"
        lines.append(f"| {what} | {ours:,.{digits}f} {unit} | {beside} | {ratio} | {floor} |")

    for part, title, beside in (
        ("look", "LOOK, value and gradient", {"oracle": "torch", "top_k": "JAX's `top_k`"}),
        ("knn", "kNN", {"oracle": "faiss's flat index", "sklearn": "scikit-learn"}),
    ):
        if part not in newest:
            continue
        shapes, sides = newest[part]["shapes"], newest[part]["found"]
        flops = 2 * shapes["batch"] * shapes["n"] * shapes["dim"] / 1e9
        floor = f"{flops:,.0f} GFLOP, {4 * shapes['n'] * shapes['dim'] / 1e6:,.0f} MB of keys"
        for side in [side for side in beside if side in sides] or [""]:
            theirs = sides.get(side, {})
            line(
                f"{title}, against {beside[side]}" if side else title,
                sides["jaxpt"]["seconds"],
                theirs.get("seconds"),
                "s",
                2,
                floor,
            )
            line("– additional memory", sides["jaxpt"]["extra_mb"], theirs.get("extra_mb"), "MB", 0)
    if "look_nearest" in newest:
        line(
            "LOOK with the nearest positive",
            newest["look_nearest"]["found"]["jaxpt"]["seconds"],
            None,
            "s",
            2,
            "twice the operations",
        )
    for part, what, beside in (
        ("mlp", "step of a 3-layer MLP: LOOK against SupMoCo", "sup_moco"),
        ("resnet", "step of ResNet-18: LOOK against no memory", "no memory"),
    ):
        if part in newest:
            times = newest[part]["found"]
            line(what, times["look"], times[beside], "ms", 1)
            if "loss alone" in times:
                line("– the loss alone", times["loss alone"], times[beside], "ms", 1)
    if "growth" in newest:
        g = newest["growth"]["found"]
        mb = g["temporaries_mb"]
        lines.append(
            f"\nFrom {g['n'][0]:,} to {g['n'][-1]:,} keys LOOK's time grows as "
            f"n^{g['exponent']:.2f}; temporaries are {min(mb):.1f} … {max(mb):.1f} MB."
        )
    if "knn" in newest:
        lines.append(f"\nSame neighbours as faiss: {newest['knn']['same_neighbors']}.")
    loads = [record["load"] for record in newest.values()]
    last = found[-1]
    lines.append(
        f"\n{last['device']}, jax {last['packages']['jax']}, {last['date']}; load "
        f"average up to {max(loads):.0f} from other work."
    )
    return "\n".join(lines)


def same_neighbors(folder) -> str:
    """Share of queries for which jaxpt and faiss find the same set of neighbours."""
    if not (folder / "oracle.npy").exists():
        return "not compared"
    ours, theirs = (
        np.sort(np.load(folder / f"{side}.npy"), axis=1) for side in ("jaxpt", "oracle")
    )
    return f"{(ours == theirs).all(axis=1).mean():.4%} of queries"


def measured(part, oracle_python, rounds, repeats) -> dict:
    """Measures one part and returns its record, without device, versions and date."""
    if part == "knn":
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            found = compared("knn", KNN, oracle_python, 1, 1, folder)
            return {"shapes": KNN, "found": found, "same_neighbors": same_neighbors(folder)}
    if part == "growth":
        return {"shapes": LOOK, "found": growth(repeats)}
    if part in ("mlp", "resnet"):
        return {"found": run(sys.executable, "neighbor_steps.py", part)}
    oracle_python = oracle_python if part == "look" else ""
    return {"shapes": LOOK, "found": compared(part, LOOK, oracle_python, rounds, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle-python", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    how = parser.parse_args()
    if not how.oracle_python:
        print("torch and faiss are skipped: pass --oracle-python to measure them.")
    for part in how.parts:
        record = {
            "part": part,
            "rounds": how.rounds,
            "repeats": how.repeats,
            "load": os.getloadavg()[0],
        }
        record |= measured(part, how.oracle_python, how.rounds, how.repeats)
        records.append(RECORDS, record | records.surroundings())
        print(part, flush=True)
    print(markdown(records.read(RECORDS)))


if __name__ == "__main__":
    neighbor_oracles.report(JAXPT) if sys.argv[1:2] and sys.argv[1] in JAXPT else main()
