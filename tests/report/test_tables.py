"""Tables from given records equal expected strings."""

import io
import json

import fake_records
import pytest
from rich.console import Console

from jaxpt.errors import InputError
from jaxpt.report import statistics, tables
from jaxpt.report.metrics import FINE, GROUPS, SEPARATION, groups_of
from jaxpt.report.results import collect, join, sentence


@pytest.fixture
def two_methods():
    return [
        fake_records.record(label, seed, values)
        for label, rows in {
            "look": [(0.99, 0.95, 0.96, 0.85, 0.50), (0.98, 0.97, 0.96, 0.89, 0.52)],
            "nca": [(0.95, 0.90, 0.92, 0.80, 0.30), (0.97, 0.95, 0.92, 0.70, 0.30)],
        }.items()
        for seed, values in enumerate(rows)
    ]


# t(0.975, 1) = 12.706 and the standard error of two values is half their distance: ± 6.353 × it.
ROWS = [
    ["NCA", "96.0 ± 12.7", "92.5 ± 31.8", "92.0 ± 0.0", "75.0 ± 63.5", "0.300 ± 0.000", "7.5"],
    ["LOOK", "98.5 ± 6.4", "96.0 ± 12.7", "96.0 ± 0.0", "87.0 ± 25.4", "0.510 ± 0.127", "7.5"],
]


def test_rows_are_means_with_half_widths_in_the_methods_order(two_methods):
    assert tables.rows(collect(two_methods)) == ROWS


def test_markdown_holds_the_rows_the_verdicts_and_the_sentence(two_methods):
    text = tables.markdown(two_methods)
    for row in ROWS:
        assert f"| {' | '.join(row)} |" in text
    assert (
        "| NCA | +2.5 ± 19.1 undecided | +3.5 ± 19.1 undecided | +4.0 ± 0.0 undecided | "
        "+12.0 ± 88.9 undecided | +0.210 ± 0.127 **apart (+)** |"
    ) in text
    assert text.endswith(
        "On digits (test part, 2 seeds): in coarse kNN, fine kNN, fine linear and 5-shot, LOOK "
        "shows no clear difference from NCA; in class separation R², LOOK is above NCA.\n"
    )


def test_one_slow_run_does_not_count():
    records = fake_records.separated()
    records[0]["values"]["pretrain_seconds"] = 1000.0  # of 7, 8, 9, 10 and 11
    assert tables.rows(collect(records))[0][-1] == "10.0"


def test_the_terminal_table_fits_eighty_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(tables.terminal(fake_records.separated()))
    text = console.export_text()
    assert "cross-entropy  99.0 ±0.5" in text
    assert "apart (−)" in text
    assert "…" not in text.replace("LOOK minus …", "")
    assert max(map(len, text.splitlines())) <= 80


def test_the_sentence_says_what_the_verdicts_say():
    assert sentence(collect(fake_records.separated())) == (
        "On digits (test part, 5 seeds): in coarse kNN, fine linear and 5-shot, LOOK shows no "
        "clear difference from cross-entropy, SupCon and NCA; in fine kNN, LOOK is above NCA and "
        "shows no clear difference from cross-entropy and SupCon; in class separation R², LOOK is "
        "below cross-entropy and shows no clear difference from SupCon and NCA."
    )


def test_without_look_nothing_is_compared(two_methods):
    records = [r for r in two_methods if r["label"] != "look"]
    assert "nothing to compare" in tables.markdown(records)
    assert "minus" not in tables.markdown(records)


def test_a_label_of_ones_own_comes_last_and_cannot_break_the_table(two_methods):
    records = two_methods + [
        fake_records.record("k|20 [red]", seed, (0.9,) * 5, method="look") for seed in range(2)
    ]
    assert "| k\\|20 [red] |" in tables.markdown(records)
    assert list(collect(records).methods) == ["nca", "look", "k|20 [red]"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.terminal(records))
    rows = [line for line in console.export_text().splitlines() if line.startswith("k|20 [red] ")]
    assert len(rows) == 2  # of the table and of the verdicts


def test_records_read_from_a_file_mix_with_new_ones_and_the_later_counts(two_methods):
    old = json.loads(json.dumps(two_methods))
    stale = json.loads(json.dumps(two_methods[0]))
    stale["values"]["fine_knn"] = 0.0
    assert tables.rows(collect([stale, *two_methods[:2], *old[2:]])) == ROWS


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "fashion_mnist"}, "one table holds one data, but the records have 2"),
        ({"part": "validation"}, "one table holds one part"),
        (
            {"protocol": {"knn": {"k": 5}}},
            "one table holds one protocol, but 'knn' was measured with",
        ),
        (
            {"seed": 1},
            "'look' on digits .test., seed 1, has two records of one seed that differ in",
        ),
        (
            {"values": {"fine_knn": float("nan")}},
            "has nan for 'fine_knn': a value must be a finite number",
        ),
        ({"values": {"fine_knn": "0.9"}}, "has '0.9' for 'fine_knn'"),
    ],
)
def test_records_that_make_no_table_are_refused(two_methods, change, message):
    broken = [two_methods[0] | change, *two_methods[1:]]
    with pytest.raises(InputError, match=message):
        tables.markdown(broken)


def test_no_records_are_refused():
    with pytest.raises(InputError, match="no records"):
        tables.markdown([])


@pytest.mark.parametrize(
    "words, text",
    [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"), ([], "")],
)
def test_join(words, text):
    assert join(words) == text


def test_one_seed_has_values_but_no_interval_and_no_verdict():
    records = [fake_records.record(m, 0, (0.9, 0.8)) for m in ("nca", "look")]
    results = collect(records)
    assert tables.headings(results) == ["method", "coarse kNN %", "fine kNN %", "time (s)"]
    assert tables.rows(results) == [["NCA", "90.0", "80.0", "7.0"], ["LOOK", "90.0", "80.0", "7.0"]]
    assert tables.verdict_rows(results) == []
    assert tables.notes(results) == [tables.ONE_SEED]
    assert sentence(results) == (
        "On digits (test part, 1 seed): no verdict, which takes two seeds of LOOK and of a peer."
    )
    assert "no interval and no verdict" in tables.markdown(records)


def test_the_caption_tells_of_all_columns_and_of_no_others(two_methods):
    results = collect(two_methods)
    assert tables.caption(results) == (
        "Mean ± half width of the 95 % t-interval over seeds; accuracies in %; median seconds "
        "per pre-training run, start-up included. R² measures how far apart the coarse classes lie "
        "(1: each has collapsed to a point); it is not a score."
    )
    one = [record for record in two_methods if record["seed"] == 0]
    assert tables.caption(collect(one)).startswith(
        "Accuracies in %; seconds per pre-training run, start-up included. R² measures how far"
    )
    bare = [fake_records.evaluated("look", "knn", {"fine_knn": 0.9})]
    assert tables.caption(collect(bare)) == "Accuracies in %."
    none = [fake_records.evaluated("look", "rank_me", {"rank_me": 9.0})]
    assert tables.caption(collect(none)) == ""


def test_what_a_method_lacks_is_a_dash(two_methods):
    records = two_methods + [fake_records.evaluated("grafit", "knn", {"fine_knn": 0.5})]
    records[-1]["protocol"] = {}
    results = collect(records)
    assert tables.rows(results)[-1] == ["Grafit", "–", "50.0", "–", "–", "–", "–"]
    assert [row[0] for row in tables.verdict_rows(results)] == ["NCA"]  # one seed is no pair


def test_bold_is_the_best_that_is_apart_from_all_others():
    records = fake_records.separated()
    assert not any(
        isinstance(cell, tables.Best) for row in tables.rows(collect(records)) for cell in row
    )
    for record in records:
        if record["label"] == "look":
            record["values"]["fine_knn"] += 0.03
            record["values"]["class_separation"] += 0.5
    results = collect(records)
    bold = [
        (row[0], column)
        for row in tables.rows(results)
        for column, cell in zip(tables.headings(results), row)
        if isinstance(cell, tables.Best)
    ]
    assert bold == [("LOOK", "fine kNN %")]  # R² is no score
    assert "| **98.0 ± 0.5** |" in tables.markdown(records)
    assert tables.BEST_CAPTION in tables.markdown(records)
    for record in records:  # apart from all but one
        if record["label"] == "sup_con":
            record["values"]["fine_knn"] += 0.03
    assert results.best(FINE[0]) == "look" and collect(records).best(FINE[0]) is None


def test_leader_needs_seeds_in_common_and_somebody_to_lead():
    high, low = {0: 0.91, 1: 0.93, 2: 0.92}, {0: 0.5, 1: 0.53, 2: 0.51}
    assert statistics.leader({"a": low, "b": high}) == "b"
    assert statistics.leader({"b": high}) is None and statistics.leader({}) is None
    assert statistics.leader({"a": {7: 0.5, 8: 0.6}, "b": high}) is None
    assert statistics.leader({"a": {0: 0.5}, "b": high}) is None
    assert statistics.leader({"a": low, "b": high, "c": {0: 0.5}}) is None


def test_tables_beside_the_main_one_hold_the_rest():
    records = fake_records.everything("look") + fake_records.everything("nca")
    groups = collect(records).groups
    assert list(groups) == [
        "Few shots",
        "Retrieval",
        "Geometry of the features",
        "Other measurements",
    ]
    assert [m.title for m in groups["Other measurements"]] == [
        "CKA of last layers with cross_entropy"
    ]
    columns, rows = tables.group_table(collect(records), groups["Retrieval"])
    assert columns == ["method", "R@1 %", "R@5 %", "R@10 %", "mAP %"] and len(rows) == 2
    columns, rows = tables.group_table(collect(records), groups["Few shots"])  # ten of them
    assert columns == ["measurement", "NCA", "LOOK"]
    value = collect(records).methods["look"][0]["values"]["fine_1shot"]
    assert rows[0][0] == "1-shot %" and rows[0][2] == f"{100 * value:.1f}"
    assert groups_of(["new_thing", "linear_l2", "fine_knn"]).keys() == {"Other measurements"}
    assert groups_of(["linear_l2", "fine_knn", "pretrain_seconds", "fine_5shot"]) == {}


@pytest.mark.parametrize(
    "metric, value, text",
    [
        (FINE[0], 0.9656, "96.6"),
        (SEPARATION, -0.5221, "−0.522"),
        (GROUPS["Geometry of the features"][2], 15.25, "15.2"),
    ],
)
def test_how_numbers_are_written(metric, value, text):
    assert metric.text(value) == text
