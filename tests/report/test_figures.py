"""Figures show what the records and features hold, each under its own name."""

import re

import fake_records
import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from jaxpt.errors import InputError
from jaxpt.evaluation import fit_power_law
from jaxpt.report import figures, scaling
from jaxpt.report.metrics import FINE, HEADLINE
from jaxpt.report.results import collect


def axis():
    return Figure().subplots()


@pytest.mark.parametrize("metric", [m for m in HEADLINE if m.key in fake_records.METRICS])
def test_diamonds_and_whiskers_are_means_and_intervals(metric):
    results, drawn_on = collect(fake_records.separated()), axis()
    figures.measurement(drawn_on, results, metric)
    scale = 100 if metric.percent else 1
    assert drawn_on.get_title().startswith(metric.title)
    assert [text.get_text() for text in drawn_on.get_yticklabels()] == [
        results.name(label) for label in results.methods
    ]
    drawn = [c.lines for c in drawn_on.containers if isinstance(c, ErrorbarContainer)]
    for (diamond, _, (whisker,)), label in zip(drawn, results.methods, strict=True):
        mean, half_width, _ = results.summary(label, metric.key)
        assert diamond.get_xdata() == pytest.approx([scale * mean])
        assert whisker.get_segments()[0][:, 0] == pytest.approx(
            [scale * (mean - half_width), scale * (mean + half_width)]
        )


def test_one_seed_is_drawn_without_whisker_and_a_missing_metric_not_at_all():
    records = [fake_records.record("nca", 0, (0.9,)), fake_records.record("look", 0, (0.8, 0.7))]
    results, drawn_on = collect(records), axis()
    figures.measurement(drawn_on, results, FINE[0])
    ((diamond, caps, (whisker,)),) = [
        c.lines for c in drawn_on.containers if isinstance(c, ErrorbarContainer)
    ]
    assert diamond.get_xydata().tolist() == [[70, 1]]
    assert np.ptp(whisker.get_segments()[0][:, 0]) == 0


def test_an_accuracy_axis_shows_some_points_and_where_guessing_is():
    def range_of(values, share):
        records = [fake_records.record(m, 0, (0.9, v)) for m, v in zip(("nca", "look"), values)]
        for record in records:
            record["guess"] = {"fine": {"classes": 10, "share": share, "images": 500}}
        drawn_on = axis()
        figures.measurement(drawn_on, collect(records), FINE[0])
        return *drawn_on.get_xlim(), drawn_on.get_xlabel()

    low, high, text = range_of((0.9, 0.901), 0.1)  # noise does not fill the panel
    assert high - low > 2 * figures.NARROWEST and text == "zoomed: from 86 %; guessing: 10.0 %"
    low, high, text = range_of((0.3, 0.5), 0.1)
    assert low < 10 and text.endswith("dotted: guessing, 10.0 %")
    assert range_of((0.99, 1.0), 0.1)[1] == 100.5


def test_curves_are_the_histories():
    records = fake_records.all_tied()
    for i, record in enumerate(r for r in records if r["history"]):
        record["history"] = [
            {"step": 10, "loss": 2.0 + i},
            {"step": 20, "loss": 1.0 + i},
            {"step": 20, "knn": 0.5 + 0.1 * i},
        ]
    results = collect(records)
    found, monitor = figures.histories(results), axis()
    assert list(found) == ["cross_entropy", "sup_con", "nca", "look"]
    figures.monitors(monitor, results, found)
    for i, (label, history) in enumerate(found.items()):
        loss = axis()
        figures.loss_curve(loss, results, label, history)
        assert loss.get_title() == f"loss: {results.name(label)}"
        assert loss.lines[0].get_xydata().tolist() == [[10, 2 + i], [20, 1 + i]]
        np.testing.assert_allclose(monitor.lines[i].get_xydata(), [[20, 50 + 10 * i]])
        assert monitor.lines[i].get_label() == results.name(label)
    looks = {(line.get_linestyle(), line.get_marker()) for line in monitor.lines[:4]}
    assert len(looks) == 4  # told apart without colour
    assert len(figures.curves(results)) == 5


@pytest.mark.parametrize("losses", [(4.0, 3.99, 3.98), (-0.5, -0.9, -0.95), (0.5, -0.2, -0.4)])
def test_a_loss_does_not_lie_on_the_edge_of_its_panel(losses):
    history, drawn_on = [{"step": i, "loss": loss} for i, loss in enumerate(losses)], axis()
    figures.loss_curve(drawn_on, collect(fake_records.all_tied()), "look", history)
    low, high = drawn_on.get_ylim()
    assert high - max(losses) > 0.04 * (high - low) and low <= min(0, *losses)


def test_a_history_without_a_loss_is_an_empty_panel():
    drawn_on = axis()
    figures.loss_curve(
        drawn_on, collect(fake_records.all_tied()), "look", [{"step": 1, "knn": 0.5}]
    )
    assert np.isfinite(drawn_on.get_ylim()).all()


def test_without_histories_there_are_no_curves():
    records = [record | {"history": None} for record in fake_records.all_tied()]
    assert figures.curves(collect(records)) == []


CONFUSION = {
    "matrix": [[8, 0, 2, 0], [1, 9, 0, 0], [3, 0, 7, 0], [0, 4, 0, 16]],
    "class_names": ["a0", "b0", "a1", "b1"],
    "coarse_of": [0, 1, 0, 1],
    "coarse_names": ["a", "b"],
}


def test_confusion_is_in_blocks_by_coarse_class_and_shares_of_rows():
    results = collect([fake_records.record("look", 0, (0.9,))])
    svg = figures.confusion(results, "look", CONFUSION)
    names = re.findall(r">(a0|a1|b0|b1)<", svg)
    assert names[:4] == names[4:] == ["a0", "a1", "b0", "b1"]
    # Row by row: a0, a1, b0, b1, each in % of its images, nothing where there is nothing.
    assert re.findall(r">(\d+)<", svg) == ["80", "20", "30", "70", "10", "90", "20", "80"]
    shares, order, coarse = figures._ordered_confusion(CONFUSION)
    np.testing.assert_allclose(
        shares, [[0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0.1, 0, 0.9, 0], [0, 0, 0.2, 0.8]]
    )
    assert order.tolist() == [0, 2, 1, 3] and coarse.tolist() == [0, 0, 1, 1]


def test_errors_inside_and_out_of_a_coarse_class_differ_in_colour(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "_heat_map", lambda axis, colors, strength: drawn.append((colors, strength))
    )
    figures.confusion(collect([fake_records.record("look", 0, (0.9,))]), "look", CONFUSION)
    ((colors, strength),) = drawn
    assert same_color(colors[0, 1], figures.VERMILLION) and same_color(colors[2, 0], figures.BLUE)
    assert not same_color(colors[0, 0], colors[0, 1])
    assert strength[1, 0] == pytest.approx(0.3**0.5)
    assert strength[0, 0] < strength[0, 0] / 0.5 == pytest.approx(0.8**0.5)


def test_the_worst_confusions_are_those_inside_a_coarse_class():
    # b0 → a0 (10 %) crosses the coarse classes.
    assert figures.worst_confusions(CONFUSION) == [
        "a1 → a0 30.0 %",
        "a0 → a1 20.0 %",
        "b1 → b0 20.0 %",
    ]


def test_without_coarse_classes_errors_are_of_one_kind():
    names = CONFUSION["class_names"]
    flat = CONFUSION | {"coarse_of": [0, 1, 2, 3], "coarse_names": names}
    assert not figures.has_coarse(flat) and figures.has_coarse(CONFUSION)
    assert figures.worst_confusions(flat)[:3] == [
        "a1 → a0 30.0 %",
        "a0 → a1 20.0 %",
        "b1 → b0 20.0 %",
    ]
    assert "b0 → a0 10.0 %" in figures.worst_confusions(flat)
    results = collect([fake_records.record("look", 0, (0.9,))])
    lines = 'id="line2d_'
    alone, parted = (figures.confusion(results, "look", d) for d in (flat, CONFUSION))
    assert parted.count(lines) - alone.count(lines) == 2  # one across, one down


@pytest.mark.parametrize("change", [{"coarse_of": [0, 1]}, {"matrix": [[1, 2]]}])
def test_a_confusion_that_does_not_fit_is_one_sentence(change):
    with pytest.raises(InputError, match="a confusion matrix of 4 classes must be"):
        figures.worst_confusions(CONFUSION | change)


def test_cka_names_both_networks_and_writes_every_cell():
    details = {
        "layers": ["stem", "features"],
        "other_layers": ["one", "two", "three"],
        "other_label": "cross_entropy",
        "other_seed": 4,
        "matrix": [[0.91, 0.22, 0.33], [0.44, 0.55, 0.66]],
    }
    results = collect([fake_records.record("look", 0, (0.9,))])
    svg = figures.cka(results, "look", details)
    assert re.findall(r">(0\.\d\d)<", svg) == ["0.91", "0.22", "0.33", "0.44", "0.55", "0.66"]
    for text in "stem", "features", "one", "two", "three", "LOOK", "cross-entropy, seed 4":
        assert f">{text}<" in svg
    with pytest.raises(InputError, match=r"the CKA matrix of 'look' is \[2, 3\], but it has 1 × 3"):
        figures.cka(results, "look", details | {"layers": ["stem"]})


class TestNeighbours:
    @pytest.fixture
    def details(self):
        return fake_records.neighbors(("cat", "dog"), np.random.default_rng(0), queries=2, k=3)

    def test_right_and_wrong_are_marked_by_more_than_colour(self, details):
        results = collect([fake_records.record("look", 0, (0.9,))])
        page = figures.neighbor_sheet(results, {"look": details})
        assert page.count("LOOK: 2 of 3 right") == 2
        assert re.findall(r"<span>(.) (\w+)</span>", page) == [
            ("✓", "cat"),
            ("✓", "cat"),
            ("✗", "dog"),
            ("✓", "dog"),
            ("✓", "dog"),
            ("✗", "cat"),
        ]
        assert re.findall(r'alt="(\w+): (\w+)[" ]', page)[:4] == [
            ("query", "cat"),
            ("right", "cat"),
            ("right", "cat"),
            ("wrong", "dog"),
        ]
        assert 'title="train/0">0.990</small>' in page and page.count('class="wrong"') == 2

    def test_methods_are_compared_on_the_same_images(self, details):
        other = details | {"queries": details["queries"][1:]}
        results = collect([fake_records.record(m, 0, (0.9,)) for m in ("nca", "look")])
        page = figures.neighbor_sheet(results, {"nca": details, "look": other})
        assert re.findall(r"(NCA|LOOK): ", page) == ["NCA", "NCA", "LOOK"]

    def test_cosines_have_as_many_digits_as_tell_them_apart(self):
        assert figures._distinct_cosines([0.98, 0.5, -0.2]) == ["0.98", "0.50", "−0.20"]
        assert figures._distinct_cosines([0.9951, 0.9902, 0.9893]) == ["0.995", "0.990", "0.989"]
        assert figures._distinct_cosines([0.99912, 0.99911]) == ["0.9991", "0.9991"]

    def test_large_images_are_made_small(self, details):
        rng = np.random.default_rng(0)
        details["images"] = {name: fake_records.png(rng, 300, 3) for name in details["images"]}
        results = collect([fake_records.record("look", 0, (0.9,))])
        page = figures.neighbor_sheet(results, {"look": details})
        assert "image/jpeg" in page and len(page) < 8 * 24_000

    @pytest.mark.parametrize(
        "image, message",
        [
            ("bm8gaW1hZ2U=", "'test/0' of a neighbour sheet is no PNG"),
            ('"><script>', "'test/0' of a neighbour sheet is no PNG"),
            (None, "no image 'test/0'"),
        ],
    )
    def test_what_is_no_image_is_refused(self, details, image, message):
        details["images"].pop("test/0")
        if image:
            details["images"]["test/0"] = image
        with pytest.raises(InputError, match=message):
            figures.neighbor_sheet(
                collect([fake_records.record("look", 0, (0.9,))]), {"look": details}
            )


class TestScaling:
    def test_curves_are_errors_by_size_and_seed(self):
        records = fake_records.scaling()
        found = scaling.curves(collect(records), FINE[0])
        assert list(found) == ["cross_entropy", "look"]
        errors = [
            [
                1 - r["values"]["fine_knn"]
                for r in records
                if r["label"] == "look" and r["config"]["data"]["pretrain_limit"] == n
            ]
            for n in (150, 300, 600, 1200)
        ]
        np.testing.assert_allclose(found["look"].errors, errors)
        assert found["look"].sizes.tolist() == [150, 300, 600, 1200]
        assert found["look"].law == fit_power_law([150, 300, 600, 1200], errors, offset=False)
        assert found["look"].law.b == pytest.approx(0.6, abs=0.05)

    def test_the_tables_show_the_largest_size(self):
        results = collect(fake_records.scaling())
        assert {run["limit"] for run in results.runs} == {1200} and len(results.sizes) == 24
        full = fake_records.record("look", 0, (0.5,) * 5)
        assert {
            r["limit"] for r in collect([*fake_records.scaling(), full]).methods["look"].values()
        } == {0}

    def test_a_run_on_all_images_counts_where_its_record_says_how_many(self):
        records = fake_records.scaling()
        for record in records:
            if record["config"]["data"]["pretrain_limit"] == 1200:
                record["config"]["data"]["pretrain_limit"] = 0
        sizes = scaling.curves(collect(records), FINE[0])["look"].sizes
        assert sizes.tolist() == [150, 300, 600]
        records = [
            r | {"pretrain_images": r["config"]["data"]["pretrain_limit"] or 1200} for r in records
        ]
        sizes = scaling.curves(collect(records), FINE[0])["look"].sizes
        assert sizes.tolist() == [150, 300, 600, 1200]

    def test_only_seeds_of_every_size_count(self):
        records = [r for r in fake_records.scaling() if r["key"] != "look-300-1"]
        found = scaling.curves(collect(records), FINE[0])
        assert {label: curve.errors.shape for label, curve in found.items()} == {
            "cross_entropy": (4, 3),
            "look": (4, 2),
        }

    @pytest.mark.parametrize(
        "sizes, offset",
        [((150, 300, 600), None), ((150, 300, 600, 1200), 0), ((100, 150, 300, 600, 1200), 1)],
    )
    def test_an_offset_is_fitted_only_where_sizes_are_left_to_test_it(self, sizes, offset):
        records = fake_records.scaling(sizes)
        for record in records:
            record["values"]["fine_knn"] -= 0.1  # an error that stays
        curve = scaling.curves(collect(records), FINE[0])["look"]
        if offset is None:
            assert curve.law is None
        else:
            assert curve.offset == bool(offset)
            assert curve.law == fit_power_law(sizes, curve.errors, offset=bool(offset))
            assert (curve.law.c > 0.02) == bool(offset)

    def test_without_error_there_is_no_law_but_a_row(self):
        records = fake_records.scaling()
        records[0]["values"]["fine_knn"] = 1.0
        row = scaling.rows(collect(records))[0]
        assert row[:6] == ["fine kNN", "cross-entropy", "–", "–", "–", "–"] and row[6] != "–"

    def test_rows_say_what_the_law_predicts(self):
        results = collect(fake_records.scaling())
        row = dict(zip(scaling.headings(), scaling.rows(results)[1]))
        law = scaling.curves(results, FINE[0])["look"].law
        low, high = law.predicted_interval
        assert row["predicted error %"] == (
            f"{100 * law.predicted:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        )
        assert row["measured error %"] == f"{100 * law.measured:.1f}"
        assert row["largest n, held out"] == "1,200"
        assert row["E(n)"] == f"{law.a:.3g}·n^−{law.b:.3g}"

    def test_the_plot_marks_the_held_out_size(self):
        results, drawn_on = collect(fake_records.scaling()), axis()
        scaling.draw(drawn_on, results, FINE[0])
        curve = scaling.curves(results, FINE[0])["cross_entropy"]
        fitted, held_out, line = drawn_on.lines[:3]
        means = 100 * curve.errors.mean(axis=1)
        np.testing.assert_allclose(fitted.get_ydata(), means[:-1])
        np.testing.assert_allclose(held_out.get_ydata(), means[-1:])
        assert held_out.get_markerfacecolor() == "none" != fitted.get_markerfacecolor()
        law = curve.law
        np.testing.assert_allclose(line.get_ydata(), 100 * law.a * line.get_xdata() ** -law.b)
        assert drawn_on.get_xscale() == drawn_on.get_yscale() == "log"
        assert drawn_on.get_xticks().tolist() == [150, 300, 600, 1200]


def test_svg_follows_the_page_and_shares_no_ids():
    with figures.panel(2, 2) as figure:
        drawn_on = figure.subplots()
        drawn_on.plot([0, 1], color=figures.BLUE)
        drawn_on.set_title("<b>$x$ & </b>")
    first, again = figures.to_svg(figure, 'a "name"'), figures.to_svg(figure, "another")
    assert "var(--c-0072b2)" in first and "#0072b2" not in first and "currentColor" in first
    assert "&lt;b&gt;$x$ &amp; &lt;/b&gt;" in first and "<b>" not in first
    assert 'aria-label="a &quot;name&quot;"' in first and "http" not in first
    page = figures.number_ids(first + '<a href="#s1" id="s1">' + again)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10 and "s1" in ids
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_long_names_and_colours_as_names_do_not_spoil_a_figure():
    longest = figures.LONGEST
    assert figures.short("x" * longest) == "x" * longest
    assert figures.short("y" * (longest + 1)) == "y" * (longest - 1) + "…"
    with figures.panel(2, 2) as figure:
        figure.subplots().set_title("#000000 id=a")
    assert ">#000000 id=a<" in figures.number_ids(figures.to_svg(figure, ""))


def test_methods_have_colours_of_their_own():
    results = collect([fake_records.record(m, 0, (0.9,)) for m in (*fake_records.METHODS, "byol")])
    assert len({to_rgb(figures.color(results, label)) for label in results.methods}) == 5
