"""Tables from records: for the terminal and as Markdown."""

from typing import Any, Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from jaxpt.report.results import METRICS, NAMES, SUBJECT, Metric, Results, collect, sentence
from jaxpt.report.statistics import TIE, Verdict

SECONDS_TITLE = "time (s)"
CAPTION = ("Mean ± half width of the 95 % t-interval over seeds; accuracies in %; median seconds "
           "of one pre-training run, start-up included. R² is how far the coarse classes lie "
           "apart, 1 where each has collapsed to a point: it is no score.")
VERDICT_CAPTION = ("Paired t-test over seeds, Holm-adjusted over the peers within a metric: apart "
                   "below 5 %, else a tie, which means not told apart by these seeds. Intervals "
                   "are not adjusted.")


def headings() -> list[str]:
    """Column headings of the main table, the method first."""
    return ["method", *(m.title + " %" * m.percent for m in METRICS), SECONDS_TITLE]


def rows(results: Results) -> list[list[str]]:
    """A row a method: mean ± half width of every metric, and the median pre-training seconds."""
    return [[results.name(label), *(_interval(m, results.summary(label, m.key)) for m in METRICS),
             f"{results.median_seconds(label):.1f}"] for label in results.methods]


def verdict_rows(results: Results) -> list[list[tuple[str, Verdict] | str]]:
    """A row a peer: its name, then (difference, verdict) of every metric."""
    by_metric = [(m, results.verdicts(m.key)) for m in METRICS]
    return [[results.name(peer), *((_interval(m, verdicts[peer].difference, sign=True),
                                    verdicts[peer]) for m, verdicts in by_metric)]
            for peer in results.peers]


def title(results: Results) -> str:
    """ "digits, test part, 5 seeds"."""
    return f"{results.data}, {results.part} part, {results.seeds}"


def verdict_title() -> str:
    return f"{NAMES[SUBJECT]} minus …"


def terminal(records: Sequence[dict[str, Any]]) -> Group:
    """The table, LOOK against each peer, and one sentence, for rich's console.

    Raises:
      InputError: see ``results.collect``.
    """
    results = collect(records)
    main = _rich(title(results), headings(), rows(results), CAPTION)
    if not results.peers:
        return Group(main, escape(sentence(results)))
    cells = [[cell if isinstance(cell, str) else f"{cell[0]}\n{cell[1].word}" for cell in row]
             for row in verdict_rows(results)]
    verdicts = _rich("Is LOOK apart from its peers?", [verdict_title(), *headings()[1:-1]], cells,
                     VERDICT_CAPTION)
    return Group(main, "", verdicts, "", escape(sentence(results)))


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """The same as Markdown, for README.

    Raises:
      InputError: see ``results.collect``.
    """
    results = collect(records)
    parts = [_markdown(headings(), rows(results)), f"{title(results)}. {CAPTION}"]
    if results.peers:
        cells = [[cell if isinstance(cell, str) else f"{cell[0]} {_strong(cell[1].word)}"
                  for cell in row] for row in verdict_rows(results)]
        parts += [_markdown([verdict_title(), *headings()[1:-1]], cells), VERDICT_CAPTION]
    return "\n\n".join([*parts, sentence(results)]) + "\n"


def _interval(metric: Metric, summary, *, sign: bool = False) -> str:
    return f"{metric.text(summary.mean, sign=sign)} ± {metric.text(summary.half_width)}"


def _rich(name, columns, cells, caption):
    table = Table(title=escape(name), caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
                  show_edge=False, title_justify="left", caption_justify="left")
    table.add_column(columns[0], overflow="fold", min_width=13)
    # Headings of several lines and "±0.6" rather than "± 0.6", so that it all fits into 80 columns.
    for column in columns[1:]:
        table.add_column(column.replace(" ", "\n").replace("\n%", " %"), justify="right")
    for row in cells:
        table.add_row(*(escape(cell).replace("± ", "±") for cell in row))
    return table


def _markdown(columns, cells):
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)


def _strong(word: str) -> str:
    return word if word == TIE else f"**{word}**"
