"""Estimates of ``jaxpt plan`` for the recipes, and for LOOK on 1 to 256 chips.

    python benchmarks/plan.py [NAME …]

Recomputes all estimates, or only the named ones (look, cifar_look, v5e-8, …), stores them as
benchmarks/records/plan.jsonl, and writes one line into the header of each recipe.
``benchmarks/tables.py`` makes the tables. Nothing was run on a TPU.
"""

import importlib
import json
import pathlib
import re
import sys

from jaxpt.configs.pretrain import cifar, recipes
from jaxpt.configs.pretrain.imagenet import look
from tpu_compile import cell, recipe

from jaxpt import finetune as fine_tuning
from jaxpt import records
from jaxpt.cost import plan
from jaxpt.methods import METHODS, encoding

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records" / "plan.jsonl"
CONFIGS = ROOT / "configs"
SLICE = "v5e-32"  # the slice in the headers of ImageNet's recipes
SIDE = 224  # pixels, of ImageNet's images
CIFAR, CIFAR_CHIP, CIFAR_SIZE = "cifar_", "v5e-1", (50_000, 10)
GPU, GPU_CHIP = "gpu_", "h100-1"  # for the cores that decode
TRANSFERS = ("kornblith", "vtab1k", "bit")
SLICES = ("v5e-1", "v5e-8", "v5e-64", "v5e-256")
GPU_RECORDS = RECORDS.parent / "gpu.jsonl"
STEP = re.compile(r"step of resnet50, batch (\d+): (\w+)")
LINE = re.compile(r"^On paper: .*$", re.MULTILINE)


def jobs() -> dict[str, tuple]:
    """Name → (config, chips, (images, classes) of the set)."""
    imagenet = recipes.IMAGES, recipes.CLASSES
    return (
        {method: (recipe(method), SLICE, imagenet) for method in METHODS}
        | {chips: (scaled(chips), chips, imagenet) for chips in SLICES}
        | {GPU + name: (recipe(name), GPU_CHIP, imagenet) for name in METHODS}
        | {CIFAR + name: (cifar.get_config(name), CIFAR_CHIP, CIFAR_SIZE) for name in METHODS}
    )


def scaled(chips: str):
    """LOOK's recipe for 100 epochs, 64 images per chip and a sharded memory as large as the set.

    The size of the memory is rounded down to a multiple of 256, so that it divides over all slices.
    """
    c = look.get_config()
    c.duration = "100 epochs"
    c.batch_size = 64 * int(chips.partition("-")[2])
    c.memory, c.memory_sharding = recipes.IMAGES // 256 * 256, "sharded"
    return c


def made(name: str) -> dict:
    """Computes the record of a job."""
    config, chips, (images, classes) = jobs()[name]
    (found,) = plan.run(config, [chips], images=images, classes=classes)
    return {
        "benchmark": "plan",
        "name": name,
        "utilisation": plan.UTILISATION,
        "config": config.to_dict(),
        "plan": found._asdict(),
        **records.surroundings(),
    }


def stored() -> dict[str, dict]:
    """Job's name → its record."""
    return {record["name"]: record for record in records.read(RECORDS)}


def plan_of(record: dict) -> plan.Plan:
    """The Plan in a record."""
    return plan.Plan(**record["plan"])


def line(record: dict) -> str:
    """The line in the header of an ImageNet recipe."""
    p = plan_of(record)
    return (
        f"On paper: {plan.rounded(p.hours)} hours on {p.chips}, {plan.rounded(p.chip_hours)} "
        f"chip-hours, {plan.rounded(sum(p.memory.values()) / 1e9)} of {p.capacity / 1e9:.0f} GB "
        "per chip (benchmarks/plan.py)."
    )


def cifar_line() -> str:
    """The line in the header of the CIFAR recipe."""
    hours = {name: plan_of(stored()[CIFAR + name]).hours for name in METHODS}
    least, most = min(hours, key=hours.get), max(hours, key=hours.get)
    return (
        f"On paper: on {CIFAR_CHIP} {plan.rounded(hours[least])} hours ({least}) to "
        f"{plan.rounded(hours[most])} ({most}), look {plan.rounded(hours['look'])} "
        "(benchmarks/plan.py)."
    )


def transfer_line(name: str) -> str:
    """The line in the header of a transfer config.

    The time per image is that of cross-entropy's step, scaled by the number of pixels, to which the
    cost of ResNet-50's convolutions is proportional.
    """
    config = importlib.import_module(f"jaxpt.configs.transfer.{name}").get_config()
    side, kind = SIDE, "set"
    if config.rule:
        kind = "small set"
        settings = fine_tuning.bit(examples=1, height=SIDE, width=SIDE)
        side, config.duration = settings.crop, settings.duration
    sweep = len(config.learning_rates) * len(config.weight_decays)
    trainings = len(config.seeds) * (sweep + 1)
    images = trainings * int(config.duration.removesuffix(" steps")) * config.batch_size
    p = plan_of(stored()["cross_entropy"])
    chip_hours = images / p.images_per_second / 3600 * p.count * (side / SIDE) ** 2
    return (
        f"On paper: {plan.rounded(chip_hours)} chip-hours of v5e per {kind}: {trainings} trainings "
        f"of ResNet-50 at {side} pixels."
    )


def markdown() -> str:
    """Table of LOOK on slices of different size."""
    found = [plan_of(stored()[chips]) for chips in SLICES]
    titles, cells = zip(*plan.rows(found), strict=True)
    lines = ["| | " + " | ".join(SLICES) + " |", "|---" + "| ---: " * len(SLICES) + "|"]
    return "\n".join(
        lines
        + [
            f"| {title} | " + " | ".join(row) + " |"
            for title, row in zip(titles, cells, strict=True)
        ]
    )


def recipes_markdown() -> str:
    """Table of the recipes: results expected on ImageNet-1k, hours, and hours on CIFAR-10."""
    lines = [
        f"| recipe | expected result, and its source | hours on {SLICE} | chip-hours | "
        f"compiles for v5e-8, memory per chip | CIFAR-10, hours on {CIFAR_CHIP} |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for method in METHODS:
        text = importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}").__doc__
        title = text.partition(" on ImageNet-1k")[0]
        expected = " ".join(
            re.search(r"^Expected: (.*?)^On paper", text, re.MULTILINE | re.DOTALL)[1].split()
        )
        p, small = (plan_of(stored()[name]) for name in (method, CIFAR + method))
        lines.append(
            f"| [{title}](../configs/pretrain/imagenet/{method}.py) | {expected} | "
            f"{plan.rounded(p.hours)} | {plan.rounded(p.chip_hours)} | {cell(method)} | "
            f"{plan.rounded(small.hours)} |"
        )
    return "\n".join(lines)


def measured() -> dict[str, float]:
    """Method → images/s of its step on an H100 in the latest record, without augmentation."""
    found = {}
    for record in records.read(GPU_RECORDS):
        if record["part"] == "step" and "H100" in record["device"]:
            for row in record["rows"]:
                step = STEP.fullmatch(row["what"])
                if step:
                    found[step[2]] = int(step[1]) / row["ms"]["jaxpt"] * 1e3
    return found


def host_markdown() -> str:
    """Table of the CPU cores that decode as fast as the chips train, of all recipes.

    The rate of an H100 is the measured one where there is a record, marked with a star.
    """
    lines = [
        "| recipe | views of a picture | v5e-8, pictures/s | cores | with `cykooz_resizer` | "
        "H100, pictures/s | cores | with `cykooz_resizer` |",
        "|---" + "| ---: " * 7 + "|",
    ]
    for method in METHODS:
        config = recipe(method)
        cells = [str(len(encoding.cropped_views(config, SIDE)))]
        # A slice of 8 chips is a quarter of one of 32.
        for record, share in ((stored()[method], 4), (stored()[GPU + method], 1)):
            p = plan_of(record)
            rate, star = p.images_per_second / share, ""
            if record["name"] == GPU + method and method in measured():
                rate, star = measured()[method], " *"
            cells.append(f"{rate:,.0f}{star}")
            cells += [plan.rounded(p.host[name] * rate) for name in ("pillow", "cykooz_resizer")]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(names: list[str]) -> None:
    kept = stored()
    found = [kept[name] if names and name not in names else made(name) for name in jobs()]
    RECORDS.write_text("".join(json.dumps(record, default=list) + "\n" for record in found))
    for page, text in headers().items():
        page.write_text(LINE.sub(lambda _, text=text: text, page.read_text()))


def headers() -> dict[pathlib.Path, str]:
    """Recipe's file → the line in its header."""
    pretrain, transfer = CONFIGS / "pretrain", CONFIGS / "transfer"
    return (
        {pretrain / "imagenet" / f"{name}.py": line(stored()[name]) for name in METHODS}
        | {pretrain / "cifar.py": cifar_line()}
        | {transfer / f"{name}.py": transfer_line(name) for name in TRANSFERS}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
