"""Error against the number of pre-training images, with power laws tested at the largest size."""

from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from rich.table import Table

from jaxpt.evaluation import PowerLaw, fit_power_law, power_law_band
from jaxpt.report.figures import color, line_and_marker, panel, short, to_svg
from jaxpt.report.markup import Markup
from jaxpt.report.metrics import SUMMARY, Metric
from jaxpt.report.results import Results
from jaxpt.report.statistics import MIN_SEEDS
from jaxpt.report.tables import MISSING, rich_table

# The law has two parameters, three with c, and one size is held out: with fewer sizes the fit would
# be exact.
OFFSET_SIZES, SIZES = 5, 4
FIGURE_CAPTION = (
    "Error against the number of pre-training images, on logarithmic axes, with the same number "
    "of steps at every size. Small dots: seeds. Filled marks: their means. Lines: "
    "E(n) = a·n^−b{offset}, fitted to the means. Bands: 95 % bootstrap intervals over seeds (too "
    "narrow with few seeds). Hollow marks: the largest size, held out of the fit."
)
TABLE_CAPTION = (
    f"E(n) is fitted to all sizes but the largest and needs at least {SIZES} sizes. Brackets: 95 % "
    "bootstrap intervals over seeds."
)


class Curve(NamedTuple):
    """Errors (1 − accuracy) of one method, and the power law fitted to all sizes but the largest.

    Attributes:
      sizes: int [sizes], increasing.
      errors: float [sizes, seeds], for the seeds that all sizes have.
      law: None if there are too few sizes or an error is zero.
    """

    sizes: np.ndarray
    errors: np.ndarray
    law: PowerLaw | None

    @property
    def offset(self) -> bool:
        """Whether the law has an irreducible error c."""
        return len(self.sizes) >= OFFSET_SIZES


def curves(results: Results, metric: Metric) -> dict[str, Curve]:
    """Label → curve, for labels whose metric was measured at two or more sizes."""
    return {
        label: Curve(sizes, errors, _fit(sizes, errors))
        for label, (sizes, errors) in _errors(results, metric).items()
    }


def _errors(results, metric):
    """Label → (sizes, errors), without the fit, whose bootstrap is slow."""
    found = {}
    for label in results.methods:
        by_size: dict[int, dict[int, float]] = {}
        for run in results.sizes:
            # The limit of a run on all images is 0; its record has their number.
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
    """Metrics for which the study has curves."""
    return [metric for metric in SUMMARY if _errors(results, metric)]


def plots(results: Results) -> list[Markup]:
    """One panel per metric, on logarithmic axes."""
    panels = []
    for metric in metrics(results):
        with panel(3.1, 3.1) as figure:
            draw(figure.subplots(), results, metric)
            panels.append(
                to_svg(figure, f"error in {metric.title} against the number of pre-training images")
            )
    return panels


def draw(axis, results: Results, metric: Metric) -> None:
    """Draws the curves of all methods in one metric."""
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
    """Table of the power laws, for rich's console."""
    # Without the formula and the held-out size, so that the table fits into 80 columns.
    columns, *table = ([row[i] for i in (0, 1, 3, 5, 6)] for row in (headings(), *rows(results)))
    return rich_table(f"{results.title}, {results.seeds}", columns, table, TABLE_CAPTION)


def rows(results: Results) -> list[list[str]]:
    """One row per metric and method: the law, and its prediction for the held-out size."""
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
    """Draws seeds as small dots, means as markers (hollow if held out), the law and its band."""
    shade, (line, marker) = color(results, label), line_and_marker(results, label)
    means = 100 * curve.errors.mean(axis=1)
    x = curve.sizes * beside  # shifted per method, so that no marker hides another
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
