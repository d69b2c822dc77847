"""The table of docs/fidelity.md is true of the recipes, and has no row without a source."""

import importlib
import operator
import pathlib
import sys

import pytest
from jaxpt.configs.pretrain import cifar, recipes

from jaxpt.methods import METHODS

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "docs"))

import generate  # noqa: E402

ROWS = generate.fidelity()


def page_of(row):
    """The module of a row's recipe."""
    if row["method"] == "all":
        return recipes
    if row["variant"] == "cifar":
        return cifar
    return importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{row['method']}")


def resolved(row):
    """The value of a row's setting in its recipe, as the table writes it; None if it is words."""
    method, variant, page = row["method"], row["variant"], page_of(row)
    if page is recipes:
        return None
    config = cifar.get_config(method) if variant == "cifar" else page.get_config(variant)
    if " " in row["setting"] or not hasattr(config, row["setting"].partition(".")[0]):
        return None
    value = operator.attrgetter(row["setting"])(config)
    value = value.to_dict() if hasattr(value, "to_dict") else value
    return repr(float(f"{value:.6g}") if isinstance(value, float) else value)


@pytest.mark.parametrize("method", ["all", *METHODS])
def test_every_row_is_that_of_the_recipe(method):
    rows = [row for row in ROWS if row["method"] == method]
    assert rows, f"no row of {method}"
    for row in rows:
        value = resolved(row)
        assert value is None or value == row["ours"], row
        # Whatever differs says why, and what is the same needs no excuse.
        assert (row["ours"] != row["source"]) == bool(row["why"]), row
        assert row["reference"] and row["source"], row


def test_headers_name_every_difference():
    for row in ROWS:
        assert bool(row["header"]) == bool(row["why"]), row
        assert row["header"] in " ".join(page_of(row).__doc__.split()), row


def test_rows_are_of_methods_and_differ():
    assert {row["method"] for row in ROWS} == {"all", *METHODS}
    keys = [(row["method"], row["variant"], row["setting"]) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_the_names_are_those_of_the_paper():
    """t-ReX and t-ReX* have prototypes from the memory, plain t-ReX has learnt ones."""
    page = importlib.import_module("jaxpt.configs.pretrain.imagenet.t_rex")
    for variant, source, layers in ("", "memory", 3), ("star", "memory", 1), ("plain", "learnt", 3):
        config = page.get_config(variant)
        assert config.t_rex.prototypes_from == source
        assert len(config.model.projector.hidden) == layers
    without_recipe = importlib.import_module("jaxpt.configs.pretrain.defaults").get_config()
    assert without_recipe.t_rex.prototypes_from == "memory"
