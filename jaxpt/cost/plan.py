"""What a pre-training run would take on chips that are not at hand: time, memory, chip-hours.

The config's own step is traced for one chip of so many, without allocating anything, and counted
(``counting``); what a chip can do at most is published (``chips``). In between stands one
assumption, the share of the peaks that is reached, and a roofline: every operation takes as long
as its arithmetic or its memory traffic, whichever is longer, and what travels over the links comes
on top. Not a measurement, of a TPU least of all.
"""

import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from jaxpt import pretrain
from jaxpt.cost.chips import parse
from jaxpt.cost.counting import Counts, count
from jaxpt.data import augment, feed, listing, protocols
from jaxpt.data.dataset import VALIDATION_SHARE, with_test
from jaxpt.data.feed import Batch
from jaxpt.data.labels import label_map
from jaxpt.errors import require
from jaxpt.methods import encoding
from jaxpt.train import parallel
from jaxpt.train.guard import guarded

UTILISATION = 0.5  # the share of all peaks that is assumed to be reached
SHORT = 2e-3  # seconds of a step, below which the plan says that it is none
GREY = {"digits": 8, "fashion_mnist": 28}  # sets of one channel, with their sides


class Sizes(NamedTuple):
    """What a plan needs to know of a set: training images, their classes, and an image's shape."""

    images: int
    classes: int
    side: int
    channels: int


class Step(NamedTuple):
    """One device's step, counted; bytes of what lies on it between steps, by name."""

    counts: Counts
    lasting: dict[str, float]
    steps: int
    batch: int
    keys: int


class Plan(NamedTuple):
    """What a run takes.

    Attributes:
      chips: as they were named, such as "v5e-8".
      count: how many chips these are.
      batch: images of a step.
      seconds: of a step; arithmetic, exact, traffic and links are its parts, each by itself:
        all products, those of float32 at the highest precision among them, memory, links.
      gigaflops: of one chip in a step, by XLA's way of counting.
      hours: of all steps.
      memory: bytes on each chip, by name.
      capacity: bytes that a chip has.
      keys: of the memory of keys, on all chips together.
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
    """A plan for each of some numbers of chips.

    Args:
      config: of pre-training.
      chips: names such as "v5e-8", see ``chips.parse``.
      images, classes: of the training set, where config and folder do not say it.
      utilisation: share of the peaks that is reached, above 0 and at most 1.

    Raises:
      InputError: for an unknown chip, a set whose size is not known, or whatever pre-training
        itself would refuse, such as a batch that does not divide over the chips.
    """
    require(0 < utilisation <= 1, f"utilisation must be above 0 and at most 1, got {utilisation}.")
    named = [(name, *parse(name)) for name in chips]
    sizes = sizes_of(config, images=images, classes=classes)
    steps = {n: step_of(config, sizes, n) for n in sorted({n for _, _, n in named})}
    return [_judge(name, chip, n, steps[n], utilisation) for name, chip, n in named]


def sizes_of(config: ml_collections.ConfigDict, *, images: int = 0, classes: int = 0) -> Sizes:
    """How large a config's set is, as far as possible without reading it.

    Raises:
      InputError: where that cannot be known.
    """
    require(
        images >= 0 and classes >= 0,
        f"images and classes must not be negative, got {images} and {classes}.",
    )
    data = config.data
    known = _known_sizes(data) if not (images and classes) else (images, classes)
    require(
        known is not None,
        f"how large {data.source} {data.path!r} is cannot be known from "
        "here: say --images=N --classes=C.",
    )
    total, names = (
        images or known[0],
        classes or len(label_map(data.label_map, tuple(map(str, range(known[1])))).names),
    )
    total = min(total, data.limit or total)
    if data.train_on == "train" and not images:
        total = round((1 - VALIDATION_SHARE) * total)
    source = data.source.removeprefix(protocols.PREFIX)
    side = GREY.get(source) or data.image_size or protocols.PROTOCOLS[source].crop
    return Sizes(min(total, data.pretrain_limit or total), names, side, 1 if source in GREY else 3)


def _known_sizes(data) -> tuple[int, int] | None:
    """Training images and classes of a set that is named, or of a folder that is here."""
    source = data.source.removeprefix(protocols.PREFIX)
    if source == "folder" and pathlib.Path(data.path).exists() and data.path:
        parts = listing.parts(pathlib.Path(data.path))
        parts = {name: part for name, part in with_test(parts).items() if name != "test"}
        return sum(len(part.files) for part in parts.values()), len(set(parts["train"].classes))
    for name, protocol in protocols.PROTOCOLS.items():
        if source == name:
            return protocol.sizes["trainval"], protocol.classes
        whole = data.train_split == protocol.train == "train"
        if whole and protocol.source.startswith(f"{source}:"):
            return protocol.sizes.get("train", protocol.sizes["trainval"]), protocol.classes
    return None


def step_of(config: ml_collections.ConfigDict, sizes: Sizes, devices: int) -> Step:
    """Traces and counts the step of one of so many devices.

    Raises:
      InputError: whatever pre-training would refuse.
    """
    parallel.check_batch(config.batch_size, devices)
    encoding.check_micro_batches(config, devices)
    method, durations = pretrain.prepare_for(config, n_examples=sizes.images, classes=sizes.classes)
    shape = (config.batch_size, sizes.side, sizes.side, sizes.channels)
    state = jax.eval_shape(
        method.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)
    )
    axes = pretrain.axes_of(state, config, devices)
    whole = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    batch = Batch(
        jax.ShapeDtypeStruct(shape, jnp.uint8),
        whole,
        whole,
        whole,
        whole,
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    step = guarded(method.step, max_skipped=config.max_skipped)
    with augment.as_on_accelerators():
        jaxpr = parallel.trace(step, state, batch, axes=axes, devices=devices)
    counts = count(jaxpr, devices)
    held = jax.tree.map(
        lambda x, axis: x.size * x.dtype.itemsize / (1 if axis is None else devices), state, axes
    )
    lasting = {
        "parameters": _sum((held.params, held.batch_stats)),
        "optimizer": _sum(held.opt_state),
        "target": _sum((held.target, held.centre)),
        "memory of keys": _sum(held.memory),
        "images": _images(config.data, sizes, math.prod(shape) / devices),
    }
    keys = 0 if state.memory is None else len(state.memory.labels)
    return Step(counts, lasting, durations.total, config.batch_size, keys)


def _images(data, sizes: Sizes, batch: float) -> float:
    """Bytes of images on a device: the whole set, or the batches of the stream."""
    whole = sizes.images * sizes.side**2 * sizes.channels
    resident = data.resident == "yes" or (
        data.resident == "auto" and whole <= data.resident_limit_mb * 2**20
    )
    return float(whole) if resident else (feed.IN_FLIGHT + 1) * batch


def _sum(tree: Any) -> float:
    return float(sum(jax.tree.leaves(tree)))


def _judge(name, chip, devices: int, step: Step, utilisation: float) -> Plan:
    """The roofline."""

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
    )


def rows(plans: list[Plan], dollars_per_chip_hour: float = 0.0) -> list[tuple[str, list[str]]]:
    """The plans as a table, (what, a cell for each plan)."""

    def row(title, cell):
        return title, [cell(plan) for plan in plans]

    def dollars(plan):
        if dollars_per_chip_hour:
            return told(plan.chip_hours * dollars_per_chip_hour)
        return f"{told(plan.chip_hours)} × price"

    return [
        row("chips", lambda p: f"{p.count:,}"),
        row("batch", lambda p: f"{p.batch:,}"),
        row("images/s", lambda p: f"{p.images_per_second:,.0f}"),
        row("step, ms", lambda p: told(1e3 * p.seconds)),
        *(
            row(f"– {part}, ms", lambda p, part=part: told(1e3 * getattr(p, part)))
            for part in ("arithmetic", "traffic", "links")
        ),
        row("– of arithmetic, exact float32, ms", lambda p: told(1e3 * p.exact)),
        row("GFLOP of a chip's step", lambda p: told(p.gigaflops)),
        row("hours", lambda p: told(p.hours)),
        row("chip-hours", lambda p: told(p.chip_hours)),
        row("dollars", dollars),
        *(
            row(f"{part}, GB a chip", lambda p, part=part: told(p.memory[part] / 1e9))
            for part in plans[0].memory
        ),
        row(
            "all of it, GB a chip",
            lambda p: f"{told(sum(p.memory.values()) / 1e9)} of {p.capacity / 1e9:,.0f}",
        ),
        row("keys in memory", lambda p: f"{p.keys:,}"),
    ]


def told(x: float) -> str:
    """Three digits, or all before the point."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def notes(plans: list[Plan], utilisation: float = UTILISATION) -> list[str]:
    """What has to be said with the numbers."""
    said = [
        f"On paper: {utilisation:.0%} of the published peaks is an assumption (--utilisation), and "
        "nothing here was measured on a TPU.",
        "Arithmetic and traffic overlap, operation by operation; links come on top. Start, "
        "compilation, filling the memory, kNN monitor and checkpoints are not in it.",
        "Dollars = chip-hours × the price of a chip-hour (--dollars-per-chip-hour); hosts, disks "
        "and what stands idle are not in it.",
        f"The hosts must decode {max(p.images_per_second for p in plans):,.0f} images/s between "
        "them, unless the set lies on the chips.",
    ]
    for plan in plans:
        if plan.seconds < SHORT:
            said.append(
                f"{plan.chips}: a step this short is bound by what is not counted, kernel "
                "starts and the host; it will take longer."
            )
        if sum(plan.memory.values()) > plan.capacity:
            said.append(
                f"{plan.chips} does not fit: raise micro_batches, lower batch_size, set "
                "model.remat or memory_sharding, or take more chips."
            )
    return said
