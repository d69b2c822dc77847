"""Pages of pictures with their look-alikes, to be looked through without scripts or a network.

Every picture is stored once, as the background of a CSS class, however often it is shown.
"""

import base64
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxpt.data import objects
from jaxpt.data.decode import in_parallel, open_image
from jaxpt.errors import InputError, shown
from jaxpt.report.markup import Markup, document, join, tag, write_file

SIDE = 144  # pixels of a stored picture
SMALL = 48  # shorter pictures are stored without loss


class Picture(NamedTuple):
    """A picture of the page: its file, and the label that is shown ("" for none)."""

    file: str
    label: str = ""


class Row(NamedTuple):
    """A picture with those that look like it.

    Attributes:
      asked: the picture.
      near: (picture, words below it), the most similar first.
    """

    asked: Picture
    near: Sequence[tuple[Picture, str]]


def write(
    out: str | os.PathLike, title: str, lead: Sequence[str], rows: Sequence[Row]
) -> pathlib.Path:
    """Writes a page with one row per picture.

    A look-alike that has a row of its own links to it. Rows are grouped by label.

    Args:
      out: the file, .html.
      title: of the page.
      lead: sentences below the title.
      rows: see ``Row``.

    Raises:
      InputError: if the file cannot be written.
    """
    rows = sorted(rows, key=lambda row: row.asked.label)
    files = list(
        dict.fromkeys(p.file for row in rows for p in (row.asked, *(n for n, _ in row.near)))
    )
    number = {file: i for i, file in enumerate(files)}
    places = {row.asked.file: f"p{number[row.asked.file]}" for row in rows}
    stored = [
        f".t{i}{{background-image:url({source})}}\n"
        for i, source in enumerate(in_parallel(_source, files))
        if source
    ]
    labels = list(dict.fromkeys(row.asked.label for row in rows))

    def picture(what: Picture, *, kind: str) -> Markup:
        return tag(
            "span",
            "",
            kind=f"{kind} t{number[what.file]}",
            role="img",
            aria_label=f"{what.label} {shown(what.file)}".strip(),
            title=shown(what.file),
        )

    sections = []
    for i, label in enumerate(labels):
        mine = [row for row in rows if row.asked.label == label]
        if label or len(labels) > 1:
            sections.append(tag("h2", label or "no label", id=f"l{i}"))
        sections += [_row(row, places, picture) for row in mine]
    body = [tag("h1", title), *(tag("p", text, kind="note") for text in lead)]
    if len(labels) > 1:
        items = [
            tag("li", tag("a", label or "no label", href=f"#l{i}"))
            for i, label in enumerate(labels)
        ]
        body.append(tag("nav", tag("ul", join(items, "")), aria_label="labels"))
    body += [tag("style", Markup("".join(stored))), *sections]
    path = pathlib.Path(out)
    write_file(path, document(title, body, "style.css", "gallery.css").encode())
    return path


def _row(row: Row, places: dict[str, str], picture: Callable[..., Markup]) -> Markup:
    asked = tag(
        "div",
        join(
            [picture(row.asked, kind="large"), tag("b", pathlib.PurePath(row.asked.file).name)], ""
        ),
        kind="asked",
    )
    items = []
    for near, words in row.near:
        place, name = places.get(near.file), pathlib.PurePath(near.file).name
        other = bool(row.asked.label) and near.label != row.asked.label
        content = [picture(near, kind="thumb"), tag("span", words, kind="words")]
        if other or not row.asked.label:
            content.append(tag("small", near.label))
        if not other:
            content.append(tag("small", shown(name)))
        inside = join(content, "")
        items.append(
            tag(
                "li",
                tag("a", inside, href=f"#{place}") if place else inside,
                kind="other" if other else "same",
            )
        )
    near = tag("ol", join(items, "")) if items else tag("p", "nothing alike", kind="note")
    return tag("section", join([asked, near], ""), id=places[row.asked.file], kind="alike")


def _source(file: str) -> str:
    """Data URL of a small version of a picture; "" if it cannot be read."""
    try:
        picture = open_image(objects.read(objects.place(file)), shown(file))
    except InputError:
        return ""
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    kind = "jpeg" if min(picture.size) > SMALL else "png"
    picture.save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
