"""Products of float32 as NVIDIA GPUs compute them, on a CPU: ``python -m pytest -p tf32 tests``.

At JAX's default precision these GPUs round the operands of products and convolutions to TF32, with
10 bits of mantissa. A test that holds here tolerates that; a tolerance that only a CPU keeps fails.
"""

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax.extend.core import primitives


def _rounded(rule):
    """Wraps a lowering rule; rounds the operands if the precision is the default."""

    def lower(ctx, *operands, precision, **params):
        levels = precision if isinstance(precision, tuple) else (precision,)
        if set(levels) <= {None, jax.lax.Precision.DEFAULT}:
            operands = [
                mlir.hlo.reduce_precision(x, 8, 10) if aval.dtype == "float32" else x
                for x, aval in zip(operands, ctx.avals_in, strict=True)
            ]
        return rule(ctx, *operands, precision=precision, **params)

    return lower


def pytest_configure():
    ours = mlir._platform_specific_lowerings["cpu"]
    for primitive in primitives.dot_general_p, primitives.conv_general_dilated_p:
        rule = ours.get(primitive) or mlir._lowerings[primitive]
        mlir.register_lowering(primitive, _rounded(rule.rule), platform="cpu")
    inexact = np.full((2, 2), 1 + 2.0**-12, np.float32)
    assert jax.numpy.matmul(inexact, np.eye(2, dtype=np.float32)).max() == 1, "nothing is rounded"
