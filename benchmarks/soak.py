"""Does a long run grow? Memory, open files and threads of ``jaxpt pretrain`` over half an hour.

    python benchmarks/soak.py --minutes 30

LOOK on digits, one process, a checkpoint every few seconds and the kNN monitor in between, looked
at from outside through ``/proc`` (Linux). Ends by the run's own ``--max-minutes``. Slopes are
fitted to the means of whole minutes after the first fifth (compiling, first buffers); their
intervals are 95 % by Student's t. Adds a record to benchmarks/records/soak.jsonl.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy import stats

from jaxpt import records
from jaxpt.train.metrics import read_metrics
from jaxpt.train.stopping import STATUS
from jaxpt.train.workdir import open_run

RECORDS = pathlib.Path(__file__).parent / "records" / "soak.jsonl"
EVERY = 5.0  # seconds between two looks
CONFIG = {"duration": "100000000 steps", "checkpoint_every": "100 steps", "knn_every": "250 steps",
          "log_every": "20 steps", "devices": 1}
SHOWN = {"memory_mib": "memory, MiB", "open_files": "open files", "threads": "threads"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", default=str(RECORDS), help=f"default {RECORDS}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        looks, status = soak(workdir, args.minutes)
        _, step = open_run(workdir)
        rows = len(read_metrics(workdir))
    settled = looks[len(looks) // 5:]
    values = {"steps": step, "rows": rows, "checkpoints": step // 100, "status": status,
              **{name: growth(settled, name) for name in SHOWN}}
    for name, title in SHOWN.items():
        grown = values[name]
        print(f"{title:14} {grown['first']:8.1f} → {grown['last']:8.1f}   slope "
              f"{grown['per_hour']:+.2f} an hour ({grown['low']:+.2f} … {grown['high']:+.2f})")
    print(f"{step:,} steps, {values['checkpoints']:,} checkpoints, status {status}")
    protocol = {"minutes": args.minutes, "look_every_seconds": EVERY, "config": CONFIG,
                "slope": "least squares over means of whole minutes after the first fifth"}
    every = max(len(looks) // 60, 1)
    records.append(args.out, {
        "key": records.key_of({"soak": protocol, "date": time.time()}), "values": values,
        "protocol": protocol, "looks": looks[::every], **records.surroundings()})
    if status != STATUS:
        sys.exit(f"the run ended with status {status}, expected {STATUS}")


def soak(workdir: str, minutes: float) -> tuple[list[dict[str, float]], int]:
    """What was seen of the run over time, and the status it ended with."""
    command = [sys.executable, "-m", "jaxpt.cli", "pretrain", "--config=pretrain/digits.py:look",
               f"--workdir={workdir}", f"--max-minutes={minutes}",
               *(f"--config.{name}={value}" for name, value in CONFIG.items())]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    began, looks = time.monotonic(), []
    while process.poll() is None:
        seen = look_at(process.pid)
        if seen:
            looks.append({"seconds": round(time.monotonic() - began, 1), **seen})
        time.sleep(EVERY)
    return looks, process.returncode


def look_at(pid: int) -> dict[str, float]:
    """Resident memory, open files and threads of a process; nothing where it has just ended."""
    folder = pathlib.Path("/proc") / str(pid)
    try:
        fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return {"memory_mib": int(fields["VmRSS"].split()[0]) / 1024,
                "open_files": len(os.listdir(folder / "fd")), "threads": int(fields["Threads"])}
    except (OSError, KeyError):
        return {}


def growth(looks: list[dict[str, float]], name: str) -> dict[str, float]:
    """First and last minute's mean, and the slope an hour with its 95 % interval."""
    minute = np.array([look["seconds"] // 60 for look in looks])
    x = np.unique(minute)
    y = np.array([np.mean([look[name] for look, m in zip(looks, minute) if m == each])
                  for each in x])
    fit = stats.linregress(x / 60, y)
    half = stats.t.ppf(0.975, max(len(x) - 2, 1)) * fit.stderr
    return {"first": y[0], "last": y[-1], "per_hour": fit.slope, "low": fit.slope - half,
            "high": fit.slope + half}


if __name__ == "__main__":
    main()
