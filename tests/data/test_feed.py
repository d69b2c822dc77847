"""Resident or streamed, on any number of devices, after a resume: the same batches."""

import jax
import numpy as np
import pytest
from small_runs import RUN, config_of

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.data.feed import ResidentFeed, StreamedFeed, make_feed, rows_of_step
from jaxpt.errors import InputError
from jaxpt.train.parallel import Devices


def config(**changes):
    return config_of(
        "cross_entropy",
        RUN | {"duration": "4 steps", "knn_every": "0 steps", "batch_size": 24} | changes,
    )


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config().data)


def batches_of(dataset, resident, devices, start=0, stop=15):
    devices = Devices(limit=devices)
    split = dataset.trainval
    feed = make_feed(
        config(**{"data.resident": resident}), split, dataset.coarse(split.labels), devices
    )
    rows = (rows_of_step(step, 24, n=feed.n, seed=0) for step in range(start, stop))
    found = [jax.device_get(jax.jit(feed.gather)(feed.data, batch)) for batch in feed.batches(rows)]
    feed.close()
    return found


def test_batches_are_the_same_either_way_on_any_devices_and_from_any_step(dataset):
    expected = batches_of(dataset, "yes", 1)
    assert len(expected) == 15
    split = dataset.trainval
    for step, batch in enumerate(expected):  # beside what they should be
        rows = rows_of_step(step, 24, n=300, seed=0)
        np.testing.assert_array_equal(batch.image, split.images[rows.index])
        np.testing.assert_array_equal(batch.id, split.ids[rows.index])
        np.testing.assert_array_equal(batch.epoch, rows.epoch)
    for resident in "yes", "no":
        for devices in 1, 2, 8:
            jax.tree.map(
                np.testing.assert_array_equal, expected, batches_of(dataset, resident, devices)
            )
        for start in 1, 7, 14:
            jax.tree.map(
                np.testing.assert_array_equal,
                expected[start:],
                batches_of(dataset, resident, 2, start),
            )


@pytest.mark.parametrize("limit, kind", [(1, ResidentFeed), (0, StreamedFeed)])
def test_the_limit_decides(limit, kind, dataset):
    split = dataset.trainval
    feed = make_feed(
        config(**{"data.resident_limit_mb": limit}), split, split.labels, Devices(limit=1)
    )
    assert isinstance(feed, kind)
    feed.close()


def test_training_is_the_same_either_way(dataset):
    one, other = (
        pretrain.run(config(**{"data.resident": resident}), quiet=True, dataset=dataset)
        for resident in ("yes", "no")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        one.state.params,
        other.state.params,
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.resident": "maybe"}, "data.resident must be auto, yes or no, got 'maybe'"),
        ({"data.prefetch": 0}, "data.prefetch must lie between 1 .* got 0"),
        ({"data.workers": -1}, "data.workers must lie .* got -1"),
    ],
)
def test_bad_settings(changes, message, dataset):
    with pytest.raises(InputError, match=message):
        make_feed(config(**changes), dataset.trainval, dataset.trainval.labels, Devices(limit=1))
