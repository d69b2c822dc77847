"""Counts of a traced function on one device: operations, and bytes moved, held and sent.

The counts are taken from the jaxpr, before compilation. Three rules model the compiler:

- Unused results are not computed.
- Elementwise operations, and those that only move or convert elements, are fused into the
  operations that read their results.
- Operands and results of products, and results of reductions, gathers and similar operations, are
  in memory from then until they are last read.

FLOPs are counted as in XLA's cost analysis: two per multiply-add of a product, without those on the
zero padding of a convolution; one per element of other arithmetic; none for exp, log and other
transcendental functions. Loops count as often as they run, a ``while`` loop of unknown length once,
and a condition as its most expensive branch. What depends on the platform counts as on a TPU.
"""

import math
from typing import Any, NamedTuple

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
    """Number of (output, kernel) positions along one axis that read an input, not padding."""
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


# Only the shape or placement changes: the result is counted as the operand itself.
SAME = {
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "stop_gradient",
    "copy",
    "copy_p",
    "optimization_barrier",
    "reduce_precision",
    "pvary",
    "sharding_constraint",
}
PRODUCTS = {"dot_general", "conv_general_dilated"}
UPDATES = {"scatter": 2, "scatter-add": 2, "dynamic": 1}  # index of the operand with the rows
STORED = {"gather", "dynamic_slice", "sort", "top_k", "approx_top_k", "select_and_scatter_add"}
COLLECTIVES = {
    "psum",
    "pmax",
    "pmin",
    "all_gather",
    "psum_scatter",
    "reduce_scatter",
    "all_to_all",
    "ppermute",
    "psum_invariant",
    "all_gather_invariant",
}
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
LOOPS = {"scan", "while", "cond"}


class Work(NamedTuple):
    """Work of one operation, or of all operations that are fused into others.

    Attributes:
      kind: "bfloat16", "float32" (at JAX's default precision) or "exact" (float32 at a higher
        precision) for products, else "other".
      flops: per execution.
      bytes: read and written per execution.
      times: number of executions.
    """

    kind: str
    flops: float
    bytes: float
    times: float = 1.0


class Counts(NamedTuple):
    """Work and memory of one device.

    Attributes:
      work: all operations.
      sent: bytes sent to other devices.
      held: peak bytes of intermediate results, without arguments and final results.
    """

    work: tuple[Work, ...]
    sent: float
    held: float

    def flops(self, *kinds: str) -> float:
        """Total FLOPs of the given kinds; of all kinds if none is given."""
        return sum(w.times * w.flops for w in self.work if not kinds or w.kind in kinds)

    def bytes(self) -> float:
        """Total bytes read and written."""
        return sum(w.times * w.bytes for w in self.work)


def count(jaxpr, devices: int = 1) -> Counts:
    """Counts a jaxpr's work on one device.

    Args:
      jaxpr: a Jaxpr or ClosedJaxpr with the shapes of one device.
      devices: size of every axis that its collectives name.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    graph = _Graph()
    arguments = [graph.new(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars)]
    results = graph.inline(jaxpr, arguments)
    return _Account(graph, devices).of(results)


class _Node(NamedTuple):
    equation: Any
    operands: tuple[int, ...]
    results: tuple[int, ...]


class _Graph:
    """Equations with all calls inlined, and a number for each value."""

    def __init__(self):
        self.nodes, self.bytes = [], []

    def new(self, aval) -> int:
        self.bytes.append(_size(aval))
        return len(self.bytes) - 1

    def inline(self, jaxpr, arguments) -> list[int]:
        """Adds a jaxpr's equations and returns the numbers of its results."""
        numbers = dict(zip((*jaxpr.constvars, *jaxpr.invars), arguments, strict=True))

        def number(atom):
            return self.new(None) if hasattr(atom, "val") else numbers[atom]  # literals have val

        for equation in jaxpr.eqns:
            results = self._add(equation, tuple(map(number, equation.invars)))
            numbers.update(zip(equation.outvars, results, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    def _add(self, equation, operands):
        name, avals = equation.primitive.name, [v.aval for v in equation.outvars]
        if name in SAME:
            return operands[: len(avals)]
        inner = next((equation.params[k] for k in INNER if k in equation.params), None)
        platforms = equation.params.get("branches_platforms")
        if platforms:
            branches = zip(platforms, equation.params["branches"], strict=True)
            of_platform = {name: branch for names, branch in branches for name in names or [""]}
            inner = of_platform.get("tpu") or of_platform[""]
            operands = operands[1:]  # the first is the platform's number
        if inner is not None and (platforms or name not in LOOPS):
            constants = [self.new(jax.typeof(c)) for c in getattr(inner, "consts", ())]
            return self.inline(getattr(inner, "jaxpr", inner), [*constants, *operands])
        results = tuple(map(self.new, avals))
        self.nodes.append(_Node(equation, operands, results))
        return results


class _Account:
    """Walks a graph's nodes in order and records what each reads, writes and keeps alive."""

    def __init__(self, graph: _Graph, devices: int):
        self._nodes, self._bytes, self._devices = graph.nodes, graph.bytes, devices
        made = {value for node in graph.nodes for value in node.results}
        # Value → the values in memory that it is computed from; itself, if it is in memory.
        self._needs = {
            value: frozenset([value]) for value in range(len(graph.bytes)) if value not in made
        }
        self._given = set(self._needs)
        self._work, self._fused, self._sent = [], [0.0], 0.0
        self._born, self._last, self._inside = {}, {}, {}
        self._reduced: set[tuple[int, int]] = set()
        self._stage: dict[int, int] = {}  # of values in memory, see ``_stage_of``

    def of(self, results) -> Counts:
        needed = set(results)
        for node in reversed(self._nodes):
            if needed.intersection(node.results):
                needed.update(node.operands)
        for time, node in enumerate(self._nodes):
            if needed.intersection(node.results):
                self._visit(time, node)
        end = len(self._nodes)
        written = 0.0
        for value in set(results):
            if value not in self._born and value not in self._given:
                written += self._bytes[value] + self._read(self._needs[value], end)
        self._work.append(Work("other", self._fused[0], written))
        return Counts(tuple(self._work), self._sent, self._peak(set(results)))

    def _visit(self, time, node):
        equation, operands, results = node
        name = equation.primitive.name
        if name in LOOPS:
            self._loop(time, node)
        elif name in PRODUCTS:
            moved = sum(self._store(v, time) + self._bytes[v] for v in operands)
            self._result(results, time, self._stage_of(operands))
            self._work.append(
                Work(kind(equation), product_flops(equation), moved + self._bytes[results[0]])
            )
        elif name in COLLECTIVES:
            moved = sum(self._store(v, time) + self._bytes[v] for v in operands)
            self._result(results, time, self._stage_of(operands))
            self._sent += sum(map(self._bytes_sent(equation), operands, results))
            self._work.append(Work("other", 0.0, moved + sum(self._bytes[v] for v in results)))
        elif name in STORED or name in IN_PLACE:
            moved = sum(self._store(v, time) for v in operands)
            if name in IN_PLACE:  # only a few rows of the operand change
                self._needs[results[0]] = self._needs[operands[0]]
                self._given.add(results[0])  # its rows are all that is written
                rows = self._bytes[operands[UPDATES[name.partition("_")[0]]]]
            else:
                self._result(results, time, self._stage_of(operands))
                rows = sum(self._bytes[v] for v in results)
            self._work.append(Work("other", other_flops(equation), moved + 2 * rows))
        elif is_reduction(name):
            needs = frozenset().union(*(self._needs[v] for v in operands))
            stage = 1 + self._stage_of(operands)
            self._read(needs, time)
            reads = {(value, stage) for value in needs} - self._reduced
            moved = sum(self._bytes[value] for value, _ in reads)
            self._reduced |= reads  # shared by reductions of which none needs another's result
            self._result(results, time, stage)
            self._work.append(
                Work("other", other_flops(equation), moved + sum(self._bytes[v] for v in results))
            )
        else:
            self._fused[0] += other_flops(equation)
            needs = frozenset().union(*(self._needs[v] for v in operands))
            for value in results:
                self._needs[value] = needs

    def _loop(self, time, node):
        equation, operands, results = node
        moved = sum(self._store(v, time) for v in operands)
        self._result(results, time, self._stage_of(operands))
        inner, times = _body(equation, self._devices)
        self._work.append(Work("other", 0.0, moved))
        self._work += [work._replace(times=work.times * times) for work in inner.work]
        self._sent += times * inner.sent
        self._inside[time] = inner.held

    def _read(self, needs, time) -> float:
        """Marks values as read at ``time`` and returns their bytes."""
        for value in needs:
            self._last[value] = time
        return sum(self._bytes[value] for value in needs)

    def _store(self, value, time) -> float:
        """Puts a value into memory at ``time`` and returns the bytes that this moves."""
        if self._needs[value] == {value}:
            self._last[value] = time
            return 0.0
        moved = self._read(self._needs[value], time)
        if not self._needs[value]:
            return 0.0  # a constant
        self._result([value], time, self._stage_of([value]))
        return moved + self._bytes[value]

    def _stage_of(self, values) -> int:
        """Number of reductions that follow one another, at most, up to these values."""
        needs = (need for value in values for need in self._needs[value])
        return max((self._stage.get(need, 0) for need in needs), default=0)

    def _result(self, values, time, stage):
        for value in values:
            self._stage[value] = stage
            self._needs[value] = frozenset([value])
            self._born[value] = self._last[value] = time

    def _bytes_sent(self, equation):
        """Function from (operand, result) to the bytes that a device sends, in ring algorithms."""
        name, share = equation.primitive.name, (self._devices - 1) / self._devices
        if name.startswith(("psum_scatter", "reduce_scatter", "all_to_all")):
            return lambda operand, result: share * self._bytes[operand]
        if name.startswith("all_gather"):
            return lambda operand, result: share * self._bytes[result]
        if name == "ppermute":
            return lambda operand, result: self._bytes[operand]
        return lambda operand, result: 2 * share * self._bytes[operand]

    def _peak(self, results) -> float:
        change = np.zeros(len(self._nodes) + 2)
        for value, born in self._born.items():
            if value not in results:
                change[born] += self._bytes[value]
                change[self._last[value] + 1] -= self._bytes[value]
        held = np.cumsum(change)
        for time, size in self._inside.items():
            held[time] += size
        return float(held.max())


def _body(equation, devices) -> tuple[Counts, float]:
    """Counts of a loop's body or of a branch, and the number of executions."""
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        branches = (count(branch, devices) for branch in params["branches"])
        return max(branches, key=lambda counts: counts.flops()), 1.0
    if name == "scan":
        return count(params["jaxpr"], devices), float(params["length"])
    parts = [count(params[part], devices) for part in ("cond_jaxpr", "body_jaxpr")]
    return Counts(
        parts[0].work + parts[1].work, sum(p.sent for p in parts), max(p.held for p in parts)
    ), 1.0


def _size(aval) -> float:
    """Bytes of a value: 8 per random key, 0 for a value without a shape."""
    if not hasattr(aval, "shape"):
        return 0.0
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        return 8.0 * math.prod(aval.shape)
    return float(math.prod(aval.shape) * aval.dtype.itemsize)
