"""Style of figures, and their conversion to SVG that follows the page's colours."""

import contextlib
import html
import io
import itertools
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from jaxpt.report.markup import Markup

# Okabe and Ito's colours, distinguishable with any kind of colour vision. style.css has lighter
# shades of those that are too dark on a dark page.
GREY, BLUE, GREEN, VERMILLION = "#595959", "#0072b2", "#009e73", "#d55e00"
PINK, SKY, ORANGE = "#cc79a7", "#56b4e9", "#e69f00"
_FOLLOWS_PAGE = {"#000000": "currentColor", "#ffffff": "var(--ground)"} | {
    c: f"var(--c-{c[1:]})" for c in (GREY, BLUE, GREEN, VERMILLION)
}
# parse_math is off because names come from records, and a dollar sign there is no formula.
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "jaxpt",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
RASTER_DPI = 144
LONGEST = 24  # characters of a name in a figure


@contextlib.contextmanager
def panel(width: float, height: float):
    """Context with an empty figure, ``width`` × ``height`` inches, in the report's style."""
    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure, alt: str) -> Markup:
    """Converts a figure to inline SVG in the page's colours; ``alt`` is for screen readers."""
    with rc_context(STYLE):
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            dpi=RASTER_DPI,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    source = buffer.getvalue()
    source = source[source.index("<svg") :]
    source = re.sub(r"<(metadata|style).*?</\1>", "", source, flags=re.DOTALL)
    source = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
        lambda found: (
            f'<svg viewBox="{found[1]}" style="flex-basis:{_points(figure)}pt" role="img" '
            f'aria-label="{html.escape(alt)}">'
        ),
        source,
        count=1,
    )
    return Markup(_in_tags(_follow_page, source).strip())


def number_ids(page: str) -> str:
    """Gives the SVG ids of each figure a prefix, since all figures share the page's id space."""
    numbers = itertools.count(1)

    def number(figure):
        prefix = rf"\g<1>f{next(numbers)}-"
        return _in_tags(lambda tag: re.sub(r'(\bid="|href="#|url\(#)', prefix, tag), figure[0])

    return re.sub(r"<svg.*?</svg>", number, page, flags=re.DOTALL)


def short(name: str) -> str:
    """Shortens a name to at most LONGEST characters."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _in_tags(change, source):
    """Applies ``change`` to the tags, not to the text between them, which holds names."""
    return re.sub(r"<[^>]+>", lambda found: change(found[0]), source)


def _follow_page(tag):
    tag = re.sub(
        r"font: (bold |700 )?([\d.]+)px [^;\"]*",
        lambda found: f"font: {found[1] or ''}{found[2]}px var(--font)",
        tag,
    )
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _FOLLOWS_PAGE.get(found[0], found[0]), tag)


def to_png(figure: Figure, dpi: int = 144) -> bytes:
    """Converts a figure to PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def _points(figure) -> int:
    return round(72 * figure.get_figwidth())
