"""A checkpoint that changed after it was written is noticed, whatever changed: never restored."""

import json
import shutil

import pytest
from small_states import is_state, saved, state

from jaxpt.errors import InputError
from jaxpt.train import checkpoint
from jaxpt.train.checkpoint import Checkpointer

FLIPS = 12  # places of a manifest


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def flipped(path, share=0.5):
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def deleted(path):
    path.unlink()


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("sound")
    saved(folder, 1, 2)
    return folder


@pytest.fixture
def workdir(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "run")


def newest_of(workdir):
    return workdir / "checkpoints" / "2"


def files_of(workdir):
    files = sorted(path for path in newest_of(workdir).rglob("*") if path.is_file())
    return [path.relative_to(workdir) for path in files]


def assert_goes_on_from_the_one_before(workdir, capsys, *, to_the_next=True):
    assert checkpoint.newest(workdir) == 1
    opened = Checkpointer(workdir, keep=2, about={})
    said = capsys.readouterr().err
    assert "checkpoint of step 2 is damaged: " in said and "that of step 1 is used." in said
    assert len(said.splitlines()) == 1
    assert opened.latest_step() == 1 and is_state(opened.restore(1, state(0)), 1)
    assert (workdir / "damaged" / "2").exists() and not newest_of(workdir).exists()
    if not to_the_next:
        return opened.close()
    opened.save(2, state(2))  # the run comes by again
    opened.close()
    assert checkpoint.newest(workdir) == 2 and is_state(checkpoint.read_arrays(workdir, 2), 2)


@pytest.mark.parametrize(
    "damage", [truncated, emptied, flipped, longer, deleted, replaced_by_a_folder]
)
def test_any_damage_to_any_file_is_noticed(damage, sound, tmp_path, capsys):
    names = files_of(sound)
    assert len(names) >= 8  # so that there are more than forty cases in all
    if damage in (truncated, flipped):
        names = [name for name in names if (sound / name).stat().st_size]
    for i, name in enumerate(names):
        workdir = shutil.copytree(sound, tmp_path / str(i))
        damage(workdir / name)
        if damage is longer and name.name == checkpoint.MANIFEST:
            continue  # bad JSON is among the manifests below
        assert_goes_on_from_the_one_before(workdir, capsys, to_the_next=i == 0)


@pytest.mark.parametrize("share", [i / FLIPS for i in range(FLIPS)])
def test_one_bit_of_a_manifest(share, workdir, capsys):
    flipped(newest_of(workdir) / checkpoint.MANIFEST, share)
    assert_goes_on_from_the_one_before(workdir, capsys)


def a_file_too_many(folder):
    (folder / "d" / "extra").write_text("x")


def a_folder_too_many(folder):
    (folder / "extra").mkdir()


def nothing_in_it(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def half_copied(folder):
    for path in sorted(p for p in folder.rglob("*") if p.is_file())[::2]:
        path.unlink()


def a_file_in_its_place(folder):
    shutil.rmtree(folder)
    folder.write_text("")


def of_another_step(folder):
    shutil.rmtree(folder / "d")
    shutil.copytree(folder.parent / "1" / "d", folder / "d")


def manifest_of_another_step(folder):
    shutil.copy(folder.parent / "1" / checkpoint.MANIFEST, folder / checkpoint.MANIFEST)


def manifest_rewritten(change):
    def damage(folder):
        content = json.loads((folder / checkpoint.MANIFEST).read_text())
        change(content)
        (folder / checkpoint.MANIFEST).write_text(json.dumps(content))

    return damage


def no_json(folder):
    (folder / checkpoint.MANIFEST).write_text("{")


def no_object(folder):
    (folder / checkpoint.MANIFEST).write_text("[]")


def no_text(folder):
    (folder / checkpoint.MANIFEST).write_bytes(b"\xff\xfe\xff")


@pytest.mark.parametrize(
    "damage",
    [
        a_file_too_many,
        a_folder_too_many,
        nothing_in_it,
        half_copied,
        a_file_in_its_place,
        of_another_step,
        manifest_of_another_step,
        no_json,
        no_object,
        no_text,
        pytest.param(manifest_rewritten(lambda c: c.update(score=9.0)), id="another score"),
        pytest.param(manifest_rewritten(lambda c: c["config"].update(k=6)), id="another config"),
        pytest.param(manifest_rewritten(lambda c: c.pop("files")), id="no files"),
        pytest.param(manifest_rewritten(lambda c: c.pop("sha256")), id="no sum"),
        pytest.param(manifest_rewritten(lambda c: c.update(format=2)), id="a number alone changed"),
    ],
)
def test_any_damage_to_the_folder_is_noticed(damage, workdir, capsys):
    damage(newest_of(workdir))
    assert_goes_on_from_the_one_before(workdir, capsys)


def test_a_manifest_written_in_another_way_is_the_same(workdir):
    manifest_rewritten(lambda content: None)(newest_of(workdir))
    assert checkpoint.newest(workdir) == 2


def of_format(number, folder):
    content = checkpoint._read_manifest(folder) | {"format": number}
    del content["files"]  # which may be another thing there
    (folder / checkpoint.MANIFEST).write_text(
        json.dumps(content | {"sha256": checkpoint._manifest_sum(content)})
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda workdir: Checkpointer(workdir, keep=2, about={}),
        checkpoint.newest,
        lambda workdir: checkpoint.about(workdir, 2),
    ],
    ids=["open", "newest", "about"],
)
def test_another_format_is_refused_with_both_numbers_and_left_in_place(use, workdir):
    of_format(checkpoint.FORMAT + 1, newest_of(workdir))
    with pytest.raises(InputError, match="checkpoint of format 2, but .* reads format 1: use"):
        use(workdir)
    assert newest_of(workdir).exists() and not (workdir / "damaged").exists()


def test_with_none_left_the_run_begins_anew_and_that_is_told(workdir, capsys):
    for step in "1", "2":
        deleted(workdir / "checkpoints" / step / checkpoint.MANIFEST)
    opened = Checkpointer(workdir, keep=2, about={})
    assert opened.latest_step() is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("as none is left, the run starts over" in x for x in said)
    assert {p.name for p in (workdir / "damaged").iterdir()} == {"1", "2"}


def test_what_is_set_aside_twice_has_two_names(workdir):
    for name in "2", "2.1":
        deleted(newest_of(workdir) / checkpoint.MANIFEST)
        assert Checkpointer(workdir, keep=2, about={}).latest_step() == 1
        assert (workdir / "damaged" / name).exists()
        saved(workdir, 2)


def test_what_orbax_did_not_finish_is_removed(workdir):
    shutil.copytree(newest_of(workdir), workdir / "checkpoints" / "3.orbax-checkpoint-tmp-1")
    assert Checkpointer(workdir, keep=2, about={}).latest_step() == 2
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"1", "2"}


def test_sound_checkpoints_are_left_alone(workdir, capsys):
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    assert Checkpointer(workdir, keep=2, about={}).latest_step() == 2
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
    assert capsys.readouterr().err == ""
