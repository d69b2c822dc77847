"""Cost of input: crops from JPEG files, beside other loaders; memory over epochs; small sets.

    python benchmarks/input.py [--torch-python PYTHON] [--parts PART …] [--small]

Crops: milliseconds of CPU time per picture on one thread, from JPEGs of 500 × 375 pixels made here
from scikit-learn's photographs. All programs take turns, each a few pictures at a time, so that
other work on the machine disturbs them alike. PYTHON is a Python with torch and torchvision; they,
TensorFlow and Grain are left out if they are missing. jaxpt's part is what its host does: flip,
colour, blur and normalization follow on the device. torchvision's pipeline does all of it on the
host; its time without them is shown, too.
Memory: resident memory after each of 20 epochs of 5,000 JPEGs. Listing: of 200,000 empty files, and
once more from the cache.
Fashion-MNIST: time from the indices of a batch to the batch on the device, streamed and resident.
Each part adds a record to benchmarks/records/input.jsonl; the table shows the latest of each.
"""

import argparse
import contextlib
import gc
import importlib.util
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import jax
import numpy as np
from jaxpt.configs.pretrain import digits
from PIL import Image

from jaxpt import pretrain, records
from jaxpt.data import augment, presets, sources
from jaxpt.data.crops import RESAMPLERS, Cropping, View
from jaxpt.data.decode import Framing, read_square
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.data.listing import SETTLED, parts
from jaxpt.train.parallel import Devices

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "records" / "input.jsonl"
PICTURE, QUALITY, SIZE, SMALL_SIZE = (500, 375), 90, 224, 96
FULL = {
    "pictures": 32,
    "rounds": 41,
    "epochs": 20,
    "files": 5000,
    "names": 200_000,
    "batches": 200,
    "passes": 2,
}
SMALL = {
    "pictures": 4,
    "rounds": 3,
    "epochs": 2,
    "files": 100,
    "names": 2000,
    "batches": 20,
    "passes": 1,
}
AREA, LOCAL_AREA = (0.2, 1.0), (0.05, 0.25)
VIEWS = {  # jaxpt's views by the name of a program
    "one view": {0: View(AREA, SIZE)},
    "two views": {i: View(AREA, SIZE) for i in range(2)},
    "two and six small views": {
        **{i: View(AREA, SIZE) for i in range(2)},
        **{2000 + i: View(LOCAL_AREA, SMALL_SIZE) for i in range(6)},
    },
}
TITLES = {
    "decode": "JPEG decoder alone (Pillow)",
    "simplejpeg": "– simplejpeg",
    "opencv": "– OpenCV",
    "imagecodecs": "– imagecodecs",
    "pyvips": "– pyvips",
    "square": "jaxpt: a square of 224 pixels (data.crops=square)",
    "one view": "jaxpt: one view",
    "two views": "jaxpt: two views",
    "two and six small views": "jaxpt: two views and six of 96 pixels",
    "torchvision crops": "torchvision v2: two views, crop and flip only",
    "torchvision": "torchvision v2: two views of MoCo v2",
    "grain": "Grain, with Pillow: two views, crop and flip only",
    "tf.data": "tf.data: two views, crop and flip only",
}


def make_pictures(folder: pathlib.Path, n: int, size=PICTURE) -> list[str]:
    """Writes JPEGs of two classes, random cut-outs of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    files = []
    for i in range(n):
        photograph = photographs[i % 2]
        height = rng.uniform(0.7, 1) * photograph.height
        width = height * size[0] / size[1]
        left, top = rng.uniform(0, [photograph.width - width, photograph.height - height])
        label = folder / "ab"[i % 2]
        label.mkdir(parents=True, exist_ok=True)
        files.append(str(label / f"{i:05}.jpg"))
        photograph.resize(
            size, Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        ).save(files[-1], quality=QUALITY)
    return files


def programs(files: list[str]) -> dict:
    """Name → function of an epoch that reads all files."""
    framing = Framing.centre(SIZE)

    def decode(epoch):
        for file in files:
            with Image.open(file) as image:
                image.load()

    def square(epoch):
        for file in files:
            read_square(pathlib.Path(file), file, framing, 3)

    def crop(views, resampler):
        cropping = Cropping(views, 0, resampler)

        def work(epoch):
            for example, file in enumerate(files):
                cropping.read(
                    pathlib.Path(file),
                    file,
                    epoch=epoch,
                    example=example,
                    framing=framing,
                    channels=3,
                )

        return work

    found = {"decode": decode}
    with contextlib.suppress(ImportError):
        from simplejpeg import decode_jpeg

        found["simplejpeg"] = lambda epoch: [
            decode_jpeg(pathlib.Path(file).read_bytes(), "RGB") for file in files
        ]
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)
        found["opencv"] = lambda epoch: [cv2.imread(file) for file in files]
    with contextlib.suppress(ImportError):
        from imagecodecs import jpeg8_decode

        found["imagecodecs"] = lambda epoch: [
            jpeg8_decode(pathlib.Path(file).read_bytes()) for file in files
        ]
    with contextlib.suppress(ImportError):
        import pyvips

        found["pyvips"] = lambda epoch: [
            pyvips.Image.new_from_file(file, access="sequential").numpy() for file in files
        ]
    found["square"] = square
    for resampler in RESAMPLERS:
        if resampler == "pillow" or importlib.util.find_spec(resampler):
            found |= {f"{name}, {resampler}": crop(v, resampler) for name, v in VIEWS.items()}
    with contextlib.suppress(ImportError):
        found["grain"] = grain_program(files)
    with contextlib.suppress(ImportError):
        found["tf.data"] = tf_program(files)
    return found


def grain_program(files):
    import grain

    class Crop(grain.transforms.RandomMap):
        def random_map(self, file, rng):
            with Image.open(file) as image:
                image = image.convert("RGB")
            views = []
            for _ in range(2):
                area = image.width * image.height * rng.uniform(*AREA)
                ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
                w = min(image.width, round((area * ratio) ** 0.5))
                h = min(image.height, round((area / ratio) ** 0.5))
                x, y = rng.integers(image.width - w + 1), rng.integers(image.height - h + 1)
                view = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (x, y, x + w, y + h))
                view = np.asarray(view)
                views.append(view[:, ::-1] if rng.random() < 0.5 else view)
            return np.stack(views)

    def work(epoch):
        data = grain.MapDataset.source(files).seed(epoch).random_map(Crop()).batch(16)
        for batch in data.to_iter_dataset(grain.ReadOptions(num_threads=1)):
            assert batch.shape[1] == 2

    return work


def tf_program(files):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def views(file):
        data = tf.io.read_file(file)
        found = []
        for _ in range(2):
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                tf.image.extract_jpeg_shape(data),
                tf.zeros((1, 0, 4)),
                area_range=AREA,
                aspect_ratio_range=(3 / 4, 4 / 3),
                use_image_if_no_bounding_boxes=True,
            )
            window = tf.stack([begin[0], begin[1], size[0], size[1]])
            image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
            image = tf.image.resize(image, (SIZE, SIZE), antialias=True)
            found.append(tf.cast(tf.image.random_flip_left_right(image), tf.uint8))
        return tf.stack(found)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    data = tf.data.Dataset.from_tensor_slices(files).map(views).batch(16).with_options(options)

    def work(epoch):
        for _ in data:
            pass

    return work


def crops(torch_python: str, how: dict) -> dict:
    """Milliseconds of CPU time per picture of every program, and ratios within rounds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        files = make_pictures(pathlib.Path(folder), how["pictures"])
        works = programs(files)
        if torch_python:
            torch = stack.enter_context(
                subprocess.Popen(
                    [torch_python, HERE / "input_torch.py", folder, str(SIZE)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(torch.stdin.close)

        def timed(name, epoch):
            if name in works:
                began = time.process_time()
                works[name](epoch)
                return time.process_time() - began
            torch.stdin.write(name + "\n")
            torch.stdin.flush()
            return float(torch.stdout.readline())

        names = [*works, *(("torchvision crops", "torchvision") if torch_python else ())]
        for name in names:
            timed(name, 0)
        gc.disable()
        rounds = [
            {name: 1e3 * timed(name, epoch) / len(files) for name in names}
            for epoch in range(1, how["rounds"] + 1)
        ]
        gc.enable()

    def ratio(a, b):
        return statistics.median(r[a] / r[b] for r in rounds) if {a, b} <= {*names} else None

    ratios = {}
    for resampler in RESAMPLERS:
        one, two, many = (f"{name}, {resampler}" for name in VIEWS)
        if one in names:
            ratios[resampler] = {
                "decode alone / one view": ratio("decode", one),
                "simplejpeg alone / one view": ratio("simplejpeg", one),
                "torchvision / two views": ratio("torchvision", two),
                "torchvision crops / two views": ratio("torchvision crops", two),
                "two and six small views / two views": ratio(many, two),
            }
    return {
        "ms": {name: statistics.median(r[name] for r in rounds) for name in names},
        "least_ms": {name: min(r[name] for r in rounds) for name in names},
        "ratios": ratios,
    }


def memory(how: dict) -> dict:
    """Resident memory, in MiB, after each epoch of streaming two crops of every picture."""
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(pathlib.Path(folder), how["files"], (250, 188))
        config = config_of(50, source="folder", path=folder, image_size=64, crops="whole")
        split = sources.load(config.data).trainval
        config, cropping = pretrain.choose_crops(config, split.images)
        feed = make_feed(config, split, split.labels, Devices(limit=1), cropping)
        steps = feed.n // config.batch_size
        found = []
        rows = (
            rows_of_step(i, config.batch_size, n=feed.n, seed=0)
            for i in range(how["epochs"] * steps)
        )
        for i, batch in enumerate(feed.batches(rows)):
            feed.pace(batch)
            if (i + 1) % steps == 0:
                found.append(round(_resident(), 1))
        feed.close()
    return {"mib": found, "images": feed.n}


def listing(how: dict) -> dict:
    """CPU seconds and MiB that it takes to list empty files in a thousand class folders."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for i in range(how["names"]):
            file = pathlib.Path(folder) / "train" / f"n{i % 1000:08}" / f"n{i % 1000:08}_{i}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        time.sleep(SETTLED + 1)  # a folder that has just changed is not cached
        before, began = _resident(), time.process_time()
        found = parts(pathlib.Path(folder))
        seconds, mib = time.process_time() - began, _resident() - before
        assert len(found["train"].files) == how["names"]
        began = time.process_time()
        assert parts(pathlib.Path(folder)) == found
        return {"seconds": seconds, "mib": mib, "seconds_cached": time.process_time() - began}


def _resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def rates_of(work, n: int, passes: int) -> list[float]:
    """Images/s of each pass after the first; ``work`` processes n images."""
    rates = []
    for _ in range(passes + 1):
        began = time.perf_counter()
        work()
        rates.append(n / (time.perf_counter() - began))
    return rates[1:]


def config_of(batch: int, **data):
    config = digits.get_config("look")
    config.batch_size = batch
    config.data.update({"workers": 2, "limit": 0, "label_map": "fine"} | data)
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
    for _ in range(3):
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
    """Tables of the latest record of each part."""
    newest = {record["part"]: record for record in found}
    lines = []
    if "crops" in newest:
        lines += _crops_table(newest["crops"])
    if "memory" in newest:
        mib, images = newest["memory"]["mib"], newest["memory"]["images"]
        lines += [
            f"Host memory of a process that streams two crops of each of {images:,} JPEGs: "
            + ", ".join(
                f"{mib[i - 1]:,.0f} MiB after {i}" for i in (1, 2, 5, 10, 20) if i <= len(mib)
            )
            + " epochs.",
            "",
        ]
    if "listing" in newest:
        record = newest["listing"]
        lines += [
            f"Listing {record['names']:,} files in 1,000 class folders of a local disk: "
            f"{record['seconds']:.1f} s of CPU time, {record['mib']:.0f} MiB; from the cache "
            f"{record['seconds_cached']:.1f} s.",
            "",
        ]
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


def _crops_table(record) -> list[str]:
    ms = record["ms"]
    lines = [
        f"| {PICTURE[0]} × {PICTURE[1]} JPEGs, one CPU core | ms per picture | pictures/s |",
        "| --- | ---: | ---: |",
    ]
    for name in ms:
        title, _, resampler = name.partition(", ")
        title = TITLES[title] + (f", resized by {resampler}" if resampler else "")
        lines.append(f"| {title} | {ms[name]:.2f} | {1e3 / ms[name]:,.0f} |")
    ratios = record["ratios"]
    lines += ["", "| ratio of times within a round, median | " + " | ".join(ratios) + " |"]
    lines.append("| --- " + "| ---: " * len(ratios) + "|")
    for name in ratios["pillow"]:
        cells = [r[name] for r in ratios.values()]
        lines.append(
            f"| {name} | " + " | ".join("" if x is None else f"{x:.2f}" for x in cells) + " |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default="")
    parser.add_argument(
        "--small", action="store_true", help="small sizes, for a minute; writes no record"
    )
    programs_of = {
        "crops": lambda how: crops(args.torch_python, how),
        "memory": memory,
        "listing": listing,
        "fashion_mnist": fashion,
    }
    parser.add_argument("--parts", nargs="+", choices=[*programs_of], default=[*programs_of])
    args = parser.parse_args()
    how = SMALL if args.small else FULL
    if not args.torch_python:
        print("torchvision is skipped: pass --torch-python to measure it.")
    found = []
    for part in args.parts:
        record = {"part": part, **how, "load": os.getloadavg()[0]}
        found.append(record | programs_of[part](how) | records.surroundings())
        if not args.small:
            records.append(RECORDS, found[-1])
        print(part, flush=True)
    print(markdown(found if args.small else records.read(RECORDS)))


if __name__ == "__main__":
    main()
