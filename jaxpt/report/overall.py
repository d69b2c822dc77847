"""Results over several sets: mean accuracy and mean log-odds of each method."""

from typing import NamedTuple, Sequence

import numpy as np

from jaxpt.errors import InputError
from jaxpt.evaluation.metrics import mean_log_odds
from jaxpt.report import statistics
from jaxpt.report.metrics import SUMMARY, Metric
from jaxpt.report.results import NAMES, Results, in_order
from jaxpt.report.tables import MISSING, Best, interval, metric_rows

MEAN = Metric("mean", "mean")
LOG_ODDS = Metric("log_odds", "mean log-odds", percent=False)


class Table(NamedTuple):
    """A metric on every set that has it, with its mean and mean log-odds over these sets."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def tables(sets: Sequence[Results]) -> list[Table]:
    """One table per metric and part that at least two sets have."""
    found = []
    for part in dict.fromkeys(results.part for results in sets):
        for metric in SUMMARY:
            shared = [r for r in sets if r.part == part and r.has(metric)]
            if len(shared) > 1:
                found.append(
                    Table(
                        f"{metric.title}, {part} parts of {len(shared)} sets",
                        ["method", *(r.data for r in shared), MEAN.heading, LOG_ODDS.heading],
                        _rows(shared, metric),
                    )
                )
    return found


def caption(sets: Sequence[Results]) -> str:
    """Caption of the tables over several sets."""
    interval = ", mean ± half width of the 95 % t-interval over seeds"
    return (
        f"Accuracies in %{interval * any(results.intervals for results in sets)}. The mean and "
        "the mean log-odds log(a / (1 − a)) are taken over the sets, seed by seed, for methods "
        "that were measured on all sets. Log-odds weigh a gain near 100 % like an equivalent gain "
        "elsewhere. Accuracies of 0 and 100 % are clipped to half an example; without a recorded "
        "number of examples they have no log-odds."
    )


def _rows(sets, metric):
    labels = in_order(label for results in sets for label in results.methods)
    by_set = [
        {label: row[1] for label, row in zip(results.methods, metric_rows(results, [metric]))}
        for results in sets
    ]
    columns = [
        _column(labels, kind, {label: _over_sets(sets, label, metric, kind) for label in labels})
        for kind in (MEAN, LOG_ODDS)
    ]
    return [
        [
            NAMES.get(label, label),
            *(cells.get(label, MISSING) for cells in by_set),
            *(column[label] for column in columns),
        ]
        for label in labels
    ]


def _column(labels, kind, values):
    known = {label: v for label, v in values.items() if v}
    best = statistics.leader(known)
    cells = {
        label: interval(
            kind, statistics.summary_of_any(list(values[label].values())) if values[label] else None
        )
        for label in labels
    }
    return {label: Best(cell) if label == best else cell for label, cell in cells.items()}


def _over_sets(sets, label, metric, kind) -> dict[int, float]:
    """Means over all sets by seed; {} if a set or a log-odds is missing."""
    if any(label not in results.methods for results in sets):
        return {}
    values = [results.values(label, metric.key) for results in sets]
    seeds = sorted(set.intersection(*map(set, values)))
    if kind is MEAN:
        return {seed: float(np.mean([v[seed] for v in values])) for seed in seeds}
    examples = [_examples(results.methods[label].values()) for results in sets]
    try:
        return {
            seed: mean_log_odds(
                [v[seed] for v in values], examples=examples if all(examples) else None
            )
            for seed in seeds
        }
    except InputError:  # an accuracy of 0 or 100 % of an unknown number of examples
        return {}


def _examples(runs) -> int:
    """Number of scored images by a record or its confusion matrix; 0 if neither has it."""
    for run in runs:
        confusion = run["details"].get("confusion")
        if run.get("examples") or confusion:
            return run.get("examples") or int(np.sum(confusion[0]["matrix"]))
    return 0
