"""The whole pre-training step: images/s compared with PyTorch, and LOOK's overhead.

    python benchmarks/step.py [--torch-python PYTHON]

On an accelerator: ResNet-50, 224 pixels, batch 256, memory 65,536, bfloat16. On a CPU: ResNet-18,
32 pixels, memory 8,192, float32. The steps are jaxpt's own, from the set on the device to the
updated memory, without augmentation: LOOK, cross-entropy (one encoder), and LOOK's two encoders and
memory with a loss of negligible cost. They run in turns. PyTorch's step (``step_torch.py``), with
the same networks, optimizer, memory and data, runs after them. Adds a record to
benchmarks/records/step.jsonl.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxpt.configs.pretrain import defaults

from jaxpt import pretrain, records
from jaxpt.data import dataset
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.methods import Setup, memory_contrast
from jaxpt.train import optimizer as optimizers
from jaxpt.train.parallel import AXIS, Devices

HERE = pathlib.Path(__file__).parent
RECORDS = HERE / "records" / "step.jsonl"
SHAPES = {
    "accelerator": {
        "network": "resnet50",
        "pixels": 224,
        "stem": "imagenet",
        "batch": 256,
        "memory": 65536,
        "k": 400,
        "dim": 128,
        "images": 2048,
        "width": 64,
        "classes": 1000,
        "dtype": "bfloat16",
    },
    "cpu": {
        "network": "resnet18",
        "pixels": 32,
        "stem": "small",
        "batch": 256,
        "memory": 8192,
        "k": 100,
        "dim": 128,
        "images": 1024,
        "width": 64,
        "classes": 100,
        "dtype": "float32",
    },
    "small": {
        "network": "resnet18",
        "pixels": 16,
        "stem": "small",
        "batch": 16,
        "memory": 4096,
        "k": 8,
        "dim": 16,
        "images": 64,
        "width": 8,
        "classes": 10,
        "dtype": "float32",
    },
}
STILL = {
    "crop_area": (1.0, 1.0),
    "crop_size": 0,
    "shift": 0,
    "flip": False,
    "contrast": 0.0,
    "brightness": 0.0,
    "noise": 0.0,
    "erase": 0.0,
}
STEPS = ("look", "cross_entropy", "two encoders")


def config_of(step: str, shapes: dict, overrides: dict):
    """The pre-training config of a step."""
    config = defaults.get_config()
    config.update(
        method="cross_entropy" if step == "cross_entropy" else "look",
        devices=1,
        batch_size=shapes["batch"],
        memory=shapes["memory"],
        duration="1000 steps",
        knn_every="0 steps",
    )
    config.look.k = shapes["k"]
    for view in "augment", "key_augment":
        config[view].update(STILL)
    config.model.options.unlock()
    config.model.update(
        name=shapes["network"],
        norm="batch",
        dtype=shapes["dtype"],
        options={"stem": shapes["stem"], "width": shapes["width"]},
    )
    config.model.projector.update(hidden=(4 * shapes["dim"],), dim=shapes["dim"])
    config.update_from_flattened_dict(overrides)
    return config


def synthetic(shapes: dict) -> dataset.Dataset:
    """Set of random images."""
    rng = np.random.default_rng(0)
    shape = (shapes["images"], shapes["pixels"], shapes["pixels"], 3)
    split = dataset.make_split(
        "train",
        rng.integers(256, size=shape, dtype=np.uint8),
        rng.integers(shapes["classes"], size=shapes["images"]),
        [str(i) for i in range(shapes["classes"])],
    )
    return dataset.assemble("noise", [str(i) for i in range(shapes["classes"])], split, split)


def method_of(step: str, config, data):
    """Makes a method; "two encoders" has LOOK's encoders and a product with the own key as loss."""
    if step != "two encoders":
        return pretrain.prepare(config, data)[0]

    def steps(duration):
        return optimizers.steps(
            duration, batch_size=config.batch_size, n_examples=len(data.trainval.ids)
        )

    schedule = optimizers.learning_rate(config.optimizer, total_steps=1000, warmup_steps=0)
    setup = Setup(
        config,
        len(data.coarse.names),
        len(data.trainval.ids),
        optimizers.make_optimizer(config.optimizer, schedule),
        steps,
        AXIS,
    )
    return memory_contrast.contrast_with_memory(
        setup, lambda queries, own, memory: (-jnp.sum(queries.output * own, axis=-1), {})
    )


class Running:
    """A step with its state, which advances with every call."""

    def __init__(self, step: str, shapes: dict, overrides: dict):
        config, data = config_of(step, shapes, overrides), synthetic(shapes)
        method, devices = method_of(step, config, data), Devices(limit=config.devices)
        guard = pretrain.guarded(method.step, max_skipped=0)
        feed = make_feed(config, data.trainval, data.trainval.labels, devices)
        self._data = feed.data
        self._rows = devices.split(rows_of_step(0, shapes["batch"], n=shapes["images"], seed=0))
        state = pretrain.init_state(method, config, data.trainval.images)
        if state.memory is not None:  # full, as after the first steps of a run
            n, classes = shapes["memory"], shapes["classes"]
            keys = jax.random.normal(jax.random.key(0), (n, shapes["dim"]))
            keys = keys / jnp.linalg.norm(keys, axis=1, keepdims=True)
            filled = state.memory._replace(
                keys=keys,
                labels=jnp.arange(n, dtype=jnp.int32) % classes,
                ids=-2 - jnp.arange(n, dtype=jnp.int32),
                valid=jnp.ones(n, bool),
            )
            state = state.replace(memory=filled)
        self._state = pretrain.place_state(jax.device_get(state), config, devices)
        self._step = devices.map(
            lambda state, data, rows: guard(state, feed.gather(data, rows)), like=self._state
        )

    def seconds(self, steps: int) -> float:
        """Seconds per step, over ``steps`` consecutive steps."""
        began = time.perf_counter()
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._data, self._rows)
        float(metrics["loss"])  # waits for this and all earlier steps
        return (time.perf_counter() - began) / steps


def in_turns(shapes, overrides, rounds, steps) -> dict[str, float]:
    """Median seconds per step of each kind."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = pool.map(lambda name: Running(name, shapes, overrides), STEPS)
        running = dict(zip(STEPS, made))
        list(pool.map(lambda one: one.seconds(1), running.values()))  # compiles
    found = {name: [] for name in STEPS}
    for _ in range(rounds):
        for name, one in running.items():
            found[name].append(one.seconds(steps))
    return {name: statistics.median(x) for name, x in found.items()}


def by_torch(python, shapes, rounds, steps) -> dict:
    """Runs ``step_torch.py``: seconds of a LOOK step, and how it ran."""
    arguments = [json.dumps(shapes), str(rounds), str(steps)]
    output = subprocess.run(
        [python, HERE / "step_torch.py", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def markdown(record: dict) -> str:
    """Table of times, images/s and LOOK's overhead."""
    s, times = record["shapes"], record["seconds"]
    lines = ["| step | ms | images/s | LOOK's additional time |", "| --- | ---: | ---: | ---: |"]
    for name, seconds in times.items():
        share = "" if name == "look" else f"{times['look'] / seconds - 1:+.1%}"
        lines.append(f"| {name} | {1e3 * seconds:,.1f} | {s['batch'] / seconds:,.0f} | {share} |")
    if record["torch"]:
        theirs = record["torch"]["seconds"]
        lines.append(
            f"| look by PyTorch ({record['torch']['how']}) | {1e3 * theirs:,.1f} | "
            f"{s['batch'] / theirs:,.0f} | {times['look'] / theirs - 1:+.1%} |"
        )
    lines.append(
        f"\n{s['network']}, {s['pixels']} pixels, batch {s['batch']}, memory "
        f"{s['memory']:,}, k = {s['k']}, {s['dtype']}. {record['device']}, jax "
        f"{record['packages']['jax']}, {record['date']}; load average {record['load']:.1f}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default="")
    parser.add_argument("--small", action="store_true", help="tiny shapes; writes no record")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=0, help="steps per round; 0 for 20, or 1 on a CPU"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=JSON",
        help="field of the config, such as micro_batches=4 or model.remat=true",
    )
    how = parser.parse_args()
    where = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    shapes = SHAPES["small" if how.small else where]
    steps = how.steps or (1 if where == "cpu" else 20)
    overrides = {name: json.loads(value) for name, value in (x.split("=", 1) for x in how.set)}
    record = {
        "shapes": shapes,
        "overrides": overrides,
        "rounds": how.rounds,
        "steps": steps,
        "load": os.getloadavg()[0],
        "seconds": in_turns(shapes, overrides, how.rounds, steps),
        "torch": None,
    }
    if how.torch_python:
        record["torch"] = by_torch(how.torch_python, shapes, how.rounds, steps)
    else:
        print("PyTorch is skipped: pass --torch-python to measure it.")
    record |= records.surroundings()
    if not how.small:
        records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    main()
