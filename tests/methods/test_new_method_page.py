"""The page on writing a method is true: what it writes in three places is a method that trains."""

import pathlib
import re
import sys
import types

import config_reads
import ml_collections
import numpy as np
import pytest
import small_runs
from fake_records import record

from jaxpt import methods, pretrain
from jaxpt.cli import config_files
from jaxpt.configs.pretrain import defaults
from jaxpt.methods import METHODS, encoding, memory_contrast, updating
from jaxpt.report import settings
from jaxpt.report.results import collect

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "new-method.md"
PLAIN = defaults.get_config


@pytest.fixture
def batch_nca(monkeypatch):
    """The page's code in its three places: a file, a section of the config, a line."""
    page, section = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [line] = re.findall(r"(?m)^\"batch_nca\": .*", PAGE.read_text())
    module = types.ModuleType("batch_nca")
    exec(compile(page, str(PAGE), "exec"), module.__dict__)

    def get_config():
        config = PLAIN()
        exec(section, {"c": config, "ml_collections": ml_collections})
        return config

    monkeypatch.setitem(sys.modules, "jaxpt.methods.batch_nca", module)
    monkeypatch.setattr(defaults, "get_config", get_config)
    [entry] = eval(f"{{{line}}}", vars(methods)).items()
    monkeypatch.setitem(METHODS, *entry)


def test_the_method_of_the_page_trains(batch_nca, dataset):
    config = small_runs.config_of("batch_nca", small_runs.RUN | {"temperature": 0.1})
    result = pretrain.run(config, quiet=True, dataset=dataset)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert result.history[-1]["knn"] > 0.7


def test_nothing_else_needs_to_know_the_method(batch_nca, dataset):
    """Flags, the registry's own test and the report take it from these places."""
    name = "pretrain/digits.py:batch_nca,smoke"
    config = config_files.read("pretrain", name, ["--config.batch_nca.noise=0.5"])
    assert (config.method, config.views, config.batch_nca.noise) == ("batch_nca", 2, 0.5)
    config_reads.check(config, dataset)
    made = record("batch_nca", 0, (0.9,), method="batch_nca", config=config.to_dict())
    shown = dict(settings.config_rows(collect([made]))[1])
    assert shown["batch_nca.noise"] == "0.5" and shown["temperature"] == "0.1"
    assert not {"look.k", "memory", "ema"} & shown.keys()


def test_what_the_page_names_is_there(batch_nca):
    text = PAGE.read_text()
    for module in encoding, updating, memory_contrast:
        short = module.__name__.rsplit(".", 1)[1]
        for name in re.findall(rf"\b{short}\.(\w+)", text):
            assert hasattr(module, name), f"{short}.{name}"
