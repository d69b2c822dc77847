import doctest
import inspect
import json
import subprocess
import sys

import pytest

import jaxpt.losses

FUNCTIONS = [
    name for name in jaxpt.losses.__all__ if inspect.isfunction(getattr(jaxpt.losses, name))
]


def modules_after(statement):
    """Names of all modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_the_losses_need_nothing_but_jax_and_numpy():
    base = modules_after("import jax, jax.numpy")
    extra = modules_after("import jaxpt.losses") - base
    assert "jaxpt.losses.neighbors" in extra
    heavy = {"tensorflow", "flax", "orbax", "sklearn", "matplotlib", "optax", "scipy", "PIL"}
    assert not {name.partition(".")[0] for name in extra} & heavy
    ours = {name for name in extra if name.partition(".")[0] == "jaxpt"}
    other = {n for n in ours if not n.startswith("jaxpt.losses")}
    assert other == {
        "jaxpt",
        "jaxpt.ops",
        "jaxpt.ops.knn",
        "jaxpt.ops.selection",
        "jaxpt.ops.similarity",
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_loss_has_an_example(name):
    function = getattr(jaxpt.losses, name)
    assert any(test.examples for test in doctest.DocTestFinder(recurse=False).find(function))
