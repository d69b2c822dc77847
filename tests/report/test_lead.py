"""The result in plain sentences, with names as a person would say them."""

import fake_records
import pytest

from jaxpt.report import lead
from jaxpt.report.results import class_names, collect, collect_sets


def said(records):
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in lead.sentences(collect(records))]


def with_guess(records):
    for record in records:
        record["guess"] = {"fine": {"classes": 10, "share": 0.125, "images": 400}}
    return records


def test_several_seeds_name_the_highest_chance_and_the_verdicts():
    first, second = said(with_guess(fake_records.separated()))
    assert first.startswith("On digits, ") and " has the highest accuracy: a vote of its " in first
    assert "one of 10 fine classes for 95." in first
    assert "(always guessing the most frequent class: 12.5 %)" in first
    assert "Over 5 seeds, " in first and "is significantly above NCA" in first
    assert second.startswith("Highest in the others: fine linear (")


def test_one_seed_is_a_result_with_its_caution():
    values = {"nca": (0.9, 0.5), "look": (0.9, 0.6)}
    records = with_guess([fake_records.record(m, 0, v) for m, v in values.items()])
    first = said(records)[0]
    assert "LOOK has the highest accuracy" in first and "Then comes NCA 50.0 %." in first
    assert "on 400 images, differences below about 7 points may be chance" in first
    alone = said(records[1:])[0]
    assert alone.startswith("On digits, LOOK: a vote") and "another training run may" in alone


def test_fine_is_said_only_beside_coarse_classes():
    records = fake_records.without_coarse("nca") + fake_records.without_coarse("look")
    results = collect(records)
    assert not any("fine " in text for text in said(records))
    assert not any(m.title.startswith("fine ") for m in results.headline)
    assert lead.guess(results, results.headline[0]).classes == 10  # from the confusion matrix


@pytest.mark.parametrize(
    "path, name",
    [
        ("/data/stamps", "stamps"),
        ("stamps/", "stamps"),
        ("birds/train.csv", "birds"),
        ("cats.npz", "cats"),
        ("", "own images"),
    ],
)
def test_own_images_are_named_by_their_folder(path, name):
    data = {"source": "folder", "path": path}
    (record,) = [fake_records.record("look", 0, (0.9,), data="folder", data_config=data)]
    assert collect([record]).data == name


def test_two_folders_keep_what_tells_them_apart_only_if_they_must():
    def records(*paths):
        return [
            fake_records.evaluated(
                "look",
                "knn",
                {"fine_knn": 0.9},
                data="folder",
                key=path,
                data_identity=f"{number}" * 16,
                data_config={"source": "folder", "path": path},
            )
            for number, path in enumerate(paths)
        ]

    assert [r.data for r in collect_sets(records("a/cats", "a/dogs"))] == ["cats", "dogs"]
    same = [r.data for r in collect_sets(records("a/cats", "b/cats"))]
    assert same == ["cats (00000000)", "cats (11111111)"]


def test_classes_are_named_by_their_last_level():
    names = ("animals/sea_birds", "food/fruit", "hobbies/music", "symbols/music")
    assert class_names(names) == ("sea birds", "fruit", "hobbies / music", "symbols / music")
    assert class_names(("T-shirt/top", "Trouser")) == ("T-shirt/top", "Trouser")
