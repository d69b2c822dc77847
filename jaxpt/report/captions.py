"""What explains a figure: it speaks of nothing that the figure does not show."""

from typing import Any, Mapping

from jaxpt.report import maps, matrices, plots
from jaxpt.report.metrics import SEPARATION
from jaxpt.report.results import Results, join

COMPARED = (
    "Linear CKA between every layer of one network (rows) and of another (columns), same "
    "images, one seed: 1 is the same representation up to rotation and scale."
)
SCALED = (
    "Error on logarithmic axes against the number of images that pre-training saw, with the "
    "same number of steps at every size. Small dots are seeds, filled marks their means, "
    "lines E(n) = a·n^−b{offset} fitted to them, bands its 95 % bootstrap interval over "
    "seeds (too narrow with few). The hollow mark is the largest size, which no fit saw."
)


def measured(results: Results) -> str:
    """Of the panels of all headline metrics."""
    bars = results.has(SEPARATION)
    marks = (
        f"Diamonds{' and bars' * bars} are means over seeds, whiskers their 95 % t-intervals, "
        "dots single seeds."
        if results.intervals
        else f"Diamonds{', dots and bars' if bars else ' and dots'} show one seed each."
    )
    zoomed = any(metric.percent for metric in results.headline)
    separation = (
        "Class separation, shown from zero, is the share of the spread that lies between the "
        f"{results.classes}: the higher it is, the less is left inside them. That is no merit "
        "in itself."
    )
    return " ".join(
        [
            marks,
            *["The axes of the accuracies are zoomed, as marked."] * zoomed,
            *[separation] * bars,
        ]
    )


def curves(results: Results) -> str:
    """Of the losses, and of the monitors where there are any."""
    losses = (
        "Training of one seed. Each loss has an axis of its own, since losses of different "
        "methods do not compare."
    )
    monitor = (
        f" The monitor is the kNN accuracy on the {'coarse ' * results.coarse}labels, on "
        "training images, each left out of its own neighbours."
    )
    return losses + monitor * plots.monitored(plots.histories(results))


def mapped(results: Results, found: Mapping[str, maps.Map]) -> str:
    """Of one set's maps."""
    coarse = maps.reference(found).has_coarse
    seeds = sorted({drawn.seed for drawn in found.values()})
    separated = any(drawn.separation is not None for drawn in found.values())
    text = (
        f"Unit-length backbone features of the {results.part} part, seed "
        f"{join(list(map(str, seeds)))}. {'Upper two' if coarse else 'Upper'}: the plane of "
        "the two largest principal components; its axes are the same for all methods, so "
        "lengths compare, and the percentage is the share of all variance that it shows. "
        f"{'Lowest' if coarse else 'Lower'}: t-SNE, which shows who is near whom; its lengths, "
        f"sizes and densities mean nothing. At most {maps.MAP_EXAMPLES:,} examples, the same "
        "for every method."
    )
    return text + " R² is that run's class separation in the full feature space." * separated


def neighbors(results: Results) -> str:
    """Of the sheets of nearest images."""
    return (
        "The same images in every method, each with its nearest ones by cosine, nearest first: "
        f"✓ has the image's {'fine ' * results.coarse}label, ✗ another. They are examples, not "
        "a score."
    )


def confused(found: Mapping[str, dict[str, Any]]) -> str:
    """Of the confusion matrices."""
    labels, lines, colors = (
        (
            " on the fine labels",
            " Lines part the coarse classes.",
            "orange: wrong, but inside the true coarse class; blue: out of it",
        )
        if any(map(matrices.has_coarse, found.values()))
        else ("", "", "blue: wrong")
    )
    return (
        f"Weighted kNN{labels}, one seed: rows are true classes, columns predicted ones, each "
        f"row in % of its images.{lines} Grey: right; {colors}. Strength is the root of the "
        "share, so that rare errors show."
    )
