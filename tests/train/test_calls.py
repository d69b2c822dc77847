"""Several steps in one call: the same run, with the same rows, whatever the calls."""

import jax
import numpy as np
import pytest
from small_runs import config_of

from jaxpt import pretrain
from jaxpt.data import sources
from jaxpt.errors import InputError, RunError
from jaxpt.train import parallel
from jaxpt.train.metrics import TIMES

TINY = {
    "data.limit": 120,
    "batch_size": 24,
    "devices": 2,
    "duration": "11 steps",
    "log_every": "4 steps",
    "knn_every": "0 steps",
    "checkpoint_every": "5 steps",
    "model.options": {"widths": (8,), "strides": (4,)},
    "optimizer.name": "sgd",
    "model.projector": {"hidden": (), "dim": 4},
    "look.k": 5,
    "memory": 60,
}


@pytest.fixture(scope="module")
def dataset():
    return sources.load(config_of("look", TINY).data)


def train(dataset, workdir=None, **changes):
    return pretrain.run(config_of("look", TINY | changes), workdir, quiet=True, dataset=dataset)


def rows(history):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def assert_same(a, b, tolerance=0.0):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)


def test_calls_end_at_every_border():
    calls = parallel.call_spans(0, 11, 3, (11, 4, 0, 5))
    assert [steps.stop for steps in calls] == [3, 4, 5, 8, 10, 11]


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_the_run_is_that_of_single_steps(mapping, dataset):
    one, several = (train(dataset, steps_per_call=n, mapping=mapping) for n in (1, 3))
    assert_same(one.state, several.state, 1e-6)
    assert [row["step"] for row in several.history] == [4, 8, 11, 11]
    for a, b in zip(rows(one.history), rows(several.history), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)


def test_where_calls_end_changes_no_bit(dataset, tmp_path):
    """Nor how long they are: a resume may begin anywhere."""
    whole = train(dataset, tmp_path, steps_per_call=4)
    (tmp_path / "checkpoints" / "11").rename(tmp_path / "away")
    resumed = train(dataset, tmp_path, steps_per_call=4)  # from step 10
    assert_same(whole.state, resumed.state)
    others = train(dataset, steps_per_call=7, log_every="0 steps", checkpoint_every="0 steps")
    assert_same(whole.state, others.state)


@pytest.mark.parametrize("most", [1, 4])
def test_a_number_that_is_not_finite_stops_the_run_at_its_step(most, dataset, tmp_path):
    with pytest.raises(RunError, match="not finite at step 2:"):
        train(dataset, tmp_path, steps_per_call=most, **{"optimizer.learning_rate": 1e38})


def test_bad_numbers_of_steps_are_refused():
    assert parallel.most_steps(0, resident=True) == 1  # on CPUs
    for asked in -1, 1001:
        with pytest.raises(InputError, match=f"steps_per_call must be 0 .*, got {asked}"):
            parallel.most_steps(asked, resident=True)
