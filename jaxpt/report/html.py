"""The report: a self-contained HTML page, all numbers as Markdown and CSV, display in notebooks."""

import csv as csv_files
import io
import itertools
import os
import pathlib
from typing import Any, Mapping, NamedTuple, Sequence

from jaxpt.errors import require
from jaxpt.report import figures, lead, scaling, settings, statistics, tables
from jaxpt.report.figures import FeatureSet, Map
from jaxpt.report.markup import Markup, document, figure, join, legend, table, tag, write_file
from jaxpt.report.metrics import SEPARATION
from jaxpt.report.results import NAMES, Results, collect_sets, sentence
from jaxpt.report.results import join as join_words

FILE, MAP_FILE = "report.html", "features_map.png"
CSV_COLUMNS = ("data", "part", "label", "method", "pretrain_limit", "seed", "measurement", "value")
CONTENTS = 5  # from this many sections on, the page has a table of contents
LEADS = 3  # up to this many sets, all summary sentences stand at the top of the page


def write_report(
    records: Sequence[dict[str, Any]],
    out: str | os.PathLike,
    features: Mapping[str, FeatureSet] | None = None,
    *,
    markdown: str | os.PathLike | None = None,
    csv: str | os.PathLike | None = None,
) -> pathlib.Path:
    """Writes the page, and ``features_map.png`` next to it if features were kept.

    Args:
      records: of demo, studies, ``evaluate`` and ``transfer``, mixed, of any number of sets.
      out: a file that ends in .html, or a folder for ``report.html``; created if it is missing.
      features: label → features of one run; None loads those kept in the folder for these records.
      markdown: file for all tables; None writes none.
      csv: file for all values; None writes none.

    Returns:
      The path of the page.

    Raises:
      InputError: for records that do not make a report, or files that cannot be written. Nothing
        is written until everything has been rendered.
    """
    sets = collect_sets(records)
    page = pathlib.Path(out)
    page = page if page.suffix.lower() in (".html", ".htm") else page / FILE
    if features is None:
        labels = {label for results in sets for label in results.methods}
        features = {label: figures.load_features(page.parent, label) for label in sorted(labels)}
    kept = [_kept_maps(results, features) for results in sets]
    files = {page: render(sets, kept).encode()}
    pictured = next(((r, m) for r, m in zip(sets, kept) if m), None)
    if pictured:
        files[page.parent / MAP_FILE] = figures.to_png(figures.feature_map(*pictured))
    if markdown:
        files[pathlib.Path(markdown)] = markdown_of_sets(sets).encode()
    if csv:
        files[pathlib.Path(csv)] = csv_of_sets(sets).encode()
    for path, content in files.items():
        write_file(path, content)
    return page


def render(sets: Sequence[Results], kept: Sequence[Mapping[str, Map]]) -> str:
    """Renders the page; ``kept`` holds each set's maps by label that are not in records."""
    title = _title(sets)
    sections = _sections(sets, kept)
    body = [
        tag("h1", title),
        *(_lead(sets) if len(sets) <= LEADS else []),
        *_contents(sections),
        *(_render_section(s, f"s{i}", 2) for i, s in enumerate(sections, 1)),
    ]
    return figures.number_ids(document(title, body, "style.css"))


class Section(NamedTuple):
    """A heading, its content, and its subsections."""

    title: str
    parts: Sequence[Markup] = ()
    below: Sequence["Section"] = ()


def _title(sets) -> str:
    methods = list(dict.fromkeys(results.name(m) for results in sets for m in results.methods))
    names = list(dict.fromkeys(results.data for results in sets))
    where = join_words(names) if len(names) <= 3 else f"{len(names)} sets"
    if NAMES["look"] in methods and len(methods) > 1:
        return f"LOOK and its peers on {where}"
    return f"{join_words(methods)} on {where}"


def _sections(sets, kept) -> list[Section]:
    per_set = [
        [
            *_measured(results),
            *_scaled(results),
            *_mapped(results, known),
            *_neighbors(results),
            *_confused(results),
            *_compared(results),
            *_trained(results),
            _procedure(results),
        ]
        for results, known in zip(sets, kept)
    ]
    everything = settings.together(sets)
    common = [
        Section("Settings", _settings(everything)),
        Section(
            "Where and when",
            [
                _folded(
                    "Device, versions, dates and seeds",
                    table(
                        ("", ""), settings.surroundings_rows(everything), "surroundings", "prose"
                    ),
                )
            ],
        ),
    ]
    if len(sets) == 1:
        return [*per_set[0], *common]
    over = [Section(t.title, [table(t.headings, t.rows, t.title)]) for t in tables.over_sets(sets)]
    parts = [_lead([results]) if len(sets) > LEADS else [] for results in sets]
    notes = [
        tables.caption_over_sets(sets),
        *[tables.BEST_CAPTION] * any(r.intervals for r in sets),
    ]
    first = [Section("Over all sets", list(map(_note, notes)), over)]
    return [
        *(first if over else []),
        *(
            Section(results.title, lead, below)
            for results, lead, below in zip(sets, parts, per_set)
        ),
        *common,
    ]


def _lead(sets):
    """Each set's result in plain sentences, and then the verdicts of seeds, if there are any."""
    parts = []
    for results in sets:
        first, *others = lead.sentences(results) or [sentence(results)]
        parts.append(tag("p", first, kind="lead"))
        parts += [tag("p", " ".join(others))] * bool(others)
        if others and results.compared:
            parts.append(tag("p", sentence(results)))
    return parts


def _render_section(section: Section, name: str, level: int) -> Markup:
    return join(
        [
            tag(f"h{level}", section.title, id=name),
            *section.parts,
            *(
                _render_section(below, f"{name}-{i}", level + 1)
                for i, below in enumerate(section.below, 1)
            ),
        ]
    )


def _contents(sections):
    if len(sections) < CONTENTS:
        return []
    items = [tag("li", tag("a", s.title, href=f"#s{i}")) for i, s in enumerate(sections, 1)]
    return [tag("nav", tag("ul", join(items, "")), aria_label="contents")]


def _measured(results):
    rows = [*tables.rows(results), *_guessing(results)]
    parts = [
        table(tables.headings(results), rows, results.title),
        *map(_note, filter(None, [tables.caption(results), *tables.notes(results)])),
        figure(figures.measurements(results), figures.measurements_caption(results)),
    ]
    below = []
    compared = [
        [cell if isinstance(cell, str) else _verdict_cell(*cell) for cell in row]
        for row in tables.verdict_rows(results)
    ]
    if compared:
        title = f"Is {NAMES['look']} apart from its peers?"
        below.append(
            Section(
                title,
                [
                    table(tables.verdict_headings(results), compared, title),
                    _note(tables.VERDICT_CAPTION),
                ],
            )
        )
    more = [
        _folded(title, table(*tables.group_table(results, metrics), title))
        for title, metrics in results.groups.items()
    ]
    if more:
        below.append(Section("More measurements", more))
    return [Section("What was measured", parts, below)]


def _guessing(results):
    """The row of guesses that accuracies are to be compared with, if they are known."""
    cells = []
    for metric in results.headline:
        found = lead.guess(results, metric) if metric.percent else None
        cells.append(metric.text(found.share) if found else tables.MISSING)
    if set(cells) <= {tables.MISSING}:
        return []
    blank = [tables.MISSING] * (len(tables.headings(results)) - 1 - len(cells))
    return [[tag("i", cell) for cell in ("guessing the largest class", *cells, *blank)]]


def _verdict_cell(difference, verdict):
    p = "p < 0.001" if verdict.p_adjusted < 0.001 else f"p = {verdict.p_adjusted:.3f}"
    kind = verdict.word if verdict.word == statistics.OPEN else "apart"
    word = tag("span", verdict.word, kind=kind)
    return join([difference, Markup("<br>"), word, " ", tag("small", p)], "")


def _scaled(results):
    panels = scaling.plots(results) if results.sizes else []
    if not panels:
        return []
    found = scaling.curves(results, scaling.metrics(results)[0]).values()
    caption = scaling.FIGURE_CAPTION.format(offset=" + c" if any(c.offset for c in found) else "")
    parts = [
        figure(panels, caption),
        table(scaling.headings(), scaling.rows(results), "power laws"),
    ]
    return [Section("Error against the number of images", parts)]


def _kept_maps(results, features):
    """Label → map of the features that were kept for one of these runs."""
    runs = {(run["label"], source["key"]): run for run in results.runs for source in run["sources"]}
    found = {}
    for label in results.methods:
        given = features.get(label)
        run = given and runs.get((label, given.key))
        if run:
            found[label] = figures.projected_map(given)._replace(
                separation=run["values"].get(SEPARATION.key), seed=run["seed"]
            )
    return found


def _mapped(results, kept):
    recorded = {
        label: figures.recorded_map(run) for label, run in results.first_with("map").items()
    }
    found = {
        label: recorded.get(label) or kept[label]
        for label in results.methods
        if label in recorded or label in kept
    }
    if not found:
        return []
    legends = [
        legend(*entry) for entry in figures.map_legends(figures.reference_map(found)).items()
    ]
    shown = figure(
        figures.map_columns(results, found), figures.maps_caption(results, found), *legends
    )
    return [Section("What the features look like", [shown])]


def _neighbors(results):
    found = {
        label: run["details"]["neighbors"][0]
        for label, run in results.first_with("neighbors").items()
    }
    if not found:
        return []
    parts = [
        _note(figures.neighbors_caption(results, found)),
        figures.neighbor_sheet(results, found),
    ]
    return [Section("Nearest neighbours", parts)]


def _confused(results):
    found = {
        label: run["details"]["confusion"][0]
        for label, run in results.first_with("confusion").items()
    }
    if not found:
        return []
    inside = " inside a coarse class" * any(map(figures.has_coarse, found.values()))
    title = f"The {figures.WORST} largest errors{inside}"
    worst = itertools.zip_longest(
        *map(figures.worst_confusions, found.values()), fillvalue=tables.MISSING
    )
    rows = [[f"{place}.", *pairs] for place, pairs in enumerate(worst, 1)]
    columns = ["", *map(results.name, found)]
    panels = [figures.confusion(results, label, details) for label, details in found.items()]
    return [
        Section(
            "Which classes are confused",
            [figure(panels, figures.confusion_caption(found))],
            [Section(title, [table(columns, rows, title)])] if rows else [],
        )
    ]


def _compared(results):
    panels = [
        figures.cka(results, label, details)
        for label, run in results.first_with("cka").items()
        for details in run["details"]["cka"]
    ]
    if not panels:
        return []
    return [Section("Which layers are alike", [figure(panels, figures.CKA_CAPTION)])]


def _trained(results):
    panels = figures.curves(results)
    return (
        [Section("Training", [figure(panels, figures.curves_caption(results))])] if panels else []
    )


def _procedure(results):
    return Section(
        "How it was measured",
        [
            *(tag("p", text) for text in settings.procedure(results)),
            _folded(
                "Constants of every measurement",
                table(
                    ("measurement", "constants"),
                    settings.protocol_rows(results),
                    "protocol",
                    "prose",
                ),
            ),
        ],
    )


def _settings(everything):
    names = [everything.name(label) for label in everything.methods]
    different, same = settings.config_rows(everything)
    parts = [tag("p", text) for text in settings.tuning(everything)]
    values = [row for row in different if len(set(row[1:]) - {tables.MISSING}) > 1]
    own = [row for row in different if row not in values]
    headings = ("setting", *names)
    if values:
        parts.append(table(headings, values, "settings that differ"))
    elif len(names) > 1:
        parts.append(tag("p", "All settings that several methods have are the same."))
    if own:
        title = "Fields that only some methods have"
        parts.append(_folded(title, table(headings, own, title)))
    if same:
        title = "What all methods share" if len(names) > 1 else "All settings"
        parts.append(_folded(title, table(("setting", "value"), same, title, "prose")))
    return parts


def _folded(title, content):
    return tag("details", join([tag("summary", title), content]))


def _note(content):
    return tag("p", content, kind="note")


def markdown_of_sets(sets: Sequence[Results]) -> str:
    """Markdown of all tables: over the sets, then per set."""
    caption = tables.caption_over_sets(sets)
    parts = [
        f"## {t.title}\n\n{tables.markdown_table(t.headings, t.rows)}\n\n{caption}\n"
        for t in tables.over_sets(sets)
    ]
    for results in sets:
        parts.append(f"## {tables.plain(results.title)}\n\n{tables.markdown_of(results)}")
        for title, metrics in results.groups.items():
            written = tables.markdown_table(*tables.group_table(results, metrics))
            parts.append(f"### {title}\n\n{written}\n")
        laws = scaling.rows(results)
        if laws:
            parts.append(
                "### Error against the number of images\n\n"
                f"{tables.markdown_table(scaling.headings(), laws)}\n"
            )
    return "\n".join(parts)


def csv_of_sets(sets: Sequence[Results]) -> str:
    """CSV with one line per value of every run, in full precision.

    A ``pretrain_limit`` of 0 means all images.
    """
    buffer = io.StringIO()
    writer = csv_files.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for results in sets:
        for run in results.sizes or results.runs:
            for name, value in run["values"].items():
                writer.writerow(
                    [
                        run["data"],
                        run["part"],
                        run["label"],
                        run["method"],
                        run["limit"],
                        run["seed"],
                        name,
                        repr(float(value)),
                    ]
                )
    return buffer.getvalue()


class Inline:
    """Displays a page of ``write_report`` as the value of a notebook cell.

    The page is embedded in the cell's output, in a frame with its own scroll bar. So it is still
    there when the notebook is opened elsewhere, and the styles of page and notebook do not mix.
    """

    def __init__(self, page: str | os.PathLike, *, height: int = 640):
        """Initializes the display.

        Args:
          page: the report's file.
          height: of the frame, in CSS pixels.

        Raises:
          InputError: if the file does not exist.
        """
        self.page, self.height = pathlib.Path(page), height
        require(self.page.is_file(), f"there is no report {str(page)!r}: make it by write_report.")

    def __repr__(self) -> str:
        return f"report: {self.page}"

    def _repr_html_(self) -> str:
        return tag(
            "iframe",
            srcdoc=self.page.read_text(encoding="utf-8"),
            title=repr(self),
            style=f"width: 100%; height: {self.height}px; "
            "border: 1px solid #c8cdd3; border-radius: 4px; background: white",
        )
