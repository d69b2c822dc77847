"""Imbalanced pre-training on glyphs, and what helps. docs/imbalance.md is its protocol.

    scripts/fetch_glyphs.sh fonts
    python benchmarks/imbalance.py               # two CPU cores, about half an hour
    python benchmarks/imbalance.py --minutes=10  # a part of it; repeat to continue

Runs that are already in the file of records are not repeated.
"""

import argparse
import functools
import math
import os
import time
from typing import Any, NamedTuple

import numpy as np
import transfer_study
from jaxpt.configs.pretrain import defaults
from transfer_study import BOUND, MLP, PRIMARY, ROOT, contrast, interval, mean, points, table

from jaxpt import records
from jaxpt.report import statistics
from jaxpt.studies import study

RECORDS = ROOT / "records" / "imbalance.jsonl"
IMAGES = 10_000  # of every draw
RATIOS = (1, 10, 100)
SEEDS, TUNING = tuple(range(5)), (1000,)
SMALL = transfer_study.SCALES["small"]
FIELDS = SMALL.fields | SMALL.of_set["glyphs"] | {"duration": "500 steps"}
RATE, RADIUS = "optimizer.learning_rate", "rw_sam.rho"
TUNED = {RATE: (1e-3, 3e-3, 9e-3), RADIUS: (0.01, 0.03, 0.1)}


class Method(NamedTuple):
    """A way to pre-train: its title in tables, jaxpt's method, and changed fields."""

    title: str
    method: str
    settings: dict[str, Any]


METHODS = {
    "ce_mlp": Method("cross-entropy with MLP head", "cross_entropy", MLP),
    "look": Method("LOOK", "look", {"temperature": 0.2, "look.k": 33}),  # the keys of a class
    "sup_con": Method("SupCon", "sup_con", {"temperature": 0.2}),
    "moco_v2": Method("MoCo v2 (no labels)", "moco_v2", {"temperature": 0.2}),
}
PLAIN = "plain"
# Title and changed fields of each remedy.
REMEDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "square_root": ("square-root sampling", {"data.sampling": "square_root"}),
    "class_balanced": ("class-balanced sampling", {"data.sampling": "class_balanced"}),
    "balanced": ("`look.balanced`", {"look.balanced": True}),
    "k_by_class": ("`look.k_by_class`", {"look.k_by_class": True}),
    "sam": ("SAM (α = 0)", {"rw_sam.alpha": 0.0}),
    "rw_sam": ("rwSAM", {"rw_sam.alpha": 1.0}),
}
ARMS = {
    "ce_mlp": ("square_root", "class_balanced", "sam", "rw_sam"),
    "look": tuple(REMEDIES),
    "sup_con": (),
    "moco_v2": ("sam", "rw_sam"),
}
SHOTS = {"many_5shot": "many", "medium_5shot": "medium", "few_5shot": "few"}
OTHERS = {"greek_5shot": "Greek", "cyrillic_5shot": "Cyrillic"}


def config_of(method: str, remedy: str, ratio: int, chosen: dict[str, Any]):
    """Config of an arm."""
    kind = METHODS[method]
    c = defaults.apply_variant(defaults.get_config(), kind.method)
    c.data.source, c.data.path = "glyphs", "fonts"
    c.log_every = c.knn_every = c.checkpoint_every = "0 steps"
    fields = FIELDS | kind.settings | chosen
    fields |= REMEDIES[remedy][1] if remedy != PLAIN else {}
    fields |= {"data.long_tail": f"exponential:{ratio}", "data.long_tail_images": IMAGES}
    options = fields.pop("model.options")
    with c.ignore_type():
        c.update_from_flattened_dict(fields)
    c.model.options = options
    return c


def jobs(method, remedy, ratio, chosen, seeds, part="test") -> list[study.Job]:
    """Jobs of an arm; the seed is also that of the draw."""
    one = _job(method, remedy, ratio, tuple(chosen.items()), part)
    data = one.config["data"]
    return [
        one._replace(config=one.config | {"seed": n, "data": data | {"long_tail_seed": n}})
        for n in seeds
    ]


@functools.cache  # making a config takes longer than everything else here
def _job(method, remedy, ratio, chosen, part) -> study.Job:
    config = config_of(method, remedy, ratio, dict(chosen))
    label = f"{method} {remedy} {ratio}"
    (job,) = study.seeds_of(label, config, [0], part, measure="transfer")
    return job


class Results:
    """The study with its records."""

    def __init__(self):
        self.known = {
            transfer_study.job_key(record["config"], record["part"]): record
            for record in records.read(RECORDS)
        }

    def of(self, wanted: list[study.Job]) -> list[dict[str, Any] | None]:
        """Record of each job, None where there is none."""
        return [self.known.get(transfer_study.job_key(job.config, job.part)) for job in wanted]

    def chosen(self, method: str, field: str) -> dict[str, float] | None:
        """The value of a tuned field with the best trial; None before all trials are known."""
        found = self.of(self.trials(method, field))
        if not found or None in found:
            return None
        best = max(range(len(found)), key=lambda i: found[i]["values"][PRIMARY])
        return {field: TUNED[field][best]}

    def trials(self, method: str, field: str) -> list[study.Job]:
        """Runs on validation, one per value: rates of the plain method, then radii of rwSAM."""
        remedy, known = (PLAIN, {}) if field == RATE else ("rw_sam", self.chosen(method, RATE))
        if known is None or remedy not in (PLAIN, *ARMS[method]):
            return []
        return [
            job
            for value in TUNED[field]
            for job in jobs(method, remedy, 100, known | {field: value}, TUNING, "validation")
        ]

    def settings(self, method: str, remedy: str) -> dict[str, Any] | None:
        """What an arm is tuned to; SAM has the radius of rwSAM. None before that is known."""
        rate = self.chosen(method, RATE)
        radius = self.chosen(method, RADIUS) if remedy in ("sam", "rw_sam") else {}
        return None if rate is None or radius is None else rate | radius

    def runs(self, method: str, remedy: str = PLAIN, ratio: int = 100) -> dict[int, dict]:
        """Test records of an arm by seed, of those seeds that have one."""
        settings = self.settings(method, remedy)
        if settings is None:
            return {}
        found = self.of(jobs(method, remedy, ratio, settings, SEEDS))
        return {seed: record for seed, record in zip(SEEDS, found) if record}

    def stages(self) -> list[tuple[str, list[study.Job]]]:
        """Name and jobs of each stage, as far as they are known."""
        cells = [(m, PLAIN, ratio) for ratio in RATIOS for m in METHODS]
        cells += [(m, remedy, 100) for m in METHODS for remedy in ARMS[m]]
        ready = [(cell, self.settings(*cell[:2])) for cell in cells]
        test = [
            job
            for seed in SEEDS
            for cell, settings in ready
            if settings is not None
            for job in jobs(*cell, settings, [seed])
        ]
        tuning = [
            (f"{field} on validation", [j for m in METHODS for j in self.trials(m, field)])
            for field in TUNED
        ]
        return [*tuning, ("test", test)]


@functools.cache
def results() -> Results:
    """The results as they are on disk."""
    return Results()


def planned(of: Results) -> dict[tuple[str, str], tuple[statistics.Resampled, float, str]]:
    """The planned contrasts at ratio 100 with adjusted p and verdict: remedy − plain."""
    found = {(m, r): contrast(of.runs(m, r), of.runs(m)) for m in METHODS for r in ARMS[m]}
    found |= {
        (m, "weights"): contrast(of.runs(m, "rw_sam"), of.runs(m, "sam"))
        for m in METHODS
        if "rw_sam" in ARMS[m]
    }
    adjusted = statistics.holm([1.0 if c is None else c.p for c in found.values()])
    return {
        key: (c, p, statistics.verdict(c, p, BOUND))
        for (key, c), p in zip(found.items(), adjusted)
        if c is not None
    }


def ratios_markdown(of: Results) -> str:
    """Plain methods at each ratio, and ratio 100 minus ratio 1."""
    measures = {PRIMARY: "62 characters"} | SHOTS | OTHERS
    rows = []
    for method, kind in METHODS.items():
        at = {ratio: of.runs(method, ratio=ratio) for ratio in RATIOS}
        if not all(at.values()):
            continue
        for ratio, runs in at.items():
            rows.append(
                (
                    f"{kind.title}, ratio {ratio}",
                    len(runs),
                    *(mean(runs.values(), m) for m in measures),
                )
            )
        differences = [interval(contrast(at[100], at[1], m)) for m in measures]
        rows.append((f"{kind.title}, 100 − 1", min(map(len, at.values())), *differences))
    return table(("pre-training", "seeds", *measures.values()), rows)


def remedies_markdown(of: Results) -> str:
    """Each remedy minus the plain method at ratio 100, with verdicts in the primary measure."""
    rows = []
    for (method, remedy), (c, p, word) in planned(of).items():
        if remedy == "weights":
            title, sides = "rwSAM − SAM", (of.runs(method, "rw_sam"), of.runs(method, "sam"))
        else:
            title, sides = REMEDIES[remedy][0], (of.runs(method, remedy), of.runs(method))
        others = [interval(contrast(*sides, m)) for m in (*SHOTS, *OTHERS)]
        seconds = [
            np.median([r["values"]["pretrain_cpu_seconds"] for r in s.values()]) for s in sides
        ]
        bold = word if word in (statistics.TIE, statistics.OPEN) else f"**{word}**"
        cost = f"{seconds[0] / seconds[1]:.1f} ×"
        arm = f"{METHODS[method].title}: {title}"
        rows.append((arm, c.n, interval(c), f"{p:.3f}", bold, *others, cost))
    titles = ("arm", "seeds", "62 characters", "p (Holm)", "verdict")
    return table((*titles, *SHOTS.values(), *OTHERS.values(), "CPU time"), rows)


def lead_markdown(of: Results) -> str:
    """LOOK minus the peers with labels at each ratio, in the primary measure."""
    peers = "ce_mlp", "sup_con"
    rows = []
    for ratio in RATIOS:
        look, *others = (of.runs(m, ratio=ratio) for m in ("look", *peers))
        if look and all(others):
            cells = [interval(contrast(look, runs)) for runs in others]
            rows.append((ratio, min(map(len, (look, *others))), *cells))
    return table(("ratio", "seeds", *(f"LOOK − {METHODS[m].title}" for m in peers)), rows)


def robustness_markdown(of: Results) -> str:
    """What imbalance costs one method beyond what it costs another, on each measure."""
    measures = {PRIMARY: "62 characters"} | SHOTS | OTHERS
    rows = []
    pairs = [("ce_mlp", "moco_v2"), ("ce_mlp", "look"), ("look", "moco_v2"), ("sup_con", "look")]
    for one, other in pairs:
        at = {m: [of.runs(m, ratio=r) for r in (100, 1)] for m in (one, other)}
        seeds = sorted(set.intersection(*(set(runs) for pair in at.values() for runs in pair)))
        if len(seeds) < statistics.MIN_SEEDS:
            continue

        def sides(measure, at=at, seeds=seeds, one=one, other=other):
            correct = {
                m: [
                    np.array([runs[s]["correct"][measure]["correct"] for s in seeds])
                    for runs in pair
                ]
                for m, pair in at.items()
            }
            sizes = [at[one][0][s]["correct"][measure]["sizes"] for s in seeds]
            # (one at 100 − one at 1) − (other at 100 − other at 1), as one paired difference.
            left = correct[one][0] + correct[other][1]
            right = correct[one][1] + correct[other][0]
            return statistics.bootstrap(left, right, np.array(sizes))

        names = f"{METHODS[one].title} − {METHODS[other].title}"
        rows.append((names, len(seeds), *(interval(sides(m)) for m in measures)))
    return table(("loss of ratio 100, compared", "seeds", *measures.values()), rows)


def tuning_markdown(of: Results) -> str:
    """The values that validation chose for each method, and the accuracy of all that were tried."""
    rows = []
    for method, kind in METHODS.items():
        for field, values in TUNED.items():
            if (chosen := of.chosen(method, field)) is not None:
                found = (record["values"][PRIMARY] for record in of.of(of.trials(method, field)))
                tried = ", ".join(f"{v:g}: {points(x)}" for v, x in zip(values, found))
                rows.append((f"{kind.title}: `{field}`", f"{chosen[field]:g}", tried))
    return table(("tuned", "chosen", "5-shot on validation, %"), rows)


def run(minutes: float, workers: int) -> None:
    """Runs what is left, stage by stage, for at most that many minutes."""
    end = time.monotonic() + 60 * minutes if minutes else math.inf
    while time.monotonic() < end:
        now = Results()
        stages = now.stages()
        place = next((i for i, (_, wanted) in enumerate(stages) if None in now.of(wanted)), None)
        if place is None:
            print("nothing is left to run")
            return
        name, wanted = stages[place]
        print(f"{name}: {now.of(wanted).count(None)} runs are left", flush=True)
        study.run(
            wanted,
            RECORDS,
            workers=workers,
            max_minutes=0 if end == math.inf else max((end - time.monotonic()) / 60, 1e-3),
            on_done=lambda r: print(
                f"  {r['label']}, seed {r['seed']}: {r['values']['pretrain_cpu_seconds']:.0f} s",
                flush=True,
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after that")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per CPU core")
    args = parser.parse_args()
    os.chdir(ROOT.parent)  # fonts are named from here
    run(args.minutes, args.workers)


if __name__ == "__main__":
    main()
