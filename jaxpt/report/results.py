"""Runs by method and seed, merged from records, with their display names and their summary.

Tables, figures and the page are made from these.
"""

import json
import math
import pathlib
import re
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np
from flax.traverse_util import flatten_dict

from jaxpt import records as record_files
from jaxpt.errors import InputError, require
from jaxpt.methods import METHODS
from jaxpt.report import metrics, statistics
from jaxpt.report.metrics import HEADLINE, Metric

# Display names of methods, in the order of tables and figures: those of the demo first.
_FIRST = ("cross_entropy", "cross_entropy_mlp", "sup_con", "nca", "look")
_TITLES = {name: entry.title for name, entry in METHODS.items()} | {
    "cross_entropy_mlp": "cross-entropy with MLP head"
}
NAMES = {name: _TITLES[name] for name in dict.fromkeys((*_FIRST, *METHODS))}
SUBJECT = "look"  # compared with every other method
SECONDS = "pretrain_seconds"

DATA_NAMES = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
_OF_FILES = ("folder", "npz", "grain")  # sources whose name says nothing about the images
_PLAIN = ("train", "training", "data", "images", "list", "labels", "dataset")  # files, as are these
_CLASS_LISTS = ("class_names", "coarse_names")  # details of an evaluator that name classes

_FIELDS = ("key", "label", "method", "data", "part", "seed", "values", "protocol")  # of any record
_FINETUNE_SEED = "finetune_seed"
# Fields of a data config that change the images, or which of them are measured.
_FRAMING = (
    *("image_size", "crop_pct", "interpolation", "background", "exif_orientation"),
    *("test_share", "limit"),
)
_SETTINGS = ("config", "data_config", "protocol", "step", "checkpoint")  # of a record
_NAMED_SETTINGS = 3  # of those that differ, in a message


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
        return any(_has_label_map(source) for run in self.runs for source in run["sources"])

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
    names = _without_needless_suffixes(list(dict.fromkeys(r.data for r in found)))
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
                _canonical(known) == _canonical(constants),
                f"{run['data']} ({run['part']}): one "
                f"table holds one protocol, but {name!r} was measured with "
                f"{_canonical(known)} and with {_canonical(constants)}.",
            )
    return protocol


def _collect(runs) -> Results:
    protocol_of(runs)
    labels = in_order(run["label"] for run in runs)
    methods, sizes = {}, {run["limit"] for run in runs}
    runs = [
        run
        | {
            "details": {
                name: [_with_class_names(entry) for entry in entries]
                for name, entries in run["details"].items()
            }
        }
        for run in runs
    ]
    for label in labels:
        mine = [run for run in runs if run["label"] == label]
        _check_framing(mine)
        largest = max((run["limit"] for run in mine), key=lambda limit: limit or float("inf"))
        methods[label] = {
            run["seed"]: run
            for run in sorted(mine, key=lambda run: run["seed"])
            if run["limit"] == largest
        }
    return Results(set_name(runs[0]), runs[0]["part"], methods, runs if len(sizes) > 1 else [])


def _check_framing(runs) -> None:
    """Raises InputError if the images of a label's records were not prepared in one way."""
    records = [r for run in runs for r in run["sources"] if r.get("data_config")]
    records = [r for r in records if _FINETUNE_SEED not in r]
    for record in records[1:]:
        one, other = records[0]["data_config"], record["data_config"]
        differ = [f for f in _FRAMING if f in one and f in other and one[f] != other[f]]
        if differ:
            field = differ[0]
            raise InputError(
                f"{_run_name(record)} was measured with data.{field} {other[field]!r}, but another "
                f"of its measurements with {one[field]!r}: report them one by one, or give each "
                "setting its own label."
            )


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels without repetition as tables and figures have them: known methods first."""
    known = list(NAMES)
    return sorted(
        dict.fromkeys(labels),
        key=lambda label: known.index(label) if label in NAMES else len(known),
    )


def _has_label_map(record) -> bool:
    # If the record does not describe the measured set, assume a label map.
    return record_files.data_of(record).get("label_map") != "fine"


def merge(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges records into runs, in the order of their first records.

    A run looks like the record that a study writes: the values and protocols of all its records,
    the config and history of the first record that has them, and a list of details per evaluator.
    In addition it has ``sources``, its records, and ``limit``, the number of pre-training images if
    that was limited, else 0. Values of records with a ``finetune_seed`` are averaged over these
    seeds. Of two records with one key the later counts. A record that does not say which data it is
    of gives way to one that does and is otherwise the same. Sets of one name but different content
    are different sets, see ``records.told_apart``, and so is a set of which few labels were used.

    Raises:
      InputError: for no records, records that jaxpt did not write, or records of one run that
        contradict each other.
    """
    for number, record in enumerate(records, 1):
        missing = [f for f in _FIELDS if not isinstance(record, dict) or f not in record]
        require(
            not missing, f"record {number} has no {', '.join(missing)}: it is no record of jaxpt's."
        )
    require(bool(records), "there are no records to report.")
    latest = [_of_few(record) for record in {r["key"]: r for r in records}.values()]
    records = record_files.told_apart(record_files.current(latest))
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        identity = (
            record["data"],
            record["part"],
            record["label"],
            pretrain_limit(record),
            record["seed"],
        )
        groups.setdefault(identity, []).append(record)
    return [_unite(group) for group in groups.values()]


def _of_few(record):
    """The record of a set of which only few labels were used, under a name that says so."""
    data = record.get("data_config") or {}
    shots, share = data.get("shots", 0), data.get("labelled_share", 1.0)
    if not shots and share == 1:
        return record
    few = f"{shots} labels per class" if shots else f"{100 * share:g} % of the labels"
    return record | {"data": f"{record['data']} ({few})"}


def pretrain_limit(record: dict[str, Any]) -> int:
    """Number of images that pre-training was limited to; 0 for all."""
    return ((record.get("config") or {}).get("data") or {}).get("pretrain_limit", 0)


def _canonical(value) -> str:
    """JSON of a value, in which the tuple of a new record equals the list of one that was read."""
    return json.dumps(value, sort_keys=True, default=list)


def _unite(group):
    tuned = [record for record in group if _FINETUNE_SEED in record]
    seeds = [record[_FINETUNE_SEED] for record in tuned]
    require(
        len(set(seeds)) == len(seeds),
        f"{_run_name(group[0])} has two records of one fine-tuning seed: keep one.",
    )
    values, protocol, details = {}, {}, {}
    for record in [r for r in group if _FINETUNE_SEED not in r] + _mean(tuned):
        _add(values, _numbers(record), group)
        _add(protocol, record["protocol"], group)
        if record.get("details"):
            details.setdefault(record["evaluator"], []).append(record["details"])
    first = {
        field: next((r[field] for r in group if r.get(field)), None)
        for field in ("config", "history")
    }
    return (
        group[0]
        | first
        | {
            "values": values,
            "protocol": protocol,
            "details": details,
            "sources": group,
            "limit": pretrain_limit(group[0]),
        }
    )


def _mean(tuned):
    """Averages the records of all fine-tuning seeds into one; [] without records."""
    if not tuned:
        return []
    protocol = {}
    for record in tuned:
        _add(protocol, record["protocol"], tuned)
    names = [name for name in tuned[0]["values"] if all(name in r["values"] for r in tuned)]
    means = {name: float(np.mean([_numbers(r)[name] for r in tuned])) for name in names}
    return [tuned[0] | {"values": means, "protocol": protocol}]


def _numbers(record):
    for name, value in record["values"].items():
        require(
            isinstance(value, (int, float)) and math.isfinite(value),
            f"{_run_name(record)} has {value!r} for {name!r}: a value must be a finite number.",
        )
    if record.get("evaluator") != "cka":
        return record["values"]
    # A network may be compared with several, so the name tells with which.
    return {
        f"{name} with {record['details']['other_label']}": value
        for name, value in record["values"].items()
    }


def _add(whole, part, group):
    """Adds values or constants of a record of a group, whose other records are in ``whole``."""
    for name, value in part.items():
        if name in whole and _canonical(whole[name]) != _canonical(value):
            raise InputError(
                f"{_run_name(group[0])} has two records of one seed that differ in {name!r} "
                f"({_difference(name, group)}): keep one, or give each setting its own label."
            )
        whole[name] = value


def _difference(name: str, group) -> str:
    """Settings in which records of a group with another value of ``name`` differ from the first."""
    having = [r for r in group if name in r["protocol"] or name in _numbers(r)]
    value = [_canonical(r["protocol"].get(name, _numbers(r).get(name))) for r in having]
    second = next((i for i, other in enumerate(value) if other != value[0]), 0)
    a, b = (
        flatten_dict({x: record[x] for x in _SETTINGS if record.get(x) is not None}, sep=".")
        for record in (having[0], having[second])
    )
    differ = [
        f"{x}: {a.get(x, 'none')} and {b.get(x, 'none')}"
        for x in a | b
        if _canonical(a.get(x)) != _canonical(b.get(x))
    ]
    return (
        "; ".join(differ[:_NAMED_SETTINGS] + ["…"] * (len(differ) > _NAMED_SETTINGS))
        or "with equal settings"
    )


def _run_name(record) -> str:
    return f"{record['label']!r} on {record['data']} ({record['part']}), seed {record['seed']},"


def set_name(record: Mapping[str, Any]) -> str:
    """Display name of a record's set: for own images, the name of their folder or file."""
    named, suffix = re.fullmatch(r"(.*?)((?: \([^()]*\))*)", record["data"], re.DOTALL).groups()
    if named in _OF_FILES:
        named = _path_name(record_files.data_of(record).get("path", "")) or "own images"
    return DATA_NAMES.get(named, named) + suffix


def _path_name(path: str) -> str:
    parts = [pathlib.Path(part).stem for part in pathlib.PurePath(path.rstrip("/")).parts[-2:]]
    if not parts:
        return ""
    return parts[0] if parts[-1].lower() in _PLAIN else parts[-1]


def _without_needless_suffixes(names: Sequence[str]) -> list[str]:
    """Drops the beginning of the identity, as in "photos (1f2e3d4c)", where names differ anyway."""
    bare = [re.sub(r" \([0-9a-f]{8}\)$", "", name) for name in names]
    return [b if bare.count(b) == 1 else name for b, name in zip(bare, names)]


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Display names of classes: the last level of "animals/sea_birds", unless two share it."""
    names = [str(name) for name in names]
    if names and all("/" in name for name in names):
        last = [name.rpartition("/")[2] for name in names]
        names = [
            end if last.count(end) == 1 else name.replace("/", " / ")
            for end, name in zip(last, names)
        ]
    return tuple(name.replace("_", " ") for name in names)


def _with_class_names(details: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluator's details with display names of classes."""
    named = {k: list(class_names(v)) for k, v in details.items() if k in _CLASS_LISTS}
    return dict(details) | named


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
        (statistics.OPEN, "shows no clear difference from"),
    ):
        peers = [results.name(peer) for peer in words if words[peer] == word]
        if peers:
            parts.append(f"{phrase} {join(peers)}")
    return join(parts)


def join(words: Sequence[str]) -> str:
    """Joins words as in "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
