"""Passes over memory in the compiled step, read from the program: needs no accelerator.

    python benchmarks/step_program.py LABEL [--topology v5e:2x2]

Compiles the training step of a bottleneck ResNet with one block per stage, in bfloat16, on few
small images, so that the passes over parameters, moments and target are a large part of it. There
are three steps: LOOK's two encoders with a loss of negligible cost, the same without the guard
against non-finite values, and cross-entropy. The figures are read from the program: bytes accessed
and temporaries by XLA's account, the number of fusions, conversions and copies, and how many bytes
of the state are updated in place. By default the program is the CPU's; with a topology, that of the
TPU's compiler. Adds a record with the label to benchmarks/records/step_program.jsonl.
"""

import argparse
import functools
import pathlib
import re

import jax
import step as whole_step

from jaxpt import models, pretrain, records
from jaxpt.cost import compiling
from jaxpt.data import augment
from jaxpt.data.feed import Undecoded
from jaxpt.models.resnet import Bottleneck, ResNet
from jaxpt.train.parallel import Devices

RECORDS = pathlib.Path(__file__).parent / "records" / "step_program.jsonl"
NETWORK = "resnet_1111"
SHAPES = {
    "network": NETWORK,
    "pixels": 32,
    "stem": "imagenet",
    "batch": 8,
    "memory": 1024,
    "k": 8,
    "dim": 128,
    "images": 64,
    "width": 64,
    "classes": 100,
    "dtype": "bfloat16",
}
STEPS = ("two encoders", "two encoders, no guard", "cross_entropy")


def program_of(name: str, shapes: dict, topology: str):
    """The compiled step of this name."""
    kind, *without = name.split(", ")
    config = whole_step.config_of(kind, shapes, {})
    among = compiling.devices_of(topology) if topology else None
    devices = Devices(limit=0 if topology else 1, among=among)
    method = whole_step.method_of(kind, config, whole_step.synthetic(shapes))
    image = (shapes["pixels"], shapes["pixels"], 3)
    state = pretrain.state_shapes(method, config, image)
    like = devices.placed(state, pretrain.axes_of(state, config, devices.count))
    images = jax.ShapeDtypeStruct((shapes["images"], *image), jax.numpy.uint8)
    feed = Undecoded(shapes["images"], images, devices, resident=False)
    guarded = pretrain.guarded
    try:
        if without:
            pretrain.guarded = lambda step, *, max_skipped: step
        with augment.as_on_accelerators():
            return pretrain.step_program(method, config, devices, feed, like).compile()
    finally:
        pretrain.guarded = guarded


def figures(program) -> dict[str, float]:
    """Counts of a compiled program."""
    cost, memory = program.cost_analysis(), program.memory_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    # Operations within a fusion cost no pass of their own.
    text = re.sub(r"^%?fused_computation.*?^}", "", program.as_text(), flags=re.M | re.S)
    return {
        "megabytes accessed": cost["bytes accessed"] / 1e6,
        "temporaries, MB": memory.temp_size_in_bytes / 1e6,
        "in place, MB": memory.alias_size_in_bytes / 1e6,
        "fusions": compiling.operations(text, "fusion"),
        "conversions": compiling.operations(text, "convert"),
        "copies": compiling.operations(text, "copy"),
    }


def markdown(found: list[dict]) -> str:
    """Table of all records, in the order in which they were made."""
    names = list(found[0]["figures"][STEPS[0]])
    lines = [
        "| version | compiler | step | " + " | ".join(names) + " |",
        "| --- | --- | --- |" + " ---: |" * len(names),
    ]
    for record in found:
        for step, numbers in record["figures"].items():
            cells = " | ".join(f"{numbers[name]:,.0f}" for name in names)
            lines.append(
                f"| {record['label']} | {record['topology'] or 'CPU'} | {step} | {cells} |"
            )
    record = found[-1]
    lines.append(f"\njax {record['packages']['jax']}, {record['date']}; nothing was timed.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("label", help="what the record is of, such as a version")
    parser.add_argument("--topology", default="", help="of TPUs; default: the CPU's compiler")
    parser.add_argument("--small", action="store_true", help="a narrow network; writes no record")
    how = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    models.BACKBONES[NETWORK] = functools.partial(ResNet, (1, 1, 1, 1), Bottleneck)
    shapes = SHAPES | ({"width": 8, "pixels": 16, "dim": 8} if how.small else {})
    record = {
        "benchmark": "step_program",
        "label": how.label,
        "topology": how.topology,
        "shapes": shapes,
        "figures": {
            name: figures(program_of(name, shapes, how.topology))
            for name in (STEPS[:1] if how.small else STEPS)
        },
        **records.surroundings(),
    }
    if not how.small:
        records.append(RECORDS, record)
    print(markdown([record]))


if __name__ == "__main__":
    main()
