"""One step, many devices: the mapping changes nothing but where the work is done."""

import shutil

import jax
import numpy as np
import pytest

from jaxpt import pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.errors import InputError
from jaxpt.train import parallel
from jaxpt.train.parallel import AXIS, Devices

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")


SMALL = {
    "memory": 400,
    "look.k": 10,
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (), "dim": 8},
}


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


def train(dataset, method="look", *, workdir=None, **changes):
    config = digits.get_config(method)
    config.update(
        duration="4 steps", knn_every="0 steps", log_every="1 steps", checkpoint_every="2 steps"
    )
    config.model.options.unlock()
    config.update_from_flattened_dict(SMALL | changes)
    return pretrain.run(config, workdir, quiet=True, dataset=dataset)


def assert_close(a, b, tolerance=2e-4):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize(
    ("method", "norm", "more"),
    [
        ("look", "sync_batch", {}),
        ("sup_con", "group", {}),
        ("sup_con", "group", {"rw_sam.rho": 0.5, "rw_sam.features": 400}),
    ],
    ids=["look", "sup_con", "rwSAM"],
)
def test_eight_devices_by_shard_map_or_pmap_equal_one(method, norm, more, dataset):
    # SGD: Adam divides by gradients of almost nothing, which blows rounding up.
    changes = {"model.norm": norm, "optimizer.name": "sgd", "optimizer.learning_rate": 0.05} | more
    one, eight, pmapped = (
        train(dataset, method, devices=devices, mapping=mapping, **changes)
        for devices, mapping in ((1, "shard_map"), (8, "shard_map"), (8, "pmap"))
    )
    assert_close(one.state, eight.state)
    assert_close(eight.state, pmapped.state, 1e-6)
    np.testing.assert_allclose(
        [row["loss"] for row in one.history if "loss" in row],
        [row["loss"] for row in eight.history if "loss" in row],
        rtol=1e-4,
    )


def test_batch_statistics_of_each_device_alone_are_another_thing(dataset):
    one, eight = (
        train(dataset, devices=devices, **{"model.norm": "batch"}).history[-2]["loss"]
        for devices in (1, 8)
    )
    assert abs(one - eight) > 1e-3


def test_what_eight_devices_saved_one_and_four_restore(tmp_path, dataset):
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": 0.05}
    whole = train(dataset, workdir=str(tmp_path / "a"), devices=8, **changes)
    for devices in 1, 4:
        workdir = tmp_path / str(devices)
        shutil.copytree(tmp_path / "a", workdir)
        newest = workdir / "checkpoints" / "4"
        newest.rename(tmp_path / f"away{devices}")  # as if killed after step 2
        resumed = train(dataset, workdir=str(workdir), devices=devices, **changes)
        assert newest.exists()
        assert_close(whole.state, resumed.state)


def test_a_batch_is_split_in_order_and_the_state_is_not():
    devices = Devices(limit=4)

    def step(state, data, batch):
        first = jax.lax.all_gather(batch[0], AXIS)  # the first row of every device
        return state + data, {"first": first}

    for mapping in "shard_map", "pmap":
        devices.mapping = mapping
        state, metrics = devices.map(step)(
            devices.replicate(np.float32(1)),
            devices.replicate(np.float32(2)),
            devices.split(np.arange(12)),
        )
        assert state == 3 and state.shape == ()
        np.testing.assert_array_equal(metrics["first"], [0, 3, 6, 9])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 30}, "batch_size 30 does not divide over 8 devices"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"devices": 9}, "devices must be between 0 .all. and 8, got 9"),
        ({"mapping": "vmap"}, "mapping must be one of"),
    ],
)
def test_bad_devices_are_refused_with_the_numbers(changes, message, dataset):
    with pytest.raises(InputError, match=message):
        train(dataset, **{"memory": 1200, "devices": 8, **changes})


def test_processes_must_give_the_same_text(monkeypatch):
    parallel.require_agreement("a", "data")  # one process agrees with itself
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for others, refused in ([b"a", b"a"], False), ([b"a", b"b"], True):
        monkeypatch.setattr(
            parallel.multihost_utils,
            "process_allgather",
            lambda mine, others=others: np.stack(
                [mine, *(np.frombuffer(x.ljust(64), np.uint8) for x in others)]
            ),
        )
        if refused:
            with pytest.raises(InputError, match="processes 0 and 2 have different data"):
                parallel.require_agreement("a", "data")
        else:
            parallel.require_agreement("a", "data")
