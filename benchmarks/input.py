"""Throughput of input: streamed from JPEG files, compared with torchvision, and resident.

    python benchmarks/input.py --torch-python PYTHON [--small]

PYTHON is a Python with torch and torchvision; without it their column stays empty. JPEGs: two views
of MoCo v2 at 224 pixels, from pictures of 512 × 384 made here from scikit-learn's photographs. Each
program runs in its own process, in turns; the decoder alone is an upper bound for all of them.
Fashion-MNIST: time from the indices of a batch to the batch on the device, streamed and resident.
Each part adds a record to benchmarks/records/input.jsonl; the table shows the latest of each.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from jaxpt.configs.pretrain import digits
from PIL import Image

from jaxpt import records
from jaxpt.data import augment, presets, sources
from jaxpt.data.decode import make_pool
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.train.parallel import Devices

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "records" / "input.jsonl"
PICTURE, QUALITY, SIZE, THREADS = (512, 384), 90, 224, 2
FULL = {"pictures": 512, "batch": 64, "passes": 2, "rounds": 3, "batches": 200}
SMALL = {"pictures": 32, "batch": 16, "passes": 1, "rounds": 1, "batches": 20}
SIDES = {
    "decode": "JPEG decoder alone (Pillow), 2 threads",
    "half": "– decoding at half the side lengths (its draft mode)",
    "streamed": "jaxpt: batches of square images on the device",
    "views": "jaxpt: with both views, drawn on the same CPU",
    "torchvision": "torchvision: both views, DataLoader with 2 workers",
}


def make_pictures(folder: pathlib.Path, n: int) -> None:
    """Writes JPEGs of two classes, random crops of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    for i in range(n):
        photograph = photographs[i % 2]
        height = rng.uniform(0.5, 1) * photograph.height
        width = height * PICTURE[0] / PICTURE[1]
        left, top = rng.uniform(0, [photograph.width - width, photograph.height - height])
        label = folder / "ab"[i % 2]
        label.mkdir(exist_ok=True)
        photograph.resize(
            PICTURE, Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        ).save(label / f"{i:04}.jpg", quality=QUALITY)


def rates_of(work, n: int, passes: int) -> list[float]:
    """Images/s of each pass after the first; ``work`` processes n images."""
    rates = []
    for _ in range(passes + 1):
        began = time.perf_counter()
        work()
        rates.append(n / (time.perf_counter() - began))
    return rates[1:]


def decoding(folder, half: bool):
    """Decodes every file once."""
    files = sorted(pathlib.Path(folder).glob("*/*.jpg"))

    def decode(file):
        with Image.open(file) as image:
            if half:
                image.draft("RGB", (PICTURE[0] // 2, PICTURE[1] // 2))
            image.load()

    def work():
        with make_pool(THREADS) as pool:
            list(pool.map(decode, files))

    return work


def config_of(batch: int, **data):
    config = digits.get_config("look")
    config.batch_size = batch
    config.data.update({"workers": THREADS, "limit": 0, "label_map": "fine"} | data)
    return presets.apply(config, "moco_v2")


def feeding(config, batches: int, views: int | None):
    """Makes a function that brings ``batches`` batches to the device and draws ``views`` views.

    If ``views`` is None, it stops where the step has its input, before gathering the batch.
    """
    split = sources.load(config.data).trainval
    feed = make_feed(config, split, split.labels, Devices(limit=1))

    def of(data, rows):
        batch = feed.gather(data, rows)
        return [augment.draw_view(config.augment, batch, view=v) for v in range(views)] or batch

    program = jax.jit(of) if views is not None else lambda data, rows: rows

    def work():
        rows = (rows_of_step(i, config.batch_size, n=feed.n, seed=0) for i in range(batches))
        for placed in feed.batches(rows):
            jax.block_until_ready(program(feed.data, placed))

    return work


def side(name: str, folder: str, batch: int, passes: int) -> list[float]:
    """Images/s of one program, measured in this process."""
    if name in ("decode", "half"):
        work = decoding(folder, name == "half")
    else:
        config = config_of(batch, source="folder", path=folder, image_size=SIZE, resident="no")
        n = sum(1 for _ in pathlib.Path(folder).glob("*/*.jpg"))
        work = feeding(config, n // batch, 2 if name == "views" else 0)
    return rates_of(work, sum(1 for _ in pathlib.Path(folder).glob("*/*.jpg")), passes)


def jpegs(torch_python: str, how: dict) -> dict:
    """Images/s of every program, and their ratios to torchvision's."""
    names = [name for name in SIDES if torch_python or name != "torchvision"]
    found = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        pictures = pathlib.Path(folder) / "pictures"
        pictures.mkdir()
        make_pictures(pictures, how["pictures"])
        environment = os.environ | {"XDG_CACHE_HOME": folder, "JAX_PLATFORMS": "cpu"}
        for _ in range(how["rounds"]):
            for name in names:
                numbers = [str(how["batch"]), str(how["passes"])]
                command = (
                    [torch_python, HERE / "input_torch.py", pictures, str(SIZE), *numbers]
                    if name == "torchvision"
                    else [sys.executable, HERE / "input.py", "--side", name, pictures, *numbers]
                )
                output = subprocess.run(
                    command, check=True, env=environment, text=True, stdout=subprocess.PIPE
                ).stdout
                found[name].append(statistics.median(json.loads(output.splitlines()[-1])))
    ratios = (
        {
            name: statistics.median(np.divide(found[name], found["torchvision"]).tolist())
            for name in names
        }
        if torch_python
        else {}
    )
    return {
        "images_a_second": {name: statistics.median(x) for name, x in found.items()},
        "times_torchvision": ratios,
    }


def fashion(how: dict) -> dict:
    """Milliseconds per batch of 256, from its indices to the batch on the device."""
    batch, batches = 256, how["batches"]
    works = {
        name: feeding(config_of(batch, source="fashion_mnist", resident=resident), batches, views)
        for name, resident, views in (
            ("streamed", "no", 0),
            ("resident", "yes", 0),
            ("streamed_alone", "no", None),
            ("resident_alone", "yes", None),
        )
    }
    times = {name: [] for name in works}
    for _ in range(how["rounds"]):
        for name, work in works.items():
            rate = statistics.median(rates_of(work, batch * batches, how["passes"]))
            times[name].append(1e3 * batch / rate)
    return {
        "milliseconds_a_batch": {name: statistics.median(x) for name, x in times.items()},
        "times_streamed": {
            name: statistics.median(
                np.divide(times[f"streamed{name}"], times[f"resident{name}"]).tolist()
            )
            for name in ("", "_alone")
        },
    }


def markdown(found: list[dict]) -> str:
    """Table of rates and ratios in the latest record of each part."""
    newest = {record["part"]: record for record in found}
    lines = []
    if "jpegs" in newest:
        rates, ratios = newest["jpegs"]["images_a_second"], newest["jpegs"]["times_torchvision"]
        lines += [
            f"| {PICTURE[0]} × {PICTURE[1]} JPEGs to {SIZE} pixels | images/s | "
            "times torchvision |",
            "| --- | ---: | ---: |",
        ]
        lines += [
            f"| {title} | {rates[name]:,.0f} | {f'{ratios[name]:.2f}' if name in ratios else ''} |"
            for name, title in SIDES.items()
            if name in rates
        ]
        lines.append("")
    if "fashion_mnist" in newest:
        times = newest["fashion_mnist"]["milliseconds_a_batch"]
        ratios = newest["fashion_mnist"]["times_streamed"]
        lines += [
            "| Fashion-MNIST, per batch of 256 | streamed | resident | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {title} | {times[f'streamed{name}']:.2f} ms | "
            f"{times[f'resident{name}']:.2f} ms | {ratios[name]:.1f} |"
            for name, title in (
                ("_alone", "pipeline until the step has its input"),
                ("", "pipeline until the step has gathered its batch"),
            )
        ]
        lines.append("")
    loads = [record["load"] for record in newest.values()]
    last = found[-1]
    lines.append(
        f"{last['device']}, jax {last['packages']['jax']}, {last['date']}; load average up "
        f"to {max(loads):.0f} from other work."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default="")
    parser.add_argument(
        "--small", action="store_true", help="small sizes, for a minute; writes no record"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=("jpegs", "fashion_mnist"), default=("jpegs", "fashion_mnist")
    )
    args = parser.parse_args()
    how = SMALL if args.small else FULL
    if not args.torch_python:
        print("torchvision is skipped: pass --torch-python to measure it.")
    found = []
    for part in args.parts:
        record = {"part": part, **how, "load": os.getloadavg()[0]}
        record |= jpegs(args.torch_python, how) if part == "jpegs" else fashion(how)
        found.append(record | records.surroundings())
        if not args.small:
            records.append(RECORDS, found[-1])
        print(part, flush=True)
    print(markdown(found if args.small else records.read(RECORDS)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        print(json.dumps(side(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))))
    else:
        main()
