"""Scaling studies: what pre-training sees, how long, and that a study goes on where it stopped."""

import fake_records
import numpy as np
import pytest
from jaxpt.configs.pretrain import digits

from jaxpt import cli, pretrain, records
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.studies import scaling, study

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


def seen(dataset, limit, seed=0, train_on="trainval"):
    config = digits.get_config()
    config.seed, config.data.pretrain_limit, config.data.train_on = seed, limit, train_on
    return pretrain.train_split(config, dataset)


def test_subsets_are_nested_and_follow_the_seed_alone(dataset):
    small, large = seen(dataset, 150), seen(dataset, 600)
    assert len(small.ids) == len(set(small.ids)) == 150 and set(small.ids) < set(large.ids)
    np.testing.assert_array_equal(small.ids, seen(dataset, 150).ids)
    assert set(small.ids) != set(seen(dataset, 150, seed=1).ids)
    np.testing.assert_array_equal(dataset.trainval.images[small.ids], small.images)
    np.testing.assert_array_equal(dataset.trainval.labels[small.ids], small.labels)
    assert len(np.unique(small.labels)) == 10


def test_no_limit_is_the_whole_part_and_every_image_is_reached(dataset):
    assert seen(dataset, 0) is dataset.trainval
    np.testing.assert_array_equal(seen(dataset, 1200).ids, dataset.trainval.ids)
    train = seen(dataset, 100, train_on="train")
    assert set(train.ids) <= set(dataset.train.ids)


@pytest.mark.parametrize("limit", [-1, 1201])
def test_a_limit_outside_the_set_is_refused(dataset, limit):
    with pytest.raises(
        InputError, match=f"pretrain_limit must lie between 0 .all. and 1200.* got {limit}"
    ):
        seen(dataset, limit)


def test_every_size_takes_the_steps_of_the_whole_set():
    config = digits.get_config("look")
    config.look.k_warmup, config.optimizer.warmup = "6 epochs", "3 epochs"
    jobs = scaling._jobs({"look": config, "nca": digits.get_config("nca")}, [600, 150], 2)
    assert [(j.config["seed"], j.config["data"]["pretrain_limit"], j.label) for j in jobs] == [
        (seed, size, label) for seed in (0, 1) for size in (150, 600) for label in ("look", "nca")
    ]
    for job in jobs:
        assert job.config["duration"] == "600 steps" and job.part == "test"  # 60 epochs of 1,200
        assert job.config["data"]["limit"] == 0  # evaluators see everything
    assert (jobs[0].config["look"]["k_warmup"], jobs[0].config["optimizer"]["warmup"]) == (
        "60 steps",
        "30 steps",
    )
    assert len({job.key for job in jobs}) == 8
    assert config.duration == "60 epochs" and config.data.pretrain_limit == 0  # left as it was


@pytest.fixture
def instant(monkeypatch):
    """Replaces runs by made-up records; the jobs that were run."""
    ran = []

    def run_job(job):
        ran.append(job)
        n = job.config["data"]["pretrain_limit"]
        error = 2 * n**-0.5 * (1 + 0.02 * job.config["seed"])
        return fake_records.record(
            job.label,
            job.config["seed"],
            (0.9, *[1 - error] * 3, 0.4),
            key=job.key,
            config=job.config,
            data_identity=job.data,
            pretrain_images=n,
        )

    monkeypatch.setattr(study, "_results", lambda jobs, workers: map(run_job, jobs))
    return ran


def test_from_the_command_line_to_the_report(tmp_path, instant, capsys):
    argv = [
        "scaling",
        "--sizes=150,300,600,1200",
        "--seeds=2",
        f"--out={tmp_path / 'out'}",
        "--methods=look,nca",
        "--config.temperature=0.2",
    ]
    assert cli.main(argv) == 0
    assert len(instant) == 16
    assert {job.config["temperature"] for job in instant} == {0.2}
    assert {(job.label, job.config["method"]) for job in instant} == {
        ("look", "look"),
        ("nca", "nca"),
    }
    out = capsys.readouterr().out
    assert "LOOK, 150 images, seed 0: fine kNN 83.7 % (15 to go)" in out and "(0 to go)" in out
    assert "0.500 [0.500," in out and "report.html" in out
    assert max(map(len, out.splitlines()[17:-1])) <= 80
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Error against the number of images" in page and "n^−0.5" in page
    assert "Of that, pre-training sees subsets of 150, 300, 600 and 1,200 images" in page
    assert cli.main(argv) == 0 and len(instant) == 16  # nothing again
    assert len(records.read(tmp_path / "out" / "records.jsonl")) == 16


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--sizes=150"], "sizes must be at least two different numbers of images, got .150."),
        (["--sizes=150,150"], "two different numbers"),
        (
            ["--sizes=100,600"],
            "between the batch size, 120, and the 1200 training images of digits",
        ),
        (
            ["--sizes=150,1300"],
            "between the batch size, 120, and the 1200 training images of digits",
        ),
        (["--sizes=150,300", "--seeds=0"], "seeds must be at least 1, got 0"),
        (["--sizes=150,300", "--methods=lok"], "variant 'lok' is unknown"),
        (["--sizes=150,300", "--methods="], "methods is empty"),
        (["--sizes=150,300", "--config.kk=1"], "no field 'kk'"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, instant, capsys, argv, message):
    assert cli.main(["scaling", f"--out={tmp_path / 'out'}", *argv]) == 2
    with pytest.raises(InputError, match=message):
        raise InputError(capsys.readouterr().err)
    assert not (tmp_path / "out").exists() and not instant


@pytest.mark.parametrize("sizes", ["few", "1.5,2", ""])
def test_sizes_that_are_no_numbers_are_refused_with_the_usage(sizes, capsys):
    with pytest.raises(SystemExit):
        cli.main(["scaling", f"--sizes={sizes}", "--out=new"])
    assert "argument --sizes" in capsys.readouterr().err


def test_a_record_says_how_many_images_pre_training_saw(monkeypatch):
    class Trained:
        history = []

        @staticmethod
        def features(images):
            return images.reshape(len(images), -1)

    monkeypatch.setattr(pretrain, "run", lambda config, **kwargs: Trained)
    monkeypatch.setattr("jaxpt.evaluation.suites.frozen", lambda *args, **kwargs: {})
    config = digits.get_config()
    assert study.run_job(study.seeds_of("look", config, [0], "test")[0])["pretrain_images"] == 1200
    config.data.pretrain_limit = 300
    assert study.run_job(study.seeds_of("look", config, [0], "test")[0])["pretrain_images"] == 300
