"""Runs of a study measure what they say; their records are found again, also by later versions."""

import numpy as np
import pytest
from jaxpt.configs.pretrain import digits

from jaxpt import pretrain, records
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.evaluation import measure
from jaxpt.studies import study, transfer


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
    monkeypatch.setattr(measure, "frozen", lambda features, dataset, part: {"measured on": part})
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
    started = []

    def results(jobs, workers):
        for job in jobs:
            started.append(job)
            monkeypatch.setattr(study.time, "monotonic", lambda: np.inf)
            yield {"key": job.key, "label": job.label, "data_identity": DATA} | {
                "part": job.part,
                "config": job.config,
            }

    monkeypatch.setattr(study, "_results", results)
    jobs = [_job(), _job(part="validation")]
    path = tmp_path / "records.jsonl"
    assert len(study.run(jobs, path, max_minutes=1)) == len(started) == 1
    assert study.missing(jobs, path) == 1


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
