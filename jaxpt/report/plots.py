"""Figures from records: measurements with their intervals, and training curves."""

import io
import math

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxpt.report.results import METRICS, SEPARATION, SUBJECT, Metric, Results

# Okabe and Ito's colours, told apart with any kind of colour vision.
METHOD_COLORS = {"cross_entropy": "#595959", "sup_con": "#0072b2", "nca": "#009e73",
                 SUBJECT: "#d55e00"}
OTHER_COLORS = ("#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLE = {"font.size": 10, "axes.titlesize": 11, "axes.spines.top": False,
         "axes.spines.right": False, "svg.hashsalt": "jaxpt", "figure.facecolor": "white"}


def color(results: Results, label: str) -> str:
    """A method's colour: the same in every figure."""
    others = [m for m in results.methods if m not in METHOD_COLORS]
    return METHOD_COLORS.get(label) or OTHER_COLORS[others.index(label) % len(OTHER_COLORS)]


def measurements(results: Results) -> Figure:
    """Accuracies as means with intervals on zoomed axes, class separation as bars from zero."""
    with rc_context(STYLE):
        metrics = (*[m for m in METRICS if m.percent], SEPARATION)
        figure = Figure(figsize=(2.4 * len(metrics), 3.5), layout="constrained")
        for axis, metric in zip(figure.subplots(1, len(metrics)), metrics):
            _measurement(axis, results, metric)
        return figure


def _measurement(axis, results: Results, metric: Metric):
    scale = 100 if metric.percent else 1
    for x, label in enumerate(results.methods):
        mean, half_width, _ = results.summary(label, metric.key)
        values = [scale * v for v in results.values(label, metric.key).values()]
        shade = color(results, label)
        if not metric.percent:
            axis.bar(x, mean, 0.7, color=shade, alpha=0.35)
        axis.errorbar(x, scale * mean, scale * half_width, color=shade, capsize=5, lw=2,
                      marker="D", markersize=5)
        axis.scatter([x + 0.25] * len(values), values, s=10, color=shade, alpha=0.7, lw=0)
    axis.set_title(f"{metric.title}, %" if metric.percent else metric.title)
    axis.set_xticks(range(len(results.methods)), [results.name(m) for m in results.methods],
                    rotation=35, ha="right")
    axis.set_xlim(-0.6, len(results.methods) - 0.4)
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="y", lw=0.5, alpha=0.5)
    if metric.percent:
        _mark_zoom(axis)
    else:
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_xlabel("bars from 0", fontsize=8, color="#595959", loc="left")


def _mark_zoom(axis):
    """Two slashes through the foot of the y axis, and where it starts."""
    low = math.floor(axis.get_ylim()[0])
    axis.set_ylim(bottom=low)
    axis.plot([0, 0], [0.02, 0.05], transform=axis.transAxes, ls="", clip_on=False, color="black",
              marker=[(-1, -0.5), (1, 0.5)], markersize=9, mew=1)
    axis.set_xlabel(f"zoomed: from {low} %", fontsize=8, color="#595959", loc="left")


def curves(results: Results) -> Figure | None:
    """Loss per method on axes of their own, and the kNN monitor of all in one.

    They come from the first record of a method that kept its history; None where none did.
    """
    histories = {label: next((r["history"] for r in by_seed.values() if r.get("history")), None)
                 for label, by_seed in results.methods.items()}
    histories = {label: history for label, history in histories.items() if history}
    if not histories:
        return None
    with rc_context(STYLE):
        columns = (len(histories) + 1) // 2
        figure = Figure(figsize=(12, 4.4), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
        axes = left.subplots(2, columns, squeeze=False, sharex=True)
        for axis, (label, history) in zip(axes.flat, histories.items()):
            steps, losses = _series(history, "loss")
            axis.plot(steps, losses, color=color(results, label))
            axis.set_title(f"loss: {results.name(label)}")
            axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        for axis in axes[-1]:
            axis.set_xlabel("step")
        for axis in axes.flat[len(histories):]:
            axis.remove()
        _monitor(right.subplots(), results, histories)
        return figure


def _monitor(axis, results, histories):
    for (label, history), style in zip(histories.items(), ("-", "--", "-.", "-") * 3):
        steps, accuracies = _series(history, "knn")
        axis.plot(steps, [100 * a for a in accuracies], style, color=color(results, label),
                  marker=".", label=results.name(label))
    axis.set_title("coarse kNN monitor, %")
    axis.set_xlabel("step")
    axis.grid(axis="y", lw=0.5, alpha=0.5)
    axis.legend(frameon=False)
    _mark_zoom(axis)
    axis.xaxis.label.set_text(f"step (y {axis.xaxis.label.get_text()})")


def _series(history, name):
    rows = [(row["step"], row[name]) for row in history if name in row]
    return [step for step, _ in rows], [value for _, value in rows]


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    with rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
