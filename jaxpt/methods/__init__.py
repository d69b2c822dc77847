"""Registry of the pre-training methods; each method is one module of this package."""

import importlib
from typing import Any, Callable, Mapping, NamedTuple

import optax

from jaxpt.errors import require
from jaxpt.train.state import Target, copy, move_target


class Setup(NamedTuple):
    """Arguments from which a method is built.

    Attributes:
      config: the pre-training config.
      classes: number of classes of the training labels.
      examples: number of training examples.
      optimizer: optimizer of the online encoder's parameters and of the method's own parameters.
      steps: converts a duration such as "10 epochs" to a number of steps.
      axis_name: the mapped axis over the devices.
    """

    config: Any
    classes: int
    examples: int
    optimizer: optax.GradientTransformation
    steps: Callable[[str], int]
    axis_name: str


class Method(NamedTuple):
    """A pre-training method as three pure functions, each run on every device.

    Attributes:
      encoder: the online ``Encoder``.
      init: (key, images [batch, …]) → TrainState.
      step: (state, Batch) → (state, metrics), where metrics are float32 scalars averaged over the
        devices.
      fill: (state, Batch) → state with the batch's keys in the memory; None if there is no memory.
      chance: value of the loss without any signal, such as the logarithm of the number of
        candidates; None if there is no such value.
    """

    encoder: Any
    init: Callable
    step: Callable
    fill: Callable | None = None
    chance: float | None = None


class Entry(NamedTuple):
    """Registry entry of a method.

    Attributes:
      title: display name.
      reads: groups of ``SHARED`` that the method reads.
      settings: fields outside the method's section whose defaults differ for this method.
      also_reads: groups that the method reads only if a field of its section has a given value.
    """

    title: str
    reads: tuple[str, ...]
    settings: dict[str, Any] = {}
    also_reads: dict[tuple[str, Any], tuple[str, ...]] = {}


# Groups of fields that only some methods read. Every method reads the remaining fields, except
# sections named after a method, which only that method reads.
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

# Keys are the names of the modules in this package whose ``make`` builds the method.
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
        "DINO",
        (*_PROJECTED, "crops", "target"),
        {"views": 2, "local_views": 6, "ema_end": 1.0, "evaluated_weights": "target"},
    ),
    "nn_clr": Entry("NNCLR", (*_PROJECTED, "predictor", "memory"), {"views": 2}),
}

__all__ = ["METHODS", "SHARED", "Entry", "Method", "Setup", "make_method", "unread"]


def unread(config: Mapping[str, Any]) -> set[str]:
    """Returns the fields and sections of a pre-training config that its method does not read.

    Args:
      config: nested mappings, such as a ConfigDict or the config of a record.
    """
    name = config.get("method")
    others = METHODS.keys() - {name}
    if name not in METHODS:  # a method outside the registry, which may read any shared field
        return others
    entry, own = METHODS[name], config.get(name, {})
    groups = set(entry.reads)
    for (field, value), more in entry.also_reads.items():
        if own.get(field) == value:
            groups.update(more)
    return others.union(*(SHARED[group] for group in SHARED.keys() - groups))


def make_method(setup: Setup) -> Method:
    """Builds the method named by ``setup.config.method``.

    With ``weight_ema``, a method without a target encoder gets one that only averages its weights.

    Raises:
      InputError: for an unknown name, or settings that are invalid for the method.
    """
    name = setup.config.method
    require(name in METHODS, f"method must be one of {list(METHODS)}, got {name!r}.")
    method = importlib.import_module(f"jaxpt.methods.{name}").make(setup)
    decay = setup.config.weight_ema
    require(0 <= decay < 1, f"weight_ema must be at least 0 and below 1, got {decay}.")
    return _averaged(method, setup) if decay else method


def _averaged(method: Method, setup: Setup) -> Method:
    """Wraps a method without a target: the target becomes an average of the online encoder."""
    config = setup.config

    def init(key, images):
        state = method.init(key, images)
        require(
            state.target is None,
            f"method {config.method} has a target encoder, whose average is set by ema: set "
            "weight_ema to 0.",
        )
        encoder = (
            {name: tree[name] for name in ("backbone", "head") if name in tree}
            for tree in (state.params, state.batch_stats)
        )
        return state.replace(target=Target(*copy(tuple(encoder))))

    def step(state, batch):
        new, metrics = method.step(state, batch)
        target = move_target(state.target, new, None, config.weight_ema, setup.axis_name)
        return new.replace(target=target), metrics

    return method._replace(init=init, step=step)
