"""Tables from given records equal expected strings."""

import io
import json

import fake_records
import pytest
from rich.console import Console

from jaxpt.errors import InputError
from jaxpt.report import tables
from jaxpt.report.results import collect, join, sentence


@pytest.fixture
def two_methods():
    return [fake_records.record(label, seed, values) for label, rows in {
        "look": [(0.99, 0.95, 0.96, 0.85, 0.50), (0.98, 0.97, 0.96, 0.89, 0.52)],
        "nca": [(0.95, 0.90, 0.92, 0.80, 0.30), (0.97, 0.95, 0.92, 0.70, 0.30)]}.items()
        for seed, values in enumerate(rows)]


# t(0.975, 1) = 12.706 and the standard error of two values is half their distance: ± 6.353 × it.
ROWS = [
    ["NCA", "96.0 ± 12.7", "92.5 ± 31.8", "92.0 ± 0.0", "75.0 ± 63.5", "0.300 ± 0.000", "7.5"],
    ["LOOK", "98.5 ± 6.4", "96.0 ± 12.7", "96.0 ± 0.0", "87.0 ± 25.4", "0.510 ± 0.127", "7.5"]]


def test_rows_are_means_with_half_widths_in_the_methods_order(two_methods):
    assert tables.rows(collect(two_methods)) == ROWS


def test_markdown_holds_the_rows_the_verdicts_and_the_sentence(two_methods):
    text = tables.markdown(two_methods)
    for row in ROWS:
        assert f"| {' | '.join(row)} |" in text
    assert ("| NCA | +2.5 ± 19.1 tie | +3.5 ± 19.1 tie | +4.0 ± 0.0 tie | +12.0 ± 88.9 tie | "
            "+0.210 ± 0.127 **apart (+)** |") in text
    assert text.endswith("On digits (test part, 2 seeds): in coarse kNN, fine kNN, fine linear and "
                         "5-shot, LOOK ties with NCA; in class separation R², LOOK is above NCA.\n")


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
        "On digits (test part, 5 seeds): in coarse kNN, fine linear and 5-shot, LOOK ties with "
        "cross-entropy, SupCon and NCA; in fine kNN, LOOK is above NCA and ties with cross-entropy "
        "and SupCon; in class separation R², LOOK is below cross-entropy and ties with SupCon and "
        "NCA.")


def test_without_look_nothing_is_compared(two_methods):
    records = [r for r in two_methods if r["label"] != "look"]
    assert "nothing to compare" in tables.markdown(records)
    assert "minus" not in tables.markdown(records)


def test_a_label_of_ones_own_comes_last_and_cannot_break_the_table(two_methods):
    records = two_methods + [fake_records.record("k|20 [red]", seed, (0.9,) * 5, method="look")
                             for seed in range(2)]
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


@pytest.mark.parametrize("change, message", [
    ({"data": "fashion_mnist"}, "one report holds one data, but the records have 2"),
    ({"part": "validation"}, "one report holds one part"),
    ({"protocol": {}}, "one report holds one protocol"),
    ({"seed": 1}, "two records of one seed"),
    ({"label": "alone"}, "'alone' has 1 seed"),
    ({"values": {}}, "'look', seed 0, has no 'coarse_knn'")])
def test_records_that_make_no_table_are_refused(two_methods, change, message):
    broken = [two_methods[0] | change, *two_methods[1:]]
    if "label" in change:
        broken.append(two_methods[0] | {"key": "another"})
        broken.append(fake_records.record("look", 5, (0.9,) * 5))
    with pytest.raises(InputError, match=message):
        tables.markdown(broken)


def test_no_records_are_refused():
    with pytest.raises(InputError, match="no records"):
        tables.markdown([])


@pytest.mark.parametrize("words, text", [
    (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c"), ([], "")])
def test_join(words, text):
    assert join(words) == text
