"""2-D maps of feature spaces, one column per method."""

from typing import Any, Mapping, NamedTuple

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxpt.evaluation import projection
from jaxpt.report import drawing
from jaxpt.report.drawing import panel, short, to_svg
from jaxpt.report.features import FeatureSet
from jaxpt.report.markup import Markup
from jaxpt.report.metrics import SEPARATION
from jaxpt.report.results import Results

MAP_EXAMPLES = 1_500
PERPLEXITY = 30
# Okabe and Ito's colours for the few coarse classes; Petroff's ten (arXiv 2107.02270), chosen for
# colour-vision deficiencies too, for the fine classes, which are also named on the map.
COARSE_COLORS = (
    drawing.BLUE,
    drawing.ORANGE,
    drawing.GREEN,
    drawing.PINK,
    drawing.SKY,
    drawing.VERMILLION,
    "#7f7f7f",
)
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
MARKERS = "osv"  # a class beyond the colours has the next marker
NAMED_CLASSES = 30  # with more, neither names nor colours and markers distinguish classes


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


def of_run(run: Mapping[str, Any]) -> Map:
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


def project(features: FeatureSet) -> Map:
    """Projects at most MAP_EXAMPLES examples, the same for every method, by PCA and t-SNE."""
    keep = np.random.default_rng(0).permutation(len(features.fine))[:MAP_EXAMPLES]
    fine, coarse = features.fine[keep], features.coarse[keep]
    found = projection.project(
        features.features, keep, coarse == coarse.min(), perplexity=PERPLEXITY
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


def reference(maps: Mapping[str, Map]) -> Map:
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
    reach, heights, rows = _layout(maps)
    with rc_context(drawing.STYLE):
        figure = Figure(figsize=(2.3 * len(maps), 2.3 * sum(heights) + 1.1), layout="constrained")
        axes = figure.subplots(len(rows), len(maps), squeeze=False, height_ratios=heights)
        for column, (label, drawn) in zip(axes.T, maps.items()):
            _draw(column, results, label, drawn, reach, 2.0)
        for axis, text in zip(axes[:, 0], rows):
            axis.set_ylabel(text)
        for kind, entries in legends(reference(maps)).items():
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


def columns(results: Results, maps: Mapping[str, Map]) -> list[Markup]:
    """Maps as panels for a page, one column per method."""
    reach, heights, rows = _layout(maps)
    panels = []
    side = float(np.clip(11.6 / len(maps), 2.36, 3.9))  # they share a line if there are few
    for label, drawn in maps.items():
        with panel(side, (side - 0.16) * sum(heights) + 0.5) as figure:
            axes = figure.subplots(len(rows), 1, height_ratios=heights)
            _draw(axes, results, label, drawn, reach, side - 0.35)
            for axis, text in zip(axes, rows):
                axis.set_ylabel(text, fontsize=9)
            panels.append(to_svg(figure, f"maps of the features of {results.name(label)}"))
    return panels


def legends(drawn: Map) -> dict[str, list[tuple[str, str, str]]]:
    """Label set → (colour, marker, name) per class, for at most NAMED_CLASSES classes."""
    fine = ("fine label" if drawn.has_coarse else "class", drawn.class_names, FINE_COLORS)
    coarse = ("coarse label", drawn.coarse_names, _coarse_colors(drawn))
    return {
        kind: [(*_look(i, colors), name) for i, name in enumerate(names)]
        for kind, names, colors in [*[coarse] * drawn.has_coarse, fine]
        if len(names) <= NAMED_CLASSES
    }


def _coarse_colors(drawn):
    return COARSE_COLORS if len(drawn.coarse_names) <= len(COARSE_COLORS) else FINE_COLORS


def _look(i, colors):
    """Colour and marker of class ``i``: a combination of its own for as long as there are any."""
    return colors[i % len(colors)], MARKERS[i // len(colors) % len(MARKERS)]


def _layout(maps):
    """Half the sides of the plane that holds the points of all methods; row heights and names."""
    reach = 1.05 * np.max([np.abs(drawn.pca).max(axis=0) for drawn in maps.values()], axis=0)
    reach = np.maximum(reach, 0.2 * max(reach.max(), 1e-6))
    flat = reach[1] / reach[0]
    if reference(maps).has_coarse:
        return reach, (flat, flat, 1), ("PCA, coarse label", "PCA, fine label", "t-SNE, fine label")
    return reach, (flat, 1), ("PCA", "t-SNE")


def _draw(axes, results, label, drawn, reach, inches):
    """Draws a column: PCA by coarse label if it has that row, PCA by fine label, t-SNE.

    ``inches`` is about the width of its axes.
    """
    plane, near = drawn.pca, drawn.tsne - (drawn.tsne.min(axis=0) + drawn.tsne.max(axis=0)) / 2
    *coarse, by_fine, last = axes
    for axis in coarse:
        _scatter(axis, plane, drawn.coarse, _coarse_colors(drawn), reach)
    _scatter(by_fine, plane, drawn.fine, FINE_COLORS, reach)
    side = 1.08 * np.abs(near).max()
    _scatter(last, near, drawn.fine, FINE_COLORS, [side] * 2)
    if len(drawn.class_names) <= NAMED_CLASSES:
        _name_classes(last, near, drawn, 2 * side / inches)
    axes[0].set_title(_heading(results, label, drawn))


def _scatter(axis, points, classes, colors, reach):
    # The examples are in shuffled order, so that no class is drawn on top of another.
    looks = [_look(c, colors) for c in classes]
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


def _heading(results, label, drawn):
    separation = "" if drawn.separation is None else f"R² {SEPARATION.text(drawn.separation)}, "
    return f"{short(results.name(label))}\n{separation}plane {100 * drawn.pca_share:.0f} %"
