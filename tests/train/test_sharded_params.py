"""Parameters in parts on the devices are the whole ones in all but place and memory."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import config_of

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.errors import InputError
from jaxpt.models.resnet import BasicBlock, ResNet
from jaxpt.models.vit import ViT
from jaxpt.train import checkpoint, parts
from jaxpt.train.checkpoint import Checkpointer
from jaxpt.train.parallel import AXIS, Devices

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")

# Small, but for the projector, so that there is something to cut. SGD does not blow rounding up.
RUN = {
    "duration": "4 steps",
    "knn_every": "0 steps",
    "log_every": "1 steps",
    "batch_size": 40,
    "checkpoint_every": "2 steps",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "data.limit": 400,
    "memory": 400,
    "look.k": 20,
    "local_views": 0,
    "devices": 8,
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (64,), "dim": 64},
}
# Gradients are longer than what they are cut to.
LOOK = {"memory_sharding": "sharded", "optimizer.clip_norm": 0.02, "steps_per_call": 2}
SHARDED = {"param_sharding": "sharded"}


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", {"data.limit": 400}).data)


def train(dataset, method="look", workdir=None, **changes):
    return pretrain.run(config_of(method, RUN | changes), workdir, quiet=True, dataset=dataset)


def first_state(dataset, changes):
    """Method, placed first state and devices of a config."""
    config = config_of("look", RUN | changes)
    devices = Devices(limit=config.devices)
    method, _ = pretrain.prepare(config, dataset)
    state = pretrain.init_state(method, config, dataset.trainval.images)
    return method, pretrain.place_state(state, config, devices), devices, config


def assert_same(one, other, tolerance=1e-6):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def pieces(tree):
    """Into how many pieces the large arrays are cut."""
    return {
        len({tuple(s.start for s in piece.index) for piece in x.addressable_shards})
        for x in jax.tree.leaves(tree)
        if x.size >= parts.SMALLEST
    }


def networks(state):
    return state.params, state.opt_state, state.target and state.target.params


@pytest.mark.parametrize(
    ("method", "changes", "tolerance"),
    [
        ("look", LOOK, 1e-6),
        (
            "t_rex",
            {
                "optimizer.name": "adamw",
                "micro_batches": 5,
                "model.projector": {"hidden": (), "dim": 2048},
            },
            1e-5,
        ),
    ],
)  # prototypes are cut
def test_parameters_in_parts_learn_the_same(method, changes, tolerance, dataset):
    whole, cut = (train(dataset, method, **changes | sharding).state for sharding in ({}, SHARDED))
    assert pieces(networks(whole)) == {1} and pieces(networks(cut)) == {8}
    assert_same(whole, cut, tolerance)


def test_a_resumed_run_has_the_same_bits(tmp_path, dataset):
    whole = train(dataset, workdir=str(tmp_path), **LOOK | SHARDED)
    shutil.rmtree(tmp_path / "checkpoints" / "4")  # as if killed after step 2
    resumed = train(dataset, workdir=str(tmp_path), **LOOK | SHARDED)
    assert pieces(networks(resumed.state)) == {8}
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)
    assert resumed.features(dataset.trainval.images[:3]).shape == (3, 8)  # of one network


WHOLE = {"param_sharding": "replicated"}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"devices": 8, **SHARDED}, {"devices": 2, **SHARDED}),
        ({"devices": 4, **SHARDED}, {"devices": 1, **WHOLE}),
        ({"devices": 8, **WHOLE}, {"devices": 4, **SHARDED}),
    ],
)
def test_a_checkpoint_restores_on_any_devices_whole_or_in_parts(first, then, tmp_path, dataset):
    saved, like = (first_state(dataset, changes)[1] for changes in (first, then))
    checkpointer = Checkpointer(tmp_path, keep=1, about={})
    checkpointer.save(0, saved, final=True)
    checkpointer.close()
    restored = checkpoint.restore(tmp_path, 0, like)
    assert pieces(networks(restored)) == {
        1 if then["param_sharding"] == "replicated" else then["devices"]
    }
    jax.tree.map(np.testing.assert_array_equal, saved, restored)


def test_a_device_holds_less(dataset):
    large = {
        "model.projector": {"hidden": (512, 512), "dim": 64},
        "batch_size": 8,
        "optimizer.name": "adamw",
        "data.limit": 400,
    }
    bytes_of = {}
    for sharding in "replicated", "sharded":
        method, state, devices, config = first_state(dataset, large | {"param_sharding": sharding})
        feed = make_feed(config, dataset.trainval, dataset.trainval.labels, devices)
        rows = devices.split(rows_of_step(0, config.batch_size, n=400, seed=0))
        program = devices.map(
            lambda state, data, rows: method.step(state, feed.gather(data, rows)), like=state
        ).lower(state, feed.data, rows)
        account = program.compile().memory_analysis()
        bytes_of[sharding] = account.argument_size_in_bytes, account.temp_size_in_bytes
    params = 4 * sum(x.size for x in jax.tree.leaves(state.params))
    (held, temporaries), (held_cut, temporaries_cut) = bytes_of.values()
    assert held - held_cut > 0.95 * 4 * params * 7 / 8  # parameters, two moments, target
    assert held_cut + temporaries_cut < 0.6 * (held + temporaries)


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (functools.partial(ResNet, (1, 1), BasicBlock, stem="small", width=16, norm="group"), 2),
        (functools.partial(ViT, width=64, depth=1, heads=2, patch=4, image_size=8), 4),
    ],
)
def test_blocks_put_their_parameters_together_when_they_read_them(make, n):
    """Twice with ``remat``: the pieces alone wait for the backward pass."""
    gathers, gradients = {}, {}
    devices, images = Devices(limit=4), jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    for name, remat, cut in ("whole", True, False), ("kept", False, True), ("again", True, True):
        network = make(remat=remat)
        params = jax.jit(lambda: network.init(jax.random.key(0), images, True))()["params"]

        def step(params, _, images):
            def loss(params):
                return jnp.mean(jnp.square(network.apply({"params": params}, images, True)[0]))

            value, gradient = jax.value_and_grad(loss)(params)
            return parts.mean(gradient, AXIS), {"norm": parts.norm(parts.mean(gradient, AXIS))}

        axes = jax.tree.map(lambda x: parts.cut_axis(x.shape, 4) if cut else None, params)
        placed = devices.place(params, axes)
        program = devices.map(step, like=placed).lower(placed, {}, devices.split(images))
        gathers[name] = program.as_text().count("stablehlo.all_gather")
        gradients[name] = program.compile()(placed, {}, devices.split(images))
    assert gathers == {"whole": 0, "kept": n, "again": 2 * n}
    for name in "kept", "again":
        assert_same(gradients["whole"], gradients[name])


def test_large_arrays_are_cut_along_their_longest_axis_that_divides():
    cut = {
        (3, 3, 64, 64): 2,
        (3, 3, 64, 128): 3,
        (1000, 512): 0,
        (1001, 512): 1,
        (64, 63): None,
        (63, 65): None,
        (65, 65): None,
        (8192,): 0,
    }
    assert {shape: parts.cut_axis(shape, 8) for shape in cut} == cut


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"param_sharding": "some"}, "param_sharding must be one of .*got 'some'"),
        ({"mapping": "pmap"}, "param_sharding sharded needs mapping shard_map, got pmap"),
        ({"optimizer.name": "lars"}, "optimizer.name lars scales each array by its norm"),
        (
            {"model.projector": {"hidden": (), "dim": 64}},
            "none of the parameters has 4,096 entries",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(changes, message, dataset):
    with pytest.raises(InputError, match=message):
        train(dataset, **SHARDED | changes)
