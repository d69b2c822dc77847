"""Runs by method and seed, the input of tables, figures and the page."""

from typing import Any, NamedTuple, Sequence

import numpy as np

from jaxpt.errors import require
from jaxpt.methods import METHODS
from jaxpt.report import metrics, naming, statistics
from jaxpt.report.metrics import HEADLINE, Metric
from jaxpt.report.runs import canonical, merge

# Display names of methods, in the order of tables and figures: those of the demo first.
_FIRST = ("cross_entropy", "cross_entropy_mlp", "sup_con", "nca", "look")
_TITLES = {name: entry.title for name, entry in METHODS.items()} | {
    "cross_entropy_mlp": "cross-entropy, MLP head"
}
NAMES = {name: _TITLES[name] for name in dict.fromkeys((*_FIRST, *METHODS))}
SUBJECT = "look"  # compared with every other method
SECONDS = "pretrain_seconds"


class Results(NamedTuple):
    """Runs of all methods on one part of one set under one protocol.

    Attributes:
      data: display name of the set.
      part: "validation" or "test".
      methods: label → seed → run, known methods first.
      sizes: all runs of a scaling study, of which ``methods`` holds the largest size; [] if there
        is only one size.
    """

    data: str
    part: str
    methods: dict[str, dict[int, dict[str, Any]]]
    sizes: list[dict[str, Any]] = []

    @property
    def title(self) -> str:
        """Title of the set and part, such as "digits, test part"."""
        return f"{self.data}, {self.part} part"

    def name(self, label: str) -> str:
        """Display name of a method."""
        return NAMES.get(label, label)

    def values(self, label: str, metric: str) -> dict[int, float]:
        """Values of a metric by seed, of those runs of a method that have it."""
        return {
            seed: run["values"][metric]
            for seed, run in self.methods[label].items()
            if metric in run["values"]
        }

    def has(self, metric: Metric) -> bool:
        """Whether any run has the metric."""
        return any(self.values(label, metric.key) for label in self.methods)

    @property
    def headline(self) -> list[Metric]:
        """The metrics of the main table."""
        return [self.plain(metric) for metric in HEADLINE if self.has(metric)]

    def plain(self, metric: Metric) -> Metric:
        """The metric with the title that it has here: "fine" only beside coarse classes."""
        if self.coarse:
            return metric
        return metric._replace(title=metric.title.removeprefix("fine "))

    @property
    def coarse(self) -> bool:
        """Whether the set has coarse classes that differ from the fine ones."""
        return any(_mapped(source) for run in self.runs for source in run["sources"])

    @property
    def classes(self) -> str:
        """The classes whose geometry is measured: "coarse classes", or "classes" without any."""
        return "coarse classes" if self.coarse else "classes"

    @property
    def intervals(self) -> bool:
        """Whether any number of the main table has an interval, which takes two seeds."""
        found = [self.summary(label, m.key) for label in self.methods for m in self.headline]
        return any(summary and summary.half_width is not None for summary in found)

    @property
    def groups(self) -> dict[str, tuple[Metric, ...]]:
        """Tables in addition to the main one, as title → metrics."""
        names = dict.fromkeys(name for run in self.runs for name in run["values"])
        found = metrics.groups_of(list(names))
        return {title: tuple(map(self.plain, group)) for title, group in found.items()}

    def summary(self, label: str, metric: str) -> statistics.Summary | None:
        """Mean and interval of a metric over seeds; None without a value."""
        values = list(self.values(label, metric).values())
        return statistics.summary_of_any(values) if values else None

    def median_seconds(self, label: str) -> float | None:
        seconds = list(self.values(label, SECONDS).values())
        return float(np.median(seconds)) if seconds else None

    @property
    def peers(self) -> list[str]:
        """Labels that LOOK is compared with; [] without LOOK."""
        return [label for label in self.methods if label != SUBJECT and SUBJECT in self.methods]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return [run for by_seed in self.methods.values() for run in by_seed.values()]

    @property
    def seeds(self) -> str:
        """Number of seeds: "5 seeds", or "3–5 seeds" if methods differ."""
        counts = sorted({len(by_seed) for by_seed in self.methods.values()})
        spread = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        return f"{spread} seed{'s' * (counts[-1] > 1)}"

    def verdicts(self, metric: str) -> dict[str, statistics.Verdict]:
        """Verdicts of LOOK against the peers that share at least two seeds, adjusted over them."""
        if not self.peers:
            return {}
        mine = self.values(SUBJECT, metric)
        peers = {peer: self.values(peer, metric) for peer in self.peers}
        return statistics.against(
            mine,
            {
                peer: values
                for peer, values in peers.items()
                if len(mine.keys() & values.keys()) >= statistics.MIN_SEEDS
            },
        )

    @property
    def compared(self) -> bool:
        """Whether there is any verdict, which takes two seeds of LOOK and of a peer."""
        return any(self.verdicts(metric.key) for metric in self.headline)

    def best(self, metric: Metric) -> str | None:
        """The label that is significantly above all others, or None."""
        if not metric.score:
            return None
        values = {label: self.values(label, metric.key) for label in self.methods}
        return statistics.leader({label: v for label, v in values.items() if v})

    def first_with(self, detail: str) -> dict[str, dict[str, Any]]:
        """Label → the run of the first seed whose records have these details."""
        found = {}
        for label, by_seed in self.methods.items():
            run = next((run for run in by_seed.values() if run["details"].get(detail)), None)
            if run:
                found[label] = run
        return found


def collect(records: Sequence[dict[str, Any]]) -> Results:
    """Results of one set; of two records with one key the later counts.

    Raises:
      InputError: see ``collect_sets``, and for records of several sets or parts.
    """
    found = collect_sets(records)
    for field in "data", "part":
        names = {getattr(results, field) for results in found}
        require(
            len(names) == 1,
            f"one table holds one {field}, but the records have "
            f"{len(names)}: {'; '.join(sorted(names))}.",
        )
    return found[0]


def collect_sets(records: Sequence[dict[str, Any]]) -> list[Results]:
    """Results of every set and part, in the order of the records.

    Raises:
      InputError: for no records, records that jaxpt did not write, records that contradict one
        another, or one evaluator with several protocols on one set.
    """
    by_set: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in merge(records):
        by_set.setdefault((run["data"], run["part"]), []).append(run)
    found = [_collect(runs) for runs in by_set.values()]
    names = naming.without_needless_suffixes(list(dict.fromkeys(r.data for r in found)))
    shorter = dict(zip(dict.fromkeys(r.data for r in found), names))
    return [results._replace(data=shorter[results.data]) for results in found]


def protocol_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Constants of all evaluators, by evaluator.

    Raises:
      InputError: if an evaluator's constants differ between runs, which one table cannot hold.
    """
    protocol: dict[str, Any] = {}
    for run in runs:
        for name, constants in run["protocol"].items():
            known = protocol.setdefault(name, constants)
            require(
                canonical(known) == canonical(constants),
                f"{run['data']} ({run['part']}): one "
                f"table holds one protocol, but {name!r} was measured with "
                f"{canonical(known)} and with {canonical(constants)}.",
            )
    return protocol


def _collect(runs) -> Results:
    protocol_of(runs)
    labels = list(dict.fromkeys(run["label"] for run in runs))
    labels.sort(key=lambda label: list(NAMES).index(label) if label in NAMES else len(NAMES))
    methods, sizes = {}, {run["limit"] for run in runs}
    runs = [
        run
        | {
            "details": {
                name: [naming.with_class_names(entry) for entry in entries]
                for name, entries in run["details"].items()
            }
        }
        for run in runs
    ]
    for label in labels:
        mine = [run for run in runs if run["label"] == label]
        largest = max((run["limit"] for run in mine), key=lambda limit: limit or float("inf"))
        methods[label] = {
            run["seed"]: run
            for run in sorted(mine, key=lambda run: run["seed"])
            if run["limit"] == largest
        }
    return Results(
        naming.set_name(runs[0]), runs[0]["part"], methods, runs if len(sizes) > 1 else []
    )


def _mapped(record) -> bool:
    # If the record does not describe the measured set, assume a label map.
    data = record.get("data_config") or (record.get("config") or {}).get("data") or {}
    return data.get("label_map") != "fine"


def sentence(results: Results) -> str:
    """One-sentence summary of the verdicts."""
    where = f"On {results.data} ({results.part} part, {results.seeds})"
    if not results.peers:
        return f"{where}: {join([results.name(m) for m in results.methods])}; nothing to compare."
    clauses: dict[str, list[str]] = {}
    for metric in results.headline:
        words = {peer: verdict.word for peer, verdict in results.verdicts(metric.key).items()}
        if words:
            clauses.setdefault(_clause(results, words), []).append(metric.title)
    if not clauses:
        return f"{where}: no verdict, which takes two seeds of {NAMES[SUBJECT]} and of a peer."
    return (
        f"{where}: "
        + "; ".join(
            f"in {join(titles)}, {NAMES[SUBJECT]} {clause}" for clause, titles in clauses.items()
        )
        + "."
    )


def _clause(results, words):
    parts = []
    for word, phrase in (
        (statistics.ABOVE, "is above"),
        (statistics.BELOW, "is below"),
        (statistics.TIE, "ties with"),
    ):
        peers = [results.name(peer) for peer in words if words[peer] == word]
        if peers:
            parts.append(f"{phrase} {join(peers)}")
    return join(parts)


def join(words: Sequence[str]) -> str:
    """Joins words as in "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
