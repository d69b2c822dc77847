"""Error against the number of pre-training images, with power laws judged at the largest size."""

from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.table import Table

from jaxpt.evaluation import PowerLaw, fit_power_law, power_law_band
from jaxpt.report.drawing import panel, short, to_svg
from jaxpt.report.markup import Markup
from jaxpt.report.metrics import SUMMARY, Metric
from jaxpt.report.plots import color, line_and_marker
from jaxpt.report.results import Results
from jaxpt.report.statistics import MIN_SEEDS
from jaxpt.report.tables import MISSING, rich_table

# With c three numbers are fitted, and one size is held out: fewer would be met exactly.
OFFSET_SIZES, SIZES = 5, 4
CAPTION = (
    f"E(n) is fitted to all sizes but the largest, and needs {SIZES} sizes or more; in "
    "brackets its 95 % bootstrap interval over seeds."
)


class Curve(NamedTuple):
    """Errors of one method, 1 − accuracy, and the law fitted to all sizes but the largest.

    Attributes:
      sizes: int [sizes], rising.
      errors: float [sizes, seeds], of the seeds that every size has.
      law: None where there are too few sizes or an error is zero.
    """

    sizes: np.ndarray
    errors: np.ndarray
    law: PowerLaw | None

    @property
    def offset(self) -> bool:
        """Whether the law has an error c that stays."""
        return len(self.sizes) >= OFFSET_SIZES


def curves(results: Results, metric: Metric) -> dict[str, Curve]:
    """By label, where a scaling study measured the metric at two sizes or more."""
    return {
        label: Curve(sizes, errors, _fit(sizes, errors))
        for label, (sizes, errors) in _errors(results, metric).items()
    }


def _errors(results, metric):
    """(sizes, errors) of each label's curve, without the fit, which takes a bootstrap."""
    found = {}
    for label in results.methods:
        by_size: dict[int, dict[int, float]] = {}
        for run in results.sizes:
            # Of a run on all images only its record knows how many they are.
            size = run.get("pretrain_images") or run["limit"]
            if run["label"] == label and size and metric.key in run["values"]:
                by_size.setdefault(size, {})[run["seed"]] = 1 - run["values"][metric.key]
        seeds = set.intersection(*map(set, by_size.values())) if by_size else set()
        if len(by_size) > 1 and seeds:
            sizes = np.array(sorted(by_size))
            errors = np.array([[by_size[n][s] for s in sorted(seeds)] for n in sizes])
            found[label] = sizes, errors
    return found


def _fit(sizes, errors):
    if len(sizes) < SIZES or not (errors > 0).all():
        return None
    bootstrap = 1000 if errors.shape[1] >= MIN_SEEDS else 0
    return fit_power_law(sizes, errors, offset=len(sizes) >= OFFSET_SIZES, bootstrap=bootstrap)


def metrics(results: Results) -> list[Metric]:
    """Those that the study has curves of."""
    return [metric for metric in SUMMARY if _errors(results, metric)]


def plots(results: Results) -> list[Markup]:
    """A panel a metric, on logarithmic axes."""
    panels = []
    for metric in metrics(results):
        with panel(3.1, 3.1) as figure:
            draw(figure.subplots(), results, metric)
            panels.append(
                to_svg(figure, f"error in {metric.title} against the number of pre-training images")
            )
    return panels


def draw(axis, results: Results, metric: Metric) -> None:
    """The curves of all methods in one metric."""
    found = curves(results, metric)
    for place, (label, curve) in enumerate(found.items()):
        _draw(axis, results, label, curve, 1 + 0.02 * (place - (len(found) - 1) / 2))
    axis.set(title=f"{metric.title}: error, %", xlabel="pre-training images")
    _logarithmic(axis, sorted({n for curve in found.values() for n in curve.sizes}))
    axis.legend(frameon=False, fontsize=8.5)


def headings() -> list[str]:
    return [
        "measurement",
        "method",
        "E(n)",
        "b",
        "largest n, held out",
        "predicted error %",
        "measured error %",
    ]


def terminal(results: Results) -> Table:
    """The laws, for rich's console."""
    # Without the formula and the size, which the caption can say: it shall fit into 80 columns.
    columns, *table = ([row[i] for i in (0, 1, 3, 5, 6)] for row in (headings(), *rows(results)))
    return rich_table(f"{results.title}, {results.seeds}", columns, table, CAPTION)


def rows(results: Results) -> list[list[str]]:
    """A row a metric and method: the law, and what it predicts of the size that was held out."""
    table = []
    for metric in metrics(results):
        for label, curve in curves(results, metric).items():
            law = curve.law
            if law is None:
                table.append(
                    [
                        metric.title,
                        results.name(label),
                        *[MISSING] * 4,
                        f"{100 * curve.errors[-1].mean():.1f}",
                    ]
                )
                continue
            offset = f" + {law.c:.3g}" if curve.offset else ""
            table.append(
                [
                    metric.title,
                    results.name(label),
                    f"{law.a:.3g}·n^−{law.b:.3g}{offset}",
                    f"{law.b:.3f}{_between(law.b_interval, 1, 3)}",
                    f"{law.held_out:,.0f}",
                    f"{100 * law.predicted:.1f}{_between(law.predicted_interval, 100, 1)}",
                    f"{100 * law.measured:.1f}",
                ]
            )
    return table


def _between(interval, scale, digits):
    return (
        ""
        if interval is None
        else (f" [{scale * interval[0]:.{digits}f}, {scale * interval[1]:.{digits}f}]")
    )


def _draw(axis, results, label, curve, beside):
    """Seeds as small dots, means as the method's marker (hollow where held out), law and band."""
    shade, (line, marker) = color(results, label), line_and_marker(results, label)
    means = 100 * curve.errors.mean(axis=1)
    x = curve.sizes * beside  # methods a little beside one another, so that none hides another
    axis.scatter(
        np.repeat(x, curve.errors.shape[1]),
        100 * curve.errors.ravel(),
        s=6,
        color=shade,
        alpha=0.5,
        lw=0,
    )
    axis.plot(x[:-1], means[:-1], ls="", marker=marker, ms=5, color=shade)
    axis.plot(x[-1:], means[-1:], ls="", marker=marker, ms=8, mfc="none", mew=1.6, color=shade)
    if curve.law is not None:
        law, n = curve.law, np.geomspace(curve.sizes[0], curve.sizes[-1], 60)
        axis.plot(n, 100 * (law.a * n**-law.b + law.c), line, color=shade, lw=1.6)
        if law.b_interval is not None:
            low, high = power_law_band(curve.sizes, curve.errors, n, offset=curve.offset)
            axis.fill_between(n, 100 * low, 100 * high, color=shade, alpha=0.13, lw=0)
    axis.plot([], [], line, marker=marker, ms=5, color=shade, label=short(results.name(label)))


def _logarithmic(axis, sizes):
    axis.set(xscale="log", yscale="log")
    axis.xaxis.set_major_locator(FixedLocator(sizes))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    axis.tick_params(axis="x", labelrotation=35 if len(sizes) > 5 else 0)
    low, high = axis.get_ylim()
    ticks = [step * 10**power for power in range(-3, 3) for step in (1, 1.5, 2, 3, 4, 5, 7)]
    axis.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda e, _: f"{e:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", lw=0.5, alpha=0.4)
