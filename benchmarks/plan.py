"""What ``jaxpt plan`` says of the recipes, and of LOOK from one chip to 256.

    python benchmarks/plan.py [NAME …]

Counts all of it anew, or only what is named (look, cifar_look, v5e-8, …), keeps it as
benchmarks/records/plan.jsonl, and writes its line into the header of each recipe;
``benchmarks/tables.py`` makes the tables. Nothing of it was run on a TPU.
"""

import importlib
import json
import pathlib
import re
import sys

from jaxpt.configs.pretrain import cifar, recipes
from jaxpt.configs.pretrain.imagenet import look

from jaxpt import finetune as fine_tuning
from jaxpt import records
from jaxpt.cost import plan
from jaxpt.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records" / "plan.jsonl"
CONFIGS = ROOT / "configs"
SLICE = "v5e-32"  # that the headers of ImageNet's recipes speak of
SIDE = 224  # of ImageNet's images
CIFAR, CIFAR_CHIP, CIFAR_SIZE = "cifar_", "v5e-1", (50_000, 10)
TRANSFERS = ("kornblith", "vtab1k", "bit")
SLICES = ("v5e-1", "v5e-8", "v5e-64", "v5e-256")
LINE = re.compile(r"^On paper: .*$", re.MULTILINE)


def jobs() -> dict[str, tuple]:
    """(config, chips, images and classes of the set) by name."""
    imagenet = recipes.IMAGES, recipes.CLASSES
    return (
        {method: (recipe(method), SLICE, imagenet) for method in METHODS}
        | {chips: (scaled(chips), chips, imagenet) for chips in SLICES}
        | {CIFAR + name: (cifar.get_config(name), CIFAR_CHIP, CIFAR_SIZE) for name in METHODS}
    )


def recipe(method: str, variant: str = ""):
    """The recipe of ImageNet-1k."""
    return importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}").get_config(variant)


def scaled(chips: str):
    """LOOK's recipe for 100 epochs with 64 images a chip and a memory as large as the set (to a
    multiple of all numbers of chips), in parts."""
    c = look.get_config()
    c.duration = "100 epochs"
    c.batch_size = 64 * int(chips.partition("-")[2])
    c.memory, c.memory_sharding = recipes.IMAGES // 256 * 256, "sharded"
    return c


def made(name: str) -> dict:
    """The record of a job."""
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
    """Records by the job's name."""
    return {record["name"]: record for record in records.read(RECORDS)}


def plan_of(record: dict) -> plan.Plan:
    """What a record holds."""
    return plan.Plan(**record["plan"])


def line(record: dict) -> str:
    """What a recipe's header says."""
    p = plan_of(record)
    return (
        f"On paper: {plan.told(p.hours)} hours on {p.chips}, {plan.told(p.chip_hours)} "
        f"chip-hours, {plan.told(sum(p.memory.values()) / 1e9)} of {p.capacity / 1e9:.0f} GB "
        "a chip (benchmarks/plan.py)."
    )


def cifar_line() -> str:
    """What the header of the CIFAR recipe says."""
    hours = {name: plan_of(stored()[CIFAR + name]).hours for name in METHODS}
    least, most = min(hours, key=hours.get), max(hours, key=hours.get)
    return (
        f"On paper: on {CIFAR_CHIP} {plan.told(hours[least])} hours ({least}) to "
        f"{plan.told(hours[most])} ({most}), look {plan.told(hours['look'])} (benchmarks/plan.py)."
    )


def transfer_line(name: str) -> str:
    """What the header of a transfer config says: its images, at the rate of cross-entropy's step
    and in proportion to their pixels, as ResNet-50's convolutions cost them."""
    config = importlib.import_module(f"jaxpt.configs.transfer.{name}").get_config()
    side, kind = SIDE, "a set"
    if config.rule:
        kind = "a small set"
        settings = fine_tuning.bit(examples=1, height=SIDE, width=SIDE)
        side, config.duration = settings.crop, settings.duration
    sweep = len(config.learning_rates) * len(config.weight_decays)
    trainings = len(config.seeds) * (sweep + 1)
    images = trainings * int(config.duration.removesuffix(" steps")) * config.batch_size
    p = plan_of(stored()["cross_entropy"])
    chip_hours = images / p.images_per_second / 3600 * p.count * (side / SIDE) ** 2
    return (
        f"On paper: {plan.told(chip_hours)} chip-hours of v5e {kind}: {trainings} trainings of "
        f"ResNet-50 at {side} pixels."
    )


def markdown() -> str:
    """LOOK over numbers of chips."""
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
    """The recipes: what the headers of ImageNet-1k's say, and CIFAR-10's hours."""
    lines = [
        f"| recipe | what is expected, and of whom | hours on {SLICE} | chip-hours | "
        f"CIFAR-10, hours on {CIFAR_CHIP} |",
        "|---|---|---:|---:|---:|",
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
            f"{plan.told(p.hours)} | {plan.told(p.chip_hours)} | {plan.told(small.hours)} |"
        )
    return "\n".join(lines)


def main(names: list[str]) -> None:
    kept = stored()
    found = [kept[name] if names and name not in names else made(name) for name in jobs()]
    RECORDS.write_text("".join(json.dumps(record, default=list) + "\n" for record in found))
    for page, text in headers().items():
        page.write_text(LINE.sub(lambda _, text=text: text, page.read_text()))


def headers() -> dict[pathlib.Path, str]:
    """The line of each recipe's page."""
    pretrain, transfer = CONFIGS / "pretrain", CONFIGS / "transfer"
    return (
        {pretrain / "imagenet" / f"{name}.py": line(stored()[name]) for name in METHODS}
        | {pretrain / "cifar.py": cifar_line()}
        | {transfer / f"{name}.py": transfer_line(name) for name in TRANSFERS}
    )


if __name__ == "__main__":
    main(sys.argv[1:])
