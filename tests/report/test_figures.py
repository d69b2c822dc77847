"""Figures show what the records and features hold, each under its own name."""

import fake_records
import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer

from jaxpt.report import maps, plots
from jaxpt.report.results import METRICS, collect


def test_diamonds_and_whiskers_are_means_and_intervals():
    results = collect(fake_records.separated())
    axes = plots.measurements(results).axes
    for axis, metric in zip(axes, METRICS, strict=True):
        scale = 100 if metric.percent else 1
        assert axis.get_title().startswith(metric.title)
        assert [text.get_text() for text in axis.get_xticklabels()] == [
            results.name(label) for label in results.methods]
        drawn = [c.lines for c in axis.containers if isinstance(c, ErrorbarContainer)]
        for (diamond, _, (whisker,)), label in zip(drawn, results.methods, strict=True):
            mean, half_width, _ = results.summary(label, metric.key)
            assert diamond.get_ydata() == pytest.approx([scale * mean])
            assert whisker.get_segments()[0][:, 1] == pytest.approx(
                [scale * (mean - half_width), scale * (mean + half_width)])


def test_curves_are_the_histories():
    records = fake_records.all_tied()
    for i, record in enumerate(r for r in records if r["history"]):
        record["history"] = [{"step": 10, "loss": 2.0 + i}, {"step": 20, "loss": 1.0 + i},
                             {"step": 20, "knn": 0.5 + 0.1 * i}]
    *losses, monitor = plots.curves(collect(records)).axes
    assert [axis.get_title() for axis in losses] == [
        "loss: cross-entropy", "loss: SupCon", "loss: NCA", "loss: LOOK"]
    for i, axis in enumerate(losses):
        assert axis.lines[0].get_xydata().tolist() == [[10, 2 + i], [20, 1 + i]]
        np.testing.assert_allclose(monitor.lines[i].get_xydata(), [[20, 50 + 10 * i]])
        assert f"loss: {monitor.lines[i].get_label()}" == axis.get_title()


def test_without_histories_there_are_no_curves():
    records = [record | {"history": None} for record in fake_records.all_tied()]
    assert plots.curves(collect(records)) is None


def test_the_map_colours_and_names_the_classes_it_says():
    records = fake_records.separated()
    given = fake_records.features("look-2")
    narrow = fake_records.features("nca-0")
    narrow = narrow._replace(features=narrow.features + 1)  # unit vectors in a narrow cone
    figure = maps.feature_map(collect(records), {"look": given, "nca": narrow})
    nca, look = np.reshape(figure.axes, (3, 2)).T
    r2 = {record["key"]: record["values"]["class_separation"] for record in records}
    assert f"LOOK\nR² {r2['look-2']:.3f}" in look[0].get_title()
    assert f"NCA\nR² {r2['nca-0']:.3f}" in nca[0].get_title()
    # One scale for all columns of the plane, so that lengths compare.
    assert len({axis.get_xlim() for axis in (*nca[:2], *look[:2])}) == 1
    spread = [np.ptp(axis.collections[0].get_offsets(), axis=0).max() for axis in (nca[0], look[0])]
    assert spread[0] < 0.8 * spread[1]
    for axis, labels, colors in zip(look, (given.coarse, given.fine, given.fine),
                                    (maps.COARSE_COLORS, maps.FINE_COLORS, maps.FINE_COLORS)):
        shown = axis.collections[0].get_facecolors()[:, :3]
        for c in np.unique(labels):
            assert sum(same_color(color, colors[c]) for color in shown) == np.sum(labels == c)
    points = look[2].collections[0]
    for text in look[2].texts:  # a name lies on a point of its class
        nearest = np.linalg.norm(points.get_offsets() - text.xy, axis=1).argmin()
        assert same_color(points.get_facecolors()[nearest][:3],
                          maps.FINE_COLORS[given.fine_names.index(text.get_text())])
    assert len(look[2].texts) == 10
