"""Tables of one set and over several sets, for the terminal and as Markdown."""

from typing import Any, NamedTuple, Sequence

import numpy as np
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from jaxpt.errors import InputError
from jaxpt.evaluation.metrics import mean_log_odds
from jaxpt.report import statistics
from jaxpt.report.metrics import SEPARATION, SUMMARY, Metric
from jaxpt.report.results import NAMES, SUBJECT, Results, collect, in_order, sentence

MISSING = "–"
WIDEST = 6  # most metrics as columns of a group table; more become rows
SECONDS_TITLE = "time (s)"
BEST_CAPTION = (
    "Bold: significantly above every other method (paired t-tests over seeds, Holm-adjusted over "
    "the other methods). A column without bold has no method that these seeds single out."
)
ONE_SEED = "A method with one seed has no interval and no verdict: its number is a single draw."
VERDICT_CAPTION = (
    "Paired t-tests over seeds, Holm-adjusted over the peers within a metric. Apart: p below 5 %. "
    "Undecided: these seeds do not distinguish the two. Intervals are not adjusted."
)
_MEAN = Metric("mean", "mean")
_LOG_ODDS = Metric("log_odds", "mean log-odds", percent=False)


class Best(str):
    """The cell of a method that is significantly above all others."""


def headings(results: Results) -> list[str]:
    """Column headings of the main table, the method first."""
    return [
        "method",
        *(m.heading for m in results.headline),
        *[SECONDS_TITLE] * any(_seconds(results)),
    ]


def rows(results: Results) -> list[list[str]]:
    """One row per method: mean ± half width of each metric, and the median pre-training seconds
    if records have them."""
    table, seconds = metric_rows(results, results.headline), _seconds(results)
    if not any(seconds):
        return table
    return [[*row, f"{s:.1f}" if s else MISSING] for row, s in zip(table, seconds)]


def metric_rows(results: Results, metrics: Sequence[Metric]) -> list[list[str]]:
    """One row per method: its name, and mean ± half width of each metric."""
    best = {metric: results.best(metric) for metric in metrics}
    table = []
    for label in results.methods:
        cells = [interval(m, results.summary(label, m.key)) for m in metrics]
        table.append(
            [
                results.name(label),
                *(Best(cell) if best[m] == label else cell for m, cell in zip(metrics, cells)),
            ]
        )
    return table


def group_table(results: Results, metrics: Sequence[Metric]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a group of metrics; transposed if it has more than WIDEST metrics."""
    columns, table = ["method", *(m.heading for m in metrics)], metric_rows(results, metrics)
    if len(metrics) <= WIDEST:
        return columns, table
    headings, *standing = (list(column) for column in zip(columns, *table))
    return ["measurement", *headings[1:]], standing


def verdict_rows(results: Results) -> list[list[tuple[str, statistics.Verdict] | str]]:
    """One row per peer: its name, then (difference, verdict) per metric; "–" without a verdict."""
    by_metric = [(m, results.verdicts(m.key)) for m in results.headline]
    return [
        [
            results.name(peer),
            *(
                (interval(m, verdicts[peer].difference, sign=True), verdicts[peer])
                if peer in verdicts
                else MISSING
                for m, verdicts in by_metric
            ),
        ]
        for peer in results.peers
        if any(peer in verdicts for _, verdicts in by_metric)
    ]


def verdict_headings(results: Results) -> list[str]:
    return [f"{NAMES[SUBJECT]} minus …", *(m.heading for m in results.headline)]


def caption(results: Results) -> str:
    """Explains the numbers of the main table, limited to the columns that it has."""
    several = results.intervals
    kinds = [
        *["mean ± half width of the 95 % t-interval over seeds"] * several,
        *["accuracies in %"] * any(m.percent for m in results.headline),
        *[f"{'median ' * several}seconds per pre-training run, start-up included"]
        * any(_seconds(results)),
    ]
    separation = (
        f"R² measures how far apart the {results.classes} lie (1: each has collapsed to a point); "
        "it is not a score."
    )
    numbers = "; ".join(kinds) + "."
    return " ".join(
        [*[numbers[0].upper() + numbers[1:]] * bool(kinds), *[separation] * results.has(SEPARATION)]
    )


def notes(results: Results) -> list[str]:
    """Notes on bold cells and single seeds, to stand below the caption where they apply."""
    scores = [m for m in results.headline if m.score]
    counts = [len(results.values(label, m.key)) for label in results.methods for m in scores]
    return [BEST_CAPTION] * any(map(results.best, scores)) + [ONE_SEED] * (1 in counts)


def interval(metric: Metric, summary, *, sign: bool = False) -> str:
    """Formats a summary: "96.6 ± 0.4", "96.6" for one seed, "–" for none."""
    if summary is None:
        return MISSING
    mean = metric.text(summary.mean, sign=sign)
    return mean if summary.half_width is None else f"{mean} ± {metric.text(summary.half_width)}"


def _seconds(results):
    return [results.median_seconds(label) for label in results.methods]


class TableOverSets(NamedTuple):
    """A metric on every set that has it, with its mean and mean log-odds over these sets."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def over_sets(sets: Sequence[Results]) -> list[TableOverSets]:
    """One table per metric and part that at least two sets have."""
    found = []
    for part in dict.fromkeys(results.part for results in sets):
        for metric in SUMMARY:
            shared = [r for r in sets if r.part == part and r.has(metric)]
            if len(shared) > 1:
                found.append(
                    TableOverSets(
                        f"{metric.title}, {part} parts of {len(shared)} sets",
                        ["method", *(r.data for r in shared), _MEAN.heading, _LOG_ODDS.heading],
                        _rows_over_sets(shared, metric),
                    )
                )
    return found


def caption_over_sets(sets: Sequence[Results]) -> str:
    """Caption of the tables over several sets."""
    half_widths = ", mean ± half width of the 95 % t-interval over seeds"
    return (
        f"Accuracies in %{half_widths * any(results.intervals for results in sets)}. The mean and "
        "the mean log-odds log(a / (1 − a)) are taken over the sets, seed by seed, for methods "
        "that were measured on all sets. Log-odds weigh a gain near 100 % like an equivalent gain "
        "elsewhere. Accuracies of 0 and 100 % are clipped to half an example; without a recorded "
        "number of examples they have no log-odds."
    )


def _rows_over_sets(sets, metric):
    labels = in_order(label for results in sets for label in results.methods)
    by_set = [
        {label: row[1] for label, row in zip(results.methods, metric_rows(results, [metric]))}
        for results in sets
    ]
    columns = [
        _mean_column(
            labels, kind, {label: _means_over_sets(sets, label, metric, kind) for label in labels}
        )
        for kind in (_MEAN, _LOG_ODDS)
    ]
    return [
        [
            NAMES.get(label, label),
            *(cells.get(label, MISSING) for cells in by_set),
            *(column[label] for column in columns),
        ]
        for label in labels
    ]


def _mean_column(labels, kind, values):
    # Without the mean of each there is no best: a missing one may be the highest.
    best = statistics.leader(values) if all(values.values()) else None
    cells = {
        label: interval(
            kind, statistics.summary_of_any(list(values[label].values())) if values[label] else None
        )
        for label in labels
    }
    return {label: Best(cell) if label == best else cell for label, cell in cells.items()}


def _means_over_sets(sets, label, metric, kind) -> dict[int, float]:
    """Means over all sets by seed; {} if a set or a log-odds is missing."""
    if any(label not in results.methods for results in sets):
        return {}
    values = [results.values(label, metric.key) for results in sets]
    seeds = sorted(set.intersection(*map(set, values)))
    if kind is _MEAN:
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
        known = run.get("examples") or ((run.get("guess") or {}).get("fine") or {}).get("images")
        if known or confusion:
            return known or int(np.sum(confusion[0]["matrix"]))
    return 0


def terminal(records: Sequence[dict[str, Any]]) -> Group:
    """Main table, verdicts on LOOK and its peers, and a one-sentence summary, for rich's console.

    Raises:
      InputError: see ``results.collect``.
    """
    results = collect(records)
    below = " ".join([caption(results), *notes(results)])
    parts = [
        rich_table(f"{results.title}, {results.seeds}", headings(results), rows(results), below),
        "",
    ]
    compared = verdict_rows(results)
    if compared:
        cells = [
            [cell if isinstance(cell, str) else f"{cell[0]}\n{cell[1].word}" for cell in row]
            for row in compared
        ]
        parts += [
            rich_table(
                "Is LOOK apart from its peers?", verdict_headings(results), cells, VERDICT_CAPTION
            ),
            "",
        ]
    return Group(*parts, escape(sentence(results)))


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Main table, verdicts and a one-sentence summary as Markdown, for README and docs.

    Raises:
      InputError: see ``results.collect``.
    """
    return markdown_of(collect(records))


def markdown_of(results: Results) -> str:
    """Main table, verdicts and a one-sentence summary of one set, as Markdown."""
    parts = [
        markdown_table(headings(results), rows(results)),
        " ".join([f"{plain(results.title)}, {results.seeds}.", caption(results), *notes(results)]),
    ]
    compared = verdict_rows(results)
    if compared:
        cells = [
            [
                cell if isinstance(cell, str) else f"{cell[0]} {_strong(cell[1].word)}"
                for cell in row
            ]
            for row in compared
        ]
        parts += [markdown_table(verdict_headings(results), cells), VERDICT_CAPTION]
    return "\n\n".join([*parts, plain(sentence(results))]) + "\n"


def markdown_table(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; special characters in cells are escaped."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *cells]
    return "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)


def plain(text: str) -> str:
    """Joins text into one line and escapes "<", so that Markdown does not read it as HTML."""
    return text.replace("<", "\\<").replace("\n", " ")


def rich_table(
    name: str, columns: Sequence[str], cells: Sequence[Sequence[str]], caption: str
) -> Table:
    """A table for the terminal; markup in cells is escaped."""
    table = Table(
        title=escape(name),
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column(columns[0], overflow="fold", min_width=13)
    # Broken headings, and "±0.6" for "± 0.6", so that the table fits into 80 columns.
    for column in columns[1:]:
        table.add_column(column.replace(" ", "\n").replace("\n%", " %"), justify="right")
    for row in cells:
        table.add_row(*(_rich_cell(cell) for cell in row))
    return table


def _rich_cell(cell):
    text = escape(cell).replace("± ", "±")
    return f"[bold]{text}[/bold]" if isinstance(cell, Best) else text


def _markdown_cell(cell):
    # A backslash before "<" keeps a name from becoming HTML.
    text = cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "\\<").replace("\n", " ")
    return _strong(text) if isinstance(cell, Best) else text


def _strong(word: str) -> str:
    return word if word == statistics.OPEN else f"**{word}**"
