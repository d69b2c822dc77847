"""No number that is not finite gets into the state; on sound data the guard changes no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import config_of, over_one_device

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.errors import InputError, RunError
from jaxpt.pretrain import guarded
from jaxpt.train import checkpoint
from jaxpt.train.metrics import read_metrics
from jaxpt.train.state import TrainState, apply_gradients

TINY = {
    "data.limit": 120,
    "batch_size": 30,
    "devices": 1,
    "duration": "8 steps",
    "log_every": "1 steps",
    "knn_every": "0 steps",
    "checkpoint_every": "0 steps",
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (), "dim": 4},
    "look.k": 5,
    "memory": 60,
}


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", TINY).data)


def toy(step, value=0.0):
    """A state, and a step that adds the batch's mean to its one parameter."""
    state = TrainState(
        step=jnp.int32(step),
        params={"w": jnp.float32(value)},
        batch_stats={},
        opt_state=(),
        target=None,
        memory=None,
        centre=None,
        skipped=jnp.int32(0),
    )

    def run(state, batch):
        new = state.replace(step=state.step + 1, params={"w": state.params["w"] + batch.mean()})
        return new, {"loss": jnp.where(jnp.isinf(batch).any(), jnp.nan, 1.0)}

    return state, run


def run_toy(batches, max_skipped):
    state, step = toy(0)
    step = jax.jit(over_one_device(guarded(step, max_skipped=max_skipped)))
    seen = []
    for batch in batches:
        state, metrics = step(state, jnp.full(3, batch, jnp.float32))
        seen.append((int(state.step), float(state.params["w"]), int(metrics["skipped"])))
    return seen


NAN = np.nan


@pytest.mark.parametrize(
    "batches, max_skipped, expected",
    [
        ((1, 2, 3), 0, [(1, 1, 0), (2, 3, 0), (3, 6, 0)]),
        ((1, NAN, 3, 4), 0, [(1, 1, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)]),
        ((1, NAN, 3, 4), 1, [(1, 1, 0), (2, 1, 1), (3, 4, 1), (4, 8, 1)]),
        ((NAN, 1, NAN, 4, NAN), 1, [(1, 0, 1), (2, 1, 1), (2, 1, 2), (2, 1, 2), (2, 1, 2)]),
        ((NAN, NAN, NAN, 1), 2, [(1, 0, 1), (2, 0, 2), (2, 0, 3), (2, 0, 3)]),
        ((np.inf, 1), 0, [(0, 0, 1), (0, 0, 1)]),
    ],
)
def test_skips_so_many_and_then_stands_still(batches, max_skipped, expected):
    assert run_toy(batches, max_skipped) == expected


def test_a_loss_that_is_not_finite_is_enough():
    state, _ = toy(0)

    def step(state, batch):
        return state.replace(step=state.step + 1), {"loss": batch.sum()}

    after, metrics = over_one_device(guarded(step, max_skipped=0))(state, jnp.float32([NAN]))
    assert after.step == 0 and metrics["skipped"] == 1


@pytest.mark.parametrize("norm", [NAN, np.inf])
def test_the_norm_stands_for_the_gradient(norm):
    """It alone decides about what an optimizer makes of the gradient, and the rest is looked at."""
    state, _ = toy(0)

    def run(norm, statistic):
        def step(state, batch):
            new = state.replace(step=state.step + 1, batch_stats={"mean": batch.sum() * statistic})
            return new, {"loss": jnp.float32(1), "gradient_norm": jnp.float32(norm)}

        start = state.replace(batch_stats={"mean": jnp.float32(0)})
        after, _ = over_one_device(guarded(step, max_skipped=0))(start, jnp.ones(2))
        return int(after.step)

    assert [run(2.0, 1.0), run(norm, 1.0), run(2.0, norm)] == [1, 0, 0]


def test_the_norm_of_a_step_is_that_of_its_gradient():
    """No entry overflows in the moments while the norm is finite."""
    huge = {"w": jnp.full(3, 1e19), "b": jnp.full(2, 3e18)}
    optimizer = optax.adamw(0.1)
    params = jax.tree.map(jnp.zeros_like, huge)
    state = toy(0)[0].replace(params=params, opt_state=optimizer.init(params))

    def update(scale):
        scaled = jax.tree.map(lambda g: scale * g, huge)
        return over_one_device(
            lambda state, batch: apply_gradients(state, scaled, {}, optimizer, "batch")
        )(state, jnp.ones(1))

    new, norm = update(1.0)
    wanted = np.sqrt(sum(float(jnp.sum(jnp.square(g / 1e18))) for g in huge.values())) * 1e18
    assert float(norm) == pytest.approx(wanted) and np.isfinite(float(norm))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new.params, new.opt_state)))
    new, norm = update(10.0)  # where Adam's second moment overflows
    assert np.isinf(float(norm)) and np.isinf(new.opt_state[0].nu["w"]).all()


def test_one_broken_device_stops_all():
    state, _ = toy(0)
    _, step = toy(0)
    run = jax.vmap(guarded(step, max_skipped=0), in_axes=(None, 0), axis_name="batch")
    after, _ = run(state, jnp.float32([[1], [NAN]]))
    np.testing.assert_array_equal(after.params["w"], [0, 0])


@pytest.mark.parametrize("method", ["look", "cross_entropy"])
def test_on_sound_data_the_guard_changes_no_bit(method, dataset, monkeypatch):
    def last_state():
        return jax.device_get(
            pretrain.run(config_of(method, TINY), quiet=True, dataset=dataset).state
        )

    with_it = last_state()

    def without_guard(step, *, max_skipped):
        def run(state, batch):
            state, metrics = step(state, batch)
            return state, metrics | {"skipped": jnp.float32(0)}

        return run

    monkeypatch.setattr(pretrain, "guarded", without_guard)
    without = last_state()
    for a, b in zip(jax.tree.leaves(with_it), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def breaks(monkeypatch):
    """Makes the steps of some numbers give a NaN."""
    prepare = pretrain.prepare

    def at(*steps):
        def prepared(config, dataset):
            method, durations = prepare(config, dataset)

            def step(state, batch):
                broken = jnp.isin(state.step + 1, jnp.array(steps))
                params = jax.tree.map(lambda x: jnp.where(broken, jnp.nan, x), state.params)
                return method.step(state.replace(params=params), batch)

            return method._replace(step=step), durations

        monkeypatch.setattr(pretrain, "prepare", prepared)

    return at


def test_a_run_skips_what_it_may_and_counts_it(breaks, tmp_path, dataset):
    breaks(3, 6)
    config = config_of("look", TINY | {"max_skipped": 2})
    trained = pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    skipped = [row["skipped"] for row in read_metrics(tmp_path) if "skipped" in row]
    assert skipped == [0, 0, 1, 1, 1, 2, 2, 2]
    assert trained.state.step == 8 and trained.state.skipped == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(trained.state.params))


@pytest.mark.parametrize("max_skipped, step", [(0, 3), (1, 5)])
@pytest.mark.parametrize("log_every", [1, 0])
def test_and_stops_with_the_last_good_state(
    max_skipped, step, log_every, breaks, tmp_path, dataset
):
    breaks(3, 5)
    config = config_of(
        "look", TINY | {"max_skipped": max_skipped, "log_every": f"{log_every} steps"}
    )
    with pytest.raises(RunError, match=f"not finite at step {step}: .*jaxpt replay") as stopped:
        pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    assert ("max_skipped=1 such steps were skipped before" in str(stopped.value)) == max_skipped
    kept = tmp_path / pretrain.NOT_FINITE
    assert checkpoint.newest(kept) == step - 1
    state = checkpoint.read_arrays(kept, step - 1)
    assert state["step"] == step - 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state["params"]))
    assert checkpoint.newest(tmp_path) is None  # nothing was due


def test_where_the_last_good_state_cannot_be_kept_that_is_said_too(
    breaks, tmp_path, dataset, monkeypatch
):
    def full(folder, about):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_manifest", full)
    breaks(3)
    with pytest.raises(
        RunError,
        match="not finite at step 3: .* could not be saved: the checkpoint of "
        "step 2 could not be written",
    ):
        pretrain.run(config_of("look", TINY), str(tmp_path), quiet=True, dataset=dataset)


def test_max_skipped_must_not_be_negative(dataset):
    with pytest.raises(InputError, match="max_skipped must not be negative, got -1"):
        pretrain.run(config_of("look", TINY | {"max_skipped": -1}), quiet=True, dataset=dataset)
