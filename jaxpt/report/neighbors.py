"""Neighbour sheets: query images with their nearest neighbours under each encoder."""

import base64
import io
import pathlib
from typing import Any, Mapping

from PIL import Image, UnidentifiedImageError

from jaxpt.errors import InputError, require, shown
from jaxpt.report.markup import Markup, image, join, tag
from jaxpt.report.results import Results

QUERIES, NEIGHBORS = 10, 8  # most that are shown of those in the records
LARGEST = 160  # pixels per side; larger images are shrunk to keep the page small
SMALL = 48  # images of fewer pixels per side are enlarged without smoothing


def sheet(results: Results, details: Mapping[str, dict[str, Any]]) -> Markup:
    """Sheet with each query image and, per method, a row of its nearest neighbours.

    A mark and the class name show whether a neighbour is right; the frame repeats it in colour.

    Args:
      results: the runs, for the names of methods.
      details: label → the "neighbors" details of its records.

    Raises:
      InputError: if an image is missing or cannot be decoded.
    """
    first = next(iter(details.values()))
    return join([_query(results, details, query) for query in first["queries"][:QUERIES]])


def _query(results, details, query):
    rows = []
    for label, found in details.items():
        mine = next((q for q in found["queries"] if q["id"] == query["id"]), None)
        if mine:
            rows.append(_row(results.name(label), found, mine))
    first = next(iter(details.values()))
    name = str(first["class_names"][query["label"]])
    asked = tag(
        "div",
        join(
            [
                _image(first, query["id"], f"query: {name}"),
                tag("b", name),
                tag("small", _name(query), title=query.get("file", query["id"])),
            ],
            "",
        ),
        kind="asked",
    )
    return tag("div", join([asked, tag("div", join(rows))]), kind="query")


def _row(method, found, query):
    neighbors = query["neighbors"][:NEIGHBORS]
    cosines = _distinct([n["cosine"] for n in neighbors])
    right = sum(n["label"] == query["label"] for n in neighbors)
    items = []
    for neighbor, cosine in zip(neighbors, cosines):
        name = str(found["class_names"][neighbor["label"]])
        fits = neighbor["label"] == query["label"]
        verdict = f"{'right' if fits else 'wrong'}: {name} ({_name(neighbor)})"
        picture = _image(found, neighbor["id"], verdict)
        items.append(
            tag(
                "li",
                join(
                    [
                        picture,
                        tag("span", f"{'✓' if fits else '✗'} {name}"),
                        tag("small", cosine, title=neighbor.get("file", neighbor["id"])),
                    ],
                    "",
                ),
                kind="right" if fits else "wrong",
            )
        )
    return join(
        [tag("p", f"{method}: {right} of {len(neighbors)} right"), tag("ol", join(items, ""))]
    )


def _name(picture) -> str:
    """File name of a picture; its id if it is not a file."""
    return shown(pathlib.PurePath(picture["file"]).name) if "file" in picture else picture["id"]


def _distinct(cosines) -> list[str]:
    """Cosines with two decimals, or up to four if fewer cannot tell the first from the last."""
    digits = 2
    while digits < 4 and len(cosines) > 1 and max(cosines) - min(cosines) < 5 * 10.0**-digits:
        digits += 1
    return [f"{c:.{digits}f}".replace("-", "−") for c in cosines]


def _image(found, name, alt) -> Markup:
    require(name in found["images"], f"a neighbour sheet has no image {name!r}: measure it again.")
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(found["images"][name], validate=True)))
        picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {name!r} of a neighbour sheet is no PNG in base64: measure it again."
        ) from error
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    # JPEG only for photographs: it would blur the few pixels of a small image.
    kind = "jpeg" if min(picture.size) > SMALL and picture.mode == "RGB" else "png"
    picture.save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    shown = image(buffer.getvalue(), kind, alt)
    return tag("span", shown, kind="few") if max(picture.size) <= SMALL else shown
