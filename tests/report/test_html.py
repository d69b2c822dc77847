"""The page holds what the records say, alone and escaped."""

import html.parser
import re

import fake_records
import numpy as np
import pytest

from jaxpt import report
from jaxpt.errors import InputError
from jaxpt.report import settings
from jaxpt.report.figures import FeatureSet, features_path, load_features, save_features
from jaxpt.report.metrics import HEADLINE
from jaxpt.methods import METHODS
from jaxpt.report.results import NAMES, collect


class _Page(html.parser.HTMLParser):
    """Collects text, attributes, and tags that were closed in the wrong order."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, source):
        super().__init__()
        self.open, self.wrong, self.attributes, self.words = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, page) with features of two methods kept in the folder."""
    folder = tmp_path_factory.mktemp("report")
    records = fake_records.separated()
    for label in "cross_entropy", "look":
        save_features(folder, label, fake_records.features(f"{label}-0"))
    save_features(folder, "nca", fake_records.features("of another run"))
    path = report.write_report(records, folder)
    assert path == folder / "report.html"
    return folder, path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_loads_nothing(written):
    page = _Page(written[1])
    assert not page.wrong and not page.open
    links = [
        value
        for _, name, value in page.attributes
        if name in ("src", "href", "srcset", "xlink:href")
    ]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert any(link.startswith("data:image/") for link in links)
    assert all(link.startswith("data:image/") or link[1:] in ids for link in links)
    assert len(set(ids)) == len(ids)
    assert not re.search(r"https?://|@import|url\([^#]|<script", written[1])
    assert len(written[1]) < 1_500_000


def test_the_page_holds_every_method_the_numbers_and_the_verdicts(written):
    text = _Page(written[1]).text
    for method in "cross_entropy", "sup_con", "nca", "look":
        assert NAMES[method] in text
    assert (
        "in fine kNN, LOOK is above NCA and shows no clear difference from cross-entropy and SupCon"
        in text
    )
    assert "99.0 ± 0.5" in text and "apart (−)" in text and "undecided" in text
    assert "cpu (test)" in text and "2026-01-02" in text and "seeds 0, 1, 2, 3, 4" in text
    assert "k = 20; temperature = 0.07" in text


def test_sections_without_data_are_left_out_and_contents_name_the_others(written, tmp_path):
    page = _Page(written[1])
    for title in "What was measured", "What the features look like", "Where and when", "Settings":
        assert page.text.count(title) == 2  # in the contents and as a heading
    for title in "Nearest neighbours", "Which classes are confused", "Which layers are alike":
        assert title not in page.text
    text = _Page(report.write_report(fake_records.everything("look"), tmp_path).read_text()).text
    for title in "Nearest neighbours", "Which classes are confused", "Which layers are alike":
        assert text.count(title) == 2
    assert "Error against the number" not in text and "Is LOOK apart" not in text
    few = [fake_records.evaluated("look", "knn", {"fine_knn": 0.9})]
    assert "<nav" not in report.write_report(few, tmp_path).read_text()


def test_captions_name_everything_that_is_there(written, tmp_path):
    records = [
        record
        for label in ("nca", "look")
        for seed in range(2)
        for record in fake_records.everything(label, seed=seed)
    ]
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    for words in PROMISES[:-1]:
        assert words in text
    assert PROMISES[-1] in _Page(written[1]).text  # only studies have a monitor


def test_captions_promise_nothing_that_is_not_there(tmp_path):
    records = fake_records.without_coarse("nca") + fake_records.without_coarse("look")
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    for words in PROMISES:
        assert words not in text
    assert "coarse" not in text
    for words in (
        "Accuracies in %. R² measures how far apart the classes lie",
        "Each diamond and each bar is one run",
        "between the classes:",
        "seed 0. Upper row: the plane",
        "✓: the same label",
        "Grey: correct; blue: wrong.",
        "The 5 largest errors",
    ):
        assert words in text


def test_without_coarse_classes_the_monitor_is_of_the_labels(tmp_path):
    records = fake_records.all_tied()
    for record in records:
        record["config"]["data"]["label_map"] = "fine"
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    assert "the kNN accuracy on the labels of training images" in text
    assert "coarse kNN monitor" not in text and "kNN monitor, %" in text
    for record in records:
        record["history"] = record["history"] and record["history"][:2]
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    assert "Training curves of one seed" in text and "monitor" not in text


def test_tables_and_figures_are_named_for_who_cannot_see_them(written):
    assert written[1].count("<svg") == written[1].count('role="img" aria-label="') > 5
    assert written[1].count("<table") == written[1].count('<table aria-label="') > 5
    assert written[1].count("<th ") == written[1].count("<th scope=")


def test_the_map_shows_kept_features_of_these_records_only(written):
    folder, page = written
    assert (folder / "features_map.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("maps of the features of ") == 2
    assert "maps of the features of LOOK" in page and "features of cross-entropy" in page
    assert "of the test part, seed 0. Upper two rows" in _Page(page).text


def test_without_features_there_is_no_map(tmp_path):
    report.write_report(fake_records.all_tied(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_when_all_tie_the_page_says_tie_and_nothing_more(tmp_path):
    records = fake_records.all_tied()
    text = _Page(report.write_report(records, tmp_path).read_text(encoding="utf-8")).text
    assert (
        "in coarse kNN, fine kNN, fine linear, 5-shot and class separation R², LOOK shows no clear "
        "difference from cross-entropy, SupCon and NCA." in text
    )
    assert not re.search(r"better|\bbest|worse|outperform|\bwin|is above|is below|apart \(", text)
    for metric in HEADLINE:
        for verdict in collect(records).verdicts(metric.key).values():
            assert f"undecided p = {verdict.p_adjusted:.3f}" in text


PROMISES = (
    "half width",
    "Whiskers",
    "R² measures how far apart the coarse classes lie",
    "between the coarse classes:",
    "Upper two rows",
    "fine label; ✗: another",
    "Lines separate the coarse classes",
    "orange",
    "errors inside a coarse class",
    "kNN accuracy on the coarse labels",
)
NASTY = '<script>alert(1)</script><img src=x onerror="alert(2)"> & $x$ \' |'


def test_nasty_text_is_escaped_wherever_it_comes_from(tmp_path):
    """Labels, sets, classes, layers, ids, devices, settings: all of them are names."""
    records = []
    for seed in range(2):
        made = fake_records.everything(
            NASTY, seed=seed, data=NASTY, class_names=(NASTY, "b", "d"), coarse_names=(NASTY, "c")
        )
        for record in made:
            record |= {"device": NASTY, "revision": NASTY, "packages": {NASTY: NASTY}}
            record["protocol"] |= {NASTY: {NASTY: NASTY}}
            record["config"]["optimizer"]["name"] = NASTY
            details = record.get("details", {})
            if "layers" in details:
                details |= {"layers": [NASTY] * 5, "other_label": NASTY}
            if "queries" in details:
                details["images"][NASTY] = fake_records.png(np.random.default_rng(0))
                details["queries"][0]["id"] = NASTY
        records += made
    page = report.write_report(records, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page
    parsed = _Page(page)
    assert not parsed.wrong and not parsed.open
    assert not [a for a in parsed.attributes if a[1].startswith("on") or a[0] == "script"]
    assert parsed.text.count("<script>alert(1)</script>") > 20


def test_several_sets_have_a_section_each_and_tables_over_all(tmp_path):
    records = [
        record
        for data in ("dtd", "pets")
        for label in ("nca", "look")
        for seed in range(2)
        for record in fake_records.everything(
            label, seed=seed, data=data, class_names=("cat", "dog")
        )
    ]
    path = report.write_report(records, tmp_path / "deep" / "page.html")
    assert path == tmp_path / "deep" / "page.html"
    page = _Page(path.read_text())
    assert not page.wrong and not page.open
    for text in (
        "Over all sets",
        "fine linear, test parts of 2 sets",
        "mean log-odds",
        "dtd, test part",
        "pets, test part",
        "LOOK and its peers on dtd and pets",
        "pre-trained on digits (two coarse classes (0–4 and 5–9))",
    ):
        assert text in page.text
    assert page.text.count("Settings") == 2
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)


def test_one_seed_of_several_sets_has_no_interval_over_them(tmp_path):
    records = [
        record
        for data in ("dtd", "pets")
        for label in ("nca", "look")
        for record in fake_records.everything(label, data=data)
    ]
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    assert "Accuracies in %. The mean and the mean log-odds" in text
    assert "half width" not in text and "Bold" not in text


def test_everything_of_two_methods_stays_small(tmp_path):
    records = [
        record
        for label in ("cross_entropy", "look")
        for seed in range(3)
        for record in fake_records.everything(label, seed=seed, images=28)
    ]
    assert report.write_report(records, tmp_path).stat().st_size < 1_500_000


def test_weights_without_a_config_are_reported(tmp_path):
    records = [fake_records.evaluated("resnet50", "linear", {"fine_linear": 0.9}, config=None)]
    text = _Page(report.write_report(records, tmp_path).read_text()).text
    assert (
        "resnet50 comes from weight files: their pre-training is not recorded" in text
        and "resnet50 90.0" in text
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written .*: choose another folder"):
        report.write_report(fake_records.all_tied(), tmp_path / "file" / "below")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match="folder.html' cannot be written .*: choose another"):
        report.write_report(fake_records.all_tied(), tmp_path / "folder.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.html"]


def test_tuning_is_claimed_only_for_the_settings_that_come_with_jaxpt():
    records = fake_records.all_tied()
    assert "tune.py chose them" in settings.tuning(collect(records))[0]
    records[0]["config"]["temperature"] = 0.3
    assert "is not recorded" in settings.tuning(collect(records))[0]


def test_being_treated_alike_is_claimed_only_where_it_is_so():
    records = fake_records.all_tied()
    assert "the same network, budget" in settings.procedure(collect(records))[0]
    for record in records:
        record["config"]["duration"] = f"{len(record['label'])} epochs"
    assert "show how they differ" in settings.procedure(collect(records))[0]


def test_the_procedure_names_the_labels_and_the_part():
    records = fake_records.all_tied()
    first, second = settings.procedure(collect(records))
    assert "two coarse classes (0–4 and 5–9)" in first and "that it never used" in first
    assert "measured on the test part" in second
    for record in records:
        record["part"], record["config"]["data"]["label_map"] = "validation", "fine"
    first, second = settings.procedure(collect(records))
    assert "on the classes themselves" in first and "that it never used" not in first
    assert "four fifths" in second and "the validation part" in second


def test_long_lists_of_constants_are_told_by_their_ends():
    grid = [10.0**p for p in range(-6, 6)]
    found = collect(
        [
            fake_records.evaluated("look", "linear", {}, constants={"l2": grid[:10]}),
            fake_records.evaluated("look", "knn", {}, constants={"l2": grid}),
        ]
    )
    rows = dict(settings.protocol_rows(found))
    assert rows["knn"] == "l2 = 1e-06, 1e-05, …, 100000 (12 values)"
    assert rows["linear"].endswith("0.1, 1, 10, 100, 1000")


def test_settings_show_what_a_method_reads():
    different, same = settings.config_rows(collect(fake_records.all_tied()))
    table = {row[0]: row[1:] for row in different}
    assert table["look.k"][:3] == ["–"] * 3 and table["look.k"][3].isdigit()
    assert table["cross_entropy.label_smoothing"][1:] == ["–"] * 3
    assert table["key_augment.*"] == ["–", "–", "as augment.*", "as augment.*"]
    assert ["batch_size", "120"] in same
    assert not {"seed", "method", "log_every"} & {row[0] for row in different + same}


@pytest.mark.parametrize("method", METHODS)
def test_a_report_shows_a_method_s_own_settings_and_no_other_s(method):
    made = fake_records.record(method, 0, (0.9,))
    different, same = settings.config_rows(collect([made]))
    shown = {row[0] for row in same}
    config = made["config"]
    sections = {name for name in METHODS if isinstance(config.get(name), dict)}
    own = {f"{method}.{name}" for name in config[method]} if method in sections else set()
    assert not different
    assert {field for field in shown if field.partition(".")[0] in sections} == own
    groups = set(METHODS[method].reads)
    for (field, value), more in METHODS[method].also_reads.items():
        groups |= set(more) if config[method][field] == value else set()
    for field, group in ("temperature", "temperature"), ("ema", "target"), ("memory", "memory"):
        assert (field in shown) == (group in groups)


def test_a_setting_that_asks_for_more_shows_more():
    """A classifier behind a projector has a projector; t-ReX has a target and a memory."""
    for method, field, (without, value), more in (
        ("cross_entropy", "classifier", ("linear", "mlp"), {"model.projector.dim"}),
        ("t_rex", "prototypes_from", ("learnt", "memory"), {"memory", "ema"}),
    ):
        made = fake_records.record(method, 0, (0.9,))
        made["config"][method][field] = without
        before = {row[0] for row in settings.config_rows(collect([made]))[1]}
        made["config"][method][field] = value
        after = {row[0] for row in settings.config_rows(collect([made]))[1]}
        assert more <= after - before


def test_augmentations_of_keys_have_a_row_where_they_are_not_those_of_queries():
    records = fake_records.all_tied()
    for record in records:
        record["config"]["key_augment"]["shift"] = 3 if record["label"] == "look" else 1
    table = {row[0]: row[1:] for row in settings.config_rows(collect(records))[0]}
    assert table["key_augment.shift"] == ["–", "–", "1", "3"]
    assert table["other key_augment.*"] == ["–", "–", "as augment.*", "as augment.*"]
    assert not {"key_augment.*", "key_augment.noise"} & table.keys()


def test_kept_features_come_back_and_broken_ones_are_none(tmp_path):
    given = fake_records.features("abc")
    save_features(tmp_path, "look", given)
    assert [file.name for file in tmp_path.iterdir()] == ["features_look.npz"]
    found = load_features(tmp_path, "look")
    for name in FeatureSet._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert (found.key, found.fine_names) == (given.key, given.fine_names)
    whole = features_path(tmp_path, "look").read_bytes()
    for broken in b"", b"no file of numpy", whole[: len(whole) // 2]:
        features_path(tmp_path, "look").write_bytes(broken)
        assert load_features(tmp_path, "look") is None
    assert load_features(tmp_path, "nca") is None


def test_the_cell_holds_the_whole_page(tmp_path):
    page = report.write_report(fake_records.separated(), tmp_path)
    shown = report.Inline(page, height=300)
    frame = shown._repr_html_()
    assert repr(shown) == f"report: {page}"
    page.unlink()  # what is shown does not need the file
    source = re.fullmatch(r'<iframe srcdoc="([^"]*)"[^>]*height: 300px[^>]*></iframe>', frame)
    assert "LOOK and its peers on digits" in html.unescape(source[1])
    assert html.unescape(source[1]).endswith("</body></html>\n")


def test_a_cell_needs_a_file(tmp_path):
    with pytest.raises(InputError, match="there is no report '.*none.html': make it"):
        report.Inline(tmp_path / "none.html")
