"""Launcher of one run as several processes on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from jaxpt.errors import require
from jaxpt.train.distributed import COORDINATOR, PROCESS, PROCESSES
from jaxpt.train.stopping import SIGNALS, STATUS

GRACE = 5.0  # seconds that the other processes have to end after one has failed
LOOK_EVERY = 0.1  # seconds between polls of the processes
COUNT = "--xla_force_host_platform_device_count"


def run(argv: list[str], *, processes: int, devices_per_process: int = 1) -> int:
    """Starts ``jaxpt`` with these arguments as several processes of one run.

    Printed lines begin with the index of their process. SIGTERM and SIGINT are passed on. If a
    process fails, the others are ended.

    Args:
      argv: the arguments, ``["pretrain", …]``.
      processes: number of processes.
      devices_per_process: virtual devices per process on CPUs, GPUs per process on GPUs.

    Returns:
      The run's exit status: that of the process that failed first (1 if a signal ended it), else 75
      if the processes were stopped, else 0.

    Raises:
      InputError: for numbers below 1, or a command that does not run as several processes.
    """
    require(processes >= 1, f"--processes must be at least 1, got {processes}.")
    require(
        devices_per_process >= 1,
        f"--devices-per-process must be at least 1, got {devices_per_process}.",
    )
    require(
        argv[:1] == ["pretrain"],
        "jaxpt launch only runs jaxpt pretrain, got "
        f"{' '.join(argv[:1]) or 'no command'!r}: write pretrain after the options.",
    )
    address = f"127.0.0.1:{_free_port()}"
    children = [_start(argv, i, processes, address, devices_per_process) for i in range(processes)]
    readers = [
        threading.Thread(target=_pass_on, args=(f"[{i}] ", stream, to))
        for i, child in enumerate(children)
        for stream, to in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()

    def pass_signal(number, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    former = {number: signal.signal(number, pass_signal) for number in SIGNALS}
    try:
        return _wait(children)
    finally:
        for child in children:
            child.kill()
        for reader in readers:
            reader.join()
        for number, handler in former.items():
            signal.signal(number, handler)


def _start(argv, process, processes, address, devices) -> subprocess.Popen:
    flags = re.sub(rf"{COUNT}=\S*", "", os.environ.get("XLA_FLAGS", ""))
    local = range(process * devices, (process + 1) * devices)
    environment = os.environ | {
        COORDINATOR: address,
        PROCESSES: str(processes),
        PROCESS: str(process),
        "XLA_FLAGS": f"{flags} {COUNT}={devices}".strip(),
        "PYTHONUNBUFFERED": "1",
        "JAX_LOCAL_DEVICE_IDS": ",".join(map(str, local)),
    }
    # In its own session, so that Ctrl-C reaches it once, through this process, and not twice.
    return subprocess.Popen(
        [sys.executable, "-m", "jaxpt.cli", *argv],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _pass_on(prefix: str, stream, to) -> None:
    for line in stream:
        to.write(prefix + line.rstrip("\n") + "\n")
        to.flush()


def _wait(children: list[subprocess.Popen]) -> int:
    """Waits for all processes; if one fails, prints that and gives the others GRACE to end."""
    while True:
        statuses = [child.poll() for child in children]
        failed = [i for i, status in enumerate(statuses) if status not in (None, 0, STATUS)]
        if failed:
            break
        if None not in statuses:
            return max(statuses)
        time.sleep(LOOK_EVERY)
    first = failed[0]
    if None in statuses:
        print(
            f"jaxpt launch: process {first} of {len(children)} {_how(statuses[first])}: "
            "ending the others.",
            file=sys.stderr,
            flush=True,
        )
    until = time.monotonic() + GRACE
    while time.monotonic() < until and any(child.poll() is None for child in children):
        time.sleep(LOOK_EVERY)
    return statuses[first] if statuses[first] > 0 else 1


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
