"""A memory in parts on the devices is the whole one in all but place."""

import shutil

import jax
import numpy as np
import pytest
from small_runs import config_of

from jaxpt import pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")

# Small, and steady: SGD does not blow rounding up as Adam does.
RUN = {
    "duration": "6 steps",
    "knn_every": "0 steps",
    "log_every": "1 steps",
    "batch_size": 40,
    "checkpoint_every": "3 steps",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "data.limit": 400,
    "memory": 400,
    "look.k": 20,
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (), "dim": 8},
    "local_views": 0,
}
SHARDED = {"memory_sharding": "sharded"}


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", {"data.limit": 400}).data)


def train(dataset, method="look", workdir=None, **changes):
    config = config_of(method, RUN | changes)
    return pretrain.run(config, workdir, quiet=True, dataset=dataset)


def assert_same(one, other, tolerance=1e-5):
    """Equal parameters and keys up to the order of sums; equal labels and ids in every slot."""
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind in "ib":
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(
                x.astype(np.float32), y.astype(np.float32), rtol=tolerance, atol=tolerance
            )


def losses_of(trained):
    return [row["loss"] for row in trained.history if "loss" in row]


def devices_of(memory):
    return [len({s.index[0].start for s in x.addressable_shards}) for x in memory[:4]]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("look", {"look.own_view": 0.3, "look.k_by_class": True, "look.balanced": True}),
        ("look", {"memory": 4000, "look.k": 10}),  # streamed
        ("look", {"look.neighbors": "approximate", "steps_per_call": 2}),
        ("look", {"memory_kind": "bank", "look.k_warmup": "4 steps"}),
        ("mask_con", {}),
        ("t_rex", {"t_rex.prototypes_from": "memory"}),
    ],
)
def test_methods_learn_the_same(method, changes, dataset):
    whole, parts = (
        train(dataset, method, devices=8, **changes, **sharding) for sharding in ({}, SHARDED)
    )
    assert devices_of(whole.state.memory) == [1] * 4
    assert devices_of(parts.state.memory) == [8] * 4
    assert_same(whole.state, parts.state)
    assert losses_of(whole) == pytest.approx(losses_of(parts), rel=1e-5)


def test_bfloat16_keys_stay_bfloat16_and_train(dataset):
    exact, rounded = (
        train(dataset, devices=2, **SHARDED, memory_dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert rounded.state.memory.keys.dtype == "bfloat16"
    assert_same(exact.state.memory, rounded.state.memory, 0.02)


@pytest.mark.parametrize(("first", "then"), [(8, {"devices": 1}), (0, {"devices": 4, **SHARDED})])
def test_a_checkpoint_restores_on_any_devices_whole_or_in_parts(first, then, tmp_path, dataset):
    begun = {"devices": first, **SHARDED} if first else {"devices": 2}
    whole = train(dataset, workdir=str(tmp_path / "a"), **begun)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "6")  # as if killed after step 3
    resumed = train(dataset, workdir=str(tmp_path / "b"), **then)
    assert (
        devices_of(resumed.state.memory)
        == [then["devices"] if "memory_sharding" in then else 1] * 4
    )
    assert_same(whole.state, resumed.state)


def test_a_resumed_run_has_the_same_bits(tmp_path, dataset):
    whole = train(dataset, workdir=str(tmp_path / "a"), devices=8, **SHARDED)
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "6")
    resumed = train(dataset, workdir=str(tmp_path / "a"), devices=8, **SHARDED)
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)


def test_a_number_that_is_not_finite_in_one_part_is_seen_by_all(dataset):
    from jaxpt.train.parallel import Devices

    devices = Devices(limit=4)
    config = config_of("look", RUN | SHARDED)
    method, _ = pretrain.prepare(config, dataset)
    state = pretrain.place_state(
        pretrain.init_state(method, config, dataset.trainval.images), config, devices
    )

    def breaks(state, batch):
        row = jax.lax.axis_index("batch") * 100 + np.arange(100)
        keys = np.nan * (row == 250)[:, None] + state.memory.keys
        return state.replace(
            memory=state.memory._replace(
                keys=jax.numpy.where((row == 250)[:, None], keys, state.memory.keys)
            )
        ), {"loss": np.float32(0)}

    guard = pretrain.guarded(breaks, max_skipped=3)
    step = devices.map(lambda state, data, rows: guard(state, None), like=state)
    after, metrics = step(state, devices.replicate(np.zeros(1)), devices.split(np.zeros(4)))
    assert int(after.skipped) == 1 and float(metrics["skipped"]) == 1
    assert np.isfinite(after.memory.keys).all()


def test_the_default_is_whole():
    assert digits.get_config().memory_sharding == "replicated"
