"""Cost of starting a run, up to its first step, with an empty and with a filled compile cache.

    python benchmarks/startup.py [--before TREE] [--rounds N] [CASE …]

Each run is ``jaxpt pretrain`` in a process of its own, which ends after the first step: imports,
images, compilation, the initial state, the filling of the memory, one step. TREE is the source tree
of another version (``git worktree add TREE REVISION``), which runs in turns with this one. On a CPU
the figure to compare is the processor time of all threads, since the elapsed time depends on other
work on the machine. Adds a record per case to benchmarks/records/startup.jsonl; the table shows the
latest of each. The case "ImageNet" is for an accelerator and runs only if it is named: the recipe
at full size on a folder of 2,400 JPEGs, with a memory of eight batches.
"""

import argparse
import concurrent.futures
import functools
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from jaxpt import records

HERE = pathlib.Path(__file__).resolve().parent
RECORDS = HERE / "records" / "startup.jsonl"
SIDE = 64
# A run of one step of each kind, as arguments of the command.
CASES = {
    "digits": ["--config=pretrain/digits.py:look"],
    "ResNet-18": [
        "--config=pretrain/imagenet/look.py",
        "--config.model.name=resnet18",
        "--config.model.norm=batch",
        "--config.model.dtype=float32",
        f"--config.data.image_size={SIDE}",
        f"--config.augment.crop_size={SIDE}",
        f"--config.key_augment.crop_size={SIDE}",
        "--config.batch_size=8",
        "--config.optimizer.warmup=0 steps",
        "--config.memory=16",
        "--config.look.k=4",
        "--config.knn_k=4",
        "--config.data.path={images}",
    ],
    "ImageNet": [
        "--config=pretrain/imagenet/look.py",
        "--config.batch_size=256",
        "--config.optimizer.warmup=0 steps",
        "--config.memory=2048",
        "--config.data.path={images}",
    ],
}
# Classes, images of each in a part, and their height and width.
FOLDERS = {"ResNet-18": (4, 16, (96, 80)), "ImageNet": (40, 60, (400, 500))}
# The command, which ends when the monitor is called after the first step.
RUN = """
import os
import jax
from jaxpt import cli, pretrain
from jaxpt.evaluation import features

class Nothing:
    def compile(self):
        pass

def end(state):
    jax.block_until_ready(state)
    os._exit(0)

features.lower = lambda *_: Nothing()
pretrain._make_monitor = lambda *_: end
cli.main()
raise SystemExit("the monitor was not called")
"""


def make_images(folder: pathlib.Path, classes: int, each: int, shape: tuple[int, int]) -> None:
    """Writes a folder of JPEGs of noise."""

    def write(part, i):
        file = folder / part / f"class{i % classes}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(256, size=(*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for part in "train", "val":
            list(pool.map(functools.partial(write, part), range(classes * each)))


def one_run(arguments: list[str], tree: pathlib.Path, cache: str) -> dict[str, float]:
    """Processor and elapsed seconds of a run up to its first step by the version in ``tree``."""
    with tempfile.TemporaryDirectory() as workdir:
        environment = os.environ | {
            "PYTHONPATH": f"{tree}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "XDG_CACHE_HOME": f"{cache}/user",
        }
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run = subprocess.run(
            [
                *(sys.executable, "-c", RUN, "pretrain", *arguments),
                *("--config.duration=1 steps", f"--workdir={workdir}/run"),
            ],
            env=environment,
            cwd=tree,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise SystemExit(run.stderr)
        elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": used, "elapsed": elapsed}


def measure(case: str, trees: dict[str, pathlib.Path], rounds: int) -> dict:
    """Median seconds by cache and tree; the trees run in turns."""
    runs: dict = {(state, tree): [] for state in ("empty", "filled") for tree in trees}
    with tempfile.TemporaryDirectory() as images:
        if case in FOLDERS:
            make_images(pathlib.Path(images), *FOLDERS[case])
        arguments = [word.format(images=images) for word in CASES[case]]
        for _ in range(rounds):
            for tree, path in trees.items():
                with tempfile.TemporaryDirectory() as cache:
                    for state in "empty", "filled":
                        runs[state, tree].append(one_run(arguments, path, cache))
    found: dict = {"empty": {}, "filled": {}}
    for (state, tree), several in runs.items():
        found[state][tree] = {
            kind: statistics.median(run[kind] for run in several) for kind in several[0]
        }
    return found


def markdown(found: list[dict]) -> str:
    """Table of the seconds before and now, and their ratio, in the latest record of each case."""
    latest = {record["case"]: record for record in found}
    lines = [
        "| up to the first step | compile cache | seconds | before | now | ratio |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for case, record in latest.items():
        kind = "processor" if record["device"].startswith("cpu") else "elapsed"
        for cache, trees in record["seconds"].items():
            now, before = trees["now"][kind], trees.get("before", {}).get(kind)
            cells = f"{before:.1f} | {now:.1f} | {now / before:.2f}" if before else f"| {now:.1f} |"
            lines.append(f"| {case} | {cache} | {kind} | {cells} |")
    lines.append("")
    for record in {record["device"]: record for record in latest.values()}.values():
        rounds = record["rounds"]
        runs = f"medians of {rounds} runs in turns" if rounds > 1 else "one run each"
        lines.append(
            f"{record['device']}, jax {record['packages']['jax']}, {record['date']}; {runs}; load "
            f"average {record['load']:.0f} from other work."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--before", type=pathlib.Path, help="source tree to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of digits; writes no record")
    how = parser.parse_args()
    if unknown := set(how.cases) - set(CASES):
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(CASES)}")
    trees = {"now": HERE.parent}
    if how.before:
        link = how.before / "jaxpt" / "configs"  # which only an installation would map
        if not link.exists():
            link.symlink_to("../configs")
        trees = {"before": how.before.resolve(), **trees}
    made = []
    for case in ["digits"] if how.small else how.cases or ["digits", "ResNet-18"]:
        record = {
            "benchmark": "startup",
            "case": case,
            "rounds": 1 if how.small else how.rounds,
            "load": os.getloadavg()[0],
        }
        record["seconds"] = measure(case, trees, record["rounds"])
        made.append(record | records.surroundings())
        if not how.small:
            records.append(RECORDS, made[-1])
    print(markdown(made))


if __name__ == "__main__":
    main()
