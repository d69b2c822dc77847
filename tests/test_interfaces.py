"""What others import tells its types."""

import importlib
import inspect

import pytest

PUBLIC = (
    "jaxpt.losses",
    "jaxpt.ops.knn",
    "jaxpt.ops.memory",
    "jaxpt.ops.selection",
    "jaxpt.evaluation",
    "jaxpt.models",
    "jaxpt.weights",
    "jaxpt.backbones",
    "jaxpt.records",
    "jaxpt.pretrain",
    "jaxpt.finetune",
    "jaxpt.transfer",
    "jaxpt.evaluate",
    "jaxpt.methods",
    "jaxpt.report",
    "jaxpt.data.sources",
    "jaxpt.studies.study",
    "jaxpt.studies.scaling",
    "jaxpt.studies.demo",
    "jaxpt.cli.launch",
    "jaxpt.export",
    "jaxpt.cost.plan",
)


def public_functions(module):
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {
        name: getattr(module, name) for name in names if inspect.isfunction(getattr(module, name))
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_types_and_docstrings(name):
    functions = public_functions(importlib.import_module(name))
    assert functions
    for function in functions.values():
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty
        ]
        assert not untyped, f"{name}.{function.__name__}: {untyped}"
        assert signature.return_annotation is not signature.empty, f"{name}.{function.__name__}"
        assert inspect.getdoc(function), f"{name}.{function.__name__}"
