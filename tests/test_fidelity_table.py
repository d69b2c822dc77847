"""The table of docs/fidelity.md is true of the recipes, and has no row without a source."""

import importlib
import operator
import pathlib
import sys

import pytest
from jaxpt.configs.pretrain import cifar

from jaxpt.methods import METHODS

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "docs"))

import generate  # noqa: E402

ROWS = generate.fidelity()


def resolved(row):
    """The value of a row's setting in its recipe, as the table writes it; None if it is words."""
    method, variant = row["method"], row["variant"]
    page = importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}")
    config = cifar.get_config(method) if variant == "cifar" else page.get_config(variant)
    if " " in row["setting"] or not hasattr(config, row["setting"].partition(".")[0]):
        return None
    value = operator.attrgetter(row["setting"])(config)
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return repr(float(f"{value:.6g}") if isinstance(value, float) else value)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_that_of_the_recipe(method):
    rows = [row for row in ROWS if row["method"] == method]
    assert rows, f"no row of {method}"
    for row in rows:
        value = resolved(row)
        assert value is None or value == row["ours"], row
        # Whatever differs says why, and what is the same needs no excuse.
        assert (row["ours"] != row["source"]) == bool(row["why"]), row
        assert row["reference"] and row["source"], row


def test_rows_are_of_methods_and_differ():
    assert {row["method"] for row in ROWS} == METHODS.keys()
    keys = [(row["method"], row["variant"], row["setting"]) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_the_names_are_those_of_the_paper():
    """t-ReX and t-ReX* have prototypes from the memory, plain t-ReX has learnt ones."""
    page = importlib.import_module("jaxpt.configs.pretrain.imagenet.t_rex")
    for variant, source, layers in ("", "memory", 3), ("star", "memory", 1), ("plain", "learnt", 3):
        config = page.get_config(variant)
        assert config.t_rex.prototypes_from == source
        assert len(config.model.projector.hidden) == layers
