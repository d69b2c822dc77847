"""The pre-training loop end to end on real digits: it learns, and nothing is lost by a kill."""

import os
import re

import jax
import numpy as np
import pytest

from jaxpt import pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.data.labels import LabelMap
from jaxpt.errors import InputError, RunError
from jaxpt.evaluation.knn import knn_classify
from jaxpt.train import checkpoint
from jaxpt.train.metrics import TIMES, MetricWriter, read_metrics
from jaxpt.train.workdir import open_run


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


SMALL = {"model.options.widths": (8,), "model.options.strides": (4,)}


def short(method="look", network=SMALL, **changes):
    """Twelve steps of a small network with a checkpoint every third."""
    config = digits.get_config(method)
    config.update(
        duration="12 steps",
        log_every="2 steps",
        knn_every="6 steps",
        checkpoint_every="3 steps",
        devices=1,
    )
    config.model.options.unlock()
    config.update_from_flattened_dict(network | changes)
    return config


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("method", ["look", "cross_entropy"])
def test_learns_the_coarse_classes_of_held_out_digits(method, dataset):
    config = short(
        method,
        {},
        **{
            "duration": "12 epochs",
            "data.train_on": "train",
            "knn_every": "12 epochs",
            "look.k": 100,
        },
    )
    before = short(method, {}, **{"duration": "1 steps", "data.train_on": "train"})
    untrained = pretrain.run(before, quiet=True, dataset=dataset).history[-1]["knn"]
    trained = pretrain.run(config, quiet=True, dataset=dataset)
    monitor = trained.history[-1]["knn"]
    assert monitor > max(untrained, 0.93)  # chance is 0.5, raw pixels reach about 0.9
    # The monitor alone may rise in a run that goes uphill, or learns the labels of other images.
    losses = [row["loss"] for row in trained.history if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    predicted = knn_classify(
        trained.features(dataset.train.images),
        dataset.coarse(dataset.train.labels),
        trained.features(dataset.validation.images),
        k=config.knn_k,
    )
    assert monitor == np.mean(predicted == dataset.coarse(dataset.validation.labels))


def test_what_is_compiled_ahead_is_what_runs(dataset):
    """The programs of the step and of the fill, in shapes and placement."""
    compiled = []

    def note(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            compiled.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        row = pretrain.run(short(seed=3), quiet=True, dataset=dataset).history[0]
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert compiled.count("jit(run)") == 2 and compiled.count("jit(init)") == 1
    assert row["compile_seconds"] > 0 and row["startup_seconds"] > 0


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(dataset):
    first, again = (pretrain.run(short(), quiet=True, dataset=dataset).state for _ in range(2))
    assert_same_bits(first, again)
    other = pretrain.run(short(seed=1), quiet=True, dataset=dataset).state
    assert not np.array_equal(first.memory.keys, other.memory.keys)


def test_the_seed_decides_start_order_and_views(dataset, monkeypatch):
    def one_step(seed):
        config = short(seed=seed, duration="1 steps")
        return pretrain.run(config, quiet=True, dataset=dataset).state

    init, rows = pretrain.init_state, pretrain.rows_of_step
    method, _ = pretrain.prepare(short(), dataset)
    a, b = (init(method, short(seed=seed), dataset.train.images).params for seed in (0, 1))
    assert not any(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)) if x.ndim > 1
    )
    a, b = one_step(0).memory, one_step(1).memory
    for part in slice(0, 120), slice(120, None):  # keys of the step, and of the filling
        assert not np.array_equal(a.ids[part], b.ids[part])
    # Filled before the first step and in the order of the steps: each example has one key, for
    # the first batch took the places of its own.
    assert a.valid.all() and sorted(a.ids.tolist()) == sorted(dataset.trainval.ids.tolist())
    monkeypatch.setattr(
        pretrain, "init_state", lambda method, config, images: init(method, short(), images)
    )
    monkeypatch.setattr(
        pretrain, "rows_of_step", lambda *args, **order: rows(*args, **order | {"seed": 0})
    )
    same_but_views = one_step(1).memory
    np.testing.assert_array_equal(a.ids, same_but_views.ids)
    assert not np.array_equal(a.keys, same_but_views.keys)


def test_resume_continues_with_the_same_bits_and_the_same_log(tmp_path, dataset):
    whole = pretrain.run(short(), str(tmp_path / "whole"), quiet=True, dataset=dataset)
    stopped = tmp_path / "stopped"
    with pytest.raises(Stop):
        pretrain.run(short(), str(stopped), quiet=True, dataset=StopsAt(dataset, after=1))
    assert (
        0 < max(int(p.name) for p in (stopped / "checkpoints").iterdir() if p.name.isdigit()) < 12
    )
    resumed = pretrain.run(short(), str(stopped), quiet=True, dataset=dataset)
    assert_same_bits(whole.state, resumed.state)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]
        for folder in (tmp_path / "whole", stopped)
    ]
    assert rows[0] == rows[1]


class Stop(Exception):
    """Stands for whatever ends a run in the middle."""


def StopsAt(dataset, after):
    """The same data, but the monitor's look at the labels fails after so many times."""
    calls = iter(range(100))

    class Breaks(LabelMap):
        def __call__(self, labels):
            # The training labels are read once, then the monitor reads two sets a time.
            if next(calls) > 2 * after:
                raise Stop
            return dataset.coarse(labels)

    return dataset._replace(coarse=Breaks(*dataset.coarse))


def test_a_finished_run_is_left_as_it_is(tmp_path, dataset):
    first = pretrain.run(short(), str(tmp_path), quiet=True, dataset=dataset)
    log = (tmp_path / "metrics.jsonl").read_text()
    again = pretrain.run(short(), str(tmp_path), quiet=True, dataset=dataset)
    assert_same_bits(first.state, again.state)
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_another_config_is_refused_and_nothing_is_touched(tmp_path, dataset):
    pretrain.run(short(), str(tmp_path), quiet=True, dataset=dataset)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    for changes, message in (
        ({"seed": 3}, r"different in seed \(0 there, 3 here\): use the same"),
        ({"temperature": 0.2}, r"finished .* temperature \(0.1 there, 0.2"),
    ):
        with pytest.raises(InputError, match=message):
            pretrain.run(short(**changes), str(tmp_path), quiet=True, dataset=dataset)
    with pytest.raises(InputError, match="already holds a run"):
        pretrain.run(short(), str(tmp_path), resume=False, quiet=True, dataset=dataset)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_checkpoint_with_the_best_monitor_stays(tmp_path, dataset, monkeypatch):
    knn = {3: 0.5, 6: 0.9, 9: 0.7, 12: 0.6}
    monkeypatch.setattr(
        pretrain, "_make_monitor", lambda *_: lambda state: {"knn": knn[int(state.step)]}
    )
    config = short(knn_every="3 steps", keep_checkpoints=1, keep_best=True)
    pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    assert {path.name for path in (tmp_path / checkpoint.FOLDER).iterdir()} == {"6", "12"}
    assert [checkpoint.about(tmp_path, step)["score"] for step in (6, 12)] == [0.9, 0.6]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, dataset):
    config = short("cross_entropy", **{"optimizer.learning_rate": 1e30})
    with pytest.raises(RunError, match="not finite at step"):
        pretrain.run(config, quiet=True, dataset=dataset)
    # Also where nothing is logged: what is broken is not saved over what was not.
    config.update(log_every="0 steps", checkpoint_every="1 steps")
    with pytest.raises(RunError, match="not finite at step") as stopped:
        pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    step = int(re.search(r"at step (\d+)", str(stopped.value))[1])
    assert 1 < step < 12 and open_run(tmp_path)[1] == step - 1
    assert checkpoint.newest(tmp_path / pretrain.NOT_FINITE) == step - 1


def test_metrics_go_to_json_lines_and_tensorboard(tmp_path, dataset):
    config = short(duration="13 steps", keep_checkpoints=2, knn_k=1)
    trained = pretrain.run(config, str(tmp_path), quiet=True, dataset=dataset)
    rows = read_metrics(tmp_path)
    assert [r["step"] for r in rows if "loss" in r] == [2, 4, 6, 8, 10, 12, 13]
    assert trained.history == rows
    assert [r["step"] for r in rows if "knn" in r] == [6, 12, 13]
    # Were an image its own neighbour, the one nearest would always be right.
    assert all(r["knn"] < 1 for r in rows if "knn" in r)
    assert {"no_positive", "zero_loss", "purity", "k"} <= rows[0].keys()
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(tmp_path))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()} == {
        "12",
        "13",
    }


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    MetricWriter(tmp_path, resumed_step=4).close()
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 1.0}]
