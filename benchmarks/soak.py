"""Does a long run grow? Memory, open files and threads of ``jaxpt pretrain`` over half an hour.

    python benchmarks/soak.py --minutes 30

LOOK on digits, one process, a checkpoint every few seconds and the kNN monitor in between, looked
at from outside through ``/proc`` (Linux). Ends by the run's own ``--max-minutes``. Slopes are
fitted to the means of whole minutes after the first fifth (compiling, first buffers); their
intervals are 95 % by Student's t. Adds a record to benchmarks/records/soak.jsonl.

Each save loses some kilobytes in tensorstore, orbax's writer, whose Python binding never frees the
strings that it makes of its specs and metrics (``KvStore.Spec.to_json`` in a loop shows it; all
versions from 0.1.74 to 0.1.86). So the last checkpoint's arrays are saved again and again by orbax
alone, in a process with nothing of jaxpt's training in it, and what that loses a save is given
beside, and taken off the slope of "memory without the saves".
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
EVERY = 5.0  # seconds between two looks
CONFIG = {"duration": "100000000 steps", "checkpoint_every": "100 steps", "knn_every": "250 steps",
          "log_every": "20 steps", "devices": 1}
SHOWN = {"memory_mib": "memory, MiB", "open_files": "open files", "threads": "threads"}
SAVES_ALONE, FIRST_SAVES = 600, 100  # of orbax by itself; those in which pools fill up
ALONE = """
import json, logging, pathlib, shutil, sys
import jax, numpy as np, orbax.checkpoint as ocp
from jaxpt.train.workdir import open_run

def memory():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

logging.getLogger("absl").setLevel(logging.CRITICAL)
workdir, saves = sys.argv[1], int(sys.argv[2])
_, step = open_run(workdir)
with ocp.StandardCheckpointer() as saver:
    state = saver.restore(f"{workdir}/checkpoints/{step}")
    folder, kib = pathlib.Path(workdir) / "alone", []
    for _ in range(saves):
        saver.save(folder, state)
        saver.wait_until_finished()
        shutil.rmtree(folder)
        kib.append(memory())
print(json.dumps(kib))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", default=str(RECORDS), help=f"default {RECORDS}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as workdir:
        looks, status = soak(workdir, args.minutes)
        _, step = open_run(workdir)
        rows = len(read_metrics(workdir))
        lost = lost_by_orbax(workdir)
    settled = looks[len(looks) // 5:]
    values = {"steps": step, "rows": rows, "checkpoints": step // 100, "status": status,
              **{name: growth(settled, name) for name in SHOWN}, "orbax_kib_a_save": lost}
    saves_an_hour = values["checkpoints"] / looks[-1]["seconds"] * 3600
    of_saves = lost["mean"] * saves_an_hour / 1024
    values["memory_mib_an_hour_without_saves"] = {
        edge: values["memory_mib"][name] - of_saves
        for edge, name in (("mean", "per_hour"), ("low", "low"), ("high", "high"))}
    for name, title in SHOWN.items():
        grown = values[name]
        print(f"{title:14} {grown['first']:8.1f} → {grown['last']:8.1f}   slope "
              f"{grown['per_hour']:+.2f} an hour ({grown['low']:+.2f} … {grown['high']:+.2f})")
    rest = values["memory_mib_an_hour_without_saves"]
    print(f"orbax alone loses {lost['mean']:.1f} KiB a save ({lost['low']:.1f} … "
          f"{lost['high']:.1f}); without that memory's slope is {rest['mean']:+.1f} MiB an hour "
          f"({rest['low']:+.1f} … {rest['high']:+.1f})")
    print(f"{step:,} steps, {values['checkpoints']:,} checkpoints, status {status}")
    protocol = {"minutes": args.minutes, "look_every_seconds": EVERY, "config": CONFIG,
                "slope": "least squares over means of whole minutes after the first fifth",
                "saves_alone": SAVES_ALONE, "first_saves": FIRST_SAVES}
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


def lost_by_orbax(workdir: str) -> dict[str, float]:
    """KiB that a process grows by with each save of the run's state by orbax, nothing else."""
    printed = subprocess.run([sys.executable, "-c", ALONE, workdir, str(SAVES_ALONE)], check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    kib = json.loads(printed.splitlines()[-1])[FIRST_SAVES:]
    of_tens = np.mean(np.reshape(kib, (-1, 10)), axis=1)
    fit = stats.linregress(10 * np.arange(len(of_tens)), of_tens)
    half = stats.t.ppf(0.975, len(of_tens) - 2) * fit.stderr
    return {"mean": fit.slope, "low": fit.slope - half, "high": fit.slope + half}


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
