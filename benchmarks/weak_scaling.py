"""Communication and memory of a step by the number of devices.

    python benchmarks/weak_scaling.py [--small] [--set FIELD=JSON …]

LOOK with a fixed batch and memory per device, on 1, 2, 4 and 8 virtual CPU devices. Nothing is
timed, since the devices share the cores. The bytes of each kind of collective and the temporaries
are read from the compiled program; the bytes that the algorithm requires are given for comparison.
Exponents are those of power laws fitted over 2 … 8 devices. Adds a record to
benchmarks/records/weak_scaling.jsonl.
"""

import argparse
import json
import pathlib
import re

import jax
import numpy as np
import step as whole_step
from neighbors import exponent

from jaxpt import pretrain, records
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.train.parallel import Devices

RECORDS = pathlib.Path(__file__).parent / "records" / "weak_scaling.jsonl"
DEVICES = (1, 2, 4, 8)
BATCH, MEMORY = 32, 4096  # per device
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "u8": 1, "s8": 1, "f64": 8, "s64": 8}
ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\]")


def bytes_of_collectives(program: str) -> dict[str, int]:
    """Bytes of the results of each kind of collective, from the text of a compiled program.

    Collectives in a loop count once.
    """
    found = dict.fromkeys(COLLECTIVES, 0)
    for line in program.splitlines():
        match = re.match(rf"\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if match:
            found[match[2]] += sum(
                SIZES[kind] * int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
                for kind, dims in ARRAY.findall(match[1])
                if kind in SIZES
            )
    return found


def expected(config, state) -> dict[str, int]:
    """Bytes of collectives that the algorithm requires, for a replicated memory.

    All-reduce: gradients, batch statistics of both encoders, metrics and the guard's flag.
    All-gather: the keys of all devices with their labels and ids, and for a bank their slots. One
    device runs the same program without communication.
    """
    parts = 3 if config.memory_kind == "bank" else 2
    statistics = [state.batch_stats, state.target.batch_stats]
    reduced = sum(x.size * 4 for x in jax.tree.leaves([state.params, statistics]))
    return {
        "all-reduce": reduced + 4 * (len(METRICS) + 1),
        "all-gather": config.batch_size * 4 * (config.model.projector.dim + parts),
    }


METRICS = ("loss", "k", "no_positive", "zero_loss", "purity")


def compiled(config, data, devices):
    """Compiled program of a step, and its state."""
    method, _ = pretrain.prepare(config, data)
    guard = pretrain.guarded(method.step, max_skipped=0)
    feed = make_feed(config, data.trainval, data.trainval.labels, devices)
    state = pretrain.place_state(
        pretrain.init_state(method, config, data.trainval.images), config, devices
    )
    step = devices.map(lambda state, data, rows: guard(state, feed.gather(data, rows)), like=state)
    rows = devices.split(rows_of_step(0, config.batch_size, n=len(data.trainval.ids), seed=0))
    return step.lower(state, feed.data, rows).compile(), state


def measured(count: int, shapes: dict, overrides: dict) -> dict:
    """Bytes of the program on ``count`` devices."""
    shapes = shapes | {
        "batch": BATCH * count,
        "memory": MEMORY * count,
        "images": 2 * BATCH * max(DEVICES),
    }
    config = whole_step.config_of("look", shapes, overrides | {"devices": count})
    program, state = compiled(config, whole_step.synthetic(shapes), Devices(limit=count))
    analysis = program.memory_analysis()
    return {
        "collectives": bytes_of_collectives(program.as_text()),
        "expected": expected(config, state),
        "temporaries": analysis.temp_size_in_bytes,
        "arguments": analysis.argument_size_in_bytes,
        "memory": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.memory)),
    }


def markdown(record: dict) -> str:
    """Table of bytes by the number of devices."""
    found = {int(count): x for count, x in record["found"].items()}
    columns = {
        "all-reduce": lambda x: x["collectives"]["all-reduce"],
        "expected": lambda x: x["expected"]["all-reduce"],
        "all-gather": lambda x: x["collectives"]["all-gather"],
        "expected ": lambda x: x["expected"]["all-gather"],
        "other": lambda x: sum(x["collectives"][name] for name in COLLECTIVES[2:]),
        "temporaries": lambda x: x["temporaries"],
        "memory": lambda x: x["memory"],
    }
    lines = [
        "| devices | " + " | ".join(f"{name.strip()}, kB" for name in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for count, x in found.items():
        lines.append(
            f"| {count} | "
            + " | ".join(f"{value(x) / 1e3:,.1f}" for value in columns.values())
            + " |"
        )
    many = [count for count in found if count > 1]
    if len(many) > 1:
        lines.append(
            "| exponent | "
            + " | ".join(
                f"{round(grown, 2) + 0:.2f}"  # + 0: no "-0.00"
                for value in columns.values()
                for grown in [exponent(many, [max(1, value(found[count])) for count in many])]
            )
            + " |"
        )
    lines.append(
        f"\n{record['shapes']['network']}, {BATCH} images and {MEMORY:,} keys per device; "
        f"jax {record['packages']['jax']}, {record['date']}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="1 and 2 devices; writes no record")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=JSON",
        help="field of the config, such as memory_sharding='\"sharded\"'",
    )
    how = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    shapes = whole_step.SHAPES["small"]
    overrides = {name: json.loads(value) for name, value in (x.split("=", 1) for x in how.set)}
    record = {
        "shapes": shapes,
        "overrides": overrides,
        "found": {
            count: measured(count, shapes, overrides)
            for count in (DEVICES[:2] if how.small else DEVICES)
        },
    }
    record |= records.surroundings()
    record = json.loads(json.dumps(record, default=list))
    if not how.small:
        records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    main()
