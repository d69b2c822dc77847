"""Steps on all devices, and several in one call; the only module that uses meshes.

A step is ``step(state, data, batch) → (state, metrics)``. ``data`` (the resident set) and
``metrics`` are replicated on all devices, and so is ``state``, except for arrays that were placed
in parts (a sharded memory, sharded parameters). ``batch`` is split along its first axis. The step
itself averages gradients and metrics over the axis ``AXIS``.

``Devices.map`` makes a program of such a step. Of ``several_steps(step)`` it makes one that runs as
many steps as each call says, so that an accelerator does not wait for the host.
"""

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxpt.errors import InputError, require
from jaxpt.ops.memory import Memory
from jaxpt.train.parts import Part, over_parts

AXIS = "batch"
MAPPINGS = ("shard_map", "pmap")
_AUTOMATIC = 16  # steps per call on accelerators: relieves the host, yet a stop comes soon enough
_MOST = 1000  # steps per call: their rows are transferred at once
_LONGEST = 1000  # bytes of an error that processes exchange


class Devices:
    """All devices of all processes, as a one-dimensional mesh.

    Attributes:
      count: number of devices.
      mapping: "shard_map" or "pmap".
      platform: "cpu", "gpu" or "tpu".
      about: number and kind of the devices, in words.
    """

    def __init__(self, mapping: str = "shard_map", limit: int = 0, among: Any = None):
        """Selects the devices.

        Args:
          mapping: "shard_map" or "pmap".
          limit: use only the first ``limit`` devices; 0 for all.
          among: sequence of devices, such as those of a topology to compile for; None for this
            machine's.

        Raises:
          InputError: for an unknown mapping, pmap with several processes, or too high a limit.
        """
        require(mapping in MAPPINGS, f"mapping must be one of {MAPPINGS}, got {mapping!r}.")
        require(
            mapping == "shard_map" or jax.process_count() == 1,
            f"mapping pmap works in one process only, but there are {jax.process_count()}: "
            "use shard_map.",
        )
        devices = jax.devices() if among is None else list(among)
        require(
            0 <= limit <= len(devices),
            f"devices must be between 0 (all) and {len(devices)}, got {limit}.",
        )
        self._devices = devices[:limit] if limit else devices
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        self.count = len(self._devices)
        self.mapping = mapping
        self.platform = devices[0].platform
        processes = jax.process_count()
        self.about = (
            f"{self.count} device{'s' * (self.count > 1)} ({devices[0].device_kind})"
            + f" of {processes} processes" * (processes > 1)
        )

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError if a batch does not divide evenly over the devices."""
        check_batch(batch_size, self.count)

    def replicate(self, tree: Any) -> Any:
        """Copies host arrays to every device."""
        return self.place(tree, jax.tree.map(lambda _: None, tree))

    def split(self, tree: Any) -> Any:
        """Splits host arrays over the devices along the first axis."""
        return self.place(tree, jax.tree.map(lambda _: 0, tree))

    def own_rows(self, n: int) -> np.ndarray:
        """Positions of the rows, of n split by ``split``, on this process's devices; increasing."""
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        own = sharding.addressable_devices_indices_map((n,)).values()
        return np.unique(np.concatenate([np.arange(n)[index] for index in own]))

    def split_own(self, tree: Any, n: int) -> Any:
        """``split`` for host arrays that hold only this process's ``own_rows`` of n rows."""
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x, (n, *x.shape[1:])), tree
        )

    def place(self, tree: Any, axes: Any) -> Any:
        """Puts host arrays on the devices, split or replicated.

        Args:
          tree: of arrays.
          axes: for each array, the axis that is split over the devices, whose number must divide
            its length; None replicates the array.
        """
        return jax.tree.map(
            lambda x, axis: _put(x, NamedSharding(self._mesh, _spec(axis))), tree, axes
        )

    def placed(self, tree: Any, axes: Any) -> Any:
        """Shapes with the placement that ``place`` would give to the arrays.

        Args:
          tree: of arrays or shapes.
          axes: as for ``place``, or one axis for all.
        """
        if axes is None or isinstance(axes, int):
            axes = jax.tree.map(lambda _: axes, tree)
        return jax.tree.map(
            lambda x, axis: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(self._mesh, _spec(axis))
            ),
            tree,
            axes,
        )

    def map(self, step: Callable, like: Any = None) -> Callable:
        """Compiles the step for all devices; the state that is passed in is donated.

        Args:
          step: see above.
          like: a state placed by ``place``, or its shapes from ``placed``, if some of its arrays
            are split. The step then gets and returns the part of its own device: a ``Memory``
            unchanged in type, any other array as a ``Part``.

        Returns:
          A function (state, data, batch) → (state, metrics). Its ``lower``, of arrays or shapes,
          is that of ``jax.jit``.
        """
        if self.mapping == "pmap":
            return self._pmap(step)
        state = PartitionSpec() if like is None else jax.tree.map(lambda x: x.sharding.spec, like)
        mapped = jax.shard_map(
            step if like is None else _with_parts(step, state),
            mesh=self._mesh,
            in_specs=(state, PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(state, PartitionSpec()),
            # The step reduces explicitly. With check_vma, JAX would insert its own sums into the
            # gradients, which pmap does not.
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=0)

    def map_rows(self, function: Callable) -> Callable:
        """Compiles ``function(tree, rows)`` for all devices, each processing its share of the rows.

        ``tree`` is replicated, ``rows`` are split along the first axis, and the results are
        gathered in order on every device. The program of one device does not depend on the number
        of devices.
        """

        def gathered(tree, rows):
            return jax.lax.all_gather(function(tree, rows), AXIS, tiled=True)

        return jax.jit(
            jax.shard_map(
                gathered,
                mesh=self._mesh,
                in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
        )

    def _pmap(self, step):
        mapped = jax.pmap(
            step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None, devices=self._devices
        )

        def shape(x):
            return self.count, x.shape[0] // self.count, *x.shape[1:]

        def run(state, data, batch):
            rows = jax.tree.map(lambda x: np.asarray(x).reshape(shape(x)), batch)
            return mapped(state, data, rows)

        def lower(*arguments):
            state, data, batch = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments
            )
            rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(shape(x), x.dtype), batch)
            return mapped.lower(state, data, rows)

        run.lower = lower
        return run


class Program(NamedTuple):
    """A mapped function with the shapes of its arguments, with which it can be compiled ahead."""

    run: Callable
    shapes: tuple

    def lower(self):
        return self.run.lower(*self.shapes)

    def compile(self):
        return self.lower().compile()


class Compilers:
    """Threads that compile programs while the run goes on.

    ``jax.jit`` finds what they compiled. Several processes compile one program after another, in
    the same order, since XLA may exchange data between them while it compiles.
    """

    THREADS = 4

    def __init__(self):
        self._pool = ThreadPoolExecutor(self.THREADS if jax.process_count() == 1 else 1)

    def submit(self, function: Callable, *arguments) -> Future:
        """Calls ``function`` in one of the threads."""
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        """Drops what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def most_steps(asked: int, *, resident: bool, platform: str = "cpu") -> int:
    """Maximum number of steps per call.

    Returns ``asked`` unless it is 0, which means one on CPUs, else 16. On CPUs a convolution inside
    a loop is slower than outside, and a call costs next to nothing. A streamed set needs one step
    per call: its next batch is transferred meanwhile.

    Args:
      asked: ``config.steps_per_call``.
      resident: whether the set is resident on the devices, see ``data/feed.py``.
      platform: of the devices.

    Raises:
      InputError: for a negative or very large number, or several steps per call of a streamed set.
    """
    require(0 <= asked <= _MOST, f"steps_per_call must be 0 (automatic) to {_MOST}, got {asked}.")
    require(
        resident or asked <= 1,
        f"steps_per_call is {asked}, but the set is streamed: set "
        "steps_per_call to 1, or data.resident to yes.",
    )
    return asked or (_AUTOMATIC if resident and platform != "cpu" else 1)


def call_spans(done: int, total: int, most: int, borders: Iterable[int]) -> Iterator[range]:
    """Yields the range of steps of each call: ``most``, or fewer if a border comes earlier.

    Args:
      done: number of steps done before.
      total: number of steps after the last call.
      most: see ``most_steps``.
      borders: intervals, in steps, at which the host has work to do; 0 for never.
    """
    while done < total:
        length = min([most, *(every - done % every for every in borders if every)])
        yield range(done, done + length)
        done += length


def stack_rows(rows: list, most: int):
    """Stacks rows of single steps, trees of arrays [batch], to a tree of arrays [batch, most]."""
    rows = rows + rows[-1:] * (most - len(rows))  # padding that is never read
    return jax.tree.map(lambda *of_step: np.stack(of_step, axis=1), *rows)


def several_steps(step: Callable) -> Callable:
    """Runs ``step`` in a loop with a dynamic trip count.

    One program then serves calls of all lengths, and the division into calls changes no bit.

    Args:
      step: (state, data, rows) → (state, metrics).

    Returns:
      (state, (data, count), rows stacked by ``stack_rows``) → (state, metrics of the last step).
    """

    def run(state, data_and_count, rows):
        data, count = data_and_count

        def one(i, carry):
            return step(carry[0], data, jax.tree.map(lambda x: x[:, i], rows))

        metrics = jax.eval_shape(lambda: one(0, (state,)))[1]
        metrics = jax.tree.map(lambda x: jnp.full(x.shape, math.nan, x.dtype), metrics)
        return jax.lax.fori_loop(0, count, one, (state, metrics))

    return run


def check_batch(batch_size: int, devices: int) -> None:
    """Raises InputError if a batch does not divide evenly over this number of devices."""
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}.")
    require(
        batch_size % devices == 0,
        f"batch_size {batch_size} does not divide over {devices} "
        f"devices: make it a multiple of {devices}.",
    )


def trace(step: Callable, state: Any, batch: Any, *, axes: Any, devices: int):
    """Traces the work of one device in a step to a jaxpr; the devices need not exist.

    Args:
      step: (state, batch) → (state, metrics).
      state, batch: global arrays or their shapes. Scalars of the batch are replicated.
      axes: of the state, see ``Devices.place``.
      devices: number of devices.
    """
    states = jax.tree.map(lambda _, axis: _spec(axis), state, axes)
    mapped = jax.shard_map(
        _with_parts(step, states),
        mesh=AbstractMesh((devices,), (AXIS,)),
        check_vma=False,
        in_specs=(states, jax.tree.map(lambda x: _spec(0 if x.ndim else None), batch)),
        out_specs=(states, PartitionSpec()),
    )
    (equation,) = jax.make_jaxpr(mapped)(state, batch).jaxpr.eqns
    return equation.params["jaxpr"]


def require_agreement(text: str, what: str) -> None:
    """Raises InputError in every process unless all of them pass the same text.

    Args:
      text: at most 64 bytes of ASCII.
      what: what differs and how to fix it; completes the sentence "processes … have different".
    """
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(text.encode().ljust(64), np.uint8)
    everyone = multihost_utils.process_allgather(mine)
    others = [i for i, theirs in enumerate(everyone) if not np.array_equal(theirs, everyone[0])]
    require(not others, f"processes 0 and {', '.join(map(str, others))} have different {what}.")


def shared(n: int, rows_of: Callable[[slice], np.ndarray], width: int) -> np.ndarray:
    """Computes n rows, an equal share of them in each process, and gathers them in all.

    Args:
      n: number of rows.
      rows_of: maps the positions of m rows to uint8 [m, width].
      width: of a row.

    Returns:
      uint8 [n, width].

    Raises:
      InputError: in every process, if ``rows_of`` raises it in one.
    """
    share = -(-n // jax.process_count())
    first = min(n, jax.process_index() * share)
    last = min(n, first + share)
    rows, error = np.zeros((share, width), np.uint8), ""
    try:
        if last > first:  # there may be more processes than rows
            rows[: last - first] = rows_of(slice(first, last))
    except InputError as found:
        error = str(found)
    if jax.process_count() == 1:
        require(not error, error)
        return rows
    errors = multihost_utils.process_allgather(
        np.frombuffer(error.encode()[:_LONGEST].ljust(_LONGEST), np.uint8)
    )
    for text in errors:
        error = bytes(text).decode(errors="replace").strip()
        require(not error, error)
    return multihost_utils.process_allgather(rows).reshape(-1, width)[:n]


def on_host(tree: Any) -> Any:
    """Gathers whole arrays to NumPy on every process; all processes must call it together."""
    return jax.tree.map(
        lambda x: np.asarray(
            x
            if x.is_fully_addressable or x.is_fully_replicated
            else multihost_utils.process_allgather(x, tiled=True)
        ),
        tree,
    )


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def _with_parts(step, specs):
    """Wraps a step: boxes split arrays as ``Part``s, except a ``Memory``, which handles its own."""

    def box(x, spec):
        cut = not isinstance(x, Memory) and AXIS in spec
        return Part(x, spec.index(AXIS), AXIS) if cut else x

    def run(state, *rest):
        state = jax.tree.map(box, state, specs, is_leaf=lambda x: isinstance(x, Memory))
        state, metrics = step(state, *rest)
        return over_parts(lambda x: x.value if isinstance(x, Part) else x, state), metrics

    return run


def _put(x, sharding):
    """Puts a host array, which every process has whole, on the process's own devices."""
    x = np.asarray(x) if not isinstance(x, jax.Array) else x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
