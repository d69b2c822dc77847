"""Records of a study are found again: by their config, also by a later version's."""

from jaxpt import records, study
from jaxpt.configs.pretrain import digits


def _job(part="test", **changes):
    config = digits.get_config("look")
    config.update(changes)
    return study.seeds_of("LOOK", config, [0], part)[0]


def _store(path, job, config=None):
    records.append(path, {"key": "of an older version", "label": "then", "part": job.part,
                          "config": config or job.config})


def test_a_record_of_a_version_with_fewer_fields_still_counts(tmp_path):
    job = _job()
    old = {name: value for name, value in job.config.items() if name != "no_positive"}
    old["data"] = {name: value for name, value in old["data"].items() if name != "path"}
    _store(tmp_path / "records.jsonl", job, old)
    assert [r["label"] for r in study.stored([job], tmp_path / "records.jsonl")] == ["LOOK"]
    assert study.run([job], tmp_path / "records.jsonl")[0]["key"] == "of an older version"


def test_another_config_or_part_does_not(tmp_path):
    path = tmp_path / "records.jsonl"
    _store(path, _job())
    assert study.stored([_job()], path)
    assert not study.stored([_job(k=7), _job(part="validation"), _job(no_positive="drop"),
                             _job(data={"label_map": "parity"})], path)
