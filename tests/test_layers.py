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
    "cache_home": set(),
    "config_check": set(),
    "config_files": {"configs"},
    "comparison": set(),
    "knn": {"comparison"},
    "selection": set(),
    "memory": {"losses"},
    "losses": {"knn", "comparison", "selection"},
    "models": {"losses"},
    "data": {"losses", "cache_home"},
    "train": {"memory", "data", "models", "records", "cache_home"},
    "methods": {"losses", "knn", "memory", "models", "data", "train"},
    "evaluation": {"losses", "knn", "models", "data", "train"},
    "records": set(),
    "training_loop": {"data", "train"},
    "pretrain": {
        "training_loop",
        "methods",
        "memory",
        "train",
        "data",
        "evaluation",
        "models",
        "configs",
        "config_check",
        "start",
    },
    "chips": set(),
    "operations": set(),
    "counting": {"operations"},
    "plan": {"chips", "counting", "pretrain", "methods", "train", "data"},
    "torch_pickle": set(),
    "weights": {"models", "torch_pickle"},
    "start": {"weights", "train"},
    "weight_file": set(),
    "backbones": {"models", "weights", "weight_file", "train", "evaluation", "records"},
    "replay": {"models", "data", "train", "pretrain", "configs"},
    "recipe": {"models", "data", "evaluation"},
    "finetune": {"backbones", "recipe", "losses", "models", "data", "train", "evaluation"},
    "transfer": {"backbones", "finetune", "recipe", "data", "train", "evaluation", "records"},
    "frozen": {"data", "evaluation", "train", "backbones"},
    "evaluate": {"records", "backbones", "frozen", "configs", "data", "evaluation", "train"},
    "study": {"records", "configs", "pretrain", "data", "train", "evaluation"},
    "report": {"records", "configs", "data", "evaluation"},
    "export": {
        "backbones",
        "weights",
        "weight_file",
        "models",
        "methods",
        "data",
        "train",
        "records",
        "report",
    },
    "demo": {"study", "report", "records", "data"},
    "scaling": {"study", "report", "records", "data", "train"},
    "data_show": {"pretrain", "methods", "data"},
    "launch": {"train"},
    "arguments": {"config_files"},
    "cli": {
        "arguments",
        "config_files",
        "launch",
        "train",
        "demo",
        "data_show",
        "plan",
        "pretrain",
        "replay",
        "scaling",
        "transfer",
        "evaluate",
        "export",
        "report",
        "records",
        "configs",
        "data",
    },
}
PURE = ("losses", "knn", "comparison", "selection", "memory")  # arrays in, arrays out
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
