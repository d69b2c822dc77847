"""What evaluators wrote one by one makes the same runs as a study's records."""

import csv
import io

import fake_records
import numpy as np
import pytest
from scipy import stats

from jaxpt import evaluate, report
from jaxpt.errors import InputError
from jaxpt.report import html, tables
from jaxpt.records import OF_COARSE
from jaxpt.report.metrics import GROUPS, SUMMARY
from jaxpt.report.results import collect_sets, merge


def test_values_protocols_and_details_are_united():
    first = fake_records.evaluated("look", "knn", {"fine_knn": 0.9}, constants={"k": 5})
    second = fake_records.evaluated("look", "linear", {"fine_linear": 0.8}, details={"l2": 1})
    third = fake_records.evaluated("look", "confusion", {}, details={"x": 1})
    (run,) = merge([first, second, third])
    assert run["values"] == {"fine_knn": 0.9, "fine_linear": 0.8}
    assert run["protocol"] == {"knn": {"k": 5}, "linear": {"k": 20}, "confusion": {"k": 20}}
    assert run["details"] == {"linear": [{"l2": 1}], "confusion": [{"x": 1}]}
    assert run["sources"] == [first, second, third]


@pytest.mark.parametrize(
    "change", [{"data": "dtd"}, {"part": "validation"}, {"label": "mine"}, {"seed": 3}]
)
def test_what_is_another_run_is_kept_apart(change):
    made = fake_records.evaluated("look", "knn", {"fine_knn": 0.9})
    assert len(merge([made, made | {"key": "another"} | change])) == 2


def test_runs_on_fewer_images_are_kept_apart():
    assert [run["limit"] for run in merge(fake_records.scaling(seeds=1, methods=("look",)))] == [
        150,
        300,
        600,
        1200,
    ]


def test_fine_tuning_seeds_are_averaged():
    found = [
        fake_records.evaluated("look", "finetune", {"fine_finetune": accuracy}, finetune_seed=s)
        for s, accuracy in enumerate((0.8, 0.9, 1.0))
    ]
    (run,) = merge([fake_records.evaluated("look", "knn", {"fine_knn": 0.7}), *found])
    assert run["values"] == {"fine_knn": 0.7, "fine_finetune": pytest.approx(0.9)}
    with pytest.raises(InputError, match="two records of one fine-tuning seed: keep one"):
        merge([*found, found[0] | {"key": "another"}])


def test_cka_with_several_networks_has_a_value_each():
    found = [
        fake_records.evaluated(
            "look", "cka", {"cka_features": value}, key=other, details={"other_label": other}
        )
        for other, value in (("nca", 0.5), ("byol", 0.6))
    ]
    (run,) = merge(found)
    assert run["values"] == {"cka_features with nca": 0.5, "cka_features with byol": 0.6}
    assert [pair["other_label"] for pair in run["details"]["cka"]] == ["nca", "byol"]


def test_two_records_may_not_contradict_each_other():
    made = fake_records.evaluated("look", "knn", {"fine_knn": 0.9})
    other = fake_records.evaluated("look", "knn", {"fine_knn": 0.8}, key="other")
    with pytest.raises(InputError, match="two records of one seed that differ in 'fine_knn'"):
        merge([made, other])
    assert merge([made, other | {"key": made["key"]}])[0]["values"] == {"fine_knn": 0.8}


def test_records_that_contradict_each_other_name_the_settings_that_differ():
    made = fake_records.evaluated("look", "knn", {"fine_knn": 0.9})
    other = fake_records.evaluated("look", "knn", {"fine_knn": 0.8}, key="other")
    with pytest.raises(InputError, match="with equal settings"):
        merge([made, other])
    other |= {"step": 7, "config": made["config"] | {"look": made["config"]["look"] | {"k": 3}}}
    with pytest.raises(InputError, match=r"\(config\.look\.k: 50 and 3; step: .* and 7\)"):
        merge([made, other])


def sets(accuracies):
    """Three seeds of two methods on sets with given mean accuracies of (nca, look)."""
    return [
        fake_records.evaluated(
            label, "linear", {"fine_linear": mean + 0.01 * step}, seed=seed, data=data
        )
        for data, means in accuracies.items()
        for label, mean in zip(("nca", "look"), means)
        for seed, step in enumerate((-1, 0, 2) if label == "nca" else (-1, 1, 0))
    ]


def test_means_and_mean_log_odds_over_sets_by_hand():
    (found,) = tables.over_sets(collect_sets(sets({"dtd": (0.5, 0.8), "pets": (0.7, 0.9)})))
    assert found.title == "fine linear, test parts of 2 sets"
    assert found.headings == ["method", "dtd", "pets", "mean %", "mean log-odds"]
    nca, look = found.rows
    means = np.array([0.59, 0.60, 0.62])
    half = stats.t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    assert nca[3] == f"{100 * means.mean():.1f} ± {100 * half:.1f}"
    odds = [
        np.mean([np.log(a / (1 - a)) for a in pair])
        for pair in ((0.79, 0.89), (0.81, 0.91), (0.8, 0.9))
    ]
    half = stats.t.ppf(0.975, 2) * np.std(odds, ddof=1) / np.sqrt(3)
    assert look[4] == f"{np.mean(odds):.3f} ± {half:.3f}"
    assert [isinstance(cell, tables.Best) for cell in look] == [False, True, True, True, True]
    assert not any(isinstance(cell, tables.Best) for cell in nca)


def test_over_sets_a_method_counts_only_where_it_has_all():
    records = sets({"dtd": (0.5, 0.8), "pets": (0.7, 0.9)})
    records = [r for r in records if (r["label"], r["data"]) != ("nca", "pets")]
    (found,) = tables.over_sets(collect_sets(records))
    nca, look = found.rows
    assert nca[2:] == ["–", "–", "–"] and look[3] != "–"
    assert tables.over_sets(collect_sets(sets({"dtd": (0.5, 0.8)}))) == []


def test_an_accuracy_of_one_has_log_odds_only_of_so_many_examples():
    records = sets({"dtd": (0.5, 0.8), "pets": (0.7, 0.9)})
    records[-1]["values"]["fine_linear"] = 1.0
    assert tables.over_sets(collect_sets(records))[0].rows[1][4] == "–"
    records = [r | {"examples": 100} for r in records]
    odds = np.mean([np.log(0.8 / 0.2), np.log(0.995 / 0.005)])
    values = tables._means_over_sets(collect_sets(records), "look", SUMMARY[1], tables._LOG_ODDS)
    assert values[2] == pytest.approx(odds)
    records = [
        {k: v for k, v in r.items() if k != "examples"}
        | {"evaluator": "confusion", "details": {"matrix": [[60, 0], [0, 40]]}}
        for r in records
    ]
    assert (
        tables._means_over_sets(collect_sets(records), "look", SUMMARY[1], tables._LOG_ODDS)
        == values
    )


def test_examples_are_those_of_what_guessing_was_scored_on_and_no_best_without_the_mean_of_all():
    records = sets({"dtd": (0.5, 0.8), "pets": (0.7, 0.9)})
    records[-1]["values"]["fine_linear"] = 1.0
    guessed = [r | {"guess": {"fine": {"images": 100}}} for r in records]
    values = tables._means_over_sets(collect_sets(guessed), "look", SUMMARY[1], tables._LOG_ODDS)
    assert values[2] == pytest.approx(np.mean([np.log(0.8 / 0.2), np.log(0.995 / 0.005)]))
    nca, look = tables.over_sets(collect_sets(records))[0].rows  # LOOK's log-odds are not known
    assert isinstance(look[3], tables.Best) and look[4] == "–" and nca[4] != "–"
    assert not isinstance(nca[4], tables.Best)


def partitioned(label, label_map, partition):
    """A record of a knn evaluator on digits with certain coarse classes."""
    return fake_records.evaluated(
        label,
        "knn",
        {"fine_knn": 0.9, "coarse_knn": 0.95, "class_separation": 0.4},
        details={"class_names": ["0", "1"]},
        data_config={"source": "digits", "label_map": label_map},
        data_identity=f"1f2e3d4c5b6a7988-{partition}",
    )


def test_values_by_other_coarse_classes_are_of_another_set():
    records = [partitioned("look", "halves", "aa"), partitioned("nca", "parity", "bb")]
    found = {results.data: results for results in collect_sets(records)}
    assert {data: set(of.methods) for data, of in found.items()} == {
        "digits": {"look", "nca"},
        "digits (halves)": {"look"},
        "digits (parity)": {"nca"},
    }
    assert set(found["digits"].runs[0]["values"]) == {"fine_knn"}
    of_parity = found["digits (parity)"].runs[0]["values"]
    assert of_parity == {"coarse_knn": 0.95, "class_separation": 0.4}
    titles = [table.title for table in evaluate.tables(records)]
    assert titles == ["digits, test", "digits (halves), test", "digits (parity), test"]
    (alike,) = collect_sets([records[0], partitioned("nca", "halves", "aa")])
    assert set(alike.runs[0]["values"]) == {"fine_knn", "coarse_knn", "class_separation"}


def test_of_all_geometry_it_is_known_whether_it_depends_on_the_coarse_classes():
    geometry = {metric.key for metric in GROUPS["Geometry of the features"]}
    assert geometry - set(OF_COARSE) == {"rank_me", "alignment", "uniformity"}
    assert set(OF_COARSE) <= geometry


def test_partitions_with_one_name_are_told_apart_too():
    records = [partitioned("look", "classes.csv", "aa"), partitioned("nca", "classes.csv", "bb")]
    names = [results.data for results in collect_sets(records)]
    assert names == ["digits", "digits (classes.csv aa)", "digits (classes.csv bb)"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("field", "one", "other"),
    [("image_size", 32, 8), ("crop_pct", 0.0, 0.875), ("test_share", 0.2, 0.1)],
)
def test_a_label_is_measured_on_images_prepared_in_one_way(seed, field, one, other):
    records = [
        fake_records.evaluated("look", evaluator, values, seed=of, data_config={field: value})
        for evaluator, values, of, value in (
            ("knn", {"fine_knn": 0.9}, 0, one),
            ("linear", {"fine_linear": 0.8}, seed, other),
        )
    ]
    with pytest.raises(InputError, match=rf"with data.{field} {other}, but another .* with {one}:"):
        collect_sets(records)
    records[1] |= {"label": "nca"}  # weights may frame images in their own way
    assert len(collect_sets(records)) == 1


def test_parts_are_not_averaged():
    test = sets({"dtd": (0.5, 0.8)})
    validation = [r | {"part": "validation", "key": f"v-{r['key']}"} for r in test]
    assert tables.over_sets(collect_sets([*test, *validation])) == []


def test_csv_holds_every_value_in_full(tmp_path):
    records = [*fake_records.separated(), *fake_records.everything('a,"b"\n', data="dtd")]
    report.write_report(records, tmp_path, csv=tmp_path / "values.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "values.csv").read_text())))
    assert tuple(rows[0]) == html.CSV_COLUMNS
    found = {
        (row["label"], int(row["seed"]), row["measurement"]): float(row["value"]) for row in rows
    }
    expected = {
        (run["label"], run["seed"], name): value
        for results in collect_sets(records)
        for run in results.runs
        for name, value in run["values"].items()
    }
    assert found == expected and len(rows) == len(expected)
    assert {row["method"] for row in rows if row["label"] == "look"} == {"look"}


def test_csv_of_a_scaling_study_has_every_size():
    text = html.csv_of_sets(collect_sets(fake_records.scaling()))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["pretrain_limit"] for row in rows} == {"150", "300", "600", "1200"}
    assert len(rows) == 24 * 6


def test_markdown_of_one_set_begins_with_its_tables_and_escapes_names(tmp_path):
    records = fake_records.separated() + [
        fake_records.record("<b>|", seed, (0.9 + 0.01 * seed,) * 5, method="look")
        for seed in range(2)
    ]
    report.write_report(records, tmp_path, markdown=tmp_path / "tables.md")
    text = (tmp_path / "tables.md").read_text()
    assert text.startswith("## digits, test part\n\n| method | coarse kNN % | fine kNN % |")
    assert "| LOOK | 99.0 ± 0.5 | 95.0 ± 0.5 |" in text
    assert "| \\<b>\\| |" in text and "| <b>" not in text
    several = html.markdown_of_sets(collect_sets(sets({"dtd": (0.5, 0.8), "pets": (0.7, 0.9)})))
    assert several.startswith("## fine linear, test parts of 2 sets\n\n| method | dtd | pets |")
    assert "**80.0 ± 2.5**" in several and "## pets, test part" in several
    assert "| fine kNN | LOOK |" in html.markdown_of_sets(collect_sets(fake_records.scaling()))
