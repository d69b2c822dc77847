"""Building blocks of HTML pages, and their writing. Everything but ``Markup`` is escaped."""

import base64
import html
import importlib.resources
import os
import pathlib
from typing import Sequence

from jaxpt.files import replacing, unwritable
from jaxpt.report.tables import Best


class Markup(str):
    """A string that is HTML already and is not escaped."""


def text(value) -> str:
    """Converts a value to HTML: markup unchanged, a ``Best`` cell in bold, the rest escaped."""
    if isinstance(value, Markup):
        return value
    escaped = html.escape(str(value))
    return f"<strong>{escaped}</strong>" if isinstance(value, Best) else escaped


def join(parts: Sequence, between: str = "\n") -> Markup:
    return Markup(between.join(map(text, parts)))


def tag(name: str, content="", **attributes) -> Markup:
    """``<name attributes>content</name>``; ``kind`` becomes the attribute ``class``."""
    named = {
        "class" if key == "kind" else key.replace("_", "-"): value
        for key, value in attributes.items()
    }
    written = "".join(f' {key}="{html.escape(str(value))}"' for key, value in named.items())
    return Markup(f"<{name}{written}>{text(content)}</{name}>")


def document(title: str, body: Sequence, *styles: str) -> Markup:
    """A whole page that loads nothing and runs no scripts.

    Args:
      title: of the page.
      body: its parts.
      styles: names of files in this package.
    """
    folder = importlib.resources.files("jaxpt.report")
    style = "".join((folder / name).read_text(encoding="utf-8") for name in styles)
    return join(
        [
            Markup("<!doctype html>"),
            Markup('<html lang="en"><head><meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            # In addition to escaping: the browser refuses to run scripts or load anything.
            Markup(
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                "img-src data:; style-src 'unsafe-inline'\">"
            ),
            tag("title", title),
            Markup(f"<style>\n{style}</style></head>"),
            Markup("<body>"),
            tag("main", join(body)),
            Markup("</body></html>\n"),
        ]
    )


def table(columns: Sequence, rows: Sequence[Sequence], name: str, kind: str = "") -> Markup:
    """A table in a box that scrolls sideways.

    Args:
      columns: headings; no heading row if all are empty.
      rows: cells, the first of each row as the row's heading.
      name: label for screen readers, not shown.
      kind: "prose" lets the text of cells wrap; "" does not.
    """
    head = tag("thead", tag("tr", join([tag("th", c, scope="col") for c in columns], "")))
    body = tag(
        "tbody",
        join(
            [
                tag(
                    "tr",
                    join(
                        [tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])], ""
                    ),
                )
                for row in rows
            ]
        ),
    )
    whole = tag("table", join([head, body] if any(columns) else [body]), aria_label=name)
    return scrolling(whole, name, kind)


def scrolling(content, name: str, kind: str = "") -> Markup:
    """A box that scrolls sideways, also from the keyboard."""
    return tag(
        "div", content, kind=f"wide {kind}".strip(), tabindex=0, role="region", aria_label=name
    )


def figure(panels: Sequence[Markup], caption, *below) -> Markup:
    """Panels side by side, as many as fit into a row, followed by ``below`` and the caption."""
    return tag(
        "figure",
        join([tag("div", join(panels), kind="panels"), *below, tag("figcaption", caption)]),
    )


def legend(title: str, entries: Sequence[tuple[str, str, str]]) -> Markup:
    """Legend with entries (colour, marker, name); a marker is matplotlib's letter for it."""
    items = [
        tag("li", join([tag("i", style=f"background:{color}", kind=f"mark-{marker}"), name], ""))
        for color, marker, name in entries
    ]
    return tag("div", join([tag("b", title), tag("ul", join(items, ""))], " "), kind="legend")


def image(data: bytes, kind: str, alt: str) -> Markup:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup(f'<img alt="{html.escape(alt)}" src="{source}">')


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically, so that a kill leaves no partial file.

    Raises:
      InputError: if it cannot be written.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise unwritable(path, error) from error
