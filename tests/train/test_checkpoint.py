"""Which checkpoints stay, what fits them, and what happens when one cannot be written."""

import flax.struct
import jax.numpy as jnp
import pytest
from small_states import is_state, saved, state

from jaxpt.errors import InputError, RunError
from jaxpt.train import checkpoint
from jaxpt.train.checkpoint import Checkpointer


def steps_in(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    "scores, keep, best, stay",
    [
        ((1, 2, 3, 4), 2, False, {3, 4}),
        ((1, 2, 3, 4), 1, False, {4}),
        ((1, 9, 3, 4), 2, True, {2, 3, 4}),
        ((1, 2, 3, 9), 2, True, {3, 4}),
        ((9, 9, 3, 4), 1, True, {2, 4}),
        ((None, None, None, None), 1, True, {4}),
        ((None, 2, None, 1), 1, True, {2, 4}),
    ],
)
def test_the_latest_stay_and_the_best(scores, keep, best, stay, tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=keep, best=best, about={})
    for step, score in enumerate(scores, 1):
        checkpointer.save(step, state(step), score=score)
    checkpointer.close()
    assert steps_in(tmp_path) == stay
    assert all(is_state(checkpoint.read_arrays(tmp_path, step), step) for step in stay)


def test_the_best_is_known_after_a_resume(tmp_path):
    saved(tmp_path, 9, keep=1, best=True)
    again = saved(tmp_path, 10, 11, keep=1, best=True)
    assert again.score(11) == 1.1 and again.score(12) is None
    later = Checkpointer(tmp_path, keep=1, best=True, about={})
    later.save(12, state(12), score=0.5)
    later.save(13, state(13), score=0.6)
    later.close()
    assert steps_in(tmp_path) == {11, 13}


def test_the_manifest_says_what_was_given_and_the_versions(tmp_path):
    saved(tmp_path, 3)
    said = checkpoint.about(tmp_path, 3)
    assert (said["step"], said["score"], said["config"]) == (3, 0.3, {"k": 5})
    assert said["format"] == checkpoint.FORMAT and "jax" in said["packages"]
    assert "_METADATA" in said["files"]


def test_the_same_step_is_saved_once(tmp_path):
    saved(tmp_path, 1)
    before = (tmp_path / "checkpoints" / "1" / checkpoint.MANIFEST).stat().st_mtime_ns
    saved(tmp_path, 1)
    assert (tmp_path / "checkpoints" / "1" / checkpoint.MANIFEST).stat().st_mtime_ns == before


def test_a_final_save_is_on_disk_when_it_returns(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2, about={})
    assert checkpointer.longest_save == 0
    checkpointer.save(1, state(1), final=True)
    assert checkpoint.newest(tmp_path) == 1 == checkpointer.latest_step()
    assert 0 < checkpointer.longest_save < 60
    checkpointer.close()


def test_the_state_may_be_used_up_at_once(tmp_path):
    import jax

    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    checkpointer, now = Checkpointer(tmp_path, keep=9, about={}), state(1)
    for step in 1, 2, 3:
        checkpointer.save(step, now)
        now = double(now)
    checkpointer.close()
    for step in 1, 2, 3:
        kernel = checkpoint.read_arrays(tmp_path, step)["params"]["kernel"]
        assert jnp.array_equal(kernel, 2 ** (step - 1) * state(1)["params"]["kernel"])


def without_kernel(like):
    return like | {"params": {}}


def with_more(like):
    return like | {"more": jnp.zeros(3)}


def of_another_shape(like):
    return like | {"step": jnp.zeros(4, jnp.int32)}


def of_another_type(like):
    return like | {"step": jnp.float32(0)}


@pytest.mark.parametrize(
    "change, message",
    [
        (without_kernel, r"params.kernel is float32\[20, 15\] there and missing here\.$"),
        (with_more, r"more is missing there and float32\[3\] here\.$"),
        (of_another_shape, r"step is int32\[\] there and int32\[4\] here\.$"),
        (of_another_type, r"step is int32\[\] there and float32\[\] here\.$"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(InputError, match="of step 1 does not fit the config: " + message):
        checkpoint.restore(tmp_path, 1, change(state(1)))


def test_a_state_of_an_earlier_version_may_lack_what_is_none(tmp_path):
    @flax.struct.dataclass
    class State:
        params: dict
        memory: dict
        step: jnp.ndarray
        added: dict | None = None

    saved(tmp_path, 1)
    found = checkpoint.restore(tmp_path, 1, State(**state(5)))
    assert found.added is None and is_state(vars(found), 1)
    with pytest.raises(InputError, match=r"added.x is missing there and float32\[\] here"):
        checkpoint.restore(tmp_path, 1, State(**state(5), added={"x": jnp.zeros(())}))


@pytest.fixture
def full_disk(monkeypatch):
    """Makes the n-th manifest fail to be written."""
    write = checkpoint._write_manifest

    def fill(n):
        left = iter(range(n - 1, -100, -1))

        def fails(folder, about):
            if next(left) == 0:
                raise OSError(28, "No space left on device")
            write(folder, about)

        monkeypatch.setattr(checkpoint, "_write_manifest", fails)

    return fill


SENTENCE = (
    r"the checkpoint of step {} could not be written under '.*' \(no space left on the "
    r"disk\); the latest whole one is {}"
)


def test_a_save_that_fails_ends_the_run_and_leaves_nothing(full_disk, tmp_path):
    full_disk(2)
    checkpointer = Checkpointer(tmp_path, keep=2, about={})
    checkpointer.save(1, state(1))
    checkpointer.save(2, state(2))
    with pytest.raises(RunError, match=SENTENCE.format(2, "of step 1: make room, then start")):
        checkpointer.save(3, state(3))
    assert steps_in(tmp_path) == {1}
    checkpointer.close()


def test_or_the_run_goes_on_and_the_next_one_is_saved(full_disk, tmp_path, capsys):
    full_disk(1)
    checkpointer = Checkpointer(tmp_path, keep=2, about={}, stop_on_failure=False)
    checkpointer.save(1, state(1))
    checkpointer.save(2, state(2))
    checkpointer.close()
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "latest whole one is none. The run continues" in said
    assert steps_in(tmp_path) == {2} and is_state(checkpoint.read_arrays(tmp_path, 2), 2)


@pytest.mark.parametrize("how", ["final", "close"])
def test_a_last_save_that_fails_is_never_taken_lightly(how, full_disk, tmp_path):
    full_disk(1)
    checkpointer = Checkpointer(tmp_path, keep=2, about={}, stop_on_failure=how == "close")
    with pytest.raises(RunError, match=SENTENCE.format(1, "none")):
        checkpointer.save(1, state(1), final=how == "final")
        checkpointer.close()
    assert steps_in(tmp_path) == set()


def test_a_save_that_fails_before_it_begins(monkeypatch, tmp_path):
    import orbax.checkpoint as ocp

    def fails(*args):
        raise ValueError("no such luck\nand more")

    checkpointer = Checkpointer(tmp_path, keep=2, about={})
    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointer, "save", fails)
        with pytest.raises(RunError, match=r"step 1 could not .* \(ValueError: no such luck\); "):
            checkpointer.save(1, state(1))
    checkpointer.save(2, state(2), final=True)
    assert steps_in(tmp_path) == {2}
    checkpointer.close()
