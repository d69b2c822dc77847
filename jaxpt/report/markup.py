"""Pieces of HTML. Whatever is no ``Markup`` is text, and escaped."""

import base64
import html
from typing import Sequence

from jaxpt.report.tables import Best


class Markup(str):
    """Text that is HTML already."""


def text(value) -> str:
    """HTML of anything: markup as it is, a best cell in bold, the rest escaped."""
    if isinstance(value, Markup):
        return value
    escaped = html.escape(str(value))
    return f"<strong>{escaped}</strong>" if isinstance(value, Best) else escaped


def join(parts: Sequence, between: str = "\n") -> Markup:
    return Markup(between.join(map(text, parts)))


def tag(name: str, content="", **attributes) -> Markup:
    """``<name attributes>content</name>``; ``kind`` is the class."""
    named = {
        "class" if key == "kind" else key.replace("_", "-"): value
        for key, value in attributes.items()
    }
    written = "".join(f' {key}="{html.escape(str(value))}"' for key, value in named.items())
    return Markup(f"<{name}{written}>{text(content)}</{name}>")


def table(columns: Sequence, rows: Sequence[Sequence], name: str, kind: str = "") -> Markup:
    """A table that scrolls in a box of its own; ``name`` is read out, not shown.

    Args:
      kind: "prose" for cells that are broken into lines, else numbers stay on theirs.
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
    """A box that scrolls sideways by itself, also from the keyboard."""
    return tag(
        "div", content, kind=f"wide {kind}".strip(), tabindex=0, role="region", aria_label=name
    )


def figure(panels: Sequence[Markup], caption, *below) -> Markup:
    """Panels side by side, as many as fit into a row; then what explains them."""
    return tag(
        "figure",
        join([tag("div", join(panels), kind="panels"), *below, tag("figcaption", caption)]),
    )


def legend(title: str, entries: Sequence[tuple[str, str]]) -> Markup:
    """A list of (colour, name)."""
    items = [
        tag("li", join([tag("i", style=f"background:{color}"), name], ""))
        for color, name in entries
    ]
    return tag("div", join([tag("b", title), tag("ul", join(items, ""))], " "), kind="legend")


def image(data: bytes, kind: str, alt: str) -> Markup:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup(f'<img alt="{html.escape(alt)}" src="{source}">')
