"""Everything that matters on a GPU, in one table.

    python benchmarks/gpu.py [--torch-python PYTHON] [--small] [--sizes N …] [PART …]

Parts: look (value and gradient at seven sizes, beside plain ``lax.top_k`` and torch.compile), knn
(10,000 queries, 200,000 keys of 512 dimensions, k = 20), step (ResNet-50 in bfloat16: LOOK, its two
encoders with a loss of negligible cost, cross-entropy, and PyTorch's LOOK), augment (each preset's
share of a ResNet-50's step) and probe (45 strengths on 10,000 × 512 features). PYTHON needs torch;
by default it is this one if it has torch, else PyTorch's columns stay empty. No TensorFlow is
needed. Takes less than 12 minutes on an H100: a part that would begin later is left out, which is
reported. As soon as a part is done, a record is added to benchmarks/records/gpu.jsonl; the table
has the latest record of each row. ``--sizes`` selects some of LOOK's sizes, from 1 to 7.
``--small`` runs every line on tiny sizes, for a CPU, and writes no record.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs the GPU, too

import augment as augmentation  # noqa: E402
import jax  # noqa: E402
import linear_probe  # noqa: E402
import neighbors  # noqa: E402
import numpy as np  # noqa: E402
import step as whole_step  # noqa: E402
from gpu_torch import milliseconds  # noqa: E402

from jaxpt import records  # noqa: E402
from jaxpt.evaluation import logistic  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
RECORDS = HERE / "records" / "gpu.jsonl"
MINUTES = 12
SIZES = (  # batch, keys, k
    (256, 8_192, 100),
    (256, 65_536, 50),
    (256, 65_536, 400),
    (1_024, 65_536, 400),
    (4_096, 65_536, 200),
    (256, 1_281_167, 400),
    (1_024, 1_281_167, 400),
)
SMALL_SIZES = ((16, 512, 5), (16, 4_096, 20))
KNN = {"n": 200_000, "batch": 10_000, "dim": 512, "k": 20, "classes": 1000}
SMALL_KNN = {"n": 2_000, "batch": 64, "dim": 16, "k": 5, "classes": 10}
PRESETS = ("simclr", "moco_v2", "imagenet", "rand_augment, 2 of 9")
COLUMNS = ("jaxpt", "lax.top_k (TF32)", "torch.compile", "torch")
NEAREST = "with the nearest positive"


def shapes_of(batch: int, n: int, k: int) -> dict:
    """Arguments of the functions that make LOOK's programs."""
    return {"n": n, "batch": batch, "dim": 128, "k": k, "classes": 1000}


def look(sizes, torch: dict | None) -> list[dict]:
    """Value and gradient of LOOK at each size."""
    makers = {
        COLUMNS[0]: neighbors.look_by_jaxpt,
        NEAREST: neighbors.look_nearest_by_jaxpt,
        COLUMNS[1]: neighbors.look_by_top_k,
    }
    rows = []
    with concurrent.futures.ThreadPoolExecutor() as pool:  # compiles all, before any is timed
        made = {
            (size, name): pool.submit(make, **shapes_of(*size))
            for size in sizes
            for name, make in makers.items()
        }
    for i, (batch, n, k) in enumerate(sizes):
        row = {"what": f"LOOK, batch {batch:,}, {n:,} keys, k {k}", "ms": {}, "mb": None}
        for name in makers:
            try:
                run = made.pop(((batch, n, k), name)).result()
                call = lambda run=run: run.program(*run.arguments)  # noqa: E731
                row["ms"][name] = milliseconds(call, jax.block_until_ready)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                row["ms"][name] = None
                continue
            if row["mb"] is None:
                row["mb"] = run.program.memory_analysis().temp_size_in_bytes / 1e6
        if torch:
            row["ms"] |= {"torch": torch["look"][i][0], "torch.compile": torch["look"][i][1]}
        row["note"] = f"{NEAREST} {_cell(row['ms'], NEAREST)} ms"
        rows.append(row)
    return rows


def knn(sizes, torch: dict | None) -> list[dict]:
    """Exact nearest neighbours."""
    ms = {"jaxpt": milliseconds(neighbors.knn_by_jaxpt(**sizes), np.asarray)}
    if torch:
        ms["torch"] = torch["knn"]
    what = f"kNN, {sizes['batch']:,} × {sizes['n']:,} × {sizes['dim']}, k {sizes['k']}"
    return [{"what": what, "ms": ms, "mb": None}]


def step(small: bool, python: str) -> list[dict]:
    """Whole training steps."""
    shapes = whole_step.SHAPES["small" if small else "accelerator"]
    rounds, steps = (1, 1) if small else (3, 20)
    theirs = whole_step.by_torch(python, shapes, rounds, steps) if python else None
    found = whole_step.in_turns(shapes, {}, rounds, steps)
    what = f"{shapes['network']}, batch {shapes['batch']}"
    rows = [
        {
            "what": f"step of {what}: {name}",
            "ms": {"jaxpt": 1e3 * seconds},
            "mb": None,
            "note": f"{shapes['batch'] / seconds:,.0f} images/s",
        }
        for name, seconds in found.items()
    ]
    share = found["look"] / found["two encoders"] - 1
    rows[0]["note"] += f"; the loss adds {share:.1%}"
    if theirs:
        column = "torch" if theirs["how"] == "eager" else theirs["how"]
        rows[0]["ms"][column] = 1e3 * theirs["seconds"]
    return rows


def augment(small: bool, _) -> list[dict]:
    """Views, as a share of a training step of cross-entropy."""
    sizes = {"n": 128, "size": 224, "repeats": 10, "dtype": "bfloat16", "names": PRESETS}
    if small:
        sizes |= {"n": 4, "size": 32, "repeats": 1, "dtype": "float32"}
    found = augmentation.measure(**sizes)
    return [
        {
            "what": f"a view by {name}, per image",
            "ms": {"jaxpt": found[name]},
            "mb": None,
            "note": f"{found[name] / found['step']:.1%} of a step",
        }
        for name in PRESETS
    ]


def probe(small: bool, _) -> list[dict]:
    """The linear probe's sweep."""
    sizes = {"rows": 200, "dim": 8, "classes": 3} if small else {}
    grid = linear_probe.GRID[::15] if small else linear_probe.GRID
    x, labels = linear_probe.synthetic(**sizes)

    def fit():
        return logistic.fit(x, labels, int(labels.max()) + 1, grid)

    first, _ = linear_probe.timed(fit)
    again, _ = linear_probe.timed(fit)
    return [
        {
            "what": f"linear probe, {len(x):,} × {x.shape[1]}, {len(grid)} strengths",
            "ms": {"jaxpt": 1e3 * float(again[0])},
            "mb": None,
            "note": f"with compilation {first[0]:.0f} s",
        }
    ]


PARTS = {"look": look, "knn": knn, "step": step, "augment": augment, "probe": probe}


def markdown(found: list[dict]) -> str:
    """One table per device, of the latest record of each row; the latest device comes first."""
    return "\n\n".join(
        _device_markdown([record for record in found if record["device"] == device])
        for device in dict.fromkeys(record["device"] for record in reversed(found))
    )


def _device_markdown(found: list[dict]) -> str:
    latest = {row["what"]: (row, record) for record in found for row in record["rows"]}
    lines = [
        "| what | " + " | ".join(f"{name}, ms" for name in COLUMNS) + " | temporaries, MB | |",
        "| --- |" + " ---: |" * (len(COLUMNS) + 1) + " --- |",
    ]
    for row, _ in sorted(latest.values(), key=lambda pair: list(PARTS).index(pair[1]["part"])):
        cells = [_cell(row["ms"], name) for name in COLUMNS]
        mb = "" if row["mb"] is None else f"{row['mb']:,.0f}"
        lines.append(f"| {row['what']} | {' | '.join(cells)} | {mb} | {row.get('note', '')} |")
    for about in dict.fromkeys(_about(record) for _, record in latest.values()):
        lines.append(f"\n{about}")
    return "\n".join(lines)


def _cell(times: dict, name: str) -> str:
    if name not in times:
        return ""
    ms = times[name]
    if ms is None:
        return "–"  # out of memory, or not to be had
    return f"{ms:,.1f}" if ms >= 100 else f"{ms:.3g}"


def _about(record: dict) -> str:
    return (
        f"{record['device']}, jax {record['packages']['jax']}, {record['date']}, revision "
        f"{record['revision']}. –: out of memory."
    )


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--small", action="store_true", help="tiny sizes; writes no record")
    parser.add_argument("--sizes", nargs="+", type=int, default=[], help="LOOK's, from 1 to 7")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    how = parser.parse_args()
    unknown = set(how.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts {sorted(unknown)}; there are {', '.join(PARTS)}")
    python = how.torch_python
    if not python and importlib.util.find_spec("torch"):
        python = sys.executable
    parts = how.parts or list(PARTS)
    looks, queries = (SMALL_SIZES, SMALL_KNN) if how.small else (SIZES, KNN)
    looks = [looks[size - 1] for size in how.sizes] or looks
    torch = None
    if python and {"look", "knn"}.intersection(parts):
        arguments = [json.dumps([shapes_of(*size) for size in looks]), json.dumps(queries)]
        output = subprocess.run(
            [python, HERE / "gpu_torch.py", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        torch = json.loads(output.splitlines()[-1])
    made = []
    for part in parts:
        minutes = (time.perf_counter() - began) / 60
        if minutes > how.minutes:
            print(f"{part} is left out: {minutes:.0f} minutes are over (--minutes).")
            continue
        of_part = {"look": (looks, torch), "knn": (queries, torch)}
        rows = PARTS[part](*of_part.get(part, (how.small, python)))
        record = {"benchmark": "gpu", "part": part, "rows": rows, **records.surroundings()}
        made.append(record)
        if not how.small:
            records.append(RECORDS, record)
        minutes = (time.perf_counter() - began) / 60
        print(f"{part} done after {minutes:.1f} minutes", file=sys.stderr, flush=True)
    print(markdown(made))


if __name__ == "__main__":
    main()
