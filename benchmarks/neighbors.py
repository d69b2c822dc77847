"""The neighbour engine at full size, beside what others would write for the same.

    python benchmarks/neighbors.py --oracle-python PYTHON

PYTHON has torch and faiss-cpu; without it their columns stay empty. LOOK: 256 queries, the whole
ImageNet training set as memory, k = 400. kNN: 10,000 queries, 200,000 keys, 512 dimensions, k = 20.
Both sides of a ratio run in turns, in processes of their own; times are medians, memory is the
largest that a process held above what it held before the first call. Adds a record to
benchmarks/records/neighbors.jsonl.
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

from jaxpt import knn, losses, records

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "records" / "neighbors.jsonl"
LOOK = {"n": 1_281_167, "batch": 256, "dim": 128, "k": 400, "classes": 1000}
KNN = {"n": 200_000, "batch": 10_000, "dim": 512, "k": 20, "classes": 1000}
GROWTH = (160_000, 320_000, 640_000, 1_280_000)
QUERIES_AT_A_TIME = 1024  # as jaxpt.evaluation.knn


def look_by_jaxpt(n, batch, dim, k, classes, no_positive="drop"):
    """Value and gradient of LOOK."""
    a = jax.tree.map(jnp.asarray, neighbor_oracles.arrays(n, batch, dim, classes))
    program = jax.jit(jax.value_and_grad(lambda queries, rest: jnp.mean(losses.look(
        queries, **rest, k=k, no_positive=no_positive,
        temperature=neighbor_oracles.TEMPERATURE)[0])))
    queries = a.pop("queries")
    program = program.lower(queries, a).compile()

    def value_and_gradient():
        value, gradient = program(queries, a)
        return [float(value), float(jnp.linalg.norm(gradient))]

    return value_and_gradient


def look_nearest_by_jaxpt(**shapes):
    """The same with the nearest positive wherever none is among the neighbours."""
    return look_by_jaxpt(**shapes, no_positive="nearest")


def knn_by_jaxpt(n, batch, dim, k, classes):
    """The indices of the k nearest."""
    a = neighbor_oracles.arrays(n, batch, dim, classes)
    keys = jnp.asarray(a.pop("keys"))

    def neighbors():
        starts = range(0, batch, QUERIES_AT_A_TIME)
        return np.concatenate([knn.search(
            jnp.asarray(a["queries"][start:start + QUERIES_AT_A_TIME]), keys, k)[1]
            for start in starts])

    return neighbors


JAXPT = {"look": look_by_jaxpt, "look_nearest": look_nearest_by_jaxpt, "knn": knn_by_jaxpt}


def run(python, script, *arguments) -> dict:
    """What a process of its own prints last, on two cores."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    output = subprocess.run([python, HERE / script, *map(str, arguments)], check=True,
                            env=environment, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compared(what, shapes, oracle_python, rounds, repeats, folder=None) -> dict:
    """Both sides in turns: {side: {"seconds": median, "extra_mb": …, "result": …}}."""
    sides = {"jaxpt": (sys.executable, "neighbors.py")}
    if oracle_python:
        sides["oracle"] = (oracle_python, "neighbor_oracles.py")
    found = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (python, script) in sides.items():
            saved = [folder / f"{side}.npy"] if folder else []
            found[side].append(run(python, script, what, repeats, json.dumps(shapes), *saved))
    return {side: summary(runs) for side, runs in found.items()}


def summary(runs) -> dict:
    """Medians over all calls and over the processes."""
    return {"seconds": statistics.median(s for r in runs for s in r["seconds"]),
            "extra_mb": statistics.median(r["extra_mb"] for r in runs),
            "result": runs[0]["result"]}


def growth(repeats) -> dict:
    """Time and temporaries by the number of keys, and the exponent of a fitted power law."""
    found = {"n": GROWTH, "seconds": [], "temporaries_mb": []}
    for n in GROWTH:
        shapes = LOOK | {"n": n}
        found["seconds"].append(summary([run(
            sys.executable, "neighbors.py", "look", repeats, json.dumps(shapes))])["seconds"])
        found["temporaries_mb"].append(temporaries(**shapes))
    found["exponent"] = float(np.polyfit(np.log(GROWTH), np.log(found["seconds"]), 1)[0])
    return found


def temporaries(n, batch, dim, k, classes) -> float:
    """MB of temporaries of value and gradient, by XLA's account."""
    ints = [jax.ShapeDtypeStruct((rows,), jnp.int32) for rows in (batch, n, batch, n)]
    floats = [jax.ShapeDtypeStruct((rows, dim), jnp.float32) for rows in (batch, n)]
    program = jax.value_and_grad(lambda q, z, a, b, i, j: jnp.mean(losses.look(
        q, z, a, b, k=k, query_ids=i, key_ids=j, no_positive="drop")[0]))
    compiled = jax.jit(program).lower(*floats, *ints).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def markdown(record: dict) -> str:
    """Ratios, times and floors of a record as a table."""
    lines = ["| what | jaxpt | beside | ratio | floor |", "| --- | ---: | ---: | ---: | --- |"]

    def line(what, ours, theirs, unit, digits, floor):
        beside = "–" if theirs is None else f"{theirs:,.{digits}f} {unit}"
        ratio = "–" if theirs is None else f"{ours / theirs:.2f}"
        lines.append(f"| {what} | {ours:,.{digits}f} {unit} | {beside} | {ratio} | {floor} |")

    for name, title in ("look", "LOOK, value and gradient; torch"), ("knn", "kNN; faiss flat"):
        shapes, sides = record["shapes"][name], record[name]
        oracle = sides.get("oracle", {})
        flops = 2 * shapes["batch"] * shapes["n"] * shapes["dim"] / 1e9
        keys = 4 * shapes["n"] * shapes["dim"] / 1e6
        line(title, sides["jaxpt"]["seconds"], oracle.get("seconds"), "s", 2,
             f"{flops:,.0f} GFLOP, {keys:,.0f} MB of keys read")
        line(f"{title}: extra memory", sides["jaxpt"]["extra_mb"], oracle.get("extra_mb"), "MB", 0,
             "–")
    line("LOOK, no_positive = nearest; drop", record["look_nearest"]["jaxpt"]["seconds"],
         record["look"]["jaxpt"]["seconds"], "s", 2, "a second product")
    line("training step, 3-layer MLP: LOOK; SupMoCo", record["mlp"]["look"],
         record["mlp"]["sup_moco"], "ms", 1, "–")
    line("training step, ResNet-18: LOOK; no memory", record["resnet"]["look"],
         record["resnet"]["no memory"], "ms", 0, "–")
    line("LOOK alone; that step", record["resnet"]["loss alone"], record["resnet"]["no memory"],
         "ms", 0, "–")
    g = record["growth"]
    lines.append(f"\nOver {g['n'][0]:,} … {g['n'][-1]:,} keys time grows as n^{g['exponent']:.2f}; "
                 f"temporaries are {min(g['temporaries_mb']):.1f} … {max(g['temporaries_mb']):.1f} "
                 f"MB. Same neighbours as faiss: {record['same_neighbors']}. Load of the machine "
                 f"when it began: {record['load']:.1f}. {record['device']}, jax "
                 f"{record['packages']['jax']}, {record['date']}.")
    return "\n".join(lines)


def same_neighbors(folder) -> str:
    """Share of queries with the same set of neighbours on both sides."""
    if not (folder / "oracle.npy").exists():
        return "not compared"
    ours, theirs = (np.sort(np.load(folder / f"{side}.npy"), axis=1)
                    for side in ("jaxpt", "oracle"))
    return f"{(ours == theirs).all(axis=1).mean():.4%} of queries"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle-python", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.oracle_python:
        print("No --oracle-python: torch and faiss are skipped.")
    load, how = os.getloadavg()[0], (arguments.oracle_python, arguments.rounds, arguments.repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        record = {
            "shapes": {"look": LOOK, "knn": KNN}, "rounds": arguments.rounds,
            "repeats": arguments.repeats, "load": load, "look": compared("look", LOOK, *how),
            "look_nearest": compared("look_nearest", LOOK, "", *how[1:]),
            "knn": compared("knn", KNN, how[0], 1, 1, folder),
            "same_neighbors": same_neighbors(folder),
            "mlp": run(sys.executable, "neighbor_steps.py", "mlp"),
            "resnet": run(sys.executable, "neighbor_steps.py", "resnet"),
            "growth": growth(arguments.repeats), **records.surroundings()}
    records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    neighbor_oracles.report(JAXPT) if sys.argv[1:2] and sys.argv[1] in JAXPT else main()
