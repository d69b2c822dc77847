"""Imports only point down: the layers of docs/architecture.md."""

import ast
import itertools
import pathlib
import sys

import pytest

import jaxpt

ROOT = pathlib.Path(jaxpt.__file__).parent
# A part of jaxpt may import itself and those of the lines above its own.
LAYERS = (
    ("errors",),
    ("files", "old_names"),
    ("cache",),
    ("records", "ops"),
    ("losses", "models"),
    ("data",),
    ("train", "weights"),
    ("methods", "evaluation"),
    ("configs",),
    ("pretrain", "backbones", "report"),
    ("finetune",),
    ("transfer", "evaluate"),
    ("studies", "export", "cost", "lookalikes"),
    ("cli",),
)
# Transfer reads checkpoints as arrays: it works without the method that made them.
WITHOUT_METHODS = ("backbones", "finetune", "transfer", "evaluate")
PURE = ("losses", "ops")  # arrays in, arrays out
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    part = part_of(path)
    modules = set(imported_modules(path))
    parts = {name.split(".")[1] for name in modules if name.startswith("jaxpt.")}
    above = itertools.takewhile(lambda layer: part not in layer, LAYERS)
    allowed = {part, "__version__"}.union(*above)
    if part in WITHOUT_METHODS:
        allowed -= {"methods"}
    assert parts <= allowed
    if part in PURE:
        packages = {name.split(".")[0] for name in modules}
        assert packages <= {"jaxpt", "jax", "numpy"} | sys.stdlib_module_names


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} | {"configs"} == set(itertools.chain(*LAYERS))
