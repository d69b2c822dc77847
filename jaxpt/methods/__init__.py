"""Pre-training methods by name, one page each."""

import importlib
from typing import Any, Callable, Mapping, NamedTuple

import optax

from jaxpt.errors import require


class Setup(NamedTuple):
    """What every method is made from.

    Attributes:
      config: the pre-training config.
      classes: how many classes the training labels have.
      examples: how many training examples there are.
      optimizer: over the online encoder's parameters, and those that a method has beside it.
      steps: turns a duration such as "10 epochs" into steps.
      axis_name: the mapped axis over the devices.
    """

    config: Any
    classes: int
    examples: int
    optimizer: optax.GradientTransformation
    steps: Callable[[str], int]
    axis_name: str


class Method(NamedTuple):
    """A pre-training method, as three pure functions for one device.

    Attributes:
      encoder: the online ``Encoder``.
      init: (key, images [batch, …]) → TrainState.
      step: (state, Batch) → (state, metrics), metrics float32 scalars averaged over the devices.
      fill: (state, Batch) → state with the batch's keys in the memory; None without a memory.
    """

    encoder: Any
    init: Callable
    step: Callable
    fill: Callable | None = None


class Entry(NamedTuple):
    """What the registry says of a method; the rest is its page and its section of the config.

    Attributes:
      title: its name for people.
      reads: groups of ``SHARED`` that it reads.
      settings: fields outside its section that it, or its paper, sets otherwise than the defaults.
      also_reads: groups that it reads only if a field of its section has a certain value.
    """

    title: str
    reads: tuple[str, ...]
    settings: dict[str, Any] = {}
    also_reads: dict[tuple[str, Any], tuple[str, ...]] = {}


# Fields that some methods read and others do not. All read the remaining ones, but for the sections
# that have a method's name: those are that method's own.
SHARED = {
    "temperature": ("temperature",),
    "projector": ("model.projector",),
    "predictor": ("model.predictor",),
    "crops": ("local_augment",),
    "target": ("ema", "ema_end", "target_norm"),
    "memory": (
        "memory",
        "memory_kind",
        "memory_momentum",
        "memory_sharding",
        "memory_dtype",
        "key_augment",
    ),
}
_PROJECTED = ("temperature", "projector")
_MOCO = (*_PROJECTED, "crops", "target", "memory")

# By the name of the file beside this one that has the method's ``make``.
METHODS = {
    "look": Entry("LOOK", _MOCO),
    "nca": Entry("NCA", _MOCO, {"temperature": 0.05}),
    "cross_entropy": Entry(
        "cross-entropy", ("crops",), also_reads={("classifier", "mlp"): ("projector",)}
    ),
    "sup_con": Entry("SupCon", (*_PROJECTED, "crops")),
    "sup_moco": Entry("SupMoCo", _MOCO, {"temperature": 0.07}),
    "exemplar": Entry("Exemplar", _MOCO, {"temperature": 0.2}),
    "spread": Entry("spread", _PROJECTED, {"temperature": 0.5, "views": 2}),
    "mask_con": Entry("MaskCon", _MOCO),
    "grafit": Entry("Grafit", _MOCO),
    "t_rex": Entry(
        "t-ReX",
        (*_PROJECTED, "crops"),
        {"local_views": 8},
        also_reads={("prototypes_from", "memory"): ("target", "memory")},
    ),
    "moco_v2": Entry("MoCo v2", _MOCO, {"temperature": 0.2}),
    "moco_v3": Entry(
        "MoCo v3",
        (*_PROJECTED, "predictor", "target"),
        {"temperature": 1.0, "views": 2, "ema_end": 1.0},
    ),
    "simclr": Entry("SimCLR", _PROJECTED, {"temperature": 0.5, "views": 2}),
    "byol": Entry("BYOL", ("projector", "predictor", "target"), {"views": 2, "ema_end": 1.0}),
    "simsiam": Entry("SimSiam", ("projector", "predictor"), {"views": 2}),
    "barlow_twins": Entry("Barlow Twins", ("projector",), {"views": 2}),
    "vicreg": Entry("VICReg", ("projector",), {"views": 2}),
    "dino": Entry(
        "DINO", (*_PROJECTED, "crops", "target"), {"views": 2, "local_views": 6, "ema_end": 1.0}
    ),
    "nn_clr": Entry("NNCLR", (*_PROJECTED, "predictor", "memory"), {"views": 2}),
}

__all__ = ["METHODS", "SHARED", "Entry", "Method", "Setup", "make_method", "unread"]


def unread(config: Mapping[str, Any]) -> set[str]:
    """Fields and sections of a pre-training config that its method does not read.

    Args:
      config: nested mappings, as a ConfigDict or the config of a record.
    """
    name = config.get("method")
    others = METHODS.keys() - {name}
    if name not in METHODS:  # a method of somebody's own, which may read any shared field
        return others
    entry, own = METHODS[name], config.get(name, {})
    groups = set(entry.reads)
    for (field, value), more in entry.also_reads.items():
        if own.get(field) == value:
            groups.update(more)
    return others.union(*(SHARED[group] for group in SHARED.keys() - groups))


def make_method(setup: Setup) -> Method:
    """The method that ``setup.config.method`` names.

    Raises:
      InputError: for an unknown name, or settings that make no sense for the method.
    """
    name = setup.config.method
    require(name in METHODS, f"method must be one of {list(METHODS)}, got {name!r}.")
    return importlib.import_module(f"jaxpt.methods.{name}").make(setup)
