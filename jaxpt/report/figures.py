"""Figures of the page, each with its caption: measurements, training curves, feature maps,
neighbour sheets, confusion and CKA.

Drawings become SVG in the page's colours; neighbour sheets are HTML with images.
"""

import base64
import contextlib
import html
import io
import itertools
import math
import os
import pathlib
import re
import zipfile
import zlib
from typing import Any, Mapping, NamedTuple

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image, UnidentifiedImageError

from jaxpt.errors import InputError, require, shown
from jaxpt.evaluation import projection
from jaxpt.files import replacing
from jaxpt.report import lead
from jaxpt.report.markup import Markup, image, join, tag
from jaxpt.report.metrics import SEPARATION, Metric
from jaxpt.report.results import NAMES, SUBJECT, Results
from jaxpt.report.results import join as join_words

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
LONGEST = 28  # characters of a name in a figure

# Of measurements and training curves.
_METHOD_COLORS = {"cross_entropy": GREY, "sup_con": BLUE, "nca": GREEN, SUBJECT: VERMILLION}
_OTHER_COLORS = (PINK, SKY, ORANGE, "#000000")
NARROWEST = 4  # points of accuracy on each side of the values that a panel shows at least
_LINES, _MARKERS = ("-", "--", "-.", ":"), "osD^vP*X"

# Of feature maps.
MAP_EXAMPLES = 1_500
_PERPLEXITY = 30
# Okabe and Ito's colours for the few coarse classes; Petroff's ten (arXiv 2107.02270), chosen for
# colour-vision deficiencies too, for the fine classes, which are also named on the map.
COARSE_COLORS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILLION, "#7f7f7f")
FINE_COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_CLASS_MARKERS = "osv"  # a class beyond the colours has the next marker
NAMED_CLASSES = 30  # with more, neither names nor colours and markers distinguish classes

# Of neighbour sheets.
_QUERIES, _NEIGHBORS = 10, 8  # most that are shown of those in the records
_LARGEST_SIDE = 160  # pixels per side; larger images are shrunk to keep the page small
_SMALL_SIDE = 48  # images of fewer pixels per side are enlarged without smoothing

# Of confusion matrices and CKA.
_WRITTEN_CELLS = 12  # rows up to which numbers are written into cells
_NAMED_ROWS = 40  # rows up to which classes are named
WORST = 5  # errors listed per method
_STRONGEST_CELL = 0.8  # opacity of a full cell, on which text can still be read
CKA_CAPTION = (
    "Linear CKA between every layer of one network (rows) and every layer of another (columns), on "
    "the same images, for one seed. 1: the same representation up to rotation and scale."
)


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


def to_png(figure: Figure, dpi: int = RASTER_DPI) -> bytes:
    """Converts a figure to PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def number_ids(page: str) -> str:
    """Gives the SVG ids of each figure a prefix, since all figures share the page's id space."""
    numbers = itertools.count(1)

    def number(figure):
        prefix = rf"\g<1>f{next(numbers)}-"
        return _in_tags(lambda part: re.sub(r'(\bid="|href="#|url\(#)', prefix, part), figure[0])

    return re.sub(r"<svg.*?</svg>", number, page, flags=re.DOTALL)


def short(name: str) -> str:
    """Shortens a name to at most LONGEST characters."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _in_tags(change, source):
    """Applies ``change`` to the tags, not to the text between them, which holds names."""
    return re.sub(r"<[^>]+>", lambda found: change(found[0]), source)


def _follow_page(part):
    part = re.sub(
        r"font: (bold |700 )?([\d.]+)px [^;\"]*",
        lambda found: f"font: {found[1] or ''}{found[2]}px var(--font)",
        part,
    )
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: _FOLLOWS_PAGE.get(found[0], found[0]), part)


def _points(figure) -> int:
    return round(72 * figure.get_figwidth())


def color(results: Results, label: str) -> str:
    """Colour of a method, the same in every figure."""
    others = [m for m in results.methods if m not in _METHOD_COLORS]
    return _METHOD_COLORS.get(label) or _OTHER_COLORS[others.index(label) % len(_OTHER_COLORS)]


def line_and_marker(results: Results, label: str) -> tuple[str, str]:
    """Line style and marker of a method, which distinguish methods without colour."""
    place = list(results.methods).index(label)
    return _LINES[place % len(_LINES)], _MARKERS[place % len(_MARKERS)]


def measurements(results: Results) -> list[Markup]:
    """One panel per metric, methods from top to bottom: means, intervals and single seeds."""
    panels = []
    for metric in results.headline:
        with panel(3.9, 0.85 + 0.36 * len(results.methods)) as figure:
            measurement(figure.subplots(), results, metric)
            panels.append(to_svg(figure, f"{metric.title} of every method"))
    return panels


def measurement(axis, results: Results, metric: Metric) -> None:
    """Draws means, intervals and single seeds of one metric, and where guessing would be."""
    scale = 100 if metric.percent else 1
    drawn = []
    for place, label in enumerate(results.methods):
        summary = results.summary(label, metric.key)
        if summary is None:
            continue
        values = [scale * v for v in results.values(label, metric.key).values()]
        drawn += values
        shade, mean = color(results, label), scale * summary.mean
        if not metric.percent:
            axis.barh(place, mean, 0.7, color=shade, alpha=0.35)
        axis.errorbar(
            mean,
            place,
            xerr=scale * (summary.half_width or 0),
            color=shade,
            capsize=4 if summary.half_width else 0,
            lw=2,
            marker="D",
            markersize=6,
        )
        if len(values) > 1:
            axis.scatter(values, [place + 0.26] * len(values), s=10, color=shade, alpha=0.7, lw=0)
    names = [short(results.name(m)) for m in results.methods]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.6)
    axis.set_title(f"{metric.title}, %" if metric.percent else metric.title)
    axis.grid(axis="x", lw=0.5, alpha=0.4)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    if metric.percent and drawn:
        _accuracy_axis(axis, drawn, lead.guess(results, metric))
    elif any(drawn):
        low, high = min([0.0, *drawn]), max([0.0, *drawn])
        axis.set_xlim(low - 0.08 * (high - low) * (low < 0), high + 0.08 * (high - low))


def _accuracy_axis(axis, values, guess):
    """Chooses the range of an accuracy axis, marks the guess, and says where the axis starts.

    The range shows at least NARROWEST points, so that a difference of noise does not fill the
    panel, and includes the guess if that does not squeeze the values into a corner. Whiskers of few
    seeds may be longer than the panel.
    """
    low, high = min(values), max(values)
    room = max(high - low, NARROWEST)
    middle = (low + high) / 2
    left, right = max(0.0, middle - room), min(100.5, middle + room)
    if guess and 100 * guess.share > low - 3 * room:
        left = min(left, max(0.0, 100 * guess.share - 0.1 * room))
    left = math.floor(left)
    axis.set_xlim(left, right)
    text = "from 0 %" if left == 0 else f"zoomed: from {left} %"
    if guess and 100 * guess.share >= left:
        axis.axvline(100 * guess.share, color=GREY, ls=":", lw=1.5)
        text += f"; dotted: guessing, {100 * guess.share:.1f} %"
    elif guess:
        text += f"; guessing: {100 * guess.share:.1f} %"
    axis.set_xlabel(text, fontsize=8.5, color=GREY, loc="left")


def measurements_caption(results: Results) -> str:
    """Caption of the panels of all headline metrics."""
    bars = results.has(SEPARATION)
    marks = (
        f"Diamonds{' and bars' * bars}: means over seeds. Whiskers: their 95 % t-intervals, cut "
        "where they leave the panel. Dots: single seeds."
        if results.intervals
        else f"Each diamond{' and each bar' * bars} is one run: one seed has no interval."
    )
    separation = (
        "Class separation, drawn from zero, is the share of the features' dispersion that lies "
        f"between the {results.classes}: the higher it is, the less dispersion is left within "
        "them. R² is not a score."
    )
    return " ".join([marks, *[separation] * bars])


def curves(results: Results) -> list[Markup]:
    """One panel with the loss per method, and one with all kNN monitors.

    The curves are those of each method's first run with a history; [] without any history.
    """
    panels = []
    found = histories(results)
    for label, history in found.items():
        with panel(2.75, 2.0) as figure:
            loss_curve(figure.subplots(), results, label, history)
            panels.append(to_svg(figure, f"training loss of {results.name(label)}"))
    if _monitored(found):
        with panel(5.6, 3.2) as figure:
            monitors(figure.subplots(), results, found)
            panels.append(to_svg(figure, "kNN monitor of every method"))
    return panels


def histories(results: Results) -> dict[str, list[dict]]:
    """Label → history of the first run that has one."""
    found = {
        label: next((run["history"] for run in by_seed.values() if run["history"]), None)
        for label, by_seed in results.methods.items()
    }
    return {label: history for label, history in found.items() if history}


def _monitored(found: Mapping[str, list[dict]]) -> bool:
    """Whether any of these histories has a kNN monitor."""
    return any(_series(history, "knn")[0] for history in found.values())


def loss_curve(axis, results: Results, label: str, history) -> None:
    """Draws the loss over steps, on an axis that includes zero."""
    axis.plot(*_series(history, "loss"), color=color(results, label))
    axis.set_title(f"loss: {short(results.name(label))}")
    low, high = axis.get_ylim()
    # Adds room above a loss that hardly falls, whose default margin is close to zero.
    axis.set_ylim(min(0, low), max(high, 1.05 * axis.dataLim.y1))
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))


def monitors(axis, results: Results, found) -> None:
    """Draws the kNN monitors of all methods."""
    for label, history in found.items():
        steps, accuracies = _series(history, "knn")
        line, marker = line_and_marker(results, label)
        axis.plot(
            steps,
            [100 * a for a in accuracies],
            line,
            color=color(results, label),
            marker=marker,
            markersize=3.5,
            label=short(results.name(label)),
        )
    axis.set_title(f"{'coarse ' * results.coarse}kNN monitor, %")
    axis.grid(axis="y", lw=0.5, alpha=0.4)
    axis.legend(frameon=False)
    _mark_zoom(axis)
    axis.xaxis.label.set_text(f"step (y {axis.xaxis.label.get_text()})")


def _mark_zoom(axis):
    """Marks the foot of the y axis with two slashes and writes where the axis starts."""
    low = math.floor(axis.get_ylim()[0])
    axis.set_ylim(bottom=low)
    axis.plot(
        [0, 0],
        [0.02, 0.05],
        transform=axis.transAxes,
        ls="",
        clip_on=False,
        color="black",
        marker=[(-1, -0.5), (1, 0.5)],
        markersize=9,
        mew=1,
    )
    axis.set_xlabel(f"zoomed: from {low} %", fontsize=8, color=GREY, loc="left")


def _series(history, name):
    rows = [(row["step"], row[name]) for row in history if name in row]
    return [step for step, _ in rows], [value for _, value in rows]


def curves_caption(results: Results) -> str:
    """Caption of the loss curves, and of the kNN monitors if there are any."""
    losses = (
        "Training curves of one seed. Each loss has its own axis: losses of different methods are "
        "not comparable."
    )
    monitor = (
        f" The monitor is the kNN accuracy on the {'coarse ' * results.coarse}labels of "
        "training images; each image is excluded from its own neighbours."
    )
    return losses + monitor * _monitored(histories(results))


class FeatureSet(NamedTuple):
    """Features of the measured part under one run's encoder.

    Attributes:
      key: the key of the run's record.
      features: float [n, dim].
      fine, coarse: int [n], the labels.
      fine_names, coarse_names: a name for every class.
    """

    key: str
    features: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    fine_names: tuple[str, ...]
    coarse_names: tuple[str, ...]


def features_path(folder: str | os.PathLike, label: str) -> pathlib.Path:
    """Path of a method's stored features."""
    return pathlib.Path(folder) / f"features_{label}.npz"


def save_features(folder: str | os.PathLike, label: str, features: FeatureSet) -> None:
    """Stores the features of a method."""
    with replacing(features_path(folder, label), "wb") as file:
        np.savez_compressed(file, **features._asdict())


def load_features(folder: str | os.PathLike, label: str) -> FeatureSet | None:
    """Loads a method's stored features; None if they are missing or unreadable."""
    try:
        with np.load(features_path(folder, label), allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in FeatureSet._fields}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    names = {name: tuple(values[name].tolist()) for name in ("fine_names", "coarse_names")}
    return FeatureSet(**{**values, **names, "key": str(values["key"])})


class Map(NamedTuple):
    """PCA and t-SNE projections of one encoder's features.

    Attributes:
      fine, coarse: int [n].
      class_names, coarse_names: a name for every class.
      pca: float [n, 2], the principal plane of unit-length features.
      pca_share: share of the variance that the plane shows.
      tsne: float [n, 2].
      separation: class separation R² of the run in the full feature space; None if not measured.
      seed: of that run.
    """

    fine: np.ndarray
    coarse: np.ndarray
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    pca: np.ndarray
    pca_share: float
    tsne: np.ndarray
    separation: float | None = None
    seed: int = 0

    @property
    def has_coarse(self) -> bool:
        """Whether the classes are grouped into coarse classes."""
        return len(self.coarse_names) < len(self.class_names)


def recorded_map(run: Mapping[str, Any]) -> Map:
    """Map stored in a run's records."""
    details = run["details"]["map"][0]
    names = {name: tuple(map(str, details[name])) for name in ("class_names", "coarse_names")}
    arrays = {name: np.asarray(details[name]) for name in ("fine", "coarse", "pca", "tsne")}
    return Map(
        **names,
        **arrays,
        pca_share=float(details["pca_share"]),
        separation=run["values"].get(SEPARATION.key),
        seed=run["seed"],
    )


def projected_map(features: FeatureSet) -> Map:
    """Projects at most MAP_EXAMPLES examples, the same for every method, by PCA and t-SNE."""
    keep = np.random.default_rng(0).permutation(len(features.fine))[:MAP_EXAMPLES]
    fine, coarse = features.fine[keep], features.coarse[keep]
    found = projection.project(
        features.features, keep, coarse == coarse.min(), perplexity=_PERPLEXITY
    )
    return Map(
        fine,
        coarse,
        tuple(features.fine_names),
        tuple(features.coarse_names),
        found.pca,
        found.pca_share,
        found.tsne,
    )


def reference_map(maps: Mapping[str, Map]) -> Map:
    """The map that decides the rows and legends of all: one with coarse classes, if any."""
    return max(maps.values(), key=lambda drawn: drawn.has_coarse)


def feature_map(results: Results, maps: Mapping[str, Map]) -> Figure:
    """Figure of all methods: PCA coloured by coarse and by fine label, and t-SNE.

    Without coarse classes there is only one PCA row. All columns share the axes of the PCA rows, so
    lengths are comparable. t-SNE shows which examples are neighbours; its distances, sizes and
    densities mean nothing.

    Args:
      results: the runs, for the names of methods.
      maps: label → map, all of the same examples.
    """
    reach, heights, rows = _map_layout(maps)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.3 * len(maps), 2.3 * sum(heights) + 1.1), layout="constrained")
        axes = figure.subplots(len(rows), len(maps), squeeze=False, height_ratios=heights)
        for column, (label, drawn) in zip(axes.T, maps.items()):
            _draw_map(column, results, label, drawn, reach, 2.0)
        for axis, text in zip(axes[:, 0], rows):
            axis.set_ylabel(text)
        for kind, entries in map_legends(reference_map(maps)).items():
            dots = [Line2D([], [], ls="", marker=m, color=c) for c, m, _ in entries]
            figure.legend(
                dots,
                [short(name) for *_, name in entries],
                title=kind,
                loc=f"outside lower {'left' if kind == 'coarse label' else 'right'}",
                ncols=5,
                frameon=False,
                fontsize=9,
                handletextpad=0.1,
                columnspacing=1,
            )
        return figure


def map_columns(results: Results, maps: Mapping[str, Map]) -> list[Markup]:
    """Maps as panels for a page, one column per method."""
    reach, heights, rows = _map_layout(maps)
    panels = []
    side = float(np.clip(11.6 / len(maps), 2.36, 3.9))  # they share a line if there are few
    for label, drawn in maps.items():
        with panel(side, (side - 0.16) * sum(heights) + 0.5) as figure:
            axes = figure.subplots(len(rows), 1, height_ratios=heights)
            _draw_map(axes, results, label, drawn, reach, side - 0.35)
            for axis, text in zip(axes, rows):
                axis.set_ylabel(text, fontsize=9)
            panels.append(to_svg(figure, f"maps of the features of {results.name(label)}"))
    return panels


def map_legends(drawn: Map) -> dict[str, list[tuple[str, str, str]]]:
    """Label set → (colour, marker, name) per class, for at most NAMED_CLASSES classes."""
    fine = ("fine label" if drawn.has_coarse else "class", drawn.class_names, FINE_COLORS)
    coarse = ("coarse label", drawn.coarse_names, _coarse_colors(drawn))
    return {
        kind: [(*_class_look(i, colors), name) for i, name in enumerate(names)]
        for kind, names, colors in [*[coarse] * drawn.has_coarse, fine]
        if len(names) <= NAMED_CLASSES
    }


def maps_caption(results: Results, found: Mapping[str, Map]) -> str:
    """Caption of the feature maps of one set."""
    coarse = reference_map(found).has_coarse
    seeds = [str(seed) for seed in sorted({drawn.seed for drawn in found.values()})]
    separated = any(drawn.separation is not None for drawn in found.values())
    text = (
        f"Unit-length backbone features of the {results.part} part, seed "
        f"{join_words(seeds)}. {'Upper two rows' if coarse else 'Upper row'}: the plane "
        "of the two largest principal components. All methods share the scale of its axes, so "
        "lengths are comparable; the percentage is the share of the variance that the plane shows. "
        f"{'Lowest' if coarse else 'Lower'} row: t-SNE, which shows which examples are neighbours; "
        f"its distances, sizes and densities mean nothing. At most {MAP_EXAMPLES:,} examples, "
        "the same for every method."
    )
    return text + " R² is that run's class separation in the full feature space." * separated


def _coarse_colors(drawn):
    return COARSE_COLORS if len(drawn.coarse_names) <= len(COARSE_COLORS) else FINE_COLORS


def _class_look(i, colors):
    """Colour and marker of class ``i``: a combination of its own for as long as there are any."""
    return colors[i % len(colors)], _CLASS_MARKERS[i // len(colors) % len(_CLASS_MARKERS)]


def _map_layout(maps):
    """Half the sides of the plane that holds the points of all methods; row heights and names."""
    reach = 1.05 * np.max([np.abs(drawn.pca).max(axis=0) for drawn in maps.values()], axis=0)
    reach = np.maximum(reach, 0.2 * max(reach.max(), 1e-6))
    flat = reach[1] / reach[0]
    if reference_map(maps).has_coarse:
        return reach, (flat, flat, 1), ("PCA, coarse label", "PCA, fine label", "t-SNE, fine label")
    return reach, (flat, 1), ("PCA", "t-SNE")


def _draw_map(axes, results, label, drawn, reach, inches):
    """Draws a column: PCA by coarse label if it has that row, PCA by fine label, t-SNE.

    ``inches`` is about the width of its axes.
    """
    plane, near = drawn.pca, drawn.tsne - (drawn.tsne.min(axis=0) + drawn.tsne.max(axis=0)) / 2
    *coarse, by_fine, last = axes
    for axis in coarse:
        _scatter_classes(axis, plane, drawn.coarse, _coarse_colors(drawn), reach)
    _scatter_classes(by_fine, plane, drawn.fine, FINE_COLORS, reach)
    side = 1.08 * np.abs(near).max()
    _scatter_classes(last, near, drawn.fine, FINE_COLORS, [side] * 2)
    if len(drawn.class_names) <= NAMED_CLASSES:
        _name_classes(last, near, drawn, 2 * side / inches)
    axes[0].set_title(_map_heading(results, label, drawn))


def _scatter_classes(axis, points, classes, colors, reach):
    # The examples are in shuffled order, so that no class is drawn on top of another.
    looks = [_class_look(c, colors) for c in classes]
    for marker in dict.fromkeys(marker for _, marker in looks):
        mine = [i for i, look in enumerate(looks) if look[1] == marker]
        axis.scatter(
            *points[mine].T,
            s=9 if len(points) > 300 else 16,
            lw=0,
            alpha=0.8,
            marker=marker,
            rasterized=True,
            c=[looks[i][0] for i in mine],
        )
    axis.set(
        xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), xticks=[], yticks=[], aspect="equal"
    )
    for spine in axis.spines.values():
        spine.set(visible=True, color="#9a9a9a", lw=0.6)


def _name_classes(axis, points, drawn, per_inch):
    """Writes each class's name at its densest point, since its mean may lie between its modes.

    A name that would cover another moves to the next dense point of its class; if there is none, it
    stands in the legend only. ``per_inch`` is the length of an inch on the axes.
    """
    size = 10 if max(map(len, drawn.class_names)) <= 3 else 7.5
    taken = []
    counts = np.bincount(drawn.fine, minlength=len(drawn.class_names))
    for c in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]:
        mine, name = points[drawn.fine == c], short(drawn.class_names[c])
        distances = np.linalg.norm(mine[:, None] - mine[None], axis=-1)
        # Half the width and height of the text: a letter is about 0.62 of its size wide.
        half = np.array([0.62 * len(name) + 0.3, 1.2]) * size / 72 * per_inch / 2
        for place in mine[np.argsort(np.median(distances, axis=1), kind="stable")]:
            inside = max(axis.get_xlim()) - half[0] > abs(place[0]) or len(name) <= 3
            if inside and all((abs(place - at) > half + other).any() for at, other in taken):
                taken.append((place, half))
                axis.annotate(
                    name,
                    place,
                    ha="center",
                    va="center",
                    fontweight="bold",
                    fontsize=size,
                    in_layout=False,
                    path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
                )
                break


def _map_heading(results, label, drawn):
    separation = "" if drawn.separation is None else f"R² {SEPARATION.text(drawn.separation)}, "
    return f"{short(results.name(label))}\n{separation}plane {100 * drawn.pca_share:.0f} %"


def neighbor_sheet(results: Results, details: Mapping[str, dict[str, Any]]) -> Markup:
    """Sheet with each query image and, per method, a row of its nearest neighbours.

    A mark and the class name show whether a neighbour is right; the frame repeats it in colour.

    Args:
      results: the runs, for the names of methods.
      details: label → the "neighbors" details of its records.

    Raises:
      InputError: if an image is missing or cannot be decoded.
    """
    first = next(iter(details.values()))
    return join([_sheet_query(results, details, query) for query in first["queries"][:_QUERIES]])


def neighbors_caption(results: Results, found: Mapping[str, dict[str, Any]]) -> str:
    """Caption of the sheets of nearest neighbours."""
    averages = [
        f"{details['average_cosine']:.2f}".replace("-", "−") + f" under {results.name(label)}"
        for label, details in found.items()
        if "average_cosine" in details
    ]
    pair = f" For comparison, that of any two images is {join_words(averages)} on average."
    return (
        "Left: an image that training has not seen. Right: its nearest neighbours among the "
        "training images, nearest first, under each method; the images on the left are the same "
        f"for every method. ✓: the same {'fine ' * results.coarse}label; ✗: another. The number "
        f"is the cosine similarity.{pair * bool(averages)} These are examples, not a score."
    )


def _sheet_query(results, details, query):
    rows = []
    for label, found in details.items():
        mine = next((q for q in found["queries"] if q["id"] == query["id"]), None)
        if mine:
            rows.append(_sheet_row(results.name(label), found, mine))
    first = next(iter(details.values()))
    name = str(first["class_names"][query["label"]])
    asked = tag(
        "div",
        join(
            [
                _sheet_image(first, query["id"], f"query: {name}"),
                tag("b", name),
                tag("small", _picture_name(query), title=query.get("file", query["id"])),
            ],
            "",
        ),
        kind="asked",
    )
    return tag("div", join([asked, tag("div", join(rows))]), kind="query")


def _sheet_row(method, found, query):
    neighbors = query["neighbors"][:_NEIGHBORS]
    cosines = _distinct_cosines([n["cosine"] for n in neighbors])
    right = sum(n["label"] == query["label"] for n in neighbors)
    items = []
    for neighbor, cosine in zip(neighbors, cosines):
        name = str(found["class_names"][neighbor["label"]])
        fits = neighbor["label"] == query["label"]
        verdict = f"{'right' if fits else 'wrong'}: {name} ({_picture_name(neighbor)})"
        picture = _sheet_image(found, neighbor["id"], verdict)
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


def _picture_name(picture) -> str:
    """File name of a picture; its id if it is not a file."""
    return shown(pathlib.PurePath(picture["file"]).name) if "file" in picture else picture["id"]


def _distinct_cosines(cosines) -> list[str]:
    """Cosines with two decimals, or up to four if fewer cannot tell the first from the last."""
    digits = 2
    while digits < 4 and len(cosines) > 1 and max(cosines) - min(cosines) < 5 * 10.0**-digits:
        digits += 1
    return [f"{c:.{digits}f}".replace("-", "−") for c in cosines]


def _sheet_image(found, name, alt) -> Markup:
    require(name in found["images"], f"a neighbour sheet has no image {name!r}: measure it again.")
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(found["images"][name], validate=True)))
        picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {name!r} of a neighbour sheet is no PNG in base64: measure it again."
        ) from error
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    # JPEG only for photographs: it would blur the few pixels of a small image.
    kind = "jpeg" if min(picture.size) > _SMALL_SIDE and picture.mode == "RGB" else "png"
    picture.save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    element = image(buffer.getvalue(), kind, alt)
    return tag("span", element, kind="few") if max(picture.size) <= _SMALL_SIDE else element


def confusion(results: Results, label: str, details: dict[str, Any]) -> Markup:
    """Confusion matrix of one method, in shares of each row, with classes grouped by coarse class.

    Errors inside and outside the true coarse class have different colours. Opacity grows with the
    square root of the share, so that rare errors are visible next to frequent hits.
    """
    shares, order, coarse = _ordered_confusion(details)
    inside = coarse[:, None] == coarse[None]
    strength = np.sqrt(shares) * np.where(np.eye(len(shares), dtype=bool), 0.5, 1.0)
    colors = np.where(inside[..., None], to_rgb(VERMILLION), to_rgb(BLUE))
    colors[np.diag_indices(len(shares))] = to_rgb("#7f7f7f")
    names = [short(str(details["class_names"][i])) for i in order]
    side = float(np.clip(1.0 + 0.23 * len(names), 2.6, 4.2))
    with panel(side, side + 0.2) as figure:
        axis = figure.subplots()
        _heat_map(axis, colors, strength)
        _write_cells(axis, 100 * shares, "{:.0f}", least=0.5)
        for edge in np.flatnonzero(np.diff(coarse) * has_coarse(details)) + 0.5:
            axis.axhline(edge, color="black", lw=0.8)
            axis.axvline(edge, color="black", lw=0.8)
        if len(names) <= _NAMED_ROWS:
            upright = max(map(len, names)) <= 2
            axis.set_xticks(range(len(names)), names, rotation=0 if upright else 90, fontsize=8)
            axis.set_yticks(range(len(names)), names, fontsize=8)
        else:
            axis.set(xticks=[], yticks=[])
        axis.set(title=short(results.name(label)), xlabel="predicted", ylabel="true")
        return to_svg(figure, f"confusion matrix of {results.name(label)}")


def has_coarse(details: dict[str, Any]) -> bool:
    """Whether the classes of a confusion matrix are grouped into coarse classes."""
    return len(details["coarse_names"]) < len(details["class_names"])


def worst_confusions(details: dict[str, Any]) -> list[str]:
    """The largest errors (within coarse classes, if any), such as "shirt → T-shirt 12.3 %"."""
    shares, order, coarse = _ordered_confusion(details)
    names = [str(details["class_names"][i]) for i in order]
    outside = (coarse[:, None] != coarse[None]) & has_coarse(details)
    errors = np.where(outside, 0, shares)
    np.fill_diagonal(errors, 0)
    largest = np.argsort(-errors, axis=None, kind="stable")[:WORST]
    pairs = [np.unravel_index(i, errors.shape) for i in largest]
    return [
        f"{names[i]} → {names[j]} {100 * errors[i, j]:.1f} %" for i, j in pairs if errors[i, j] > 0
    ]


def confusion_caption(found: Mapping[str, dict[str, Any]]) -> str:
    """Caption of the confusion matrices."""
    labels, lines, colors = (
        (
            " on the fine labels",
            " Lines separate the coarse classes.",
            "orange: wrong, within the true coarse class; blue: wrong, outside it",
        )
        if any(map(has_coarse, found.values()))
        else ("", "", "blue: wrong")
    )
    return (
        f"Weighted kNN{labels}, one seed. Rows: true classes. Columns: predicted classes. Numbers: "
        f"% of the row's images.{lines} Grey: correct; {colors}. The opacity grows with the "
        "square root of the share, so that rare errors are visible."
    )


def cka(results: Results, label: str, details: dict[str, Any]) -> Markup:
    """Heat map of linear CKA between all layers of one network and all layers of another."""
    matrix = np.asarray(details["matrix"], float)
    layers, others = ([short(str(x)) for x in details[name]] for name in ("layers", "other_layers"))
    require(
        matrix.shape == (len(layers), len(others)),
        f"the CKA matrix of {label!r} is "
        f"{list(matrix.shape)}, but it has {len(layers)} × {len(others)} layers: measure it "
        "again.",
    )
    other = NAMES.get(details["other_label"], str(details["other_label"]))
    with panel(max(2.4, 1.3 + 0.42 * len(others)), max(2.3, 1.2 + 0.36 * len(layers))) as figure:
        axis = figure.subplots()
        colors = np.broadcast_to(to_rgb(BLUE), (*matrix.shape, 3))
        _heat_map(axis, colors, np.clip(matrix, 0, 1))
        _write_cells(axis, matrix, "{:.2f}", least=-np.inf)
        axis.set_xticks(
            range(len(others)), others, rotation=40, ha="right", rotation_mode="anchor", fontsize=8
        )
        axis.set_yticks(range(len(layers)), layers, fontsize=8)
        axis.set(
            xlabel=f"{short(other)}, seed {details['other_seed']}",
            ylabel=short(results.name(label)),
        )
        return to_svg(figure, f"CKA of the layers of {results.name(label)} with those of {other}")


def _ordered_confusion(details):
    """Row shares sorted by coarse class, the order of the classes, and each row's coarse class."""
    counts = np.asarray(details["matrix"], float)
    coarse = np.asarray(details["coarse_of"])
    classes = len(details["class_names"])
    require(
        counts.shape == (classes, classes) and coarse.shape == (classes,),
        f"a confusion matrix of {classes} classes must be [{classes}, {classes}] with a coarse "
        f"class for each, got {list(counts.shape)} and {list(coarse.shape)}: measure it again.",
    )
    order = np.argsort(coarse, kind="stable")
    counts = counts[order][:, order]
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), order, coarse[order]


def _heat_map(axis, colors, strength):
    """Draws cells whose opacity is the value, legible on light and on dark pages."""
    cells = np.concatenate([colors, _STRONGEST_CELL * strength[..., None]], axis=-1)
    axis.imshow(cells, interpolation="none", aspect="equal")
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set(visible=True, lw=0.8)


def _write_cells(axis, values, form, least):
    if max(values.shape) > _WRITTEN_CELLS:
        return
    for (row, column), value in np.ndenumerate(values):
        if value >= least:
            axis.text(column, row, form.format(value), ha="center", va="center", fontsize=7.5)
