"""The transfer study: does LOOK transfer better than its peers? docs/study.md is its protocol.

    scripts/fetch_glyphs.sh fonts
    python benchmarks/transfer_study.py --small               # two CPU cores, a few hours
    python benchmarks/transfer_study.py --small --minutes=30  # a part of it; repeat to continue
    python benchmarks/transfer_study.py --full --minutes=25   # one H100; repeat to continue

Runs that are already in the file of records are not repeated. The stages follow one another in the
order of ``stages``: on each set the headline arms are tuned and run first. Prints what is left.
"""

import argparse
import collections
import functools
import math
import os
import pathlib
import time
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # processes share an accelerator

import numpy as np  # noqa: E402
from jaxpt.configs.pretrain import defaults  # noqa: E402

from jaxpt import records  # noqa: E402
from jaxpt.cost import plan  # noqa: E402
from jaxpt.methods import METHODS  # noqa: E402
from jaxpt.report import figures, statistics  # noqa: E402
from jaxpt.report.results import join  # noqa: E402
from jaxpt.studies import study  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent
RECORDS = ROOT / "records"
SETS = ("fashion_mnist", "glyphs")
HEADLINE = ("look", "ce_mlp", "sup_con", "nca")
SELECTED_BY = "coarse_knn"  # on the validation part; "fine_5shot" would be the upper bound
PRIMARY = "fine_5shot"
BOUND = 0.01  # differences within ± one point count as equivalent
SEEDS = {"headline": tuple(range(10)), "other": tuple(range(5)), "tuning": (1000,)}

# --- Arms ---


class Arm(NamedTuple):
    """One way to pre-train.

    Attributes:
      title: in tables.
      method: of jaxpt.
      settings: changed fields; ``share`` is LOOK's k as a share of the keys per class.
      knobs: fields that random search draws besides the learning rate: name → (lowest, highest) of
        a log-uniform draw, or a list of values.
      like: arm whose tuned settings this one takes over; "" if it is tuned itself.
    """

    title: str
    method: str
    settings: dict[str, Any] = {}
    knobs: dict[str, Any] = {}
    like: str = ""


TEMPERATURE = {"temperature": (0.03, 0.5)}
SMOOTHING = {"cross_entropy.label_smoothing": [0.0, 0.1, 0.2]}
MLP = {"cross_entropy.classifier": "mlp"}
SHARE = {"share": [0.25, 0.5, 1.0]}
LINEAR = {"model.projector.hidden": ()}
ARMS = {
    "look": Arm("LOOK", "look", knobs=TEMPERATURE | SHARE),
    "ce_mlp": Arm("cross-entropy with MLP head", "cross_entropy", MLP, SMOOTHING),
    "sup_con": Arm("SupCon", "sup_con", knobs=TEMPERATURE),
    "nca": Arm("NCA", "nca", knobs=TEMPERATURE),
    # The factorial around them.
    "ce_linear": Arm("cross-entropy with linear head", "cross_entropy", {}, SMOOTHING),
    "sup_moco": Arm("SupCon over the memory", "sup_moco", knobs=TEMPERATURE),
    "look_linear": Arm("LOOK with linear projector", "look", LINEAR, like="look"),
    "sup_con_linear": Arm("SupCon with linear projector", "sup_con", LINEAR, like="sup_con"),
    "look_quarter": Arm("LOOK with k = ¼ of a class", "look", {"share": 0.25}, like="look"),
    "look_half": Arm("LOOK with k = ½ of a class", "look", {"share": 0.5}, like="look"),
    "look_whole": Arm("LOOK with k = a class", "look", {"share": 1.0}, like="look"),
    "look_schedule": Arm(
        "LOOK with k from all keys down",
        "look",
        {"share": 0.25, "look.k_warmup": "all"},
        like="look",
    ),
    "look_own": Arm(
        "LOOK + InfoNCE", "look", knobs=TEMPERATURE | SHARE | {"look.own_view": [0.1, 0.25, 0.5]}
    ),
    "grafit": Arm(
        "Grafit (SupCon over the memory + InfoNCE)",
        "grafit",
        knobs=TEMPERATURE | {"grafit.weight": [0.5, 0.75, 0.9]},
    ),
    "mask_con": Arm(
        "MaskCon", "mask_con", knobs=TEMPERATURE | {"mask_con.weight": [0.5, 0.75, 1.0]}
    ),
    "moco_v2": Arm("MoCo v2 (no labels)", "moco_v2", knobs=TEMPERATURE),
    # Controls.
    "ce_mlp_passes": Arm(
        "cross-entropy with MLP head and LOOK's passes",
        "cross_entropy",
        MLP | {"longer": 4 / 3},
        like="ce_mlp",
    ),
    "sup_con_passes": Arm(
        "SupCon with LOOK's passes", "sup_con", {"longer": 4 / 3}, like="sup_con"
    ),
    "random": Arm("random network", "cross_entropy", {"longer": 0.0}, like="ce_linear"),
    "ceiling": Arm(
        "cross-entropy with MLP head and fine labels",
        "cross_entropy",
        MLP | {"data.label_map": "fine"},
        like="ce_mlp",
    ),
}
TUNED = [name for name, arm in ARMS.items() if not arm.like]
CLASSES = {"glyphs": 3, "fashion_mnist": 5}
LEVELS = (2, 5, 20, 62)  # upstream classes of the granularity curve
WRONG = (0.0, 0.1, 0.3)  # shares of wrong upstream labels
GRANULARITY = ("look", "ce_mlp", "sup_con")
TRIALS = 6
RATES = (5e-4, 2e-2)  # range of the learning rate


class Scale(NamedTuple):
    """Size of a study: fields of all configs, steps, and where its records are."""

    records: pathlib.Path
    steps: int
    fields: dict[str, Any]
    of_set: dict[str, dict[str, Any]]


SMALL_NET = {"widths": (16, 32, 64, 64), "strides": (2, 1, 2, 1)}
SCALES = {
    "small": Scale(
        RECORDS / "transfer_study_small.jsonl",
        600,
        {"batch_size": 128, "memory": 2_048, "ema": 0.99, "optimizer.warmup": "30 steps"},
        {
            "glyphs": {"data.image_size": 16, "model.options": SMALL_NET},
            "fashion_mnist": {"model.options": SMALL_NET | {"strides": (2, 2, 2, 1)}},
        },
    ),
    "full": Scale(
        RECORDS / "transfer_study_full.jsonl",
        2_000,
        {
            "batch_size": 512,
            "memory": 16_384,
            "ema": 0.99,
            "optimizer.warmup": "100 steps",
            "model.name": "resnet18",
            "model.norm": "batch",
            "model.dtype": "bfloat16",
            "model.options": {"width": 32, "stem": "small"},
            "model.projector.hidden": (512,),
            "model.projector.dim": 128,
        },
        {"glyphs": {"data.image_size": 32}, "fashion_mnist": {}},
    ),
}


def config_of(scale: Scale, data: str, arm: str, chosen: dict[str, Any], **changes):
    """Config of an arm with its chosen hyper-parameters."""
    c = defaults.apply_variant(defaults.get_config(), ARMS[arm].method)
    c.data.source = data
    if data == "glyphs":
        c.data.path, c.data.label_map = "fonts", "level:1"
    else:
        c.data.label_map = "fashion5"
        c.augment.flip = c.key_augment.flip = True
    c.log_every = c.knn_every = c.checkpoint_every = "0 steps"
    fields = scale.fields | scale.of_set[data] | chosen | ARMS[arm].settings | changes
    classes = fields.pop("classes", CLASSES[data])
    share, longer = fields.pop("share", None), fields.pop("longer", 1.0)
    if share is not None and ARMS[arm].method == "look":
        fields["look.k"] = max(1, round(share * fields["memory"] / classes))
    steps = max(1, round(scale.steps * longer))
    fields["duration"] = f"{steps} steps"
    if fields.get("look.k_warmup") == "all":
        fields["look.k_warmup"] = fields["duration"]
    if longer == 0:  # the initial weights
        fields |= {"optimizer.learning_rate": 1e-9, "optimizer.warmup": "0 steps"}
    options = fields.pop("model.options")
    with c.ignore_type():
        c.update_from_flattened_dict(fields)
    c.model.options = options
    return c


# --- Tuning ---


def trials(data: str, arm: str) -> list[dict[str, Any]]:
    """The settings that random search tries: one learning rate in each sixth of the range.

    The other knobs are drawn alike: ranges in sixths, lists in turn; the order is shuffled.
    """
    rng = np.random.default_rng([SETS.index(data), list(ARMS).index(arm)])

    def along(low, high):
        places = (np.arange(TRIALS) + rng.uniform(size=TRIALS)) / TRIALS
        return [float(f"{low * (high / low) ** place:.2g}") for place in places]

    columns = {"optimizer.learning_rate": along(*RATES)}
    for name, values in ARMS[arm].knobs.items():
        drawn = (
            along(*values)
            if isinstance(values, tuple)
            else [values[i % len(values)] for i in range(TRIALS)]
        )
        columns[name] = [drawn[i] for i in rng.permutation(TRIALS)]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def beyond(tried: list[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """Two more trials if the best learning rate is the lowest or the highest that was tried."""
    rates = [trial["optimizer.learning_rate"] for trial in tried]
    rate = best["optimizer.learning_rate"]
    factors = (2, 4) if rate == max(rates) else (1 / 2, 1 / 4) if rate == min(rates) else ()
    return [best | {"optimizer.learning_rate": float(f"{rate * f:.2g}")} for f in factors]


class Study:
    """A study with its records: which jobs there are, given what is known."""

    def __init__(self, size: str):
        self.scale = SCALES[size]
        self.configs: dict[str, dict[str, Any]] = {}
        self.known = {
            job_key(record["config"], record["part"]): record
            for record in records.read(self.scale.records)
        }

    def jobs(self, data, arm, chosen, seeds, part, label="", **changes) -> list[study.Job]:
        name = repr((data, arm, chosen, part, changes))
        if name not in self.configs:  # making a config takes longer than everything else here
            config = config_of(self.scale, data, arm, chosen, **changes)
            (job,) = study.seeds_of(label or arm, config, [0], part)
            self.configs[name] = job.config
        return [
            study.Job(label or arm, self.configs[name] | {"seed": seed}, part, measure="transfer")
            for seed in seeds
        ]

    def tuning_jobs(self, data: str, arm: str) -> tuple[list[dict[str, Any]], list[study.Job]]:
        """Trials of an arm and their jobs; those beyond an edge once the first ones are known."""
        settings = trials(data, arm)

        def jobs():
            return [
                job
                for trial in settings
                for job in self.jobs(data, arm, trial, SEEDS["tuning"], "validation")
            ]

        found = self.values(jobs())
        if None not in found:
            best = max(range(TRIALS), key=lambda i: found[i][SELECTED_BY])
            settings = settings + beyond(settings, settings[best])
        return settings, jobs()

    def values(self, jobs) -> list[dict[str, float] | None]:
        """Values of each job's record, None where there is none."""
        found = [self.known.get(job_key(job.config, job.part)) for job in jobs]
        return [record and record["values"] for record in found]

    def chosen(self, data: str, arm: str, by: str = SELECTED_BY) -> dict[str, Any] | None:
        """Settings of the best trial on validation, or None before all trials have a record."""
        if ARMS[arm].like:
            return self.chosen(data, ARMS[arm].like, by)
        settings, jobs = self.tuning_jobs(data, arm)
        found = self.values(jobs)
        if None in found:
            return None
        return settings[max(range(len(found)), key=lambda i: found[i][by])]

    def arm_jobs(self, data, arms, seeds) -> list[study.Job]:
        """Test jobs of some arms, seed by seed; arms that are not tuned yet are left out."""
        ready = [(arm, self.chosen(data, arm)) for arm in arms]
        return [
            job
            for seed in seeds
            for arm, chosen in ready
            if chosen is not None
            for job in self.jobs(data, arm, chosen, [seed], "test")
        ]

    def upstream_jobs(self, upstream: dict[str, dict[str, Any]]) -> list[study.Job]:
        """Test jobs on glyphs with other upstream labels: changed fields by name."""
        return [
            job
            for seed in SEEDS["other"]
            for name, changes in upstream.items()
            for arm in GRANULARITY
            if (chosen := self.chosen("glyphs", arm)) is not None
            for job in self.jobs(
                "glyphs", arm, chosen, [seed], "test", f"{arm}{name}" if name else "", **changes
            )
        ]

    def stages(self) -> list[tuple[str, Any]]:
        """Name of each stage and a function that gives its jobs as far as they are known."""
        found = []
        for data in SETS:
            found += [
                (
                    f"tuning the headline arms on {data}",
                    functools.partial(self.tuning, data, HEADLINE),
                ),
                (
                    f"headline on {data}",
                    functools.partial(self.arm_jobs, data, HEADLINE, SEEDS["headline"]),
                ),
            ]
        others = [arm for arm in ARMS if arm not in HEADLINE]
        for data in SETS:
            tuned = [arm for arm in others if arm in TUNED]
            found += [
                (f"tuning the other arms on {data}", functools.partial(self.tuning, data, tuned)),
                (
                    f"other arms on {data}",
                    functools.partial(self.arm_jobs, data, others, SEEDS["other"]),
                ),
            ]
            if data == "glyphs":
                for name, upstream in UPSTREAM.items():
                    found.append((name, functools.partial(self.upstream_jobs, upstream)))
        return found

    def tuning(self, data, arms) -> list[study.Job]:
        return [job for arm in arms for job in self.tuning_jobs(data, arm)[1]]

    # --- Results ---

    def runs(self, data: str, arm: str, seeds, **changes) -> dict[int, dict[str, Any]]:
        """Records of an arm on the test part by seed, of those seeds that have one."""
        chosen = self.chosen(data, arm)
        if chosen is None:
            return {}
        jobs = self.jobs(data, arm, chosen, seeds, "test", **changes)
        found = zip(seeds, (self.known.get(job_key(job.config, "test")) for job in jobs))
        return {seed: record for seed, record in found if record}

    def planned(self) -> dict[tuple[str, str], tuple[statistics.Resampled, float, str]]:
        """The planned contrasts by (set, peer): the difference, its adjusted p, and the verdict.

        p values are adjusted for all six, also while some have no runs yet.
        """
        seeds = SEEDS["headline"]
        found = {
            (data, peer): contrast(
                self.runs(data, HEADLINE[0], seeds), self.runs(data, peer, seeds)
            )
            for data in SETS
            for peer in HEADLINE[1:]
        }
        adjusted = statistics.holm([1.0 if c is None else c.p for c in found.values()])
        return {
            key: (c, p, statistics.verdict(c, p, BOUND))
            for (key, c), p in zip(found.items(), adjusted)
            if c is not None
        }

    def differences(self, data: str, peer: str) -> np.ndarray:
        """LOOK minus a peer in the primary measure, for each seed."""
        one, other = (
            {
                seed: np.mean(np.sum(of["correct"], axis=1)) / np.sum(of["sizes"])
                for seed, record in self.runs(data, arm, SEEDS["headline"]).items()
                for of in [record["correct"][PRIMARY]]
            }
            for arm in (HEADLINE[0], peer)
        )
        return np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def contrast(one, other, measure: str = PRIMARY) -> statistics.Resampled | None:
    """Bootstrapped difference of two sides, seed → record; None with fewer than two seeds."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < statistics.MIN_SEEDS or measure not in one[seeds[0]]["correct"]:
        return None
    found = [[runs[s]["correct"][measure] for s in seeds] for runs in (one, other)]
    sizes, sizes_too = ([x["sizes"] for x in side] for side in found)
    assert sizes == sizes_too
    correct = (np.array([x["correct"] for x in side]) for side in found)
    return statistics.bootstrap(*correct, np.array(sizes))


TITLES = {"glyphs": "glyphs", "fashion_mnist": "Fashion-MNIST"}
MEASURES = {
    "fine_5shot": "fine 5-shot",
    "fine_knn": "fine kNN",
    "coarse_knn": "coarse kNN",
    "greek_5shot": "Greek 5-shot",
    "cyrillic_5shot": "Cyrillic 5-shot",
    "family_knn": "family kNN",
    "weight_knn": "weight kNN",
    "slant_knn": "slant kNN",
    "serifs_knn": "serifs kNN",
}
NOTHING = "*No runs yet.*"


def points(value: float, sign: str = "") -> str:
    """A share as a number of percentage points."""
    return f"{100 * value:{sign}.1f}".replace("-", "−")


def _row(cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(titles, rows) -> str:
    """A Markdown table; ``NOTHING`` without rows."""
    if not rows:
        return NOTHING
    head = [_row(titles), f"| --- |{' ---: |' * (len(titles) - 1)}"]
    return "\n".join([*head, *map(_row, rows)])


def contrasts_markdown(of: Study) -> str:
    """The planned contrasts in the primary measure."""
    rows = [
        (
            f"{TITLES[data]}: LOOK − {ARMS[peer].title}",
            c.n,
            points(c.mean, "+"),
            ends(c),
            f"{p:.3f}",
            word if word in (statistics.TIE, statistics.OPEN) else f"**{word}**",
            points(np.median(of.differences(data, peer)), "+"),
            " … ".join(points(end(of.differences(data, peer)), "+") for end in (np.min, np.max)),
        )
        for (data, peer), (c, p, word) in of.planned().items()
    ]
    heads = "contrast", "seeds", "points", "95 % interval", "p (Holm)", "verdict"
    return table((*heads, "median of seeds", "range of seeds"), rows)


def others_markdown(of: Study) -> str:
    """LOOK minus each arm that is not planned, over the seeds that both have; not adjusted."""
    rows = []
    for arm in ARMS:
        cells = []
        for data in SETS if arm not in HEADLINE else ():
            sides = (of.runs(data, one, SEEDS["other"]) for one in (HEADLINE[0], arm))
            cells.append(interval(contrast(*sides)))
        if any(cells):
            rows.append((ARMS[arm].title, *cells))
    return table(("LOOK minus …", *(TITLES[data] for data in SETS)), rows)


def interval(c: statistics.Resampled | None) -> str:
    """A difference in points with its 95 % interval; empty without one."""
    return f"{points(c.mean, '+')} ({ends(c)})" if c else ""


def ends(c: statistics.Resampled) -> str:
    """The ends of its 95 % interval."""
    return " … ".join(points(end, "+") for end in c.interval)


def accuracies_markdown(of: Study, data: str) -> str:
    """All arms: means (standard deviation over seeds) in %, R², CPU seconds and encoder passes."""
    found = {}
    for arm in ARMS:
        seeds = SEEDS["headline" if arm in HEADLINE else "other"]
        if runs := of.runs(data, arm, seeds):
            found[arm] = runs
    names = [
        m for m in MEASURES if any(m in next(iter(r.values()))["values"] for r in found.values())
    ]
    rows = []
    for arm, runs in found.items():
        values = [record["values"] for record in runs.values()]
        seconds = np.median([v["pretrain_cpu_seconds"] for v in values])
        separation = np.mean([v["class_separation"] for v in values])
        rows.append(
            (
                ARMS[arm].title,
                len(values),
                *(mean(runs.values(), name) for name in names),
                f"{separation:.2f}",
                f"{seconds:.0f}",
                f"{passes(next(iter(runs.values()))['config']):,.0f}",
            )
        )
    titles = ("arm", "seeds", *(MEASURES[m] for m in names), "R²", "CPU s", "passes")
    return table(titles, rows)


def mean(of, measure: str) -> str:
    """Mean of a measure over records, and its standard deviation if there are several."""
    column = np.array([record["values"][measure] for record in of])
    spread = f" ({points(column.std(ddof=1))})" if len(column) > 1 else ""
    return points(column.mean()) + spread


def passes(config: dict[str, Any]) -> float:
    """Thousands of encoder passes of a run: a backward pass counts as two forward passes."""
    images = config["batch_size"] * int(config["duration"].split()[0]) / 1000
    targets = (
        "target" in METHODS[config["method"]].reads or "memory" in METHODS[config["method"]].reads
    )
    return images * (3 * config["views"] + targets)


def tuning_markdown(of: Study, data: str) -> str:
    """Settings that tuning chose, with their coarse accuracy, and those of the fine labels."""
    rows = []
    for arm in TUNED:
        chosen, by_fine = of.chosen(data, arm), of.chosen(data, arm, PRIMARY)
        if chosen is None:
            continue
        settings, jobs = of.tuning_jobs(data, arm)
        values = of.values(jobs)[settings.index(chosen)]
        rows.append(
            (
                ARMS[arm].title,
                len(settings),
                _settings(chosen),
                points(values[SELECTED_BY]),
                "the same" if by_fine == chosen else _settings(by_fine),
            )
        )
    return table(("arm", "trials", "chosen", "coarse kNN", "by fine labels"), rows)


def _settings(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {value:g}" for name, value in chosen.items())


def upstream_markdown(of: Study, name: str) -> str:
    """Accuracies, and LOOK minus its peers, by a property of the upstream labels."""
    rows = []
    for changes in UPSTREAM[name].values():
        runs = {arm: of.runs("glyphs", arm, SEEDS["other"], **changes) for arm in GRANULARITY}
        cells = [interval(contrast(runs[GRANULARITY[0]], runs[peer])) for peer in GRANULARITY[1:]]
        if all(cells):
            means = [mean(of_arm.values(), PRIMARY) for of_arm in runs.values()]
            rows.append((VALUE[name](changes), min(map(len, runs.values())), *means, *cells))
    arms = [ARMS[arm].title for arm in GRANULARITY]
    return table((name, "seeds", *arms, *(f"LOOK − {peer}" for peer in arms[1:])), rows)


def answer(of: Study) -> str:
    """The result of the planned contrasts in one paragraph."""
    found = of.planned()
    if not found:
        return "No contrast of the study has been measured yet."
    kinds = {
        statistics.ABOVE: "is above",
        statistics.BELOW: "is below",
        statistics.TIE: "ties (within ± 1 point) with",
        statistics.OPEN: "shows no clear difference from",
    }
    sentences = []
    for data in SETS:
        clauses = []
        for kind, words in kinds.items():
            peers = [
                f"{ARMS[peer].title} ({points(c.mean, '+')} points, "
                f"median of seeds {points(np.median(of.differences(data, peer)), '+')})"
                for (of_data, peer), (c, _, word) in found.items()
                if of_data == data and word == kind
            ]
            if peers:
                clauses.append(f"{words} {join(peers)}")
        if clauses:
            sentences.append(f"On {TITLES[data]}, LOOK {join(clauses)}.")
    few = min(c.n for c, _, _ in found.values())
    whole = len(found) == len(SETS) * (len(HEADLINE) - 1) and few == len(SEEDS["headline"])
    state = f"{few} seeds" if whole else f"unfinished: {len(found)} of 6 contrasts, {few} seeds"
    text = f"In 5-shot accuracy on fine labels ({state}): {' '.join(sentences)}"
    times = [
        f"{times_of_sup_con(of, data):.1f} × on {TITLES[data]}"
        for data in SETS
        if (data, "sup_con") in found
    ]
    text += f" LOOK's pre-training takes longer than SupCon's: {join(times)}."
    best = {data: highest(of, data) for data in SETS}
    if not all(best.values()):
        return text
    where = [f"{arm} on {TITLES[data]}" for data, arm in best.items()]
    if len(set(best.values())) == 1:
        where = [f"{best[SETS[0]]} on both sets"]
    return (
        f"{text} Of all arms without fine labels, the highest mean has {join(where)} (exploratory)."
    )


def times_of_sup_con(of: Study, data: str) -> float:
    """Median CPU time of LOOK's pre-training in multiples of SupCon's."""
    look, sup_con = (
        np.median([r["values"]["pretrain_cpu_seconds"] for r in runs.values()])
        for runs in (of.runs(data, arm, SEEDS["headline"]) for arm in ("look", "sup_con"))
    )
    return look / sup_con


def highest(of: Study, data: str) -> str:
    """Title of the arm without fine labels that has the highest mean; "" before all have run."""
    means = {}
    for arm in ARMS.keys() - {"ceiling"}:
        seeds = SEEDS["headline" if arm in HEADLINE else "other"]
        runs = of.runs(data, arm, seeds)
        if len(runs) == len(seeds):
            means[arm] = np.mean([record["values"][PRIMARY] for record in runs.values()])
    return ARMS[max(means, key=means.get)].title if len(means) == len(ARMS) - 1 else ""


def cost_markdown(size: str, chip: str = "h100-1") -> str:
    """Estimated hours of all runs on a chip, by arm: counted as ``jaxpt plan`` does."""
    of, rows, total = Study(size), [], 0.0
    images = {"glyphs": 67_000, "fashion_mnist": 60_000}
    for data in SETS:
        for arm, its in ARMS.items():
            config = config_of(of.scale, data, arm, trials(data, its.like or arm)[0])
            (found,) = plan.run(config, [chip], images=images[data], classes=CLASSES[data])
            runs = len(SEEDS["headline" if arm in HEADLINE else "other"])
            runs += 0 if its.like else TRIALS
            if data == "glyphs" and arm in GRANULARITY:
                runs += sum(map(len, UPSTREAM.values())) * len(SEEDS["other"])
            hours = runs * found.hours
            total += hours
            rows.append((f"{TITLES[data]}: {its.title}", runs, f"{3600 * found.hours:.0f}", hours))
    rows = [(*row[:-1], f"{row[-1]:.2f}") for row in rows] + [("all", "", "", f"{total:.1f}")]
    return table(("arm", "runs", "seconds per run", "hours"), rows)


def left_markdown(of: Study) -> str:
    """How many runs of each stage are done; stages that wait for tuning count what is known."""
    rows = []
    for name, jobs in of.stages():
        found = of.values(jobs())
        rows.append((name, len(found) - found.count(None), found.count(None)))
    return table(("stage", "runs done", "runs left"), rows)


def figure(of: Study, path: pathlib.Path) -> None:
    """Draws the planned differences, and accuracy against encoder passes and upstream classes."""
    planned = of.planned()
    with figures.panel(8, 11) as figure:
        above, below, legend, curve = figure.subfigures(4, 1, height_ratios=[2.6, 3.2, 2.5, 2.7])
        first = above.subplots()
        first.axvspan(-100 * BOUND, 100 * BOUND, color="0.9")
        first.axvline(0, color=figures.GREY, linewidth=0.8)
        for i, (c, _, _) in enumerate(planned.values()):
            first.plot(100 * np.array(c.interval), [-i, -i], color=figures.BLUE)
            first.plot(100 * c.mean, -i, "o", color=figures.BLUE)
        names = [f"{TITLES[data]}: {ARMS[peer].title}" for data, peer in planned]
        first.set_yticks([-i for i in range(len(planned))], names)
        first.set_xlabel("LOOK minus …, points of fine 5-shot")
        drawn = {}
        for ax, data in zip(below.subplots(1, len(SETS)), SETS):
            beside: collections.Counter = collections.Counter()  # arms of equal cost
            for i, arm in enumerate(ARMS):
                runs = of.runs(data, arm, SEEDS["headline" if arm in HEADLINE else "other"])
                if arm in ("random", "ceiling") or not runs:
                    continue
                x = passes(next(iter(runs.values()))["config"])
                y = [100 * r["values"][PRIMARY] for r in runs.values()]
                error = np.std(y, ddof=1) / math.sqrt(len(y)) if len(y) > 1 else 0.0
                drawn[arm] = ax.errorbar(
                    x + 2 * beside[x], np.mean(y), error, fmt="os"[i // 10], color=f"C{i % 10}"
                )
                beside[x] += 1
            ax.set(title=TITLES[data], xlabel="thousands of encoder passes")
            ax.set_ylabel("fine 5-shot, %")
        titles = [ARMS[arm].title for arm in drawn]
        legend.legend(list(drawn.values()), titles, loc="center", ncols=2)
        levels, last = UPSTREAM["upstream classes"].values(), curve.subplots()
        for i, arm in enumerate(GRANULARITY):
            found = [
                [
                    100 * r["values"][PRIMARY]
                    for r in of.runs("glyphs", arm, SEEDS["other"], **c).values()
                ]
                for c in levels
            ]
            if all(len(y) > 1 for y in found):
                error = [np.std(y, ddof=1) / math.sqrt(len(y)) for y in found]
                places = np.arange(len(found)) + 0.05 * (i - 1)
                last.errorbar(
                    places, list(map(np.mean, found)), error, fmt="o-", label=ARMS[arm].title
                )
        last.set_xticks(range(len(levels)), [str(c["classes"]) for c in levels])
        last.set(title=TITLES["glyphs"], xlabel="upstream classes", ylabel="fine 5-shot, %")
        last.legend()
        figure.savefig(path, dpi=figures.RASTER_DPI, facecolor="white")


def job_key(config: dict[str, Any], part: str) -> str:
    """Key of a job without its data, which are the same for all records of a study."""
    return study.key_of(config, part, "transfer")


def label_map(classes: int) -> str:
    """Name of the label map with that many upstream classes."""
    return "fine" if classes == 62 else f"benchmarks/label_maps/glyphs_{classes}.csv"


# Other upstream labels on glyphs: the names of their runs, and changed fields.
UPSTREAM = {
    "upstream classes": {
        f" of {level}": {"data.label_map": label_map(level), "classes": level} for level in LEVELS
    },
    "wrong labels": {
        f", {share:.0%} wrong" if share else "": {"data.wrong_labels": share} for share in WRONG
    },
}
VALUE = {  # of the first column of their tables
    "upstream classes": lambda changes: changes["classes"],
    "wrong labels": lambda changes: f"{changes['data.wrong_labels']:.0%}".replace("%", " %"),
}


def write_label_maps() -> None:
    """Writes the nested random merges of the 62 characters to 20, 5 and 2 classes."""
    from jaxpt.data import glyphs

    names = [
        f"{block}/{character}"
        for block, characters in glyphs.ALPHABETS["latin"].items()
        for character in characters
    ]
    rng = np.random.default_rng(0)
    of = rng.permutation(62) % 20
    for classes in (20, 5, 2):
        of = of if classes == 20 else (rng.permutation(of.max() + 1) % classes)[of]
        lines = [f"{name},class {i}" for name, i in zip(names, of)]
        path = ROOT / "label_maps" / f"glyphs_{classes}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("fine,coarse\n" + "\n".join(lines) + "\n")


def run(size: str, minutes: float, workers: int) -> None:
    """Runs what is left, stage by stage, for at most that many minutes."""
    end = time.monotonic() + 60 * minutes if minutes else math.inf
    place = 0
    while True:
        now = Study(size)
        stages = now.stages()
        left = [(name, now.values(jobs()).count(None)) for name, jobs in stages]
        place = next((i for i, (_, n) in enumerate(left) if n), None)
        if place is None or time.monotonic() >= end:
            break
        print(f"{left[place][0]}: {left[place][1]} runs", flush=True)
        study.run(
            stages[place][1](),
            now.scale.records,
            workers=workers,
            max_minutes=0 if end == math.inf else max((end - time.monotonic()) / 60, 1e-3),
            on_done=lambda r: print(
                f"  {r['label']}, seed {r['seed']}: {r['values']['pretrain_seconds']:.0f} s",
                flush=True,
            ),
        )
    for name, n in left:
        print(f"left: {n} runs of {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--small", dest="size", action="store_const", const="small")
    size.add_argument("--full", dest="size", action="store_const", const="full")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after that")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per CPU core")
    parser.add_argument("--cost", action="store_true", help="only estimate hours on one H100")
    parser.add_argument("--figure", help="only draw the results, to this file")
    args = parser.parse_args()
    os.chdir(ROOT.parent)  # label maps and fonts are named from here
    if args.cost:
        print(cost_markdown(args.size))
        return
    if args.figure:
        figure(Study(args.size), pathlib.Path(args.figure))
        return
    run(args.size, args.minutes, args.workers)


if __name__ == "__main__":
    main()
