"""Kills runs at every kind of moment, resumes them, and compares how they end.

    python tests/faults/kills.py

Each chain is one run in one folder that is killed and started again, kill after kill, and then
left to end; its last state must have the same bits, and its log the same rows, as those of the run
that nobody touched. Prints how many of the kills were survived and adds a record to
benchmarks/records/faults.jsonl.

The kills are real. Processes are forked from this one, which has imported everything but has
not started JAX, so that each costs what a run costs and not what Python's imports cost.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from typing import NamedTuple

for name in "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS":
    os.environ[name] = "1"  # threads do not survive a fork
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")  # as tests/xla_flags.py, which a script cannot import from here
    + " --xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1"
)

import victim  # noqa: E402

from jaxpt import records  # noqa: E402
from jaxpt.train import checkpoint  # noqa: E402
from jaxpt.train.metrics import TIMES, read_metrics  # noqa: E402
from jaxpt.train.stopping import STATUS  # noqa: E402

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
RECORDS = pathlib.Path(__file__).parents[2] / "benchmarks" / "records" / "faults.jsonl"
STEPS = 100
CONFIG = {
    "data.limit": 300,
    "batch_size": 60,
    "duration": f"{STEPS} steps",
    "log_every": "2 steps",
    "knn_every": "8 steps",
    "checkpoint_every": "4 steps",
    "keep_checkpoints": 2,
    "look.k": 10,
    "memory": 240,
    "model.options.widths": "(8, 16)",
    "model.options.strides": "(2, 2)",
    "model.projector.hidden": "(16,)",
    "model.projector.dim": 16,
}
LONGEST = 300.0  # seconds that a process may take
START = 1.5  # seconds that no start of a run is quicker than


class Kill(NamedTuple):
    """One kill.

    Attributes:
      moment: of ``victim.MOMENTS``; empty: after a random time.
      count: at which of its occurrences.
      number: the signal.
      process: of two, which gets it; the other one is killed once that one has ended. −1: both get
        it.
      twice: whether the signal comes twice.
    """

    moment: str = ""
    count: int = 1
    number: int = KILL
    process: int = -1
    twice: bool = False


class Chain(NamedTuple):
    """The kills of one run, and how many processes it has."""

    kills: tuple[Kill, ...]
    processes: int = 1


RANDOM = tuple(Kill(number=number) for number in (KILL, KILL, KILL, TERM, INT, KILL))
CHAINS = (
    # The first is what the ordinary tests take.
    Chain(
        (
            Kill("batch", 3),
            Kill("saving", 2),
            Kill("monitor", 2, TERM),
            Kill("written", 2),
            Kill("row", 5),
        )
    ),
    Chain((Kill("batch", 2, INT), Kill("step", 7, TERM), Kill(number=KILL))),
    Chain(
        (
            Kill("moving", 1),
            Kill("moving", 2),
            Kill("batch", 4, TERM),
            Kill("saving", 1),
            Kill("tidy"),
            Kill("batch", 1, TERM),
            Kill("whole", 2),
        )
    ),
    Chain(
        (
            Kill("removing", 1),
            Kill("restore"),
            Kill("removing", 2),
            Kill("restored"),
            Kill("removed", 1),
            Kill("moving", 2),
        )
    ),
    Chain(
        (
            Kill("monitored", 1),
            Kill("monitor", 3, INT),
            Kill("row", 2),
            Kill("written", 1),
            Kill("written", 1),
            Kill("saving", 1, TERM),
            Kill("saving", 1, INT),
        )
    ),
    Chain(
        (
            Kill("step", 9, INT),
            Kill("step", 9, TERM, twice=True),
            Kill("step", 6, INT, twice=True),
            Kill("restored", 1, TERM),
            Kill("whole", 1, INT),
            Kill("removing", 1, TERM),
        )
    ),
    *(Chain(RANDOM) for _ in range(3)),
    Chain(
        (
            Kill("saving", 1, KILL, 0),
            Kill("saving", 2, KILL, 1),
            Kill("step", 7, TERM, 0),
            Kill("step", 5, TERM, 1),
            Kill("monitor", 1, KILL, 1),
            Kill("written", 2, KILL, 0),
        ),
        2,
    ),
    Chain(
        (
            Kill("batch", 2, KILL, 0),
            Kill("step", 9, INT, 0),
            Kill("removing", 1, KILL, 0),
            Kill(number=KILL),
            Kill("monitor", 1, TERM, 0),
            Kill("step", 3, TERM),
        ),
        2,
    ),
)


class Failed(Exception):
    """A kill that did what it should not, in words."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=len(CHAINS), help="only the first so many")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--out", default=str(RECORDS), help=f"default {RECORDS}; '' for no record")
    args = parser.parse_args()
    # JAX warns of forks; it has not begun, and these processes have one thread each.
    warnings.filterwarnings("ignore", message=r".*os\.fork\(\)", category=RuntimeWarning)
    rng, began = random.Random(args.seed), time.monotonic()
    total = survived = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = {}
        for number, chain in enumerate(CHAINS[: args.chains]):
            if chain.processes not in whole:
                whole[chain.processes] = pathlib.Path(folder, f"whole{chain.processes}")
                _go_on(whole[chain.processes], chain.processes)
            workdir = pathlib.Path(folder, f"chain{number}")
            total += len(chain.kills)
            try:
                for kill in chain.kills:
                    _kill(workdir, chain.processes, kill, rng)
                _go_on(workdir, chain.processes)
                _compare(whole[chain.processes], workdir)
            except Failed as failed:
                print(f"chain {number}: {failed}\n{_tail(workdir)}", flush=True)
            else:
                survived += len(chain.kills)
    print(f"{survived}/{total} kills survived, {time.monotonic() - began:.0f} s")
    if args.out:
        _record(args, survived, total)
    sys.exit(survived != total)


def _go_on(workdir: pathlib.Path, processes: int) -> None:
    """Starts the run, or starts it again, and lets it end."""
    for status in _wait(_start(workdir, processes)):
        if status != 0:
            raise Failed(f"the run that was left alone ended with status {status}")


def _kill(workdir, processes, kill, rng) -> None:
    pids = _start(workdir, processes, kill)
    struck = range(processes) if kill.process < 0 else [kill.process]
    if not kill.moment:
        _wait_at_random(workdir, rng)
        for i in struck:
            os.kill(pids[i], kill.number)
    if kill.number == KILL:
        statuses = _wait([pids[i] for i in struck])
        _wait([pid for i, pid in enumerate(pids) if i not in struck], end_them=True)
    else:
        statuses = _wait(pids)
    allowed = {128 + kill.number} if kill.twice else {STATUS}
    if not kill.moment and kill.number != KILL:  # before the run could hear it
        allowed |= {-kill.number, 128 + kill.number}
    if kill.number == KILL:
        allowed = {-KILL}
    if not set(statuses) <= allowed:
        raise Failed(f"{kill} ended with {statuses}, expected one of {allowed}")
    if "Traceback" in _tail(workdir) and processes == 1:
        raise Failed(f"{kill} left a traceback")


def _wait_at_random(workdir, rng) -> None:
    """One time in three a kill falls on the start of a run, else between some of its steps."""
    if rng.random() < 1 / 3:
        time.sleep(rng.uniform(0.0, START))
        return
    until, target = time.monotonic() + LONGEST, _last_row(workdir) + rng.randint(1, 4)
    while _last_row(workdir) < target and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 0.1))


def _last_row(workdir) -> int:
    if not (workdir / "metrics.jsonl").exists():
        return 0
    return max((row["step"] for row in read_metrics(workdir)), default=0)


def _start(workdir: pathlib.Path, processes: int, kill: Kill | None = None) -> list[int]:
    """Forks the processes of a run; one that is to be struck at a moment is told so."""
    argv = [
        "pretrain",
        "--config=pretrain/digits.py:look",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in CONFIG.items()),
    ]
    address = _free_address() if processes > 1 else ""
    pids = []
    for i in range(processes):
        fault = {}
        if kill and kill.moment and kill.process in (-1, i):
            fault = {
                "moment": kill.moment,
                "count": kill.count,
                "number": kill.number,
                "twice": kill.twice,
            }
        pid = os.fork()
        if pid == 0:
            victim.run(argv, **fault, peers=(address, i) if address else None, log=f"{workdir}.log")
        pids.append(pid)
    return pids


def _wait(pids, *, end_them: bool = False) -> list[int]:
    """Statuses as ``subprocess`` gives them: minus the signal where one ended the process."""
    until, statuses = time.monotonic() + LONGEST, []
    for pid in pids:
        if end_them:
            os.kill(pid, KILL)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > until:
                for other in pids[len(statuses) :]:
                    os.kill(other, KILL)
                    os.waitpid(other, 0)
                raise Failed(f"a process did not end within {LONGEST:g} s")
            time.sleep(0.01)
        statuses.append(os.waitstatus_to_exitcode(status))
    return statuses


def _compare(whole: pathlib.Path, workdir: pathlib.Path) -> None:
    """In a process of its own, which may start JAX."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if _same(whole, workdir) else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(2)
    if _wait([pid]) != [0]:
        raise Failed("it did not end as the run that nobody touched")


def _same(whole, workdir) -> bool:
    import jax
    import numpy as np

    steps = [checkpoint.newest(folder) for folder in (whole, workdir)]
    states = [
        jax.tree.leaves_with_path(checkpoint.read_arrays(folder, steps[0]))
        for folder in (whole, workdir)
    ]
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder)]
        for folder in (whole, workdir)
    ]
    bits = all(
        p == q and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for (p, a), (q, b) in zip(*states, strict=True)
    )
    if rows[0] != rows[1]:
        print(f"rows {[r['step'] for r in rows[0]]} and {[r['step'] for r in rows[1]]}", flush=True)
    if not bits:
        print("the states differ", flush=True)
    return bits and rows[0] == rows[1] and steps[0] == steps[1] == STEPS and len(states[0]) > 10


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def _tail(workdir: pathlib.Path) -> str:
    log = pathlib.Path(f"{workdir}.log")
    return log.read_text()[-3000:] if log.exists() else ""


def _record(args, survived: int, total: int) -> None:
    chains = [
        chain._asdict() | {"kills": [k._asdict() for k in chain.kills]}
        for chain in CHAINS[: args.chains]
    ]
    protocol = json.loads(json.dumps({"config": CONFIG, "seed": args.seed, "chains": chains}))
    records.append(
        args.out,
        {
            "key": records.key_of({"faults": protocol}),
            "values": {"kills": total, "survived": survived},
            "protocol": protocol,
            **records.surroundings(),
        },
    )


if __name__ == "__main__":
    main()
