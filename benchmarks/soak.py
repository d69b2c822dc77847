"""Growth of memory, open files and threads of ``jaxpt pretrain`` over half an hour.

    python benchmarks/soak.py --minutes 30

Runs LOOK on digits in one process, with a checkpoint every few seconds and the kNN monitor in
between, and observes the process through ``/proc`` (Linux). The run ends by its own
``--max-minutes``. Only the second half is evaluated: during the first the heaps of the C library
reach their sizes. Slopes are fitted to the means of whole minutes, with 95 % intervals by Student's
t.

The run is **flat** if memory grows by at most LIMIT_KIB per save at the upper end of the interval,
and the minimum number of open files and of threads over the last five minutes does not exceed that
over the first five minutes of the second half. If it is not flat, the exit status is 1.

Then the arrays of the last checkpoint are saved repeatedly in processes that do nothing else, once
by orbax alone and once by ``jaxpt.train.checkpoint``, to measure the growth per save in memory and
in Python objects. Tensorstore's binding never frees the strings of the JSON that it returns to
Python (``KvStore.Spec.to_json``), which is for orbax to fix.

Adds a record to benchmarks/records/soak.jsonl.
"""

import argparse
import json
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
EVERY = 1.0  # seconds between observations
LIMIT_KIB = 120.0  # per save: with one every ten minutes, 17 MiB a day
CONFIG = {
    "duration": "100000000 steps",
    "checkpoint_every": "25 steps",
    "knn_every": "250 steps",
    "log_every": "20 steps",
    "devices": 1,
}
SHOWN = {"memory_mib": "memory, MiB", "open_files": "open files", "threads": "threads"}
SAVES_ALONE, FIRST_SAVES = 500, 200  # saves by a saver alone; the first ones, while heaps settle
ALONE = """
import json, logging, pathlib, shutil, sys
import orbax.checkpoint as ocp

by, checkpoint, folder, saves = *sys.argv[1:4], int(sys.argv[4])

def look():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kib = int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
    return kib, sys.getallocatedblocks()

logging.getLogger("absl").setLevel(logging.CRITICAL)
saver = ocp.StandardCheckpointer()
state = saver.restore(checkpoint)
if by == "jaxpt":
    from jaxpt.train.checkpoint import Checkpointer
    checkpointer = Checkpointer(folder, keep=1, about={})

def save(step):
    if by == "jaxpt":
        checkpointer.save(step, state, final=True)
    else:
        saver.save(f"{folder}/{step}", state)
        saver.wait_until_finished()
        shutil.rmtree(f"{folder}/{step}")

seen = []
for step in range(1, saves + 1):
    save(step)
    seen.append(look())
print(json.dumps(seen))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", default=str(RECORDS), help=f"default {RECORDS}")
    args = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as workdir:
        looks, status = soak(workdir, args.minutes)
        load.append(os.getloadavg()[0])
        _, step = open_run(workdir)
        rows = len(read_metrics(workdir))
        alone = {by: lost_alone(by, workdir, step) for by in ("orbax", "jaxpt")}
    saves = step // int(CONFIG["checkpoint_every"].split()[0])
    half = looks[len(looks) // 2 :]
    values = {
        "steps": step,
        "rows": rows,
        "checkpoints": saves,
        "status": status,
        "load": load,
        **{name: growth(half, name) for name in SHOWN},
        "alone": alone,
    }
    saves_an_hour = saves / looks[-1]["seconds"] * 3600
    values["kib_a_save"] = {
        edge: values["memory_mib"][name] * 1024 / saves_an_hour
        for edge, name in (("mean", "per_hour"), ("low", "low"), ("high", "high"))
    }
    faults = not_flat(half, values["kib_a_save"]["high"])
    values["flat"] = not faults
    _show(values)
    protocol = {
        "minutes": args.minutes,
        "look_every_seconds": EVERY,
        "config": CONFIG,
        "slope": "least squares over means of whole minutes of the second half",
        "limit_kib_a_save": LIMIT_KIB,
        "saves_alone": SAVES_ALONE,
        "first_saves": FIRST_SAVES,
    }
    every = max(len(looks) // 60, 1)
    records.append(
        args.out,
        {
            "key": records.key_of({"soak": protocol, "date": time.time()}),
            "values": values,
            "protocol": protocol,
            "looks": looks[::every],
            **records.surroundings(),
        },
    )
    if status != STATUS:
        faults.append(f"the run ended with status {status}, expected {STATUS}")
    sys.exit("; ".join(faults) or 0)


def _show(values) -> None:
    for name, title in SHOWN.items():
        grown = values[name]
        print(
            f"{title:14} {grown['first']:8.1f} → {grown['last']:8.1f}   slope "
            f"{_interval(grown, 'per_hour')} per hour"
        )
    for by, lost in values["alone"].items():
        print(
            f"{by} alone: {_interval(lost['kib'])} KiB and {_interval(lost['objects'])} "
            "Python objects per save"
        )
    print(
        f"the run: {_interval(values['kib_a_save'])} KiB per save; {values['steps']:,} steps, "
        f"{values['checkpoints']:,} checkpoints, status {values['status']}, load "
        f"{values['load'][0]:.1f} … {values['load'][1]:.1f}: "
        f"{'flat' if values['flat'] else 'NOT FLAT'}"
    )


def _interval(slope: dict[str, float], mean: str = "mean") -> str:
    return f"{slope[mean]:+.1f} ({slope['low']:+.1f} … {slope['high']:+.1f})"


def soak(workdir: str, minutes: float) -> tuple[list[dict[str, float]], int]:
    """Runs and observes pre-training; returns the observations and the exit status."""
    command = [
        sys.executable,
        "-m",
        "jaxpt.cli",
        "pretrain",
        "--config=pretrain/digits.py:look",
        f"--workdir={workdir}",
        f"--max-minutes={minutes}",
        *(f"--config.{name}={value}" for name, value in CONFIG.items()),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    began, looks = time.monotonic(), []
    while process.poll() is None:
        seen = look_at(process.pid)
        if seen:
            looks.append({"seconds": round(time.monotonic() - began, 1), **seen})
        time.sleep(EVERY)
    return looks, process.returncode


def lost_alone(by: str, workdir: str, step: int) -> dict[str, dict[str, float]]:
    """Growth per save, in KiB and in Python objects, of a process that only saves."""
    checkpoint = f"{workdir}/checkpoints/{step}/"
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(
            [sys.executable, "-c", ALONE, by, checkpoint, folder, str(SAVES_ALONE)],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout
    seen = np.array(json.loads(printed.splitlines()[-1])[FIRST_SAVES:], float)
    of_tens = np.mean(seen.reshape(-1, 10, 2), axis=1)
    return {
        name: slope(10 * np.arange(len(of_tens)), y)
        for name, y in zip(("kib", "objects"), of_tens.T)
    }


def not_flat(looks: list[dict[str, float]], kib_a_save: float) -> list[str]:
    """Sentences on what grows; [] for a flat run."""
    faults = []
    if kib_a_save > LIMIT_KIB:
        faults.append(
            f"memory may grow by {kib_a_save:.1f} KiB per save, above the limit of {LIMIT_KIB:g}"
        )
    begin, end = looks[0]["seconds"] + 300, looks[-1]["seconds"] - 300
    for name in "open_files", "threads":
        before = min(look[name] for look in looks if look["seconds"] <= begin)
        after = min(look[name] for look in looks if look["seconds"] >= end)
        if after > before:
            faults.append(f"{SHOWN[name]} grew from {before} to {after}")
    return faults


def look_at(pid: int) -> dict[str, float]:
    """Resident memory, open files and threads of a process; {} if it has just ended."""
    folder = pathlib.Path("/proc") / str(pid)
    try:
        fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return {
            "memory_mib": int(fields["VmRSS"].split()[0]) / 1024,
            "open_files": len(os.listdir(folder / "fd")),
            "threads": int(fields["Threads"]),
        }
    except (OSError, KeyError):
        return {}


def growth(looks: list[dict[str, float]], name: str) -> dict[str, float]:
    """Means of the first and last minute, and the slope per hour with its 95 % interval."""
    minute = np.array([look["seconds"] // 60 for look in looks])
    x = np.unique(minute)
    y = np.array(
        [np.mean([look[name] for look, m in zip(looks, minute) if m == each]) for each in x]
    )
    fit = slope(x / 60, y)
    return {"first": y[0], "last": y[-1], "per_hour": fit.pop("mean"), **fit}


def slope(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Slope of a fitted straight line, with its 95 % interval."""
    fit = stats.linregress(x, y)
    half = stats.t.ppf(0.975, max(len(x) - 2, 1)) * fit.stderr
    return {"mean": fit.slope, "low": fit.slope - half, "high": fit.slope + half}


if __name__ == "__main__":
    main()
