"""Pre-training on several sources: monitor, resume, devices, and one source alone."""

import shutil

import jax
import numpy as np
import pytest
from small_runs import config_of

from jaxpt import pretrain
from jaxpt.errors import InputError

pytestmark = pytest.mark.usefixtures("unoptimised")

RUN = {
    "duration": "4 steps",
    "log_every": "1 steps",
    "knn_every": "4 steps",
    "checkpoint_every": "2 steps",
    "batch_size": 40,
    "memory": 200,
    "look.k": 10,
    "data.image_size": 8,
    "model.norm": "group",
    "model.options": {"widths": (8,), "strides": (4,)},
    "model.projector": {"hidden": (), "dim": 8},
    "optimizer.name": "sgd",  # does not blow rounding up, as Adam does
    "optimizer.learning_rate": 0.05,
    "devices": 1,
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    path = tmp_path_factory.mktemp("colours") / "colours.npz"
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    images = np.clip(
        rng.normal(60 * (1 + labels[:, None, None, None]), 40, (120, 12, 12, 3)), 0, 255
    )
    np.savez(
        path,
        train_images=images.astype(np.uint8),
        train_labels=labels,
        test_images=images[:9].astype(np.uint8),
        test_labels=labels[:9],
    )
    return path


def config(colours, method="look", **changes):
    c = config_of(method, RUN | changes)
    c.data.sources = {
        "digits": {"label_map": "halves", "limit": 200, "weight": 1.0},
        "colours": {"source": "npz", "path": str(colours), "label_map": "fine", "weight": 2.0},
    }
    return c


@pytest.fixture(scope="module")
def run(colours, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return pretrain.run(config(colours), workdir, quiet=True), workdir


def leaves(trained):
    return [np.asarray(x) for x in jax.tree.leaves(trained.state)]


def test_the_monitor_measures_each_source(run):
    row = run[0].history[-1]
    assert row["knn"] == pytest.approx((row["knn/digits"] + row["knn/colours"]) / 2)
    labels = run[0].state.memory.labels
    # Twice as many images of colours (labels 0 … 2), which come first, as of digits (3, 4).
    assert 0.55 < np.mean(np.asarray(labels[:120]) < 3) < 0.8 and int(labels.max()) == 4


def test_a_resumed_run_has_the_same_bits(run, colours, tmp_path):
    trained, workdir = run
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    again = pretrain.run(config(colours), tmp_path / "run", quiet=True)
    for x, y in zip(leaves(trained), leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_refuses_other_images_of_a_source(run, colours, tmp_path):
    with np.load(colours) as file:
        arrays = dict(file)
    other = tmp_path / "colours.npz"
    np.savez(other, **arrays | {"train_labels": arrays["train_labels"][::-1]})
    with pytest.raises(InputError, match="colours: training"):
        pretrain.run(config(other), run[1], quiet=True)


def test_eight_devices_compute_the_same(run, colours):
    many = pretrain.run(config(colours, devices=8), quiet=True)
    for x, y in zip(leaves(run[0]), leaves(many), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_source_alone_is_the_plain_run(tmp_path):
    changes = RUN | {"duration": "2 steps", "knn_every": "2 steps", "data.limit": 200}
    plain, alone = (config_of("look", changes) for _ in range(2))
    alone.data.source = "fashion_mnist"  # not read
    alone.data.sources = {"digits": {"weight": 3.0}}
    one, other = (pretrain.run(c, quiet=True) for c in (plain, alone))
    for x, y in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(one.history, other.history, strict=True):
        assert {**x, **TIMES} == {**y, **TIMES}


TIMES = dict.fromkeys(("images_per_second", "startup_seconds", "compile_seconds"))


@pytest.mark.parametrize("method", ["nca", "sup_con", "cross_entropy", "sup_moco", "byol"])
def test_methods_within_sources(colours, method):
    c = config(colours, method, duration="1 steps", views=2)
    dataset = pretrain.sources.load(c.data)
    c.other_sources = "negatives"
    joint, _ = pretrain.prepare(c, dataset)
    c.other_sources = "ignored"
    if method in ("sup_moco", "byol"):
        with pytest.raises(InputError, match=f"method {method} compares the images of all sources"):
            pretrain.prepare(c, dataset)
        return
    within, _ = pretrain.prepare(c, dataset)
    assert within.chance < joint.chance
    c.other_sources = "none"
    with pytest.raises(InputError, match="other_sources must be one of"):
        pretrain.prepare(c, dataset)


def test_look_refuses_its_own_view_with_sources(colours):
    c = config(colours, **{"look.own_view": 0.5})
    with pytest.raises(InputError, match="look.own_view compares with the keys of all sources"):
        pretrain.prepare(c, pretrain.sources.load(c.data))
