"""Runs from records of several evaluators: one per set, part, label, size and seed."""

import json
import math
from typing import Any, Sequence

import numpy as np
from flax.traverse_util import flatten_dict

from jaxpt import records as record_files
from jaxpt.errors import InputError, require

FIELDS = ("key", "label", "method", "data", "part", "seed", "values", "protocol")
FINETUNE_SEED = "finetune_seed"
ABOUT = ("config", "data_config", "protocol", "step", "checkpoint")  # settings of a record
SHOWN = 3  # of them in a message
WITH = " with "  # "cka_features with cross_entropy"


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
        missing = [f for f in FIELDS if not isinstance(record, dict) or f not in record]
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


def canonical(value) -> str:
    """JSON of a value, in which the tuple of a new record equals the list of one that was read."""
    return json.dumps(value, sort_keys=True, default=list)


def _unite(group):
    tuned = [record for record in group if FINETUNE_SEED in record]
    seeds = [record[FINETUNE_SEED] for record in tuned]
    require(
        len(set(seeds)) == len(seeds),
        f"{_name(group[0])} has two records of one fine-tuning seed: keep one.",
    )
    values, protocol, details = {}, {}, {}
    for record in [r for r in group if FINETUNE_SEED not in r] + _mean(tuned):
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
            f"{_name(record)} has {value!r} for {name!r}: a value must be a finite number.",
        )
    if record.get("evaluator") != "cka":
        return record["values"]
    # A network may be compared with several, so the name tells with which.
    return {
        f"{name}{WITH}{record['details']['other_label']}": value
        for name, value in record["values"].items()
    }


def _add(whole, part, group):
    """Adds values or constants of a record of a group, whose other records are in ``whole``."""
    for name, value in part.items():
        if name in whole and canonical(whole[name]) != canonical(value):
            raise InputError(
                f"{_name(group[0])} has two records of one seed that differ in {name!r} "
                f"({_difference(name, group)}): keep one, or give each setting its own label."
            )
        whole[name] = value


def _difference(name: str, group) -> str:
    """Settings in which records of a group with another value of ``name`` differ from the first."""
    having = [r for r in group if name in r["protocol"] or name in _numbers(r)]
    value = [canonical(r["protocol"].get(name, _numbers(r).get(name))) for r in having]
    second = next((i for i, other in enumerate(value) if other != value[0]), 0)
    a, b = (
        flatten_dict({x: record[x] for x in ABOUT if record.get(x) is not None}, sep=".")
        for record in (having[0], having[second])
    )
    differ = [
        f"{x}: {a.get(x, 'none')} and {b.get(x, 'none')}"
        for x in a | b
        if canonical(a.get(x)) != canonical(b.get(x))
    ]
    return "; ".join(differ[:SHOWN] + ["…"] * (len(differ) > SHOWN)) or "with equal settings"


def _name(record) -> str:
    return f"{record['label']!r} on {record['data']} ({record['part']}), seed {record['seed']},"
