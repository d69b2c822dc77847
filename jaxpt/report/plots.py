"""Figures of runs: measurements with their intervals, and training curves."""

import math
from typing import Mapping

from matplotlib.ticker import MaxNLocator

from jaxpt.report import drawing, lead
from jaxpt.report.drawing import panel, short, to_svg
from jaxpt.report.markup import Markup
from jaxpt.report.metrics import Metric
from jaxpt.report.results import SUBJECT, Results

METHOD_COLORS = {
    "cross_entropy": drawing.GREY,
    "sup_con": drawing.BLUE,
    "nca": drawing.GREEN,
    SUBJECT: drawing.VERMILLION,
}
OTHER_COLORS = (drawing.PINK, drawing.SKY, drawing.ORANGE, "#000000")
NARROWEST = 4  # points of accuracy on each side of the values that a panel shows at least
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vP*X"


def color(results: Results, label: str) -> str:
    """Colour of a method, the same in every figure."""
    others = [m for m in results.methods if m not in METHOD_COLORS]
    return METHOD_COLORS.get(label) or OTHER_COLORS[others.index(label) % len(OTHER_COLORS)]


def line_and_marker(results: Results, label: str) -> tuple[str, str]:
    """Line style and marker of a method, which distinguish methods without colour."""
    place = list(results.methods).index(label)
    return LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]


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
    shown = []
    for place, label in enumerate(results.methods):
        summary = results.summary(label, metric.key)
        if summary is None:
            continue
        values = [scale * v for v in results.values(label, metric.key).values()]
        shown += values
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
    if metric.percent and shown:
        _accuracy_axis(axis, shown, lead.guess(results, metric))
    elif shown and any(shown):
        low, high = min([0.0, *shown]), max([0.0, *shown])
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
        axis.axvline(100 * guess.share, color=drawing.GREY, ls=":", lw=1.5)
        text += f"; dotted: guessing, {100 * guess.share:.1f} %"
    elif guess:
        text += f"; guessing: {100 * guess.share:.1f} %"
    axis.set_xlabel(text, fontsize=8.5, color=drawing.GREY, loc="left")


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
    axis.set_xlabel(f"zoomed: from {low} %", fontsize=8, color=drawing.GREY, loc="left")


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
    if monitored(found):
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


def monitored(found: Mapping[str, list[dict]]) -> bool:
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


def _series(history, name):
    rows = [(row["step"], row[name]) for row in history if name in row]
    return [step for step, _ in rows], [value for _, value in rows]
