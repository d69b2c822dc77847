"""Settings of fine-tuning: what a rule or the set makes of those that are left to it."""

import numpy as np
import pytest
from jaxpt.configs.pretrain import digits
from jaxpt.configs.transfer import bit, defaults

from jaxpt import finetune
from jaxpt.data import sources


@pytest.fixture(scope="module")
def dataset():
    return sources.load(digits.get_config().data)


@pytest.mark.parametrize(
    ("examples", "side", "wanted"),
    [
        (1, 32, (160, 128, "500 steps", "100 steps", 0.0)),
        (19_999, 95, (160, 128, "500 steps", "100 steps", 0.0)),
        (20_000, 96, (512, 480, "10000 steps", "500 steps", 0.1)),
        (499_999, 224, (512, 480, "10000 steps", "500 steps", 0.1)),
        (500_000, 32, (160, 128, "20000 steps", "500 steps", 0.1)),
    ],
)
def test_the_hyper_rule(examples, side, wanted):
    assert finetune.bit(examples=examples, height=side, width=side) == wanted


def test_the_hyper_rule_goes_by_the_area():
    assert finetune.bit(examples=1, height=48, width=191).crop == 128
    assert finetune.bit(examples=1, height=48, width=192).crop == 480


def test_the_rule_fills_only_what_is_left_to_it(dataset):
    config = finetune.resolve(bit.get_config(), dataset)
    assert (config.resize, config.crop, config.duration, config.warmup, config.mixup) == (
        160,
        128,
        "500 steps",
        "100 steps",
        0.0,
    )
    assert config.optimizer.name == "sgd" and config.learning_rates == (0.003,)
    assert config.schedule.at == (0.3, 0.6, 0.9)
    config = bit.get_config()
    config.update(resize=10, crop=8, mixup=0.0, duration="7 steps")
    config = finetune.resolve(
        config,
        dataset._replace(
            trainval=dataset.trainval._replace(
                images=np.broadcast_to(np.uint8(0), (20_000, 8, 8, 1))
            )
        ),
    )
    assert (config.resize, config.crop, config.duration, config.warmup, config.mixup) == (
        10,
        8,
        "7 steps",
        "500 steps",
        0.0,
    )


@pytest.mark.parametrize(
    "metric, source, wanted",
    [
        ("", "protocol:pets", "mean_per_class"),
        ("", "pets", "mean_per_class"),
        ("", "cifar10", "top1"),
        ("", "digits", "top1"),
        ("", "", "top1"),
        ("top1", "protocol:pets", "top1"),
    ],
)
def test_a_metric_that_is_left_out_is_that_of_the_set(metric, source, wanted, dataset):
    config = defaults.get_config()
    config.metric = metric
    assert finetune.resolve(config, dataset, source=source).metric == wanted
