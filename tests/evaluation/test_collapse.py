"""Signs of a collapse: where there is one, and never in the runs that ship."""

import numpy as np
import pytest

from jaxpt import pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.evaluation.geometry import collapse_warnings, spread


def features_like(kind, rng=np.random.default_rng(0)):
    noise = rng.normal(size=(200, 16))
    return {
        "random": noise,
        "classes": np.eye(16)[rng.integers(0, 2, 200)] + 0.01 * noise,
        "offset": noise + 2.0,
        "alike": 1.0 + 1e-4 * noise,
        "same": np.ones((200, 16)),
        "zero": np.zeros((200, 16)),
        "line": rng.normal(size=(200, 1)) * np.ones((1, 16)) + 1e-4 * noise,
    }[kind]


@pytest.mark.parametrize(
    "kind, words",
    [
        ("random", None),
        ("classes", None),
        ("offset", None),
        ("alike", "nearly alike"),
        ("same", "nearly alike"),
        ("line", "nearly on one line"),
    ],
)
def test_made_up_features(kind, words):
    found = collapse_warnings(spread(features_like(kind)))
    assert len(found) == (words is not None) and all(words in text for text in found)


def test_values_by_hand():
    two = spread(np.array([[3.0, 0], [0, 5], [2, 0], [0, 1]]))
    assert two["feature_spread"] == pytest.approx(0.5)  # mean unit vector (½, ½)
    assert spread(np.eye(4))["feature_rank"] == pytest.approx(4)
    same = spread(np.ones((5, 3)))
    assert same["feature_spread"] == pytest.approx(0, abs=1e-12)
    assert spread(np.zeros((5, 3))) == {"feature_spread": 0.0, "feature_rank": 0.0}


@pytest.mark.parametrize(
    "values, count",
    [
        ({}, 0),
        ({"loss": 0.0}, 0),
        ({"zero_loss": 0.99}, 0),
        ({"zero_loss": 0.995}, 1),
        ({"feature_spread": 0.01, "feature_rank": 1.5}, 0),
        ({"feature_spread": 0.0099, "feature_rank": 1.0}, 1),  # one sentence for one trouble
        ({"feature_spread": 0.5, "feature_rank": 1.4}, 1),
        ({"feature_spread": 0.0, "feature_rank": 0.0, "zero_loss": 1.0}, 2),
    ],
)
def test_thresholds(values, count):
    assert len(collapse_warnings(values)) == count


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


@pytest.mark.parametrize("method", ["look", "cross_entropy"])
def test_no_false_alarm_in_the_shipped_configs(method, dataset, capsys):
    config = digits.get_config(method)
    config.update(duration="40 steps", log_every="5 steps", knn_every="8 steps", devices=1)
    pretrain.run(config, quiet=True, dataset=dataset)
    assert "warning" not in capsys.readouterr().err


def test_a_run_that_collapses_is_warned_of(dataset, capsys):
    config = digits.get_config("cross_entropy")
    config.update(duration="2 steps", knn_every="2 steps", devices=1)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e4
    config.optimizer.weight_decay = 1e-3  # 1 − 1e4 · 1e-3 < 0: weights explode, ReLUs die
    config.max_skipped = 2
    pretrain.run(config, quiet=True, dataset=dataset)
    assert "jaxpt: warning at step 2: the features of all images are nearly" in (
        capsys.readouterr().err
    )
