"""What ``jaxpt plan`` says of the recipes of ImageNet-1k, and of LOOK from one chip to 256.

    python benchmarks/plan.py [NAME …]

Counts all of it anew, or only what is named (look, v5e-8, …), keeps it as
benchmarks/records/plan.jsonl, and writes its line into the header of each recipe;
``benchmarks/tables.py`` makes the tables. Nothing of it was run on a TPU.
"""

import importlib
import json
import pathlib
import re
import sys

from jaxpt import plan, records
from jaxpt.configs.pretrain import recipes
from jaxpt.configs.pretrain.imagenet import look
from jaxpt.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records" / "plan.jsonl"
PAGES = ROOT / "configs" / "pretrain" / "imagenet"
SLICE = "v5e-32"  # that the headers speak of
SLICES = ("v5e-1", "v5e-8", "v5e-64", "v5e-256")
LINE = re.compile(r"^On paper: .*$", re.MULTILINE)


def jobs() -> dict[str, tuple]:
    """(config, chips) by name."""
    found = {method: (recipe(method), SLICE) for method in METHODS}
    return found | {chips: (scaled(chips), chips) for chips in SLICES}


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
    config, chips = jobs()[name]
    (found,) = plan.run(config, [chips], images=recipes.IMAGES, classes=recipes.CLASSES)
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
    """The recipes of ImageNet-1k: what their headers say."""
    lines = [
        "| recipe | what is expected, and of whom | hours on " + SLICE + " | chip-hours |",
        "|---|---|---:|---:|",
    ]
    for method in METHODS:
        text = importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}").__doc__
        title = text.partition(" on ImageNet-1k")[0]
        expected = " ".join(
            re.search(r"^Expected: (.*?)^On paper", text, re.MULTILINE | re.DOTALL)[1].split()
        )
        p = plan_of(stored()[method])
        lines.append(
            f"| [{title}](../configs/pretrain/imagenet/{method}.py) | {expected} | "
            f"{plan.told(p.hours)} | {plan.told(p.chip_hours)} |"
        )
    return "\n".join(lines)


def main(names: list[str]) -> None:
    kept = stored()
    found = [kept[name] if names and name not in names else made(name) for name in jobs()]
    RECORDS.write_text("".join(json.dumps(record, default=list) + "\n" for record in found))
    for record in found:
        page = PAGES / f"{record['name']}.py"
        if page.exists():
            page.write_text(LINE.sub(lambda _, r=record: line(r), page.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
