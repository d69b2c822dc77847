"""Recipes made small, for the tests of each kind of them; and what their plans were made of."""

import numpy as np
from jaxpt.configs.pretrain import defaults

from jaxpt import pretrain
from jaxpt.cli import config_files
from jaxpt.cost import plan


def read(name):
    return config_files.read("pretrain", name, [])


def ran_two_steps(config):
    trained = pretrain.run(config, quiet=True)
    assert int(trained.state.step) == 2
    losses = [row["loss"] for row in trained.history if "loss" in row]
    assert losses and np.isfinite(losses).all()


def traced(config):
    """The config's step, as a plan counts it: without compiling or running anything."""
    return plan.step_of(config, plan.sizes_of(config), 1)


def is_of(record, config):
    """A record of the plan is of this config."""
    kept = defaults.completed(record["config"])
    assert records_view(kept) == records_view(config.to_dict())


def records_view(config):
    """A config as a record has it, tuples as lists."""
    if isinstance(config, dict):
        return {name: records_view(value) for name, value in config.items()}
    return list(config) if isinstance(config, tuple) else config
