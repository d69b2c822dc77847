"""The 2-D map of feature spaces: one column a method."""

from typing import Mapping, NamedTuple

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from jaxpt.report.features import FeatureSet
from jaxpt.report.plots import STYLE
from jaxpt.report.results import SEPARATION, Results

MAP_EXAMPLES = 1_500
PERPLEXITY = 30
# Okabe and Ito's colours for the few coarse classes; for the fine ones Petroff's ten (arXiv
# 2107.02270), chosen with and for colour-vision deficiencies. The fine are named on the map too.
COARSE_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#595959")
FINE_COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300",
               "#b9ac70", "#717581", "#92dadd")


class _Column(NamedTuple):
    """What is drawn of one method."""

    shown: FeatureSet
    plane: np.ndarray
    plane_share: float
    neighbors: np.ndarray


def feature_map(results: Results, features: Mapping[str, FeatureSet]) -> Figure:
    """Unit-length features: the principal plane, coloured by coarse and by fine label, and t-SNE.

    The plane's axes are the same in all columns, so that lengths compare. t-SNE shows who is near
    whom; its lengths, sizes and densities mean nothing.

    Args:
      results: the records, for the class separation over each column.
      features: by label, of one run each, all of the same examples.
    """
    labels = [label for label in results.methods if label in features]
    columns = [_project(features[label]) for label in labels]
    reach = 1.05 * np.max([np.abs(c.plane).max(axis=0) for c in columns], axis=0)
    flat = reach[1] / reach[0]
    with rc_context(STYLE):
        figure = Figure(figsize=(3 * len(labels), 3 * (1 + 2 * flat) + 1.1), layout="constrained")
        axes = figure.subplots(3, len(labels), squeeze=False, height_ratios=(flat, flat, 1))
        for column, drawn, label in zip(axes.T, columns, labels):
            _scatter(column[0], drawn.plane, drawn.shown.coarse, COARSE_COLORS, reach)
            _scatter(column[1], drawn.plane, drawn.shown.fine, FINE_COLORS, reach)
            _scatter(column[2], drawn.neighbors, drawn.shown.fine, FINE_COLORS,
                     [1.08 * np.abs(drawn.neighbors).max()] * 2)
            _name_classes(column[2], drawn.neighbors, drawn.shown)
            column[0].set_title(_heading(results, label, drawn))
        for axis, text in zip(axes[:, 0], ("PCA, coarse label", "PCA, fine label",
                                           "t-SNE, fine label")):
            axis.set_ylabel(text)
        _legend(figure, "coarse", columns[0].shown.coarse_names, COARSE_COLORS)
        _legend(figure, "fine", columns[0].shown.fine_names, FINE_COLORS)
        return figure


def _project(features: FeatureSet) -> _Column:
    """Both projections of at most MAP_EXAMPLES examples, the same for every method."""
    keep = np.random.default_rng(0).permutation(len(features.fine))[:MAP_EXAMPLES]
    unit = np.asarray(features.features, np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    pca = PCA(2, svd_solver="full").fit(unit)
    shown = features._replace(features=unit[keep], fine=features.fine[keep],
                              coarse=features.coarse[keep])
    plane = pca.transform(shown.features)
    if plane[shown.coarse == shown.coarse.min(), 0].mean() > 0:
        plane[:, 0] *= -1  # the first class on the left: the sign is arbitrary
    # One thread: with two, t-SNE's took 20 times as long on a machine that was busy.
    with threadpool_limits(1):
        # From the plane, so that both maps lie the same way round.
        neighbors = TSNE(2, init=1e-4 * plane / plane[:, 0].std(), random_state=0,
                         perplexity=min(PERPLEXITY, (len(keep) - 1) / 3)
                         ).fit_transform(shown.features)
    middle = (neighbors.min(axis=0) + neighbors.max(axis=0)) / 2
    return _Column(shown, plane, float(pca.explained_variance_ratio_.sum()), neighbors - middle)


def _scatter(axis, points, classes, colors, reach):
    # In the shuffled order of the examples no class lies on top of another.
    axis.scatter(*points.T, s=9, lw=0, alpha=0.8, rasterized=True,
                 c=[colors[c % len(colors)] for c in classes])
    axis.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]), xticks=[], yticks=[],
             aspect="equal")
    for spine in axis.spines.values():
        spine.set(visible=True, color="#bbbbbb")


def _name_classes(axis, points, shown):
    """Each class's name where it is densest, since its mean may lie between its modes."""
    size = 10 if max(map(len, shown.fine_names)) <= 3 else 7.5
    for c in np.unique(shown.fine):
        mine = points[shown.fine == c]
        distances = np.linalg.norm(mine[:, None] - mine[None], axis=-1)
        densest = mine[np.median(distances, axis=1).argmin()]
        axis.annotate(shown.fine_names[c], densest, ha="center", va="center", fontweight="bold",
                      fontsize=size, in_layout=False, path_effects=[
                          patheffects.withStroke(linewidth=2.5, foreground="white")])


def _heading(results, label, drawn):
    record = next(r for r in results.methods[label].values() if r["key"] == drawn.shown.key)
    value = SEPARATION.text(record["values"][SEPARATION.key])
    return f"{results.name(label)}\nR² {value}, plane {100 * drawn.plane_share:.0f} %"


def _legend(figure, kind, names, colors):
    dots = [Line2D([], [], ls="", marker="o", color=colors[i % len(colors)])
            for i in range(len(names))]
    figure.legend(dots, names, loc=f"outside lower {'left' if kind == 'coarse' else 'right'}",
                  ncols=5, frameon=False, title=f"{kind} label", fontsize=9, handletextpad=0.1,
                  columnspacing=1)
