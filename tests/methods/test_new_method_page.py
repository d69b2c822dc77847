"""The page on writing a method is true: its code is a method that trains."""

import pathlib
import re
import sys
import types

import numpy as np
import pytest
import small_runs

from jaxpt import methods, pretrain
from jaxpt.configs.pretrain import defaults
from jaxpt.methods import encoding, memory_contrast, updating

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "new-method.md"


@pytest.fixture
def batch_nca(monkeypatch):
    """The page's file, in the registry."""
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = types.ModuleType("batch_nca")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "jaxpt.methods.batch_nca", module)
    monkeypatch.setattr(methods, "METHODS", [*methods.METHODS, "batch_nca"])
    monkeypatch.setattr(defaults, "METHODS", methods.METHODS)
    monkeypatch.setitem(defaults.OF_METHOD, "batch_nca", {"views": 2})
    return module


def test_the_method_of_the_page_trains(batch_nca, dataset):
    config = small_runs.config_of("batch_nca", small_runs.RUN | {"temperature": 0.1})
    result = pretrain.run(config, quiet=True, dataset=dataset)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert result.history[-1]["knn"] > 0.7


def test_what_the_page_names_is_there(batch_nca):
    text = PAGE.read_text()
    for module in encoding, updating, memory_contrast:
        short = module.__name__.rsplit(".", 1)[1]
        for name in re.findall(rf"\b{short}\.(\w+)", text):
            assert hasattr(module, name), f"{short}.{name}"
