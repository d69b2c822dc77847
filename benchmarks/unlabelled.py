"""Does it help to fine-tune with second-order pooling, or with images without labels?

    scripts/fetch_glyphs.sh fonts
    python benchmarks/unlabelled.py                # about 20 minutes of one CPU core
    python benchmarks/unlabelled.py --minutes=10   # a part of it; repeat to continue
    python benchmarks/unlabelled.py --set=glyphs   # one set, so that two can run side by side

docs/unlabelled.md is the protocol. Encoders are pre-trained by LOOK on coarse labels, with the
settings of the small transfer study, and kept in runs/unlabelled. Runs that are already in the file
of records are not repeated.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import time
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import transfer_study
from transfer_study import ends, interval, points, table
from jaxpt.configs.transfer import defaults

from jaxpt import backbones, finetune, pretrain, records
from jaxpt.cache import use_compile_cache
from jaxpt.data import glyphs, sources
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.task import some_rows
from jaxpt.report import statistics
from jaxpt.studies.transfer import BLOCK
from jaxpt.train.parallel import Devices

ROOT = pathlib.Path(__file__).resolve().parent
RECORDS = ROOT / "records" / "unlabelled.jsonl"
BACKBONES = ROOT.parent / "runs" / "unlabelled"
SOURCES = {"glyphs": "glyphs:greek", "fashion_mnist": "fashion_mnist"}
TITLES = {"glyphs": "Greek letters", "fashion_mnist": "Fashion-MNIST"}
SHOTS = (10, 25)
SEEDS, TUNING_SEED = tuple(range(5)), 1000  # of fine-tuning
STEPS = 150
ROWS = {"validation": 2_000, "test": 5_000}  # images to score, a fixed draw
CELLS = [(data, shots) for data in SOURCES for shots in SHOTS]


class Arm(NamedTuple):
    """One way to fine-tune.

    Attributes:
      title: in tables.
      settings: changed fields.
      minimax: whether the weight of minimax entropy is tuned; otherwise there is none.
      like: arm whose tuned settings this one takes over; "" if it is tuned itself.
    """

    title: str
    settings: dict[str, Any] = {}
    minimax: bool = False
    like: str = ""


SECOND_ORDER = {"head.name": "covariance", "head.iterations": 5}
ARMS = {
    "plain": Arm("plain fine-tuning"),
    "second_order": Arm("second-order pooling", SECOND_ORDER),
    "minimax": Arm("minimax entropy", minimax=True),
    "both": Arm("second-order pooling + minimax entropy", SECOND_ORDER, minimax=True),
    # As many images as with minimax entropy.
    "longer": Arm("plain, twice the steps", {"duration": f"{2 * STEPS} steps"}, like="plain"),
}
TUNED = [name for name, arm in ARMS.items() if not arm.like]
CONTROL, HEADLINE = "plain", "both"
TRIALS = 6
RATES, WEIGHTS = (3e-4, 3e-2), (0.02, 0.5)
TEMPERATURES = (0.0, 0.05, 0.2)  # of the classifier; 0 is an ordinary linear layer
WIDTHS = (16, 32)  # of second-order pooling


class Run(NamedTuple):
    """A fine-tuning that is measured: its fields other than the defaults, seed and part."""

    data: str
    arm: str
    fields: dict[str, Any]
    seed: int
    part: str

    @property
    def key(self) -> str:
        return records.key_of(self._asdict())


def run_of(data: str, shots: int, arm: str, chosen: dict[str, Any], seed: int, part: str) -> Run:
    """The run of an arm with chosen settings."""
    fields = {"duration": f"{STEPS} steps", "data.shots": shots} | chosen | ARMS[arm].settings
    return Run(data, arm, fields, seed, part)


def trials(data: str, arm: str) -> list[dict[str, Any]]:
    """The settings that random search tries: one learning rate in each sixth of the range.

    Weights are drawn alike; each temperature is tried twice and each width three times. All but the
    learning rates are shuffled.
    """
    rng = np.random.default_rng([list(SOURCES).index(data), TUNED.index(arm)])

    def shuffled(values):
        return rng.permutation(np.repeat(values, TRIALS // len(values))).tolist()

    def along(low, high):
        places = (np.arange(TRIALS) + rng.uniform(size=TRIALS)) / TRIALS
        return [float(f"{low * (high / low) ** place:.2g}") for place in places]

    found = {"rate": along(*RATES)}
    found["head.temperature"] = shuffled(TEMPERATURES)
    if ARMS[arm].settings:
        found["head.width"] = shuffled(WIDTHS)
    if ARMS[arm].minimax:
        found["minimax_entropy"] = shuffled(along(*WEIGHTS))
    return [dict(zip(found, values)) for values in zip(*found.values())]


def config_of(data: str, fields: dict[str, Any]) -> ml_collections.ConfigDict:
    """Config of fine-tuning; the learning rate is an argument of the training."""
    c = defaults.get_config()
    c.data.source = SOURCES[data]
    if data == "glyphs":
        c.data.path, c.data.image_size = "fonts", 16
    c.batch_size, c.warmup = 60, "15 steps"
    c.update_from_flattened_dict({name: fields[name] for name in fields.keys() - {"rate"}})
    return c


# --- Runs ---


@functools.cache
def backbone(data: str, part: str) -> backbones.Backbone:
    """LOOK's encoder, pre-trained as in the small transfer study with seed 0.

    That of the tuning has not seen the validation part.
    """
    study = transfer_study.Study("small")
    config = transfer_study.config_of(study.scale, data, "look", study.chosen(data, "look"))
    config.devices = 1
    config.data.train_on = "train" if part == "validation" else "trainval"
    folder = BACKBONES / f"{data}-{part}"
    pretrain.run(config, folder, quiet=True, dataset=sources.load(config.data))
    return backbones.open_backbone(folder)


@functools.cache
def task_of(data: str, part: str, fields: str) -> finetune.Task:
    """The task of a run without its seed, so that the seeds share a compiled step."""
    config = config_of(data, json.loads(fields))
    dataset = dataset_of(json.dumps(config.data.to_dict() | {"shots": 0}, sort_keys=True))
    if part == "validation":
        dataset = dataset._replace(trainval=dataset.train, test=dataset.validation)
    config = finetune.resolve(config, dataset)
    return finetune.Task(config, backbone(data, part), dataset, Devices(config.mapping, 1))


@functools.cache
def dataset_of(name: str) -> sources.Dataset:
    """The set of a data config in JSON, without its draw of shots."""
    return sources.load(ml_collections.ConfigDict(json.loads(name)))


def measured(run: Run) -> dict[str, Any]:
    """Fine-tunes and scores; returns the record.

    Tuning draws the labelled images from train, and the rest of train is unlabelled; tests draw
    them from train + validation. All drawn images are trained on.
    """
    task = task_of(run.data, run.part, json.dumps(run.fields, sort_keys=True))
    config, scored = task.config, task.dataset.test
    began = time.process_time()
    labelled = task.labelled(run.seed)
    rest = [finetune.unlabelled(task.dataset, labelled)] if config.minimax_entropy else []
    state = finetune.train(
        task, labelled.trainval, *rest, rate=run.fields["rate"], decay=1e-4, seed=run.seed
    )
    rows = some_rows(len(scored.ids), ROWS[run.part])
    right = np.zeros(len(rows), bool)  # a training that diverged has no accuracy
    if state is not None:
        variables = state.params, state.batch_stats
        logits = extract(task.encoder, *variables, scored.images[rows], what="output")
        right = np.argmax(logits, axis=1) == scored.labels[rows]
    seconds = time.process_time() - began
    groups = np.array([f"{i // BLOCK:03d}" for i in range(len(scored.ids))])
    if run.data == "glyphs" and run.part == "test":
        groups = glyphs.test_groups(config.data.path, config.data.image_size, "greek")
    names, index, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    correct = np.bincount(index, weights=right, minlength=len(names)).astype(int)
    return {
        "key": run.key,
        **run._asdict(),
        records.IDENTITY: sources.identify(config.data).digest,
        "checkpoint": task.backbone.checkpoint,
        "images": {
            "labelled": len(labelled.trainval.ids),
            "unlabelled": len(rest[0].ids) if rest else 0,
            "scored": len(rows),
        },
        "values": {"accuracy": float(right.mean()), "cpu_seconds": round(seconds, 2)},
        "correct": {"accuracy": {"sizes": sizes.tolist(), "correct": [correct.tolist()]}},
        **records.surroundings(),
    }


class Study:
    """The records that there are, and the runs that they leave."""

    def __init__(self):
        self.known = {record["key"]: record for record in records.read(RECORDS)}

    def settings(self, data: str, arm: str) -> list[dict[str, Any]]:
        """Settings of the trials; once the first ones are known, two more beside the best."""
        first = trials(data, arm)
        best = self.best(data, arm, first)
        if best is None:
            return first
        return first + [best | {"rate": float(f"{best['rate'] * f:.2g}")} for f in (0.5, 2.0)]

    def tuning(self, data: str, arm: str, settings=None) -> list[Run]:
        settings = settings or self.settings(data, arm)
        return [run_of(data, SHOTS[0], arm, c, TUNING_SEED, "validation") for c in settings]

    def best(self, data: str, arm: str, settings) -> dict[str, Any] | None:
        found = [self.known.get(run.key) for run in self.tuning(data, arm, settings)]
        if None in found:
            return None
        return settings[int(np.argmax([record["values"]["accuracy"] for record in found]))]

    def chosen(self, data: str, arm: str) -> dict[str, Any] | None:
        """Settings of the best trial on validation, or None before all trials have a record."""
        arm = ARMS[arm].like or arm
        return self.best(data, arm, self.settings(data, arm))

    def tests(self, data: str, shots: int, arm: str) -> list[Run]:
        chosen = self.chosen(data, arm)
        if chosen is None:
            return []
        return [run_of(data, shots, arm, chosen, seed, "test") for seed in SEEDS]

    def left(self, sets) -> list[Run]:
        """Runs without a record; further trials and tests appear once earlier runs are known."""
        found = [run for data in sets for arm in TUNED for run in self.tuning(data, arm)]
        found += [
            run
            for data, shots in CELLS
            if data in sets
            for arm in ARMS
            for run in self.tests(data, shots, arm)
        ]
        return list({run.key: run for run in found if run.key not in self.known}.values())

    def results(self, data: str, shots: int, arm: str) -> dict[int, dict[str, Any]]:
        """Test records by seed."""
        runs = self.tests(data, shots, arm)
        return {run.seed: self.known[run.key] for run in runs if run.key in self.known}

    def contrast(self, data, shots, arm) -> statistics.Resampled | None:
        """Bootstrapped difference of an arm and the control over seeds and groups of images."""
        one, other = (self.results(data, shots, name) for name in (arm, CONTROL))
        return transfer_study.contrast(one, other, "accuracy")


# --- Results ---


def planned(of: Study) -> dict[tuple[str, int], tuple[statistics.Resampled, float, str]]:
    """The planned contrasts by set and shots: difference, p adjusted for all four, and verdict."""
    found = {cell: of.contrast(*cell, HEADLINE) for cell in CELLS}
    adjusted = statistics.holm([1.0 if c is None else c.p for c in found.values()])
    return {
        cell: (c, p, statistics.verdict(c, p, transfer_study.BOUND))
        for (cell, c), p in zip(found.items(), adjusted)
        if c is not None
    }


def contrasts_markdown(of: Study) -> str:
    """The planned contrasts."""
    rows = [
        (
            f"{TITLES[data]}, {shots} labels per class",
            c.n,
            points(c.mean, "+"),
            ends(c),
            f"{p:.3f}",
            word if word in (statistics.TIE, statistics.OPEN) else f"**{word}**",
        )
        for (data, shots), (c, p, word) in planned(of).items()
    ]
    titles = ("both − plain", "seeds", "points", "95 % interval", "p (Holm)", "verdict")
    return table(titles, rows)


def accuracies_markdown(of: Study) -> str:
    """Test accuracy of all arms (standard deviation over seeds), and minus the control."""
    rows = []
    for data, shots in CELLS:
        for name, arm in ARMS.items():
            if not (runs := of.results(data, shots, name)):
                continue
            values = [record["values"] for record in runs.values()]
            scores = np.array([v["accuracy"] for v in values])
            c = None if name == CONTROL else of.contrast(data, shots, name)
            rows.append(
                (
                    f"{TITLES[data]}, {shots}: {arm.title}",
                    len(scores),
                    points(scores.mean())
                    + (f" ({points(scores.std(ddof=1))})" if len(scores) > 1 else ""),
                    interval(c),
                    f"{np.median([v['cpu_seconds'] for v in values]):.0f}",
                )
            )
    titles = ("set, labels per class: arm", "seeds", "accuracy %", "minus plain", "CPU s")
    return table(titles, rows)


def tuning_markdown(of: Study) -> str:
    """The settings that tuning chose, with their accuracy and the span of all trials."""
    rows = []
    for data in SOURCES:
        for name in TUNED:
            if (chosen := of.chosen(data, name)) is None:
                continue
            found = [of.known[run.key]["values"]["accuracy"] for run in of.tuning(data, name)]
            settings = ", ".join(f"{key.rpartition('.')[2]} {v:g}" for key, v in chosen.items())
            span = f"{points(min(found))} … {points(max(found))}"
            rows.append((f"{TITLES[data]}: {ARMS[name].title}", len(found), settings, span))
    return table(("arm", "trials", "chosen", "validation accuracy % of the trials"), rows)


def run(sets, minutes: float) -> None:
    """Makes the records that are missing, for at most that many minutes."""
    end = time.monotonic() + 60 * minutes if minutes else math.inf
    while (left := Study().left(sets)) and time.monotonic() < end:
        for job in left:
            if time.monotonic() >= end:
                break
            record = measured(job)
            records.append(RECORDS, record)
            values = record["values"]
            print(
                job.data, job.fields["data.shots"], job.arm, job.seed, job.part,
                f"{values['accuracy']:.3f} {values['cpu_seconds']:.1f} s", flush=True,
            )  # fmt: skip
    print(f"left: {len(Study().left(sets))} runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after that")
    parser.add_argument("--set", choices=SOURCES, help="only this set")
    args = parser.parse_args()
    os.chdir(ROOT.parent)  # fonts are named from here
    # Networks this small are fastest on one thread.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    )
    use_compile_cache()
    run([args.set] if args.set else list(SOURCES), args.minutes)


if __name__ == "__main__":
    main()
