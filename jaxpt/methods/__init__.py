"""Registry of the pre-training methods; each method is one module of this package."""

import importlib
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np
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
      label_sources: int32 [classes], the source of every class, if the method compares within the
        sources of several; else None.
      source_shares: share of each source in the training examples.
    """

    config: Any
    classes: int
    examples: int
    optimizer: optax.GradientTransformation
    steps: Callable[[str], int]
    axis_name: str
    label_sources: np.ndarray | None = None
    source_shares: tuple[float, ...] = (1.0,)

    def chance(self, of_source: Callable[[int, float], float]) -> float:
        """Mean of ``of_source(number of classes, share)`` over the sources, by their shares."""
        if self.label_sources is None:
            return of_source(self.classes, 1.0)
        classes = np.bincount(self.label_sources).tolist()
        return sum(p * of_source(n, p) for n, p in zip(classes, self.source_shares, strict=True))


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
      within_source: whether the method can ignore examples of other sources.
    """

    title: str
    reads: tuple[str, ...]
    settings: dict[str, Any] = {}
    also_reads: dict[tuple[str, Any], tuple[str, ...]] = {}
    within_source: bool = False


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
    "neighbors": ("neighbor_workspace",),
}
_PROJECTED = ("temperature", "projector")
_MOCO = (*_PROJECTED, "crops", "target", "memory")

OTHER_SOURCES = ("ignored", "negatives")

# Keys are the names of the modules in this package whose ``make`` builds the method.
METHODS = {
    "look": Entry("LOOK", (*_MOCO, "neighbors"), within_source=True),
    "nca": Entry("NCA", (*_MOCO, "neighbors"), {"temperature": 0.05}, within_source=True),
    "cross_entropy": Entry(
        "cross-entropy",
        ("crops",),
        also_reads={("classifier", "mlp"): ("projector",)},
        within_source=True,
    ),
    "sup_con": Entry("SupCon", (*_PROJECTED, "crops"), within_source=True),
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
    With ``other_sources = "negatives"``, it sees the classes of all sources as those of one.

    Raises:
      InputError: for an unknown name, or settings that are invalid for the method.
    """
    name, others = setup.config.method, setup.config.other_sources
    require(name in METHODS, f"method must be one of {list(METHODS)}, got {name!r}.")
    require(
        others in OTHER_SOURCES, f"other_sources must be one of {OTHER_SOURCES}, got {others!r}."
    )
    if others == "negatives":
        setup = setup._replace(label_sources=None)
    able = [other for other, entry in METHODS.items() if entry.within_source]
    require(
        setup.label_sources is None or name in able,
        f"method {name} compares the images of all sources: set other_sources to negatives, or "
        f"choose a method that can ignore other sources ({', '.join(able)}).",
    )
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
