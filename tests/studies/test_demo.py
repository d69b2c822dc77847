"""The demo: checks first, one real run, and going on where it stopped."""

import fake_records
import pytest
from xla_flags import xla_flags

from jaxpt import records
from jaxpt.errors import InputError
from jaxpt.report.figures import features_path, load_features
from jaxpt.studies import demo, study


@pytest.mark.slow
def test_end_to_end_on_real_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "METHODS", ("cross_entropy", "look"))
    monkeypatch.setenv("XLA_FLAGS", xla_flags())  # enough for the workers
    page = demo.run("digits", tmp_path / "out", 2, duration="3 steps")
    assert page == tmp_path / "out" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "LOOK and its peers on digits" in text and "image/png" in text
    found = records.read(tmp_path / "out" / "records.jsonl")
    assert sorted((r["label"], r["seed"]) for r in found) == [
        ("cross_entropy", 0),
        ("cross_entropy", 1),
        ("look", 0),
        ("look", 1),
    ]
    assert {r["part"] for r in found} == {"test"}
    assert all(bool(r["history"]) == (r["seed"] == 0) for r in found)
    out = capsys.readouterr().out
    assert "4/4" in out and "class separation R², LOOK" in " ".join(out.split())
    assert "report.html" in out


@pytest.fixture
def instant(monkeypatch):
    """Replaces runs by made-up records, and writes no report; the list of jobs that were run."""
    ran = []
    monkeypatch.setattr(demo.report, "write_report", lambda found, folder: folder / "report.html")

    def run_job(job):
        ran.append(job)
        seed = job.config["seed"]
        made = fake_records.record(
            job.label,
            seed,
            [0.9 + 0.01 * (int(job.key, 16) % 7)] * 5,
            key=job.key,
            config=job.config,
            data_identity=job.data,
        )
        if job.keep_features:
            made["features"] = {
                name: getattr(fake_records.features(job.key), name)
                for name in ("features", "fine", "coarse")
            }
        return made

    monkeypatch.setattr(study, "_results", lambda jobs, workers: map(run_job, jobs))
    return ran


def test_losses_with_a_projector_are_compared_with_cross_entropy_that_has_one(tmp_path, instant):
    demo.run("digits", tmp_path, 2)
    heads = {job.label: job.config["cross_entropy"]["classifier"] for job in instant}
    assert heads["cross_entropy_mlp"] == "mlp" and heads["cross_entropy"] == "linear"
    assert {job.config["method"] for job in instant} == set(demo.METHODS) - {"cross_entropy_mlp"}


def test_a_second_start_runs_nothing_again(tmp_path, instant, capsys):
    demo.run("digits", tmp_path, 2)
    # Seed by seed: an interrupted demo has something of every method.
    assert [job.config["seed"] for job in instant] == [0] * 5 + [1] * 5
    demo.run("digits", tmp_path, 2)
    assert len(instant) == 10
    assert "10 of 10 runs are already done" in capsys.readouterr().out
    demo.run("digits", tmp_path, 3)
    assert [job.config["seed"] for job in instant[10:]] == [2] * 5


def test_a_run_whose_features_are_lost_is_made_again_alone(tmp_path, instant):
    demo.run("digits", tmp_path, 2)
    features_path(tmp_path, "nca").unlink()
    demo.run("digits", tmp_path, 2)
    assert [(job.label, job.keep_features) for job in instant[10:]] == [("nca", True)]
    found = records.read(tmp_path / "records.jsonl")
    assert len({r["key"] for r in found}) == len(found) == 10
    assert load_features(tmp_path, "nca").key in {r["key"] for r in found}


def test_features_of_another_config_are_not_taken_for_these(tmp_path, instant):
    demo.run("digits", tmp_path, 2)
    demo.run("digits", tmp_path, 2, duration="1 epochs")
    assert len(instant) == 20
    assert load_features(tmp_path, "look").key in {job.key for job in instant[10:]}
    demo.run("digits", tmp_path, 2)  # its records are all there, its features are not
    assert [job.keep_features for job in instant[20:]] == [True] * 5
    assert load_features(tmp_path, "look").key in {job.key for job in instant[:10]}


def test_a_folder_with_another_sets_records_is_left_alone(tmp_path, instant):
    records.append(
        tmp_path / "records.jsonl", fake_records.record("look", 0, (0.9,) * 5, data="fashion_mnist")
    )
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(InputError, match="holds records of fashion_mnist: choose another folder"):
        demo.run("digits", tmp_path, 2)
    assert (tmp_path / "records.jsonl").read_bytes() == before and not instant


@pytest.mark.parametrize(
    "data, seeds, message",
    [
        ("mnist", 2, "data must be one of digits, fashion_mnist, got 'mnist'"),
        ("digits", 1, "seeds must be at least 2"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, instant, data, seeds, message):
    with pytest.raises(InputError, match=message):
        demo.run(data, tmp_path / "out", seeds)
    assert not (tmp_path / "out").exists() and not instant


def test_missing_images_are_told_before_any_work(tmp_path, instant, monkeypatch):
    monkeypatch.setattr("jaxpt.data.small_sets.FASHION_MNIST_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="Fashion-MNIST: .* is missing. Install"):
        demo.run("fashion_mnist", tmp_path / "out", 2)
    assert not (tmp_path / "out").exists() and not instant


def test_a_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, instant):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written .*: choose another folder"):
        demo.run("digits", tmp_path / "file" / "out", 2)
    assert not instant
