"""Runs of a study measure what they say; their records are found again, also by later versions."""

import functools
import json
import os
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from jaxpt.configs.pretrain import digits

from jaxpt import pretrain, records
from jaxpt.data import glyphs, sources
from jaxpt.errors import InputError
from jaxpt.evaluation import suites
from jaxpt.evaluation.geometry import class_separation
from jaxpt.evaluation.task import some_rows
from jaxpt.studies import study, transfer

pytestmark = pytest.mark.usefixtures("unoptimised")


DATA = sources.identify(digits.get_config().data).digest


def _job(part="test", **changes):
    config = digits.get_config("look")
    config.update(changes)
    return study.seeds_of("LOOK", config, [0], part, data=DATA)[0]


def _store(path, job, config=None, **changes):
    record = {
        "key": "of an older version",
        "label": "then",
        "data": "digits",
        "part": job.part,
        "config": config or job.config,
        "data_identity": DATA,
    }
    records.append(path, record | changes)


def test_a_record_of_a_version_with_fewer_fields_still_counts(tmp_path):
    job = _job()
    old = {name: value for name, value in job.config.items() if name != "memory_dtype"}
    old["data"] = {name: value for name, value in old["data"].items() if name != "path"}
    _store(tmp_path / "records.jsonl", job, old)
    assert [r["label"] for r in study.stored([job], tmp_path / "records.jsonl")] == ["LOOK"]
    (found,) = study.run([job], tmp_path / "records.jsonl")
    assert (found["key"], found["label"]) == ("of an older version", "LOOK")


def test_another_config_or_part_does_not(tmp_path):
    path = tmp_path / "records.jsonl"
    _store(path, _job())
    assert study.stored([_job()], path)
    assert not study.stored(
        [
            _job(look={"k": 7}),
            _job(part="validation"),
            _job(look={"no_positive": "drop"}),
            _job()._replace(part="validation"),
            _job(data={"label_map": "parity"}),
        ],
        path,
    )
    # Settings of methods that do not run make no difference.
    assert study.stored([_job(dino={"prototypes": 7})], path)


def test_training_leaves_validation_out_exactly_where_it_is_measured():
    assert _job(part="validation").config["data"]["train_on"] == "train"
    assert _job(part="test").config["data"]["train_on"] == "trainval"


@pytest.mark.parametrize("part", ("validation", "test"))
def test_a_run_is_measured_on_its_part_and_keeps_features_of_it(part, monkeypatch):
    class Trained:
        history = [{"step": 1, "loss": 2.0, "purity": 1.0}, {"step": 1, "knn": 0.5}]

        @staticmethod
        def features(images):
            return images.reshape(len(images), -1)

    monkeypatch.setattr(pretrain, "run", lambda config, **kwargs: Trained)
    monkeypatch.setattr(suites, "frozen", lambda features, dataset, part: {"measured on": part})
    job = _job(part)._replace(keep_features=True)
    record = study.run_job(job)
    assert record["values"]["measured on"] == record["part"] == part
    assert record["key"] == job.key and record["config"] == job.config
    assert record["history"] == [{"step": 1, "loss": 2.0}, {"step": 1, "knn": 0.5}]
    dataset = sources.load(digits.get_config().data)
    scored = getattr(dataset, part)
    features = record["features"]
    np.testing.assert_array_equal(features["features"], Trained.features(scored.images))
    np.testing.assert_array_equal(features["fine"], scored.labels)
    np.testing.assert_array_equal(features["coarse"], dataset.coarse(scored.labels))


def test_equal_jobs_are_run_once_and_each_gets_its_record(tmp_path, monkeypatch):
    ran = []

    def run_job(job):
        ran.append(job.label)
        of_job = {"label": job.label, "part": job.part, "config": job.config}
        return {"key": job.key, "data": "digits", "data_identity": job.data, **of_job}

    monkeypatch.setattr(study, "run_job", run_job)
    jobs = [_job(), _job(look={"k": 7})._replace(label="k=7"), _job()._replace(label="LOOK again")]
    found = study.run(jobs, tmp_path / "records.jsonl", workers=1)
    assert len(ran) == len(records.read(tmp_path / "records.jsonl")) == 2
    assert [r["label"] for r in found] == ["LOOK", "k=7", "LOOK again"]
    assert found[0]["key"] == found[2]["key"] != found[1]["key"]


def test_a_folder_that_cannot_be_written_is_told_before_any_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(study, "_results", lambda jobs, workers: pytest.fail("a job was run"))
    with pytest.raises(InputError, match="cannot be written .*: choose another folder"):
        study.run([_job()], tmp_path / "file" / "below" / "records.jsonl")


def test_no_job_starts_after_the_time_limit(tmp_path, monkeypatch):
    started, now = [], [1000.0]

    def results(jobs, workers):
        for job in jobs:
            started.append(job)
            now[0] += 40
            yield {"key": job.key, "label": job.label, "data_identity": DATA} | {
                "part": job.part,
                "config": job.config,
            }

    monkeypatch.setattr(study, "_results", results)
    monkeypatch.setattr(study.time, "monotonic", lambda: now[0])
    jobs = [_job(), _job(part="validation"), _job(look={"k": 7})]
    path = tmp_path / "records.jsonl"
    assert len(study.run(jobs, path, max_minutes=1)) == len(started) == 2
    assert study.missing(jobs, path) == 1


def test_several_workers_take_one_job_after_another(monkeypatch):
    started = []

    def jobs():
        for i in range(9):
            started.append(i)
            yield i

    def pool(workers, context, initializer):
        assert context.get_start_method() == "spawn" and initializer is study._one_thread
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(study.concurrent.futures, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(study, "run_job", lambda job: {"key": job})
    found = study._results(jobs(), 2)
    first = next(found)
    assert len(started) <= 4  # two, and one for each of those that are done
    assert sorted(record["key"] for record in [first, *found]) == list(range(9))


def test_workers_compute_on_one_thread(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    study._one_thread()
    assert os.environ["XLA_FLAGS"] == "--xla_a=1 --xla_cpu_multi_thread_eigen=false"
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize("part", ("validation", "test"))
def test_counts_by_group_are_recorded_of_the_test_part_only(part, monkeypatch):
    trained = types.SimpleNamespace(history=[], features=lambda images: images)

    def measured(features, dataset, config, *, part):
        return {"fine_knn": 0.5, "of": part}, {"fine_knn": {}}

    monkeypatch.setattr(pretrain, "run", lambda config, **kwargs: trained)
    monkeypatch.setattr(transfer, "measured", measured)
    record = study.run_job(_job(part)._replace(measure="transfer"))
    assert record["measure"] == "transfer" and record["values"]["of"] == part
    assert record.get("correct") == ({"fine_knn": {}} if part == "test" else None)
    assert record["key"] == _job(part)._replace(measure="transfer").key
    with pytest.raises(InputError, match="changed while the study ran: start it again"):
        study.run_job(_job(part)._replace(data="other"))


def test_a_record_of_another_measurement_does_not_count(tmp_path):
    _store(tmp_path / "records.jsonl", _job())
    other = _job()._replace(measure="transfer")
    assert not study.stored([other], tmp_path / "records.jsonl")
    assert other.key != _job().key


def test_correct_predictions_by_group_add_up_to_the_accuracies():
    config = digits.get_config()
    config.data.long_tail = "exponential:5"
    dataset = transfer.loaded(config.data)
    values, correct = transfer.measured(
        lambda images: images.reshape(len(images), -1).astype(np.float32),
        dataset,
        config.data,
        part="test",
    )
    assert correct["fine_knn"]["sizes"] == [100] * 5 + [97]
    for name, found in correct.items():
        assert values[name] == pytest.approx(
            np.sum(found["correct"]) / len(found["correct"]) / sum(found["sizes"])
        )
    assert np.shape(correct["fine_5shot"]["correct"]) == (transfer.DRAWS, 6)
    assert values["fine_knn"] > values["fine_5shot"] > 0.6
    # Thirds of the classes, 4, 3 and 3 of ten, add up to the whole.
    thirds = [correct[f"{name}_5shot"] for name in ("many", "medium", "few")]
    for field in "sizes", "correct":
        whole = np.sum([third[field] for third in thirds], axis=0)
        np.testing.assert_array_equal(whole, correct["fine_5shot"][field])
    assert sum(thirds[0]["sizes"]) > max(sum(third["sizes"]) for third in thirds[1:])


def test_counts_by_group_are_of_the_images_that_count():
    right = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1]], bool)
    groups = np.array(["b", "a", "b", "a", "c", "b"])
    assert transfer._by_group(right, groups) == {
        "groups": ["a", "b", "c"],
        "sizes": [2, 3, 1],
        "correct": [[1, 3, 0], [1, 1, 1]],
    }
    counted = np.array([1, 1, 1, 0, 0, 0], bool)
    found = transfer._by_group(right[0], groups, counted)
    assert (found["sizes"], found["correct"]) == ([1, 2, 0], [[0, 2, 0]])


@pytest.mark.parametrize("part", ("validation", "test"))
def test_sides_are_of_their_part_with_groups_of_its_images(part, monkeypatch):
    dataset = sources.load(digits.get_config().data)
    config = digits.get_config().data
    n = len(dataset.test.ids)
    monkeypatch.setattr(transfer, "_loaded", lambda name: dataset)
    monkeypatch.setattr(transfer, "ROWS", 120)
    names = {x: np.array([f"{x} {i}" for i in range(n)]) for x in ("latin", "greek")}
    monkeypatch.setattr(glyphs, "test_groups", lambda path, size, labels: names[labels])
    known, asked = (
        (dataset.train, dataset.validation)
        if part == "validation"
        else (dataset.trainval, dataset.test)
    )
    rows = some_rows(len(asked.ids), 120)
    for config.source in ("digits", "glyphs", "glyphs:greek"):
        fit, score = transfer._sides.__wrapped__(transfer._name(config), part)
        np.testing.assert_array_equal(fit.images, known.images[some_rows(len(known.ids), 120)])
        np.testing.assert_array_equal(score.images, asked.images[rows])
        np.testing.assert_array_equal(score.labels, asked.labels[rows])
        of = {"glyphs": names["latin"], "glyphs:greek": names["greek"]}.get(config.source)
        if of is None or part == "validation":
            of = np.array([f"{i // 100:03d}" for i in range(len(asked.ids))])
        assert score.groups.tolist() == of[rows].tolist()


def test_glyphs_are_measured_on_other_alphabets_and_labels_too(monkeypatch):
    config, labels, asked = digits.get_config().data, np.arange(40) % 4, []
    config.update(source="glyphs", label_map="level:1", limit=7)
    images = np.eye(4, dtype=np.float32)[labels]

    def sides(name, part):
        of = json.loads(name)
        asked.append((of["source"], of["label_map"], of["limit"]))
        side = transfer.Side(images, labels, np.full(40, of["source"]))
        if of["source"] == "glyphs":  # right at the coarse level only
            return side, side._replace(labels=labels ^ 1)
        wrong = of["source"] in ("glyphs:greek", "glyphs:slant")
        return side, side._replace(labels=(labels + wrong) % 4)

    monkeypatch.setattr(transfer, "_sides", sides)
    dataset = types.SimpleNamespace(coarse=lambda y: y // 2)
    own = {"coarse_knn", "fine_knn", "fine_5shot", "class_separation"}
    measured = functools.partial(transfer.measured, lambda x: x, dataset, config)
    assert measured(part="validation")[0].keys() == own
    values, correct = measured(part="test")
    separation = class_separation(images, labels // 2)
    assert values.pop("class_separation") == separation < class_separation(images, labels ^ 1)
    assert asked[2:] == [
        (f"glyphs:{name}", "fine", 0)
        for name in ("greek", "cyrillic", "family", "weight", "slant", "serifs")
    ]
    wrong = {name for name, value in values.items() if value == 0}
    assert wrong == {"fine_knn", "fine_5shot", "greek_5shot", "slant_knn"}
    assert sum(value == 1 for value in values.values()) == 5
    assert correct["greek_5shot"]["groups"] == ["glyphs:greek"]
    assert correct["coarse_knn"]["groups"] == ["glyphs"]
