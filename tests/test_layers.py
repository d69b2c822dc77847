"""Imports only point down: the layers of docs/architecture.md."""

import ast
import pathlib
import sys

import pytest

import jaxpt

ROOT = pathlib.Path(jaxpt.__file__).parent
# What each part of jaxpt may import of jaxpt, beside itself and ``errors``.
MAY_IMPORT = {
    "errors": set(),
    "cache": set(),
    "old_names": set(),
    "records": {"old_names"},
    "ops": set(),
    "losses": {"ops"},
    "models": {"ops"},
    "data": {"ops", "cache"},
    "train": {"ops", "data", "models", "records", "cache", "old_names"},
    "methods": {"losses", "ops", "models", "data", "train"},
    "evaluation": {"ops", "losses", "models", "data", "train"},
    "weights": {"models", "old_names"},
    "pretrain": {
        "methods",
        "ops",
        "train",
        "data",
        "evaluation",
        "models",
        "weights",
        "configs",
        "old_names",
    },
    "backbones": {"models", "weights", "train", "evaluation", "records"},
    "recipe": {"models", "data", "evaluation"},
    "finetune": {"backbones", "recipe", "losses", "models", "data", "train", "evaluation"},
    "transfer": {"backbones", "finetune", "recipe", "data", "train", "evaluation", "records"},
    "frozen": {"data", "evaluation", "train", "backbones"},
    "evaluate": {"records", "backbones", "frozen", "configs", "data", "evaluation", "train"},
    "report": {"records", "configs", "data", "evaluation", "methods"},
    "studies": {"records", "configs", "pretrain", "data", "train", "evaluation", "report", "cache"},
    "cost": {"pretrain", "methods", "train", "data", "ops"},
    "export": {"backbones", "weights", "models", "methods", "data", "train", "records", "report"},
    "cli": {
        "studies",
        "cost",
        "cache",
        "pretrain",
        "transfer",
        "evaluate",
        "export",
        "report",
        "records",
        "configs",
        "train",
        "models",
        "methods",
        "data",
        "old_names",
    },
}
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
    assert parts <= MAY_IMPORT[part] | {part, "errors", "__version__"}
    if part in PURE:
        packages = {name.split(".")[0] for name in modules}
        assert packages <= {"jaxpt", "jax", "numpy"} | sys.stdlib_module_names


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} == MAY_IMPORT.keys()
