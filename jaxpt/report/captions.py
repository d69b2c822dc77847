"""Captions of figures, limited to what each figure shows."""

from typing import Any, Mapping

from jaxpt.report import maps, matrices, plots
from jaxpt.report.metrics import SEPARATION
from jaxpt.report.results import Results, join

COMPARED = (
    "Linear CKA between every layer of one network (rows) and every layer of another (columns), on "
    "the same images, for one seed. 1: the same representation up to rotation and scale."
)
SCALED = (
    "Error against the number of pre-training images, on logarithmic axes, with the same number "
    "of steps at every size. Small dots: seeds. Filled marks: their means. Lines: "
    "E(n) = a·n^−b{offset}, fitted to the means. Bands: 95 % bootstrap intervals over seeds (too "
    "narrow with few seeds). Hollow marks: the largest size, held out of the fit."
)


def measured(results: Results) -> str:
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


def curves(results: Results) -> str:
    """Caption of the loss curves, and of the kNN monitors if there are any."""
    losses = (
        "Training curves of one seed. Each loss has its own axis: losses of different methods are "
        "not comparable."
    )
    monitor = (
        f" The monitor is the kNN accuracy on the {'coarse ' * results.coarse}labels of "
        "training images; each image is excluded from its own neighbours."
    )
    return losses + monitor * plots.monitored(plots.histories(results))


def mapped(results: Results, found: Mapping[str, maps.Map]) -> str:
    """Caption of the feature maps of one set."""
    coarse = maps.reference(found).has_coarse
    seeds = sorted({drawn.seed for drawn in found.values()})
    separated = any(drawn.separation is not None for drawn in found.values())
    text = (
        f"Unit-length backbone features of the {results.part} part, seed "
        f"{join(list(map(str, seeds)))}. {'Upper two rows' if coarse else 'Upper row'}: the plane "
        "of the two largest principal components. All methods share the scale of its axes, so "
        "lengths are comparable; the percentage is the share of the variance that the plane shows. "
        f"{'Lowest' if coarse else 'Lower'} row: t-SNE, which shows which examples are neighbours; "
        f"its distances, sizes and densities mean nothing. At most {maps.MAP_EXAMPLES:,} examples, "
        "the same for every method."
    )
    return text + " R² is that run's class separation in the full feature space." * separated


def neighbors(results: Results, found: Mapping[str, dict[str, Any]]) -> str:
    """Caption of the sheets of nearest neighbours."""
    averages = [
        f"{details['average_cosine']:.2f}".replace("-", "−") + f" under {results.name(label)}"
        for label, details in found.items()
        if "average_cosine" in details
    ]
    pair = f" For comparison, that of any two images is {join(averages)} on average."
    return (
        "Left: an image that training has not seen. Right: its nearest neighbours among the "
        "training images, nearest first, under each method; the images on the left are the same "
        f"for every method. ✓: the same {'fine ' * results.coarse}label; ✗: another. The number "
        f"is the cosine similarity.{pair * bool(averages)} These are examples, not a score."
    )


def confused(found: Mapping[str, dict[str, Any]]) -> str:
    """Caption of the confusion matrices."""
    labels, lines, colors = (
        (
            " on the fine labels",
            " Lines separate the coarse classes.",
            "orange: wrong, within the true coarse class; blue: wrong, outside it",
        )
        if any(map(matrices.has_coarse, found.values()))
        else ("", "", "blue: wrong")
    )
    return (
        f"Weighted kNN{labels}, one seed. Rows: true classes. Columns: predicted classes. Numbers: "
        f"% of the row's images.{lines} Grey: correct; {colors}. The opacity grows with the "
        "square root of the share, so that rare errors are visible."
    )
