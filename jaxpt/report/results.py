"""Records by method and seed: what tables, figures and the page are made from."""

import json
from typing import Any, NamedTuple, Sequence

import numpy as np

from jaxpt.errors import require
from jaxpt.report import statistics

# Methods for humans, in the order of tables and figures.
NAMES = {"cross_entropy": "cross-entropy", "sup_con": "SupCon", "nca": "NCA", "look": "LOOK",
         "sup_moco": "SupMoCo", "exemplar": "Exemplar", "spread": "spread", "mask_con": "MaskCon",
         "grafit": "Grafit", "t_rex": "t-ReX", "moco_v2": "MoCo v2", "moco_v3": "MoCo v3",
         "simclr": "SimCLR", "byol": "BYOL", "simsiam": "SimSiam", "barlow_twins": "Barlow Twins",
         "vicreg": "VICReg", "dino": "DINO", "nn_clr": "NNCLR"}
DATA_NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
SUBJECT = "look"  # compared with every other method
SECONDS = "pretrain_seconds"
FIELDS = ("key", "label", "method", "data", "part", "seed", "values", "protocol")


class Metric(NamedTuple):
    """A measured number: its key in a record, its heading, and how it is written."""

    key: str
    title: str
    percent: bool

    def text(self, value: float, *, sign: bool = False) -> str:
        """ "96.6" for an accuracy, "0.522" for another number."""
        number = f"{100 * value:+.1f}" if self.percent else f"{value:+.3f}"
        return number.replace("-", "−") if sign or value < 0 else number[1:]


FINE = (Metric("fine_knn", "fine kNN", True), Metric("fine_linear", "fine linear", True),
        Metric("fine_5shot", "5-shot", True))
SEPARATION = Metric("class_separation", "class separation R²", False)
METRICS = (Metric("coarse_knn", "coarse kNN", True), *FINE, SEPARATION)


class Results(NamedTuple):
    """One set, one part, one protocol: every method's records by seed.

    Attributes:
      data: the set's name for humans.
      part: "validation" or "test".
      methods: by label, known methods first, its records by seed.
    """

    data: str
    part: str
    methods: dict[str, dict[int, dict[str, Any]]]

    def name(self, label: str) -> str:
        """The name of a method for humans."""
        return NAMES.get(label, label)

    def values(self, label: str, metric: str) -> dict[int, float]:
        """A method's values by seed."""
        for seed, record in self.methods[label].items():
            require(metric in record["values"], f"the record of {label!r}, seed {seed}, has no "
                    f"{metric!r}: measure it again.")
        return {seed: record["values"][metric] for seed, record in self.methods[label].items()}

    def summary(self, label: str, metric: str) -> statistics.Summary:
        return statistics.summary(list(self.values(label, metric).values()))

    def median_seconds(self, label: str) -> float:
        return float(np.median(list(self.values(label, SECONDS).values())))

    @property
    def peers(self) -> list[str]:
        """What LOOK is compared with; [] where there is no LOOK."""
        return [label for label in self.methods if label != SUBJECT and SUBJECT in self.methods]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for by_seed in self.methods.values() for record in by_seed.values()]

    @property
    def seeds(self) -> str:
        """ "5 seeds", or "3–5 seeds" where methods differ."""
        counts = sorted({len(by_seed) for by_seed in self.methods.values()})
        return f"{'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"

    def verdicts(self, metric: str) -> dict[str, statistics.Verdict]:
        """LOOK against each peer, adjusted over the peers."""
        if not self.peers:
            return {}
        return statistics.against(self.values(SUBJECT, metric),
                                  {peer: self.values(peer, metric) for peer in self.peers})


def collect(records: Sequence[dict[str, Any]]) -> Results:
    """Results from records; where one was measured twice, the later record counts.

    Raises:
      InputError: for no records, records that do not belong in one table, or fewer than two seeds
        of a method.
    """
    for number, record in enumerate(records, 1):
        missing = [f for f in FIELDS if not isinstance(record, dict) or f not in record]
        require(not missing, f"record {number} has no {', '.join(missing)}: it is none of jaxpt's.")
    records = list({record["key"]: record for record in records}.values())
    require(bool(records), "there are no records to report.")
    for field in "data", "part", "protocol":
        # As JSON, where a tuple of a new record equals the list of one that was read.
        found = {json.dumps(record[field], sort_keys=True) for record in records}
        require(len(found) == 1, f"one report holds one {field}, but the records have "
                f"{len(found)}: {'; '.join(sorted(found))}.")
    methods: dict[str, dict[int, dict[str, Any]]] = {}
    for label in sorted({r["label"] for r in records}, key=lambda label: _rank(label, records)):
        mine = sorted((r for r in records if r["label"] == label), key=lambda r: r["seed"])
        methods[label] = {r["seed"]: r for r in mine}
        require(len(methods[label]) == len(mine), f"{label!r} has two records of one seed with "
                "different configs: keep one, or give each setting a label of its own.")
        require(len(mine) >= statistics.MIN_SEEDS, f"{label!r} has {len(mine)} seed: a report "
                f"needs at least {statistics.MIN_SEEDS}, for without spread there is no verdict.")
    return Results(DATA_NAMES.get(records[0]["data"], records[0]["data"]), records[0]["part"],
                   methods)


def _rank(label, records):
    """Known methods in their order, then the others as they came."""
    first = next(i for i, record in enumerate(records) if record["label"] == label)
    return (list(NAMES).index(label) if label in NAMES else len(NAMES), first)


def sentence(results: Results) -> str:
    """What was found, in one sentence made from the verdicts and nothing else."""
    where = f"On {results.data} ({results.part} part, {results.seeds})"
    if not results.peers:
        return f"{where}: {join([results.name(m) for m in results.methods])}; nothing to compare."
    clauses: dict[str, list[str]] = {}
    for metric in METRICS:
        words = {peer: verdict.word for peer, verdict in results.verdicts(metric.key).items()}
        clauses.setdefault(_clause(results, words), []).append(metric.title)
    return f"{where}: " + "; ".join(
        f"in {join(titles)}, {NAMES[SUBJECT]} {clause}" for clause, titles in clauses.items()) + "."


def _clause(results, words):
    parts = []
    for word, phrase in ((statistics.ABOVE, "is above"), (statistics.BELOW, "is below"),
                         (statistics.TIE, "ties with")):
        peers = [results.name(peer) for peer in words if words[peer] == word]
        if peers:
            parts.append(f"{phrase} {join(peers)}")
    return join(parts)


def join(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
