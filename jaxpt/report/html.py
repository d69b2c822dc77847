"""One self-contained HTML page from records."""

import base64
import html
import importlib.resources
import os
import pathlib
from typing import Any, Mapping, Sequence

from jaxpt.errors import InputError
from jaxpt.report import features as feature_files
from jaxpt.report import maps, plots, settings, tables
from jaxpt.report.features import FeatureSet
from jaxpt.report.results import NAMES, Results, collect, join, sentence

FILE, MAP_FILE = "report.html", "features_map.png"

MEASURED = ("Diamonds and bars are means over seeds, whiskers their 95 % t-intervals, dots single "
            "seeds. The axes of the accuracies are zoomed, as marked; class separation is shown "
            "from zero. Class separation is the share of the spread that lies between the coarse "
            "classes: the higher it is, the less is left inside them. That is no merit in itself.")
CURVES = ("Training of one seed. Each loss has an axis of its own, since losses of different "
          "methods do not compare. The monitor is the kNN accuracy on the coarse labels, on "
          "training images, each left out of its own neighbours.")
MAPPED = ("Unit-length backbone features of the {part} part, seed {seed}{only}. Upper two rows: "
          "the plane of the two largest principal components; its axes are the same in all "
          "columns, so lengths compare, and the percentage is the share of all variance that it "
          "shows. Lower row: t-SNE (perplexity {perplexity}), which shows who is near whom; its "
          "lengths, sizes and densities mean nothing. R² over each column is that run's class "
          "separation in the full feature space.")


def write_report(records: Sequence[dict[str, Any]], out_dir: str | os.PathLike,
                 features: Mapping[str, FeatureSet] | None = None) -> pathlib.Path:
    """Writes ``report.html``, and ``features_map.png`` where there are features.

    Args:
      records: of one set and one protocol, two seeds or more of each method.
      out_dir: the folder, made where it is missing.
      features: by label, one run each; None takes those kept in ``out_dir`` for these records.

    Returns:
      The path of report.html.

    Raises:
      InputError: for records that do not make one report, or a folder that cannot be written.
    """
    results = collect(records)
    out_dir = pathlib.Path(out_dir)
    if features is None:
        features = {label: feature_files.load(out_dir, label) for label in results.methods}
    keys = {record["key"] for record in results.records}
    features = {label: f for label, f in features.items() if f is not None and f.key in keys}
    picture = plots.to_png(maps.feature_map(results, features)) if features else None
    page = render(results, features, picture)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        if picture:
            (out_dir / MAP_FILE).write_bytes(picture)
        (out_dir / FILE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(out_dir)!r} cannot be written ({error.strerror}): choose another "
                         "folder.") from error
    return out_dir / FILE


def render(results: Results, features: Mapping[str, FeatureSet], picture: bytes | None) -> str:
    """The page's text."""
    title = f"LOOK and its peers on {results.data}" if results.peers else (
        f"{join([results.name(m) for m in results.methods])} on {results.data}")
    style = (importlib.resources.files("jaxpt.report") / "style.css").read_text(encoding="utf-8")
    body = [
        _tag("h1", title), _tag("p", sentence(results), "lead"),
        *_measurements(results), *_map(results, features, picture), *_training(results),
        _tag("h2", "How it was measured"), *map(_paragraph, settings.procedure(results)),
        _table(("measurement", "constants"), settings.protocol_rows(results)),
        _tag("h2", "Settings"), *map(_paragraph, settings.tuning(results)),
        *_settings(results),
        _tag("h2", "Where and when"), _table(("", ""), settings.surroundings_rows(results)),
    ]
    return "\n".join([
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        _tag("title", title), f"<style>\n{style}</style></head>", "<body><main>", *body,
        "</main></body></html>", ""])


def _measurements(results):
    parts = [_tag("h2", "What was measured"), _table(tables.headings(), tables.rows(results)),
             _tag("p", tables.CAPTION, "note")]
    if results.peers:
        rows = [[cell if isinstance(cell, str) else _verdict_cell(*cell) for cell in row]
                for row in tables.verdict_rows(results)]
        parts += [_tag("h3", f"Is {NAMES['look']} apart from its peers?"),
                  _table([tables.verdict_title(), *tables.headings()[1:-1]], rows),
                  _tag("p", tables.VERDICT_CAPTION, "note")]
    return [*parts, _figure(plots.to_svg(plots.measurements(results)), "svg+xml",
                            "Measurements of every method with intervals", MEASURED)]


def _verdict_cell(difference, verdict):
    p = "p &lt; 0.001" if verdict.p_adjusted < 0.001 else f"p = {verdict.p_adjusted:.3f}"
    kind = "tie" if verdict.word == "tie" else "apart"
    return _Markup(f'{html.escape(difference)}<br><span class="{kind}">'
                   f"{html.escape(verdict.word)}</span> <small>{p}</small>")


def _map(results, features, picture):
    if not picture:
        return []
    n = max(len(f.fine) for f in features.values())
    only = f", {maps.MAP_EXAMPLES:,} of {n:,} examples" if n > maps.MAP_EXAMPLES else ""
    keys = {f.key for f in features.values()}
    seeds = sorted({r["seed"] for r in results.records if r["key"] in keys})
    caption = MAPPED.format(part=results.part, seed=join(list(map(str, seeds))), only=only,
                            perplexity=maps.PERPLEXITY)
    return [_tag("h2", "What the features look like"),
            _figure(picture, "png", "Map of the features of every method", caption)]


def _training(results):
    figure = plots.curves(results)
    if figure is None:
        return []
    return [_tag("h2", "Training"), _figure(plots.to_svg(figure), "svg+xml",
                                            "Training loss and kNN monitor", CURVES)]


def _settings(results):
    names = [results.name(label) for label in results.methods]
    different, same = settings.config_rows(results)
    return [_table(("setting", *names), different),
            "<details><summary>What is the same for all</summary>",
            _table(("setting", "value"), same), "</details>"]


class _Markup(str):
    """Text that is HTML already."""


def _text(value) -> str:
    return value if isinstance(value, _Markup) else html.escape(str(value))


def _tag(name: str, content, kind: str = "") -> str:
    return f"<{name}{f' class={kind!r}' if kind else ''}>{_text(content)}</{name}>"


def _paragraph(content) -> str:
    return _tag("p", content)


def _table(columns, rows) -> str:
    head = "".join(_tag("th", column) for column in columns) if any(columns) else ""
    body = "\n".join("<tr>" + _tag("th", row[0]) + "".join(_tag("td", cell) for cell in row[1:])
                     + "</tr>" for row in rows)
    return (f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>{body}</tbody></table></div>")


def _figure(image: bytes, kind: str, name: str, caption: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return (f'<figure><div class="wide" tabindex="0"><img alt="{html.escape(name)}" '
            f'src="{source}"></div>{_tag("figcaption", caption)}</figure>')
