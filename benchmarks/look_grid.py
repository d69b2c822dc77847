"""Cost of LOOK by batch, memory, k and dimension for jaxpt, JAX's ``top_k`` and torch.

    python benchmarks/look_grid.py --oracle-python PYTHON [--small]

PYTHON is a Python with torch; without it the column of torch stays empty. One of the four varies at
a time, the others stay at their base values. Each implementation is measured at each point in its
own process, in turns: the median time of value and gradient, and the peak memory of the process
above its memory before the first call. Exponents are those of power laws fitted to all points of an
axis. Adds a record to benchmarks/records/look_grid.jsonl.
"""

import argparse
import json
import os
import pathlib

import neighbors
import numpy as np

from jaxpt import records

RECORDS = pathlib.Path(__file__).parent / "records" / "look_grid.jsonl"
BASE = {"n": 65_536, "batch": 256, "dim": 128, "k": 200, "classes": 1000}
AXES = {
    "n": (4096, 16_384, 65_536, 262_144, 1_048_576),
    "batch": (64, 128, 256, 512, 1024),
    "k": (10, 50, 200, 800),
    "dim": (32, 128, 512),
}
SMALL = {"n": (1024, 4096), "batch": (64, 128), "k": (10, 50), "dim": (32, 64)}
TITLES = {"n": "keys", "batch": "batch", "k": "k", "dim": "dimension"}
SIDES = {"jaxpt": "jaxpt", "top_k": "JAX's `top_k`", "oracle": "torch"}


def measured(shapes: dict, oracle_python: str, repeats: int) -> dict:
    """Measures one point: {implementation: {"seconds": median, "extra_mb": …}}."""
    found = neighbors.compared("look", shapes, oracle_python, 1, repeats)
    values = [side.pop("result")[0] for side in found.values()]
    if not np.allclose(values, values[0], rtol=1e-4):
        raise SystemExit(f"The implementations disagree about the loss at {shapes}: {values}.")
    return found


def exponents(axis: list[dict], name: str, field: str) -> dict[str, float]:
    """Exponent of the power law of each implementation along an axis."""
    where = [point["shapes"][name] for point in axis]
    return {
        side: neighbors.exponent(where, [point["found"][side][field] for point in axis])
        for side in axis[0]["found"]
    }


def markdown(found: list[dict]) -> str:
    """Table of times, memory and exponents in the latest record."""
    record = found[-1]
    sides = [side for side in SIDES if side in next(iter(record["axes"].values()))[0]["found"]]
    lines = [
        "| | "
        + " | ".join(f"{SIDES[side]}, ms" for side in sides)
        + " | "
        + " | ".join(f"{SIDES[side]}, MB" for side in sides)
        + " |",
        "| --- |" + " ---: |" * (2 * len(sides)),
    ]
    for name, axis in record["axes"].items():
        for point in axis:
            cells = [f"{1e3 * point['found'][side]['seconds']:,.1f}" for side in sides]
            cells += [f"{point['found'][side]['extra_mb']:,.0f}" for side in sides]
            lines.append(f"| {TITLES[name]} {point['shapes'][name]:,} | {' | '.join(cells)} |")
        times, extra = (exponents(axis, name, field) for field in ("seconds", "extra_mb"))
        cells = [f"^{by[side]:.2f}" for by in (times, extra) for side in sides]
        lines.append(f"| *grows as {TITLES[name]}* | {' | '.join(cells)} |")
    base = ", ".join(f"{TITLES[name]} {record['base'][name]:,}" for name in AXES)
    lines.append(
        f"\nUnless stated otherwise: {base}. {record['device']}, jax "
        f"{record['packages']['jax']}, {record['date']}; other work on the machine: load "
        f"{record['load']:.0f}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle-python", default="")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--small", action="store_true", help="few and small shapes; writes no record"
    )
    how = parser.parse_args()
    base = BASE | ({"n": 4096, "k": 50} if how.small else {})
    record = {"base": base, "repeats": how.repeats, "load": os.getloadavg()[0], "axes": {}}
    measure = {}  # the base is on every axis
    for name, values in (SMALL if how.small else AXES).items():
        record["axes"][name] = []
        for value in values:
            shapes = base | {name: value}
            key = json.dumps(shapes)
            if key not in measure:
                measure[key] = measured(shapes, how.oracle_python, how.repeats)
            record["axes"][name].append({"shapes": shapes, "found": measure[key]})
        print(TITLES[name], flush=True)
    record |= records.surroundings()
    if not how.small:
        records.append(RECORDS, record)
    print(markdown([record]))


if __name__ == "__main__":
    main()
