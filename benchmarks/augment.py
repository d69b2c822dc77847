"""Cost of augmentation on the device, as a share of a ResNet-50's step.

    python benchmarks/augment.py [--small]

Measures, for every preset, the milliseconds per image and view, and the milliseconds per image of a
training step: forward and backward pass of a ResNet-50 over one view. Programs run in turns in one
process. ``--small`` uses few images of 64 pixels, for a CPU. Adds a record to
benchmarks/records/augment.jsonl.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from neighbor_steps import in_turns

from jaxpt import models, records
from jaxpt.data import augment, presets
from jaxpt.data.feed import Batch

RECORDS = pathlib.Path(__file__).parent / "records" / "augment.jsonl"
SHARES = {
    "rand_augment, 2 of 9": augment.Settings(crop_area=(0.08, 1.0), flip=True, rand_augment=2)
}


def batch_of(n: int, size: int) -> Batch:
    """Random images on the device."""
    image = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    numbers = np.arange(n, dtype=np.int32)
    return jax.device_put(Batch(image, numbers, numbers, numbers, 0 * numbers, np.int32(0)))


def drawing(settings: augment.Settings, batch: Batch):
    """Draws the second view, which has all operations of an asymmetric preset."""
    config = ml_collections.ConfigDict(settings._asdict())
    program = jax.jit(lambda batch: augment.draw_view(config, batch, view=1))
    return lambda: program(batch)


def step(batch: Batch, dtype: str):
    """Value and gradient of a ResNet-50 with a classifier of 1,000 classes, of one plain view."""
    encoder = models.Encoder(
        models.make_backbone(
            ml_collections.ConfigDict(
                {"name": "resnet50", "norm": "batch", "dtype": dtype, "options": {}}
            ),
            axis_name=None,
        ),
        models.Classifier(1000),
    )
    params, stats = jax.jit(lambda key: models.init(encoder, key, jnp.zeros((1, 64, 64, 3))))(
        jax.random.key(0)
    )

    @jax.jit
    def program(params, batch):
        def loss_of(params):
            encoded = models.encode(
                encoder, params, stats, augment.to_float(batch.image), train=True
            )
            return jnp.mean(jax.nn.logsumexp(encoded.output, axis=-1)), encoded.batch_stats

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    return lambda: program(params, batch)


def measure(n: int, size: int, repeats: int, dtype: str, names=()) -> dict[str, float]:
    """Milliseconds per image of each preset, of multi-crop's small crops, and of the step.

    ``names`` selects some of them; the step is always measured.
    """
    batch = batch_of(n, size)
    programs = {name: drawing(preset.views, batch) for name, preset in presets.PRESETS.items()}
    small = presets.PRESETS["dino"].local._replace(crop_size=round(size * 96 / 224))
    programs["dino, a small crop"] = drawing(small, batch)
    programs |= {name: drawing(settings, batch) for name, settings in SHARES.items()}
    programs = {name: run for name, run in programs.items() if not names or name in names}
    programs["step"] = step(batch, dtype)
    return {name: ms / n for name, ms in in_turns(programs, repeats).items()}


def markdown(record: dict) -> str:
    """Table of the costs in a record."""
    costs = record["milliseconds_an_image"]
    lines = [
        "| preset | ms per image and view | share of a ResNet-50's step |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {ms:.3f} | {ms / costs['step']:.1%} |"
        for name, ms in costs.items()
        if name != "step"
    ]
    lines.append(
        f"\nThe step takes {costs['step']:.2f} ms per image; {record['dtype']}, "
        f"{record['batch']} images of {record['size']} pixels. {record['device']}, "
        f"jax {record['packages']['jax']}, {record['date']}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small images, for seconds on a CPU")
    small = parser.parse_args().small
    setting = (
        {"n": 8, "size": 64, "repeats": 5, "dtype": "float32"}
        if small
        else {"n": 128, "size": 224, "repeats": 20, "dtype": "bfloat16"}
    )
    record = {
        "batch": setting["n"],
        "size": setting["size"],
        "dtype": setting["dtype"],
        "repeats": setting["repeats"],
        "milliseconds_an_image": measure(**setting),
        **records.surroundings(),
    }
    records.append(RECORDS, record)
    print(markdown(record))


if __name__ == "__main__":
    main()
