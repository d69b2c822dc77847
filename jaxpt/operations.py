"""FLOPs of single operations of a jaxpr, as XLA's cost analysis counts them (``counting.py``)."""

import math

import jax
import numpy as np

MOVES = {
    "broadcast_in_dim",
    "iota",
    "slice",
    "concatenate",
    "pad",
    "rev",
    "tile",
    "split",
    "bitcast_convert_type",
    "random_wrap",
    "random_unwrap",
    "random_seed",
    "random_split",
    "random_fold_in",
    "axis_index",
}
TRANSCENDENTAL = {
    "exp",
    "exp2",
    "expm1",
    "log",
    "log1p",
    "logistic",
    "tanh",
    "erf",
    "erf_inv",
    "erfc",
    "sqrt",
    "rsqrt",
    "cbrt",
    "pow",
    "sin",
    "cos",
    "tan",
    "atan2",
}
IN_PLACE = {"scatter", "scatter-add", "dynamic_update_slice"}
RANDOM_BITS = 58  # operations of Threefry for 32 random bits


def is_reduction(name: str) -> bool:
    return name.startswith(("reduce_", "arg", "cum")) and name != "reduce_precision"


def kind(equation) -> str:
    precision = equation.params["precision"]
    levels = precision if isinstance(precision, tuple) else (precision,)
    if any(level in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST) for level in levels):
        return "exact"
    small = all(v.aval.dtype.itemsize <= 2 for v in equation.invars)
    return "bfloat16" if small else "float32"


def product_flops(equation) -> float:
    left, right = (v.aval.shape for v in equation.invars)
    out, params = equation.outvars[0].aval.shape, equation.params
    if equation.primitive.name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    of_left, of_right, of_out = params["dimension_numbers"]
    places = math.prod(
        _places(
            left[of_left[2 + i]],
            right[of_right[2 + i]],
            out[of_out[2 + i]],
            params["window_strides"][i],
            params["padding"][i][0],
            params["lhs_dilation"][i],
            params["rhs_dilation"][i],
        )
        for i in range(len(out) - 2)
    )
    return (
        2.0
        * places
        * left[of_left[0]]
        / params["batch_group_count"]
        * out[of_out[1]]
        * right[of_right[1]]
    )


def _places(size, kernel, out, stride, padding, dilation, kernel_dilation) -> int:
    """Pairs of an output and a kernel position, along one axis, that meet an input."""
    meet = np.arange(out)[:, None] * stride + np.arange(kernel) * kernel_dilation - padding
    return int(np.sum((meet >= 0) & (meet <= (size - 1) * dilation) & (meet % dilation == 0)))


def other_flops(equation) -> float:
    name, out = equation.primitive.name, equation.outvars[0].aval
    if name in MOVES or name in TRANSCENDENTAL or name in ("gather", "dynamic_slice"):
        return 0.0
    size = float(math.prod(out.shape)) if hasattr(out, "shape") else 0.0
    if name == "random_bits":
        return RANDOM_BITS * size * equation.params["bit_width"] / 32
    if name.startswith("reduce_window") or name == "select_and_scatter_add":
        window = equation.params["window_dimensions"]
        places = equation.invars[0].aval.shape if name == "select_and_scatter_add" else out.shape
        return float(math.prod(window) * math.prod(places))
    if is_reduction(name):
        return float(math.prod(equation.invars[0].aval.shape))
    if name in ("sort", "top_k", "approx_top_k"):
        shape = equation.invars[0].aval.shape
        return math.prod(shape) * math.log2(max(2, shape[-1]))
    if name in IN_PLACE:
        return float(math.prod(equation.invars[-1].aval.shape)) if "add" in name else 0.0
    return size
