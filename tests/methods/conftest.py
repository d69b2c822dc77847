"""Digits, and a short run of each method on them, once for all tests."""

import functools
import types

import pytest
import small_runs

from jaxpt import pretrain
from jaxpt.data import sources


@pytest.fixture(scope="session")
def dataset():
    return sources.load(small_runs.config_of("look", small_runs.RUN).data)


@pytest.fixture(scope="session")
def train(dataset):
    """Trains with a method, once for all tests."""

    @functools.cache
    def train(method, **changes):
        config = small_runs.config_of(
            method, small_runs.RUN | small_runs.OF_METHOD.get(method, {}) | changes
        )
        result = pretrain.run(config, quiet=True, dataset=dataset)
        return types.SimpleNamespace(
            method=method,
            config=config,
            state=result.state,
            features=result.features,
            history=result.history,
            losses=[row["loss"] for row in result.history if "loss" in row],
        )

    return train
