"""Who may go on with a run: what of a config may change, and what is told of it."""

import json

import pytest
from etils import epath
from jaxpt.configs.pretrain import defaults, digits
from small_states import saved

from jaxpt.errors import InputError
from jaxpt.files import writable_folder
from jaxpt.train import workdir as workdirs

DEFAULTS = defaults.get_config().to_dict()


def config_with(**changes):
    config = digits.get_config("look")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture
def folder(tmp_path):
    workdirs.claim(writable_folder(tmp_path), config_with())
    return tmp_path


def check(folder, resume=True, **changes):
    found = workdirs.check(folder, config_with(**changes), DEFAULTS, resume=resume)
    assert found.data == []
    return found.config


def test_an_empty_folder_is_anybody_s(tmp_path):
    assert check(tmp_path / "new") == check(tmp_path, resume=False) == []


@pytest.mark.parametrize(
    "changes, told",
    [
        ({}, []),
        ({"checkpoint_every": "1 steps", "keep_best": True, "devices": 4}, []),
        ({"log_every": "3 steps", "stop_on_save_failure": False, "keep_checkpoints": 7}, []),
        ({"duration": "90 epochs"}, ["duration (60 epochs there, 90 epochs here)"]),
        ({"model.remat": True}, ["model.remat (False there, True here)"]),
        ({"max_skipped": 3}, ["max_skipped (0 there, 3 here)"]),
        (
            {"optimizer.learning_rate": 0.5, "look.k": 7},
            ["look.k (50 there, 7 here)", "optimizer.learning_rate (0.001 there, 0.5 here)"],
        ),
        (
            {"augment.crop_area": (0.5, 1.0)},
            ["augment.crop_area ([1.0, 1.0] there, [0.5, 1.0] here)"],
        ),
    ],
)
def test_what_may_change(changes, told, folder):
    assert check(folder, **changes) == told


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"seed": 3}, r"seed \(0 there, 3 here\)"),
        ({"method": "nca"}, "method"),
        ({"batch_size": 60, "temperature": 0.5}, r"batch_size \(120 there, 60 here\): use"),
        ({"data.limit": 5}, "data.limit"),
        ({"model.projector.dim": 8}, "model.projector.dim"),
        ({"memory": 9}, "memory"),
        ({"memory_kind": "bank"}, "memory_kind"),
        ({"optimizer.name": "sgd"}, "optimizer.name"),
        ({"seed": 3, "data.limit": 5}, r"data.limit .*; seed"),
    ],
)
def test_what_would_be_another_run_is_refused_by_name(changes, named, folder):
    with pytest.raises(InputError, match=f"holds a run with another config, different in {named}"):
        check(folder, **changes)


def test_names_that_begin_alike_are_not_the_same(folder):
    assert check(folder, memory_momentum=0.9) == ["memory_momentum (0.5 there, 0.9 here)"]


def test_noresume_refuses_a_run(folder):
    with pytest.raises(InputError, match="already holds a run and --noresume was given"):
        check(folder, resume=False)


def rewrite(folder, change):
    saved_config = json.loads((folder / workdirs.CONFIG).read_text())
    change(saved_config)
    (folder / workdirs.CONFIG).write_text(json.dumps(saved_config))


def of_an_older_version(saved_config):
    del saved_config["max_skipped"], saved_config["optimizer"]["clip_norm"]
    del saved_config["data"]["train_on"], saved_config["vicreg"]


def test_the_config_of_an_older_version_lacks_fields(folder):
    rewrite(folder, of_an_older_version)
    assert check(folder) == []
    assert check(folder, max_skipped=2) == ["max_skipped (0 there, 2 here)"]
    with pytest.raises(InputError, match=r"data.train_on \(trainval there, train here\)"):
        check(folder, **{"data.train_on": "train"})


def test_a_field_that_is_gone_is_told(folder):
    rewrite(folder, lambda c: c.update(gone=5))
    assert check(folder) == ["gone (5 there, nothing here)"]


def test_changes_are_recorded_one_line_each_time(folder, capsys):
    saved(folder, 7)
    for changes in ["k (1 there, 2 here)"], [], ["duration (x there, y here)", "ema (a, b)"]:
        workdirs.claim(folder, config_with(), workdirs.Changes(changes))
    lines = [json.loads(x) for x in (folder / workdirs.CHANGES).read_text().splitlines()]
    assert [(line["after_step"], line["changes"]) for line in lines] == [
        (7, ["k (1 there, 2 here)"]),
        (7, ["duration (x there, y here)", "ema (a, b)"]),
    ]
    assert all(line["date"].startswith("20") for line in lines)
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 2
        and "resumes with another config: k (1 there, 2 here). Recorded in config_" in said[0]
    )


def test_a_config_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    before = (folder / workdirs.CONFIG).read_text()

    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(epath.Path(folder)), "replace", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): choose"):
        workdirs.claim(folder, config_with(**{"look.k": 3}))
    assert (folder / workdirs.CONFIG).read_text() == before
    assert [p.name for p in folder.iterdir()] == [workdirs.CONFIG]


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", "5"])
def test_what_is_no_config_is_refused(text, folder):
    (folder / workdirs.CONFIG).write_text(text)
    with pytest.raises(InputError, match="config.json cannot be read"):
        check(folder)


def test_a_run_is_opened_at_its_newest_sound_checkpoint(folder):
    with pytest.raises(InputError, match="no whole checkpoint"):
        workdirs.open_run(folder)
    saved(folder, 1, 2)
    (folder / "checkpoints" / "2" / "_METADATA").write_text("")
    config, step = workdirs.open_run(folder)
    assert step == 1 and config.look.k == 50
    with pytest.raises(InputError, match="no pre-training run"):
        workdirs.open_run(folder / "checkpoints")
