"""Runs of several processes: how they find each other, and what happens if one dies.

``joined`` starts ``jax.distributed`` if the command line, the environment, SLURM, Open MPI or a TPU
pod slice says that there are several processes. From then on, each process sends a heartbeat every
second to the coordination service of process 0. If a process falls silent or ends because of an
error, the others end with a message that names it; otherwise they would wait for it forever in
their next collective.
"""

import contextlib
import ctypes
import glob
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
import urllib.request
from typing import NamedTuple

from jaxpt.errors import InputError, RunError, require

# JAX itself also reads the first of these.
COORDINATOR, PROCESSES, PROCESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# In seconds. JAX's own heartbeat, with less clear messages, catches a process with stuck Python. It
# comes every HEARTBEAT / 2 seconds, so JAX misses a dead process after HEARTBEAT / 2 to HEARTBEAT.
BEAT, DEAD_AFTER, HEARTBEAT, SHUTDOWN = 1.0, 25, 58, 60
ENDED, ALIVE = "jaxpt/ended", "jaxpt/alive/"  # keys in the coordination service
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"

_watch: "_Watch | None" = None  # of this process, while it is one of several


class Place(NamedTuple):
    """Place of this process among the processes of a run.

    Attributes:
      processes: number of processes.
      process: number of this one; None if JAX detects it.
      coordinator: "HOST:PORT" of process 0; None if JAX detects it.
      source: what this is taken from, such as "SLURM", for messages.
    """

    processes: int = 1
    process: int | None = None
    coordinator: str | None = None
    source: str = ""


def find_place(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Place:
    """Finds the place of this process from the arguments, else the environment, else the cluster.

    Args:
      coordinator, processes, process: as in ``Place``; all three or none.

    Raises:
      InputError: if one or two of the three are missing, or a value is invalid.
    """
    given = coordinator, processes, process
    names, source = ("--coordinator", "--processes", "--process"), "the command line"
    if given == (None, None, None):
        given = tuple(os.environ.get(name) or None for name in (COORDINATOR, PROCESSES, PROCESS))
        names, source = (COORDINATOR, PROCESSES, PROCESS), "the environment"
    if given == (None, None, None):
        return _of_cluster()
    missing = [name for name, value in zip(names, given) if value is None]
    require(
        not missing,
        f"{', '.join(names)} belong together: {' and '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing.",
    )
    address, processes, process = given[0], *(_whole(*pair) for pair in zip(names[1:], given[1:]))
    host, _, port = address.rpartition(":")
    require(bool(host) and port.isdigit(), f"{names[0]} must be HOST:PORT, got {address!r}.")
    require(processes >= 1, f"{names[1]} must be at least 1, got {processes}.")
    require(0 <= process < processes, f"{names[2]} must lie in 0 … {processes - 1}, got {process}.")
    return Place(processes, process, address, source)


def require_alone(command: str) -> None:
    """Raises InputError if a command that runs as one process was started as several."""
    place = find_place()
    require(
        place.processes == 1,
        f"jaxpt {command} runs as one process, but {place.source} starts {place.processes}: "
        "start it once (srun --ntasks=1; instead of a TPU pod slice, use a machine with one host).",
    )


@contextlib.contextmanager
def joined(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
):
    """Context manager that joins this process to the others found by ``find_place``, if any.

    Enter it before anything asks JAX for devices. If one of several processes leaves it by an
    exception, end that process with ``leave``.

    Args:
      coordinator, processes, process: see ``find_place``.

    Raises:
      InputError: as ``find_place``, and if the other processes cannot be reached.
      RunError: if another process was lost.
    """
    global _watch
    import jax

    from jaxpt.train.stopping import Stopped

    place = find_place(coordinator, processes, process)
    if place.processes == 1 or jax.distributed.is_initialized():
        yield
        return
    _connect(place)
    _watch = _Watch()
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo also raises ValueError
        if isinstance(error, InputError):
            _watch.announce(str(error))
            raise
        # A collective fails on all processes but the culprit: wait until that one is known.
        lost = _watch.wait() if _of_collective(error) else ""
        if lost:
            raise RunError(lost) from error
        _watch.announce(str(error).splitlines()[0])
        traceback.print_exc()
        leave(1)
    except RunError as error:
        # For example a save that failed because it was the first to notice another process's death.
        lost = _watch.wait() if error.__cause__ and _of_collective(error.__cause__) else ""
        if lost:
            raise RunError(lost) from error
        _watch.announce(str(error))
        raise
    except Stopped:
        raise
    except Exception as error:
        _watch.announce(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        leave(1)


def leave(status: int) -> None:
    """Ends a process that is one of several; does nothing in a run of one process.

    With status 0 or 75 it waits for the others first; after a failure it does not, as they would
    never arrive.
    """
    global _watch
    if _watch is None:
        return
    import jax

    from jaxpt.train.stopping import STATUS

    if status in (0, STATUS):
        _watch.stop()
        _watch = None
        jax.distributed.shutdown()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(3 * BEAT)  # the service dies with this process: let the others read the reason
    os._exit(status)


def _connect(place: Place) -> None:
    import jax

    found = {} if place.coordinator is None else {"cluster_detection_method": "deactivate"}
    if place.source == "SLURM" and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        if own := _own_gpus():
            found["local_device_ids"] = own
    try:
        jax.distributed.initialize(
            place.coordinator,
            None if place.source == "a TPU pod slice" else place.processes,
            place.process,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
            **found,
        )
    except RuntimeError as error:
        raise InputError(
            f"the {place.processes} processes that {place.source} names did not find each other "
            f"({str(error).splitlines()[0]}): check that all were started and can reach "
            f"{place.coordinator or 'the first one'}."
        ) from error


class _Watch:
    """Sends heartbeats to the other processes, and ends this one if another is lost."""

    def __init__(self):
        import jax
        from jax._src.distributed import global_state  # no public API

        self._me, self._all = jax.process_index(), jax.process_count()
        self._client = global_state.client
        self._done, self._waiting = threading.Event(), threading.Event()
        self._lost = ""
        self._known = threading.Event()
        self._seen = {i: ("", time.monotonic()) for i in range(self._all)}
        self._catch_abort()
        threading.Thread(target=self._run, daemon=True).start()

    def announce(self, why: str) -> None:
        """Announces to the others that this process ends, and the reason."""
        with contextlib.suppress(Exception):  # if several fail together, the first one counts
            self._client.key_value_set(ENDED, f"{self._me} {why}")

    def wait(self) -> str:
        """Waits until the lost process is known; returns a sentence, empty if none was lost."""
        self._waiting.set()
        self._known.wait(DEAD_AFTER + 10)
        return self._lost

    def stop(self) -> None:
        self._done.set()

    def _run(self) -> None:
        count = 0
        while not self._done.wait(BEAT):
            count += 1
            try:
                self._client.key_value_set(f"{ALIVE}{self._me}", str(count), allow_overwrite=True)
                self._look()
            except Exception:  # process 0 may be gone, or JAX may be ending this one
                self._check(0, None)
            if self._lost:
                self._end()

    def _look(self) -> None:
        ended = dict(self._client.key_value_dir_get("jaxpt/"))
        who, _, why = ended.get(ENDED, "").partition(" ")
        if who and int(who) != self._me and not self._lost:  # it may be this one's own announcement
            self._lost = self._sentence(int(who), f"ended: {why.rstrip('.')}")
        # All watch process 0, which watches all and announces whom it misses.
        for i in range(self._all) if self._me == 0 else (0,):
            if i != self._me:
                self._check(i, ended.get(f"{ALIVE}{i}", ""))

    def _check(self, i: int, beat: str | None) -> None:
        before, when = self._seen[i]
        if beat not in (None, before):
            self._seen[i] = beat, time.monotonic()
        elif time.monotonic() - when > DEAD_AFTER and not self._lost:
            why = f"has not responded for {DEAD_AFTER} seconds"
            self._lost = self._sentence(i, why)
            with contextlib.suppress(Exception):
                self._client.key_value_set(ENDED, f"{i} it {why}")

    def _sentence(self, i: int, what: str) -> str:
        return (
            f"process {i} of {self._all} {what}. This one, {self._me}, stops too; start the "
            "same command again, with fewer processes if necessary: it resumes from the latest "
            "checkpoint"
        )

    def _end(self) -> None:
        """Leaves the end to the main thread if it waits for it; it may be stuck in a collective."""
        self._known.set()
        if self._waiting.wait(1.0):
            return
        print(f"jaxpt: {self._lost}.", file=sys.stderr, flush=True)
        leave(1)

    def _catch_abort(self) -> None:
        """Handles SIGABRT, by which JAX ends every process when it misses one of them."""

        def aborted(number):
            lost = self._lost or self._sentence(self._most_silent(), "cannot be reached")
            os.write(2, f"jaxpt: {lost}.\n".encode())
            os._exit(1)

        # Kept, as C holds only a pointer to it.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _most_silent(self) -> int:
        """The process with the oldest heartbeat; only process 0 knows that of all."""
        others = [i for i in range(self._all) if i != self._me]
        return min(others, key=lambda i: self._seen[i][1]) if self._me == 0 else 0


def _of_collective(error: Exception) -> bool:
    """Whether an error comes from a collective, which fails when a process is gone."""
    text = str(error).lower()
    return any(
        word in text
        for word in (
            "gloo",
            "nccl",
            "collective",
            "coordination",
            "barrier",
            "connection",
            "unavailable",
            "deadline",
        )
    )


def _whole(name: str, value) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InputError(f"{name} must be a whole number, got {value!r}.") from error


def _of_cluster() -> Place:
    """Place according to SLURM, Open MPI or TPU pod slice metadata; JAX detects the rest itself."""
    environment = os.environ
    if all(
        name in environment
        for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    ):
        # Tasks of the step: an interactive shell in an allocation of many tasks is a single task.
        tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
        return Place(_whole("SLURM_STEP_NUM_TASKS", tasks), source="SLURM")
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return Place(
            _whole("OMPI_COMM_WORLD_SIZE", environment.get("OMPI_COMM_WORLD_SIZE", "1")),
            source="Open MPI",
        )
    return Place(_pod_hosts(), source="a TPU pod slice")


def _own_gpus() -> list[int]:
    """Positions of a SLURM task's GPUs among those that it sees.

    Empty leaves the choice to JAX: the one with the task's number on its node. That is wrong for a
    task that is alone on its node, and for one that SLURM shows no GPUs but its own.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        seen = len(glob.glob("/dev/nvidia[0-9]*"))
    else:
        seen = len(list(filter(None, listed.split(","))))
    tasks, nodes = (os.environ.get(f"SLURM_STEP_NUM_{name}") for name in ("TASKS", "NODES"))
    alone = tasks is not None and tasks == nodes
    per_task = os.environ.get("SLURM_GPUS_PER_TASK", "1").rpartition(":")[2]  # N or TYPE:N
    bound = listed is not None and str(seen) == per_task
    return list(range(seen)) if alone or bound else []


def _pod_hosts() -> int:
    """Number of hosts of the TPU slices that this machine belongs to; 1 without a TPU."""
    has_tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
    wanted = "tpu" in os.environ.get("JAX_PLATFORMS", "tpu")
    if not (has_tpu and wanted and importlib.util.find_spec("libtpu")):
        return 1
    hosts = (
        os.environ.get("TPU_PROCESS_ADDRESSES")
        or os.environ.get("TPU_WORKER_HOSTNAMES")
        or _metadata("worker-network-endpoints")
        or "this one"
    )
    return len(hosts.split(",")) * int(os.environ.get("MEGASCALE_NUM_SLICES") or 1)


def _metadata(name: str) -> str:
    """Metadata attribute of a Google Cloud virtual machine; empty elsewhere."""
    request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode()
    return ""
