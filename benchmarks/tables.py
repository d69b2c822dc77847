"""Generator of the tables in README and docs, from the records.

    python benchmarks/tables.py

A table is written between ``<!-- table: NAME -->`` and ``<!-- end of table -->``, where NAME is a
key of ``TABLES``. Do not edit between the markers: a test compares the pages with the records.
"""

import functools
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import cost  # noqa: E402
import evidence  # noqa: E402
import fashion_mnist  # noqa: E402
import gpu  # noqa: E402
import imbalance  # noqa: E402
import input as inputs  # noqa: E402
import look_grid  # noqa: E402
import neighbor_reads  # noqa: E402
import neighbors  # noqa: E402
import plan  # noqa: E402
import round_trip  # noqa: E402
import sources  # noqa: E402
import startup  # noqa: E402
import step as whole_step  # noqa: E402
import step_program  # noqa: E402
import supervised  # noqa: E402
import text as text_study  # noqa: E402
import tpu_compile  # noqa: E402
import transfer_study  # noqa: E402
import tune  # noqa: E402
import unlabelled  # noqa: E402
import weak_scaling  # noqa: E402

from jaxpt import records, report  # noqa: E402
from jaxpt.studies import study  # noqa: E402

RECORDS = ROOT / "benchmarks" / "records"
PAGES = (
    "README.md",
    "docs/evidence.md",
    "docs/fashion_mnist.md",
    "docs/sources.md",
    "docs/cost.md",
    "docs/performance.md",
    "docs/data.md",
    "docs/imbalance.md",
    "docs/recipes.md",
    "docs/unlabelled.md",
    "docs/weights.md",
    "docs/any-embedding.md",
)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def demo() -> str:
    """The demo's results, as made by ``make record``."""
    return report.markdown(records.read(RECORDS / "demo_digits.jsonl"))


def tuning(data: str) -> str:
    """All settings of the current tuning grid, best first within each method."""
    found = study.stored(tune.jobs(data), RECORDS / f"tuning_{data}.jsonl")
    lines = [
        "| setting | seeds | score | fine kNN | fine linear | 5-shot |",
        "| --- |" + " ---: |" * 5,
    ]
    for method in tune.METHODS:
        groups = {}
        for record in found:
            if record["method"] == method:
                groups.setdefault(record["label"], []).append(record)
        for label, group in sorted(groups.items(), key=lambda item: -tune.score(item[1])):
            means = [sum(r["values"][name] for r in group) / len(group) for name in tune.FINE]
            lines.append(
                f"| {label} | {len(group)} | {tune.score(group):.4f} | "
                + " | ".join(f"{mean:.3f}" for mean in means)
                + " |"
            )
    return "\n".join(lines)


def settings(data: str) -> str:
    """All four methods in every setting, on validation."""
    jobs = evidence.settings_jobs(
        data, evidence.SETTINGS[data], evidence.SEARCH_SEEDS, "validation"
    )
    return evidence.markdown(study.stored(jobs, RECORDS / f"evidence_{data}.jsonl"))


def ablations(data: str) -> str:
    """LOOK with one field changed, on validation."""
    return evidence.markdown(
        study.stored(evidence.ablation_jobs(data), RECORDS / f"evidence_{data}.jsonl")
    )


def confirmation(setting: str) -> str:
    """The setting that the search chose, on test data, with verdicts."""
    found = study.stored(evidence.confirmation_jobs(setting), RECORDS / "confirmation_digits.jsonl")
    return report.markdown(
        [record | {"label": record["label"].removeprefix(f"{setting}: ")} for record in found]
    )


def fashion(duration: str) -> str:
    """The four methods on Fashion-MNIST's test part."""
    return report.markdown(study.stored(fashion_mnist.jobs(duration), fashion_mnist.RECORDS))


def losses_cost() -> str:
    """The latest record of the cost of losses."""
    return cost.markdown(records.read(cost.RECORDS)[-1])


def neighbor_engine() -> str:
    """The latest records of the neighbour search compared with torch and faiss."""
    return neighbors.markdown(records.read(neighbors.RECORDS))


def input_rates() -> str:
    """The latest records of the throughput of input."""
    return inputs.markdown(records.read(inputs.RECORDS))


@functools.cache
def small_study() -> transfer_study.Study:
    """The small transfer study with its records."""
    return transfer_study.Study("small")


@functools.cache
def text_records():
    """Records of the example on text."""
    return text_study.latest()


TABLES = {
    "study_answer": lambda: transfer_study.answer(small_study()),
    "study_contrasts": lambda: transfer_study.contrasts_markdown(small_study()),
    "study_glyphs": lambda: transfer_study.accuracies_markdown(small_study(), "glyphs"),
    "study_fashion": lambda: transfer_study.accuracies_markdown(small_study(), "fashion_mnist"),
    "study_granularity": lambda: transfer_study.upstream_markdown(
        small_study(), "upstream classes"
    ),
    "study_others": lambda: transfer_study.others_markdown(small_study()),
    "study_wrong_labels": lambda: transfer_study.upstream_markdown(small_study(), "wrong labels"),
    "study_tuning_glyphs": lambda: transfer_study.tuning_markdown(small_study(), "glyphs"),
    "study_tuning_fashion": lambda: transfer_study.tuning_markdown(small_study(), "fashion_mnist"),
    "study_left": lambda: transfer_study.left_markdown(small_study()),
    "imbalance_ratios": lambda: imbalance.ratios_markdown(imbalance.results()),
    "imbalance_lead": lambda: imbalance.lead_markdown(imbalance.results()),
    "imbalance_robustness": lambda: imbalance.robustness_markdown(imbalance.results()),
    "imbalance_remedies": lambda: imbalance.remedies_markdown(imbalance.results()),
    "imbalance_tuning": lambda: imbalance.tuning_markdown(imbalance.results()),
    "unlabelled_contrasts": lambda: unlabelled.contrasts_markdown(unlabelled.Study()),
    "unlabelled": lambda: unlabelled.accuracies_markdown(unlabelled.Study()),
    "unlabelled_tuning": lambda: unlabelled.tuning_markdown(unlabelled.Study()),
    "input": input_rates,
    "neighbor_engine": neighbor_engine,
    "neighbor_reads": lambda: neighbor_reads.markdown(records.read(neighbor_reads.RECORDS)),
    "look_grid": lambda: look_grid.markdown(records.read(look_grid.RECORDS)),
    "step": lambda: whole_step.markdown(records.read(whole_step.RECORDS)[-1]),
    "gpu": lambda: gpu.markdown(records.read(gpu.RECORDS)),
    "startup": lambda: startup.markdown(records.read(startup.RECORDS)),
    "step_program": lambda: step_program.markdown(records.read(step_program.RECORDS)),
    "tpu_compile": tpu_compile.markdown,
    "weak_scaling": lambda: weak_scaling.markdown(records.read(weak_scaling.RECORDS)[-1]),
    "losses_cost": losses_cost,
    "sources": lambda: sources.markdown(records.read(sources.RECORDS)),
    "plan": plan.markdown,
    "recipes": plan.recipes_markdown,
    "host": plan.host_markdown,
    "round_trip": lambda: round_trip.markdown(records.read(round_trip.RECORDS)),
    "demo_digits": demo,
    "tuning_digits": lambda: tuning("digits"),
    "tuning_fashion_mnist": lambda: tuning("fashion_mnist"),
    "settings_digits": lambda: settings("digits"),
    "settings_fashion_mnist": lambda: settings("fashion_mnist"),
    "ablations_digits": lambda: ablations("digits"),
    "ablations_fashion_mnist": lambda: ablations("fashion_mnist"),
    "confirmation_chosen": lambda: confirmation(evidence.CONFIRMED),
    "confirmation_base": lambda: confirmation("base"),
    "fashion_mnist": lambda: fashion("8 epochs"),
    "fashion_mnist_long": lambda: fashion("24 epochs"),
    "text_accuracies": lambda: text_study.accuracies_markdown(text_records()),
    "text_contrasts": lambda: text_study.contrasts_markdown(text_records()),
    "text_neighbors": lambda: text_study.neighbors_markdown(text_records()),
    "fashion_mnist_supervised": lambda: supervised.markdown(records.read(supervised.RECORDS)),
}


def render(text: str) -> str:
    """Regenerates every marked table of a page."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + "\n" + found[3], text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(render(path.read_text()))


if __name__ == "__main__":
    main()
