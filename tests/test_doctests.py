"""The examples in docstrings do what they say."""

import doctest
import importlib
import pathlib

import pytest

import jaxpt

ROOT = pathlib.Path(jaxpt.__file__).parent
WITH_EXAMPLES = [path for path in sorted(ROOT.rglob("*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_hold(path):
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_there_are_examples():
    assert len(WITH_EXAMPLES) > 12
