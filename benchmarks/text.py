"""LOOK and its peers on text. docs/any-embedding.md is the protocol.

    python benchmarks/text.py               # all of it, about four minutes of one CPU core
    python benchmarks/text.py --minutes=5   # a part of it; repeat to continue

Runs the code of colab/text.ipynb up to ``measure``: first six trials for each loss, which see the
validation docstrings only, then ten seeds with the settings chosen. Appends what is missing to
benchmarks/records/text.jsonl. Records belong to the code and the docstrings (those of this Python)
that they were made with; tables are of the latest.
"""

import argparse
import hashlib
import html
import itertools
import json
import math
import pathlib
import re
import time
from typing import Any

import jax
import numpy as np

from jaxpt import records
from jaxpt.report import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "colab" / "text.ipynb"
RECORDS = ROOT / "benchmarks" / "records" / "text.jsonl"
SEEDS, TUNING_SEEDS = tuple(range(10)), (1000,)
NONE = "*No runs yet.*"
BOUND = 0.01  # differences within ± one point count as equivalent


def _grid(**values: list) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


TEMPERATURES = _grid(learning_rate=[1e-3, 3e-3], temperature=[0.05, 0.1, 0.2])
TRIALS = {
    "LOOK": _grid(learning_rate=[1e-3, 3e-3], temperature=[0.1], k=[10, 50, 200]),
    "cross-entropy": _grid(learning_rate=[1e-3, 3e-3, 1e-2], label_smoothing=[0.0, 0.1]),
    "SupCon": TEMPERATURES,
    "NCA": TEMPERATURES,
}
UNTRAINED, N_GRAMS = "untrained network", "n-grams, no network"
CONTROLS = (UNTRAINED, N_GRAMS)
PACKAGE, MODULE = "package", "module of unseen modules"  # two of the notebook's questions


def code() -> tuple[list[str], str]:
    """The notebook's cells of code from the second up to ``measure``, and their digest."""
    cells = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    last = next(i for i, cell in enumerate(cells) if "def measure(" in cell)
    cells = cells[1 : last + 1]  # without the first, which installs
    letters = "".join("".join(cells).split())  # a line broken elsewhere is the same code
    return cells, hashlib.sha256(letters.encode()).hexdigest()[:16]


class Texts:
    """The notebook's names, its data among them, and jobs on them."""

    def __init__(self):
        cells, self.code = code()
        self.names: dict[str, Any] = {"jax": jax}  # which the notebook's first cell imports
        for cell in cells:
            exec(compile(cell, "text.ipynb", "exec"), self.names)
        texts = "\n".join(self.names["texts"])
        self.identity = hashlib.sha256(texts.encode()).hexdigest()[:16]

    def job(self, part: str, name: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        """What identifies a record."""
        return {
            "code": self.code,
            records.IDENTITY: self.identity,
            "part": part,
            "label": name,
            "seed": seed,
            "settings": settings,
        }

    def measured(self, job: dict[str, Any]) -> dict[str, Any]:
        """The record of a job: accuracies, and on the test part what the study needs of them."""
        names, start = self.names, time.process_time()
        if job["label"] == N_GRAMS:
            features = names["inputs"]
        elif job["label"] == UNTRAINED:
            key = jax.random.key(job["seed"])
            initial = names["network"].init(key, names["inputs"][:1])
            features = np.asarray(names["encode"](initial, names["inputs"])[0])
        else:
            _, features = names["fit"](job["label"], job["seed"], **job["settings"])
        seconds = time.process_time() - start
        found = names["measure"](features, names[job["part"]])
        if job["part"] == "validation":  # nothing of unseen modules is recorded
            found = {PACKAGE: found[PACKAGE]}
        record = job | {
            "key": records.key_of(job),
            "values": {question: float(right.mean()) for question, right in found.items()},
            "cpu_seconds": seconds,
        }
        if job["part"] == "test":
            groups = names["module_labels"][names["unseen"]]
            record["correct"] = [int(found[MODULE][groups == g].sum()) for g in np.unique(groups)]
            record["sizes"] = [int((groups == g).sum()) for g in np.unique(groups)]
            record["texts"] = {p: len(names[p]) for p in ("train", "validation", "test", "unseen")}
            if job["label"] in ("LOOK", UNTRAINED) and job["seed"] == SEEDS[0]:
                record["neighbors"] = [
                    [names["shown"](i) for i in (row, *names["nearest"](features, row))]
                    for row in names["EXAMPLES"]
                ]
        return record | records.surroundings()


def latest() -> list[dict[str, Any]]:
    """Records of the code and texts of the last one in the file."""
    found = records.read(RECORDS)
    return [r for r in found if all(r[f] == found[-1][f] for f in ("code", records.IDENTITY))]


def chosen(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of each loss with the best mean accuracy on validation; losses fully tried only."""
    best = {}
    for name, trials in TRIALS.items():
        means = [
            [
                r["values"][PACKAGE]
                for r in found
                if (r["part"], r["label"], r["settings"]) == ("validation", name, trial)
            ]
            for trial in trials
        ]
        if all(len(values) == len(TUNING_SEEDS) for values in means):
            best[name] = trials[int(np.argmax(np.mean(means, axis=1)))]
    return best


def runs(found: list[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Test records of each arm by seed: with the settings chosen, or of a control.

    Empty before every arm has two seeds, and the n-grams, which involve no chance, have one.
    """
    settings = chosen(found) | {name: {} for name in CONTROLS}
    of = {name: {} for name in (*TRIALS, *CONTROLS)}
    for r in found:
        if r["part"] == "test" and r["settings"] == settings.get(r["label"]):
            of[r["label"]][r["seed"]] = r
    enough = all(len(by_seed) >= (1 if name == N_GRAMS else 2) for name, by_seed in of.items())
    return of if enough else {}


def missing(texts: Texts, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs without a record: trials first, then seeds with what the trials chose."""
    same = {"code": texts.code, records.IDENTITY: texts.identity}
    found = [r for r in found if r | same == r]
    jobs = [
        texts.job("validation", name, seed, trial)
        for seed in TUNING_SEEDS
        for name, trials in TRIALS.items()
        for trial in trials
    ]
    best = chosen(found)
    if len(best) == len(TRIALS):
        jobs.append(texts.job("test", N_GRAMS, SEEDS[0], {}))
        jobs += [
            texts.job("test", name, seed, settings)
            for seed in SEEDS
            for name, settings in (best | {UNTRAINED: {}}).items()
        ]
    known = {r["key"] for r in found}
    return [job for job in jobs if records.key_of(job) not in known]


# --- Tables ---


def accuracies_markdown(found: list[dict[str, Any]]) -> str:
    """Accuracies of all arms: mean and standard deviation over seeds."""
    of, best = runs(found), chosen(found)
    if not of:
        return NONE
    questions = list(of[N_GRAMS][SEEDS[0]]["values"])
    rows = []
    for name, by_seed in of.items():
        cells = []
        for question in questions:
            values = 100 * np.array([r["values"][question] for r in by_seed.values()])
            spread = f" ({values.std(ddof=1):.1f})" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        settings = ", ".join(f"{k} {v:g}" for k, v in best.get(name, {}).items())
        rows.append((name, settings or "–", len(by_seed), *cells))
    last = of[N_GRAMS][SEEDS[0]]
    n = last["texts"]
    return (
        _table(("", "settings chosen", "seeds", *questions), rows)
        + f"\n\n{n['train']:,} docstrings to train on, {n['validation']} to choose settings, "
        f"{n['test']} and, of {len(last['sizes'])} unseen modules, {n['unseen']:,} to test. Mean "
        f"(standard deviation over seeds), in %. Python {last['python']}, jax "
        f"{last['packages']['jax']}, {last['device']}, {last['date']}."
    )


def contrasts(found: list[dict[str, Any]]) -> dict[str, tuple[statistics.Resampled, float, str]]:
    """LOOK minus each other arm in the primary measure: difference, adjusted p and verdict."""
    of = runs(found)
    if not of:
        return {}
    of[N_GRAMS] = dict.fromkeys(SEEDS, of[N_GRAMS][SEEDS[0]])  # involve no chance
    sizes = np.array(of[N_GRAMS][SEEDS[0]]["sizes"])
    differences = {}
    for name in list(of)[1:]:
        seeds = sorted(of["LOOK"].keys() & of[name].keys())
        one, other = (
            np.array([of[arm][seed]["correct"] for seed in seeds])[:, None]  # one draw
            for arm in ("LOOK", name)
        )
        differences[name] = statistics.bootstrap(one, other, sizes)
    adjusted = statistics.holm([d.p for d in differences.values()])
    return {
        name: (d, p, statistics.verdict(d, p, BOUND))
        for (name, d), p in zip(differences.items(), adjusted)
    }


def contrasts_markdown(found: list[dict[str, Any]]) -> str:
    """The planned contrasts with intervals, adjusted p and verdicts."""
    rows = []
    for name, (d, p, word) in contrasts(found).items():
        low, high = (_points(x) for x in d.interval)
        rows.append((f"LOOK − {name}", d.n, _points(d.mean), f"{low} … {high}", f"{p:.3f}", word))
    titles = ("contrast", "seeds", "points", "95 % interval", "p (Holm)", "verdict")
    return _table(titles, rows) if rows else NONE


def neighbors_markdown(found: list[dict[str, Any]]) -> str:
    """Texts of unseen modules with their nearest ones, before and after training with LOOK."""
    of = runs(found)
    if not of:
        return NONE
    pairs = zip(of[UNTRAINED][SEEDS[0]]["neighbors"], of["LOOK"][SEEDS[0]]["neighbors"])
    lines = []
    for (text, *before), (_, *after) in pairs:
        lines += [_cell(text), "", "| | nearest, untrained | nearest, after LOOK |"]
        lines += ["| --- | --- | --- |"]
        near = enumerate(zip(before, after), 1)
        lines += [*(f"| {i} | {_cell(a)} | {_cell(b)} |" for i, (a, b) in near), ""]
    return "\n".join(lines)


def _cell(shown) -> str:
    name, text = shown
    text = re.sub(r"([|*_`\[\]\\])", r"\\\1", html.escape(text, quote=False))
    return f"**`{name}`** {text}"


def _points(x: float) -> str:
    return f"{100 * x:+.1f}".replace("-", "−")


def _table(titles, rows) -> str:
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after that")
    args = parser.parse_args()
    end, texts = time.monotonic() + 60 * args.minutes, Texts()
    while jobs := missing(texts, records.read(RECORDS)):
        if time.monotonic() >= end:
            print(f"left: {len(jobs)} runs or more")
            return
        record = texts.measured(jobs[0])
        records.append(RECORDS, record)
        print(record["part"], record["label"], record["seed"], record["settings"], flush=True)


if __name__ == "__main__":
    main()
