"""The recipe of CIFAR: what its header says, its words, and every method when made small."""

import pathlib
import sys

import pytest
from jaxpt.configs.pretrain import cifar
from small_recipes import is_of, ran_two_steps, read, traced

from jaxpt import methods
from jaxpt.cost import plan
from jaxpt.errors import InputError

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import plan as plans  # noqa: E402

pytestmark = pytest.mark.usefixtures("unoptimised")


def test_says_source_expectation_and_what_it_takes():
    for part in ("Source: ", "Expected: ", plans.cifar_line()):
        assert f"\n{part}" in cifar.__doc__


@pytest.mark.parametrize("method", methods.METHODS)
def test_what_it_takes_is_that_of_this_config(method):
    is_of(plans.stored()[f"cifar_{method}"], cifar.get_config(method))


# Every method's step is run by tests/methods and traced by tests/test_recipes.py.
@pytest.mark.parametrize("method", ["look", "cross_entropy"])
def test_runs_when_made_small(method):
    smoke = read(f"pretrain/cifar.py:{method},cifar100,smoke")
    assert smoke.method == method and smoke.optimizer.name == "sgd"
    ran_two_steps(smoke)


@pytest.mark.parametrize("method", ["mask_con", "moco_v3", "dino", "t_rex", "nn_clr"])
def test_others_can_be_traced_when_made_small(method):
    config = read(f"pretrain/cifar.py:{method},smoke")
    assert traced(config).counts.flops() > 0 and config.method == method


def test_words():
    config = cifar.get_config("byol,cifar100,1000ep")
    assert (config.method, config.data.source, config.duration, config.views) == (
        "byol",
        "tfds:cifar100",
        "1000 epochs",
        2,
    )
    assert config.model.options.to_dict() == {"stem": "small"}
    assert plan.sizes_of(config) == (50_000, 100, 32, 3)
    with pytest.raises(InputError, match="variant 'fast' is unknown"):
        cifar.get_config("byol,fast")
