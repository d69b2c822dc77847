"""Tables of records, for the terminal and as Markdown."""

from typing import Any, Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from jaxpt.report.metrics import SEPARATION, Metric
from jaxpt.report.results import NAMES, SUBJECT, Results, collect, sentence
from jaxpt.report.statistics import TIE, Verdict

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
    "Tie: these seeds do not distinguish the two. Intervals are not adjusted."
)


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


def verdict_rows(results: Results) -> list[list[tuple[str, Verdict] | str]]:
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


def interval(metric: Metric, summary, *, sign: bool = False) -> str:
    """Formats a summary: "96.6 ± 0.4", "96.6" for one seed, "–" for none."""
    if summary is None:
        return MISSING
    mean = metric.text(summary.mean, sign=sign)
    return mean if summary.half_width is None else f"{mean} ± {metric.text(summary.half_width)}"


def _seconds(results):
    return [results.median_seconds(label) for label in results.methods]


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
    return word if word == TIE else f"**{word}**"
