"""Estimates of a pre-training run's time, memory and chip-hours on chips that are not at hand.

The config's step is traced as one of several chips would run it, without allocating anything, and
counted (``counting``). The peaks of a chip are published (``chips``). A roofline model connects the
two: every operation takes the longer of its arithmetic and its memory traffic, both at an assumed
share of the peaks, and communication over the links is added. These are not measurements; no part
was compared with a TPU.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpt import pretrain
from jaxpt.cost.chips import parse
from jaxpt.cost.counting import Counts, count
from jaxpt.data import augment, crops, feed, listing, mixture, protocols, small_sets
from jaxpt.data.dataset import VALIDATION_SHARE, with_test
from jaxpt.data.feed import Batch
from jaxpt.data.labels import label_map
from jaxpt.errors import require
from jaxpt.methods import Method, encoding
from jaxpt.train import parallel

UTILISATION = 0.5  # assumed share of the peaks that is reached
# Milliseconds of one CPU core per JPEG of 500 × 375 pixels, by ``data.resampler``: to decode it,
# and in addition per crop of 224 and of 96 pixels. From benchmarks/records/input.jsonl.
HOST_MS = {"pillow": (0.84, 0.75, 0.21), "cykooz_resizer": (0.84, 0.17, 0.07)}
SHORT = 2e-3  # seconds; for shorter steps a note says that overheads dominate
GREY = {"digits": 8, "fashion_mnist": 28}  # sets with one channel → side of their images


class Sizes(NamedTuple):
    """Size of a training set: number of images and classes, side and channels of an image."""

    images: int
    classes: int
    side: int
    channels: int


class Step(NamedTuple):
    """One device's step.

    Attributes:
      counts: operations and bytes of the step.
      lasting: bytes on the device between steps, by name.
      steps: number of steps of the run.
      batch: images per step, over all devices.
      keys: size of the memory of keys, over all devices.
      host: seconds of one CPU core per image, by resampler; empty if the images are resident.
    """

    counts: Counts
    lasting: dict[str, float]
    steps: int
    batch: int
    keys: int
    host: dict[str, float] = {}


class Plan(NamedTuple):
    """Estimate of a run.

    Attributes:
      chips: name of the slice, such as "v5e-8".
      count: number of chips.
      batch: images per step.
      seconds: per step.
      arithmetic: seconds of all products, if nothing else took time.
      exact: the part of ``arithmetic`` in float32 at the highest precision.
      traffic: seconds of all memory traffic, if nothing else took time.
      links: seconds of all communication.
      gigaflops: per chip and step, as XLA counts.
      hours: of all steps.
      memory: bytes on each chip, by name.
      capacity: bytes of memory of a chip.
      keys: size of the memory of keys, over all chips.
      host: seconds of one CPU core per image, by resampler; empty if the images are resident.
    """

    chips: str
    count: int
    batch: int
    seconds: float
    arithmetic: float
    exact: float
    traffic: float
    links: float
    gigaflops: float
    hours: float
    memory: dict[str, float]
    capacity: float
    keys: int
    host: dict[str, float] = {}

    @property
    def cores(self) -> dict[str, float]:
        """CPU cores, of all hosts together, that decode as fast as the chips train."""
        return {name: seconds * self.images_per_second for name, seconds in self.host.items()}

    @property
    def images_per_second(self) -> float:
        return self.batch / self.seconds

    @property
    def chip_hours(self) -> float:
        return self.count * self.hours


def run(
    config: ml_collections.ConfigDict,
    chips: list[str],
    *,
    images: int = 0,
    classes: int = 0,
    utilisation: float = UTILISATION,
) -> list[Plan]:
    """Estimates a run for each of several slices.

    Args:
      config: the pre-training config.
      chips: names such as "v5e-8", see ``chips.parse``.
      images, classes: size of the training set, if config and folder do not determine it.
      utilisation: share of the peaks that is reached, above 0 and at most 1.

    Raises:
      InputError: for an unknown chip, a set of unknown size, or anything that pre-training itself
        would refuse, such as a batch that does not divide over the chips.
    """
    require(0 < utilisation <= 1, f"utilisation must be above 0 and at most 1, got {utilisation}.")
    named = [(name, *parse(name)) for name in chips]
    sizes = sizes_of(config, images=images, classes=classes)
    steps = {n: step_of(config, sizes, n) for n in sorted({n for _, _, n in named})}
    return [_judge(name, chip, n, steps[n], utilisation) for name, chip, n in named]


def sizes_of(config: ml_collections.ConfigDict, *, images: int = 0, classes: int = 0) -> Sizes:
    """Determines the size of a config's set without reading its images.

    Raises:
      InputError: if the size cannot be determined.
    """
    require(
        images >= 0 and classes >= 0,
        f"images and classes must not be negative, got {images} and {classes}.",
    )
    several = mixture.configs(config.data)
    if len(several) > 1:
        each = []
        for own in several.values():
            alone = config.copy_and_resolve_references()
            alone.data, alone.data.pretrain_limit = own, 0
            each.append(sizes_of(alone, images=images, classes=classes))
        total = images or sum(one.images for one in each)
        sides = {one.side for one in each}
        return Sizes(
            min(total, config.data.pretrain_limit or total),
            classes or sum(one.classes for one in each),
            sides.pop() if len(sides) == 1 else config.data.image_size,
            max(one.channels for one in each),
        )
    (data,) = several.values()
    known = _known_sizes(data) if not (images and classes) else (images, classes)
    require(
        known is not None,
        f"the size of {data.source} {data.path!r} is unknown here: pass --images=N --classes=C.",
    )
    total, names = (
        images or known[0],
        classes or len(label_map(data.label_map, tuple(map(str, range(known[1])))).names),
    )
    require(
        bool(images or data.long_tail_images or not data.long_tail),
        f"how many images data.long_tail {data.long_tail!r} draws depends on the sizes of the "
        "classes: pass --images=N or set data.long_tail_images.",
    )
    total = min(total, data.limit or total, data.long_tail_images or total)
    if data.train_on == "train" and not images:
        total = round((1 - VALIDATION_SHARE) * total)
    source = data.source.removeprefix(protocols.PREFIX)
    side = GREY.get(source) or data.image_size or protocols.PROTOCOLS[source].crop
    grey = source in GREY or source.startswith("glyphs")
    return Sizes(min(total, data.pretrain_limit or total), names, side, 1 if grey else 3)


def _known_sizes(data) -> tuple[int, int] | None:
    """Training images and classes of a known set or an existing folder; None for others."""
    source = data.source.removeprefix(protocols.PREFIX)
    if source == "folder" and pathlib.Path(data.path).exists() and data.path:
        parts = listing.parts(pathlib.Path(data.path))
        parts = {name: part for name, part in with_test(parts).items() if name != "test"}
        return sum(len(part.files) for part in parts.values()), len(set(parts["train"].classes))
    if source == "photographs":
        return small_sets.COPIES[0], 2
    for name, protocol in protocols.PROTOCOLS.items():
        if source == name:
            return protocol.sizes["trainval"], protocol.classes
        whole = data.train_split == protocol.train == "train"
        if whole and protocol.source.startswith(f"{source}:"):
            return protocol.sizes.get("train", protocol.sizes["trainval"]), protocol.classes
    return None


def prepare(config: ml_collections.ConfigDict, sizes: Sizes) -> tuple[Method, pretrain.Durations]:
    """Makes the method and the durations of a config for a set of these sizes."""
    sources = len(mixture.configs(config.data))
    require(
        sizes.classes >= sources,
        f"{sources} sources need as many classes or more, got {sizes.classes}: raise --classes.",
    )
    # Which class is of which source does not matter to the cost.
    of = np.arange(sizes.classes, dtype=np.int32) % sources if sources > 1 else None
    return pretrain.prepare_for(
        config,
        n_examples=sizes.images,
        classes=sizes.classes,
        label_sources=of,
        source_shares=(1 / sources,) * sources,
    )


def step_of(config: ml_collections.ConfigDict, sizes: Sizes, devices: int) -> Step:
    """Traces and counts the step of one of ``devices`` devices.

    Raises:
      InputError: for anything that pre-training would refuse.
    """
    parallel.check_batch(config.batch_size, devices)
    encoding.check_micro_batches(config, devices)
    method, durations = prepare(config, sizes)
    shape = (config.batch_size, sizes.side, sizes.side, sizes.channels)
    state = jax.eval_shape(
        method.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    )
    axes = pretrain.axes_of(state, config, devices)
    rows = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    images, host = images_of(config, sizes)
    batch = Batch(images, rows, rows, rows, rows, jax.ShapeDtypeStruct((), jnp.int32))
    step = pretrain.guarded(method.step, max_skipped=config.max_skipped)
    with augment.as_on_accelerators():
        jaxpr = parallel.trace(step, state, batch, axes=axes, devices=devices)
    counts = count(jaxpr, devices)
    held = jax.tree.map(lambda x, axis: _bytes(x) / (1 if axis is None else devices), state, axes)
    lasting = {
        "parameters": _sum((held.params, held.batch_stats)),
        "optimizer": _sum(held.opt_state),
        "target": _sum((held.target, held.centre)),
        "memory of keys": _sum((held.memory, held.latest)),
        "images": (feed.IN_FLIGHT + 1) * _sum(jax.tree.map(_bytes, images)) / devices
        if host
        else float(sizes.images * math.prod(shape[1:])),
    }
    keys = 0 if state.memory is None else len(state.memory.labels)
    return Step(counts, lasting, durations.total, config.batch_size, keys, host)


def images_of(config: ml_collections.ConfigDict, sizes: Sizes) -> tuple[Any, dict[str, float]]:
    """Shapes of a batch's images, and a CPU core's seconds per image, empty if resident."""
    data, shape = config.data, (sizes.side, sizes.side, sizes.channels)
    squares = jax.ShapeDtypeStruct((config.batch_size, *shape), jnp.uint8)
    views = encoding.cropped_views(config, sizes.side)
    resident = feed.is_resident(data, (sizes.images, *shape))
    streamed = data.crops == "auto" and not resident
    whole = data.crops == "whole" or (streamed and crops.any_random(views))
    if not whole:
        # Squares are resized by Pillow.
        return squares, {} if resident else {"pillow": _host_seconds("pillow", [sizes.side])}
    sides = {number: view.size for number, view in views.items()}
    images = {
        number: jax.ShapeDtypeStruct((config.batch_size, side, side, sizes.channels), jnp.uint8)
        for number, side in sides.items()
    }
    names = HOST_MS if data.resampler == "auto" else (data.resampler,)
    return images, {name: _host_seconds(name, list(sides.values())) for name in names}


def _host_seconds(resampler: str, sides: list[int]) -> float:
    """The time of a crop is taken as linear in its number of pixels."""
    decode, large, small = HOST_MS[resampler]
    each = (large - small) / (224**2 - 96**2)
    return (decode + sum(small + each * (side**2 - 96**2) for side in sides)) / 1e3


def _bytes(x) -> float:
    return x.size * x.dtype.itemsize


def _sum(tree: Any) -> float:
    return float(sum(jax.tree.leaves(tree)))


def _judge(name, chip, devices: int, step: Step, utilisation: float) -> Plan:
    """Applies the roofline model to a counted step."""

    def arithmetic(*kinds):
        return sum(step.counts.flops(kind) / chip.flops[kind] for kind in kinds) / utilisation

    device = (
        sum(
            work.times
            * max(
                work.flops / chip.flops[work.kind] if work.kind in chip.flops else 0.0,
                work.bytes / chip.memory_rate,
            )
            for work in step.counts.work
        )
        / utilisation
    )
    links = step.counts.sent / chip.link_rate / utilisation
    seconds = device + links
    return Plan(
        chips=name,
        count=devices,
        batch=step.batch,
        seconds=seconds,
        arithmetic=arithmetic(*chip.flops),
        exact=arithmetic("exact"),
        traffic=step.counts.bytes() / chip.memory_rate / utilisation,
        links=links,
        gigaflops=step.counts.flops() / 1e9,
        hours=step.steps * seconds / 3600,
        memory={**step.lasting, "activations, gradients": step.counts.held},
        capacity=chip.memory,
        keys=step.keys,
        host=step.host,
    )


def rows(plans: list[Plan], dollars_per_chip_hour: float = 0.0) -> list[tuple[str, list[str]]]:
    """Rows of a table: (title, one cell per plan)."""

    def row(title, cell):
        return title, [cell(plan) for plan in plans]

    def dollars(plan):
        if dollars_per_chip_hour:
            return rounded(plan.chip_hours * dollars_per_chip_hour)
        return f"{rounded(plan.chip_hours)} × price"

    return [
        row("chips", lambda p: f"{p.count:,}"),
        row("batch", lambda p: f"{p.batch:,}"),
        row("images/s", lambda p: f"{p.images_per_second:,.0f}"),
        row("step, ms", lambda p: rounded(1e3 * p.seconds)),
        *(
            row(f"– {part}, ms", lambda p, part=part: rounded(1e3 * getattr(p, part)))
            for part in ("arithmetic", "traffic", "links")
        ),
        row("– exact float32, part of arithmetic, ms", lambda p: rounded(1e3 * p.exact)),
        row("GFLOP per chip and step", lambda p: rounded(p.gigaflops)),
        row("hours", lambda p: rounded(p.hours)),
        row("chip-hours", lambda p: rounded(p.chip_hours)),
        row("dollars", dollars),
        *(
            row(f"{part}, GB per chip", lambda p, part=part: rounded(p.memory[part] / 1e9))
            for part in plans[0].memory
        ),
        row(
            "total, GB per chip",
            lambda p: f"{rounded(sum(p.memory.values()) / 1e9)} of {p.capacity / 1e9:,.0f}",
        ),
        *(
            row(f"CPU cores of all hosts, {name}", lambda p, name=name: rounded(p.cores[name]))
            for name in plans[0].host
        ),
        row("keys in memory", lambda p: f"{p.keys:,}"),
    ]


def rounded(x: float) -> str:
    """Formats a number with three significant digits, or as an integer from 100 on."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def notes(plans: list[Plan], utilisation: float = UTILISATION) -> list[str]:
    """Notes to print with the numbers: assumptions, omissions and warnings."""
    said = [
        f"These are estimates, not measurements: {utilisation:.0%} of the published peaks is an "
        "assumption (--utilisation), and nothing was measured on a TPU.",
        "Arithmetic and traffic overlap within each operation; links are added. Start-up, "
        "compilation, filling the memory, kNN monitor and checkpoints are not included.",
        "Dollars = chip-hours × the price per chip-hour (--dollars-per-chip-hour); hosts, disks "
        "and idle chips are not included.",
        "CPU cores are counted for JPEGs of 500 × 375 pixels on an EPYC core "
        "(benchmarks/input.py); larger pictures take longer in proportion to their pixels.",
    ]
    for plan in plans:
        if plan.seconds < SHORT:
            said.append(
                f"{plan.chips}: so short a step is dominated by overheads that are not counted, "
                "kernel launches and the host; it will take longer."
            )
        if sum(plan.memory.values()) > plan.capacity:
            said.append(
                f"{plan.chips} has too little memory: raise micro_batches, lower batch_size, set "
                "model.remat or memory_sharding, or use more chips."
            )
    return said
