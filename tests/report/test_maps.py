"""Maps show the features of the runs that they name, in the colours of their legends."""

import re

import fake_records
import numpy as np
from matplotlib.colors import same_color, to_rgb

from jaxpt.report import figures
from jaxpt.report.results import collect


def test_the_map_colours_and_names_the_classes_it_says():
    results = collect(fake_records.separated())
    given = fake_records.features("look-2")
    narrow = fake_records.features("nca-0")
    narrow = narrow._replace(features=narrow.features + 1)  # unit vectors in a narrow cone
    found = {
        "nca": figures.projected_map(narrow)._replace(separation=0.25),
        "look": figures.projected_map(given),
    }
    figure = figures.feature_map(results, found)
    nca, look = np.reshape(figure.axes, (3, 2)).T
    assert "NCA\nR² 0.250" in nca[0].get_title()
    assert re.match(r"LOOK\nplane \d+ %", look[0].get_title())
    # One scale for all columns of the plane, so that lengths compare.
    assert len({a.get_xlim() for a in (*nca[:2], *look[:2])}) == 1
    spread = [np.ptp(a.collections[0].get_offsets(), axis=0).max() for a in (nca[0], look[0])]
    assert spread[0] < 0.8 * spread[1]
    for drawn_on, labels, colors in zip(
        look,
        (given.coarse, given.fine, given.fine),
        (figures.COARSE_COLORS, figures.FINE_COLORS, figures.FINE_COLORS),
    ):
        shown = drawn_on.collections[0].get_facecolors()[:, :3]
        for c in np.unique(labels):
            assert sum(same_color(color, colors[c]) for color in shown) == np.sum(labels == c)
    points = look[2].collections[0]
    for text in look[2].texts:  # a name lies on a point of its class
        nearest = np.linalg.norm(points.get_offsets() - text.xy, axis=1).argmin()
        assert same_color(
            points.get_facecolors()[nearest][:3],
            figures.FINE_COLORS[given.fine_names.index(text.get_text())],
        )
    assert len(look[2].texts) == 10


def test_a_recorded_map_is_shown_as_it_is():
    records = fake_records.everything("look")
    given = next(r["details"] for r in records if r["evaluator"] == "map")
    run = collect(records).methods["look"][0]
    found = figures.recorded_map(run)
    np.testing.assert_array_equal(found.pca, given["pca"])
    np.testing.assert_array_equal(found.tsne, given["tsne"])
    assert (found.pca_share, found.seed) == (0.61, 0)
    assert found.separation == run["values"]["class_separation"]
    many = found._replace(class_names=tuple(map(str, range(100))))
    # The colours of the fine labels repeat, so they tell nothing.
    assert list(figures.map_legends(many)) == ["coarse label"]


def test_many_classes_have_a_colour_and_marker_each_and_names_that_do_not_overlap():
    rng = np.random.default_rng(0)
    names = tuple(f"class number {i}" for i in range(25))
    records = fake_records.everything("look", class_names=names, coarse_names=("a", "b"))
    results = collect(records)
    found = {"look": figures.recorded_map(results.methods["look"][0])}
    found["look"] = found["look"]._replace(tsne=rng.normal(size=(400, 2)))
    looks = [
        (color, marker) for color, marker, _ in figures.map_legends(found["look"])["fine label"]
    ]
    assert len(set(looks)) == 25
    figure = figures.feature_map(results, found)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[2].texts]
    assert 3 < len(boxes) < 25  # the others stand in the legend only
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_without_coarse_classes_the_plane_is_there_once():
    records = fake_records.without_coarse("look")
    results = collect(records)
    found = {"look": figures.recorded_map(results.methods["look"][0])}
    figure = figures.feature_map(results, found)
    assert [axis.get_ylabel() for axis in figure.axes] == ["PCA", "t-SNE"]
    assert list(figures.map_legends(found["look"])) == ["class"]
    assert [legend.get_title().get_text() for legend in figure.legends] == ["class"]
    (svg,) = figures.map_columns(results, found)
    assert re.findall(r">(PCA[^<]*|t-SNE[^<]*)<", svg) == ["PCA", "t-SNE"]
    colors = figure.axes[0].collections[0].get_facecolors()[:, :3]
    assert {to_rgb(c) for c in figures.FINE_COLORS} == set(map(tuple, colors))


def test_one_method_with_coarse_classes_gives_all_their_row():
    fine, both = (
        figures.recorded_map(collect(made).methods["look"][0])
        for made in (fake_records.without_coarse("look"), fake_records.everything("look"))
    )
    results = collect(fake_records.all_tied())
    found = {"nca": fine, "look": both}
    assert figures.reference_map(found) is both
    assert len(figures.feature_map(results, found).axes) == 6
