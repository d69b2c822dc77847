"""How to call every loss on arrays drawn at random, for the tests that hold of all of them.

An entry of ``LOSSES`` names a loss's arrays; what an array of that name looks like stands in
``AXES``, once for all losses.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles
import oracles_batch
import rounding

from jaxpt import losses

# Axes of each argument: b batch, m memory, d dim, c classes or prototypes, v views (of them t the
# teacher's).
AXES = {
    "embeddings": "bd",
    "queries": "bd",
    "positives": "bd",
    "predictions": "bd",
    "keys": "md",
    "logits": "bc",
    "labels": "b",
    "query_labels": "b",
    "key_labels": "m",
    "ids": "b",
    "query_ids": "b",
    "key_ids": "m",
    "key_mask": "m",
    "where": "b",
    "first": "bd",
    "second": "bd",
    "targets": "bd",
    "prototypes": "cd",
    "student": "vbc",
    "teacher": "tbc",
    "centre": "c",
}
# Batch and memory: two and three rows for each of 8 devices.
SIZES = {"b": 16, "m": 24, "d": 4, "c": 5, "v": 3, "t": 2}


@dataclasses.dataclass(frozen=True)
class Call:
    """A loss, its oracle and what the two are called with.

    Attributes:
      loss: returns values alone.
      oracle: the same in float64; knows no ``where``: it is given the rows that are kept.
      online: names of the float arrays that get a gradient.
      targets: names of the float arrays that get none.
      others: names of the labels, ids and masks; ``where`` is always there.
      options: what else both are called with.
      temperatures: names of the temperatures.
      split: axes that are split over devices when the loss has an ``axis_name``.
      per_example: whether a value per row comes out, or one for all.
      closed: whether labels are bound to 0 … c − 1.
      any_length: whether rows of lengths 1e-30 … 1e30 make sense.
    """

    loss: Callable
    oracle: Callable
    online: tuple
    targets: tuple = ()
    others: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    temperatures: tuple = ("temperature",)
    split: str = ""
    per_example: bool = True
    closed: bool = False
    any_length: bool = True

    @property
    def floats(self):
        return self.online + self.targets

    @property
    def names(self):
        return self.floats + self.others + ("where",)


class Case(NamedTuple):
    """What the drawn arrays are like."""

    rows: str = "gaussian"
    lengths: str = "alike"
    labels: str = "few"
    ids: str = "few"
    where: str = "some"
    key_mask: str = "some"


CHOICES = Case(
    rows=("gaussian", "duplicates", "some zero", "zero", "one"),
    lengths=("alike", "tiny", "huge", "mixed"),
    labels=("few", "single", "lonely"),
    ids=("few", "lonely", "single"),
    where=("all", "some", "one", "none"),
    key_mask=("all", "some", "one", "none"),
)


def draw(call, rng, case=Case(), sizes=SIZES):
    """Arrays by name for a call."""
    return {
        name: _draw(name, call, rng, case, tuple(sizes[axis] for axis in AXES[name]))
        for name in call.names
    }


def _draw(name, call, rng, case, shape):
    if name in ("where", "key_mask"):
        return _mask(getattr(case, name), rng, shape)
    if "ids" in name:
        return _integers(case.ids, rng, shape, name, 6)
    if "labels" in name:
        labels = _integers(case.labels, rng, shape, name, 3)
        return labels % SIZES["c"] if call.closed else labels
    rows = _rows(case.rows, rng, shape)
    return rows * _lengths(case.lengths, rng, shape) if call.any_length else rows


def _mask(kind, rng, shape):
    return {
        "all": np.ones(shape, bool),
        "none": np.zeros(shape, bool),
        "some": rng.random(shape) < 0.7,
        "one": np.arange(shape[0]) == rng.integers(shape[0]),
    }[kind]


def _integers(kind, rng, shape, name, n):
    if kind == "few":
        return rng.integers(n, size=shape, dtype=np.int32)
    if kind == "single":
        return np.ones(shape, np.int32)
    # Lonely: no two alike, here or in an array of another name.
    return np.arange(*shape, dtype=np.int32) + 100 * sorted(AXES).index(name)


def _rows(kind, rng, shape):
    rows = rng.normal(size=shape).astype(np.float32)
    if kind in ("duplicates", "one"):  # directions along the axes: all cosines are exact, ties too
        axes = np.concatenate([np.eye(shape[-1]), -np.eye(shape[-1])]).astype(np.float32)
        size = shape[:-1] if kind == "duplicates" else ()
        rows = np.broadcast_to(axes[rng.integers(len(axes), size=size)], shape)
    elif kind == "some zero":
        rows[rng.random(shape[:-1]) < 0.5] = 0
    elif kind == "zero":
        rows[:] = 0
    return rows


def _lengths(kind, rng, shape):
    low, high = {"alike": (0, 0), "tiny": (-30, -30), "huge": (30, 30), "mixed": (-30, 30)}[kind]
    return (10.0 ** rng.uniform(low, high, size=(*shape[:-1], 1))).astype(np.float32)


def cut(name, array, where):
    """The array's rows of the batch that ``where`` keeps; all of an array without a batch axis."""
    return np.compress(where, array, AXES[name].index("b")) if "b" in AXES[name] else array


def expected(call, arrays, temperature, **options):
    """What the loss should return, by its oracle."""
    where = arrays["where"]
    kept = {name: cut(name, x, where) for name, x in arrays.items() if name != "where"}
    temperatures = dict.fromkeys(call.temperatures, float(temperature))
    options = temperatures | call.options | options
    if not call.per_example:
        return call.oracle(**kept, **options)
    values = np.zeros(len(where))
    if where.any():
        values[where] = call.oracle(**kept, **options)
    return values


def tolerance(call, temperature):
    """Absolute, of the difference of two logarithms of sums; relative, of squares of sums."""
    terms = SIZES["b"] + SIZES["m"]
    cosines = rounding.of_product(SIZES["d"])
    logit = cosines / float(temperature) if call.temperatures else 0
    return {"rtol": 4 * rounding.of_sum(terms), "atol": 2 * rounding.of_log_sum(terms, logit)}


def first(function):
    """The function without its second result."""
    return functools.wraps(function)(lambda *args, **options: function(*args, **options)[0])


_MEMORY = ("query_ids", "key_ids", "key_mask")
_neighbors = Call(
    first(losses.nca),
    first(oracles.nca),
    ("queries",),
    ("keys",),
    ("query_labels", "key_labels", *_MEMORY),
    split="bm",
)
_sup_con = Call(losses.sup_con, oracles.sup_con, ("embeddings",), others=("labels",), split="b")
_supervised = dataclasses.replace(_neighbors, targets=("positives", "keys"))


def _batch(name, options, **traits):
    return Call(
        getattr(losses, name),
        getattr(oracles_batch, name),
        ("first", "second"),
        options=options,
        temperatures=(),
        split="b",
        per_example=False,
        **traits,
    )


LOSSES = {
    "look": dataclasses.replace(
        _neighbors, loss=first(losses.look), oracle=first(oracles.look), options={"k": 5}
    ),
    "nca": _neighbors,
    "sup_con": _sup_con,
    "sup_con in": dataclasses.replace(_sup_con, options={"form": "in"}),
    "sup_con memory": dataclasses.replace(
        _sup_con, targets=("keys",), others=("labels", "key_labels", "ids", "key_ids", "key_mask")
    ),
    "sup_con in memory": dataclasses.replace(
        _sup_con, targets=("keys",), others=("labels", "key_labels"), options={"form": "in"}
    ),
    "nt_xent": Call(losses.nt_xent, oracles.nt_xent, ("embeddings",), others=("ids",), split="b"),
    "info_nce": Call(
        losses.info_nce, oracles.info_nce, ("queries",), ("positives", "keys"), _MEMORY, split="bm"
    ),
    "info_nce batch": Call(
        losses.info_nce, oracles.info_nce, ("queries",), ("positives",), ("query_ids",), split="b"
    ),
    "nn_clr": Call(
        losses.nn_clr, oracles.nn_clr, ("predictions",), ("embeddings", "keys"), _MEMORY, split="b"
    ),
    "sup_moco": dataclasses.replace(_supervised, loss=losses.sup_moco, oracle=oracles.sup_moco),
    "exemplar": dataclasses.replace(_supervised, loss=losses.exemplar, oracle=oracles.exemplar),
    "mask_con": dataclasses.replace(
        _supervised,
        loss=losses.mask_con,
        oracle=oracles.mask_con,
        options={"target_temperature": 0.2, "weight": 0.7},
    ),
    "grafit": dataclasses.replace(
        _supervised, loss=losses.grafit, oracle=oracles.grafit, options={"weight": 0.3}
    ),
    "spread": Call(
        losses.spread,
        oracles.spread,
        ("embeddings",),
        others=("labels", "ids"),
        options={"weight": 0.3},
        split="b",
    ),
    "cross_entropy": Call(
        losses.cross_entropy,
        oracles.cross_entropy,
        ("logits",),
        others=("labels",),
        options={"label_smoothing": 0.1},
        temperatures=(),
        closed=True,
        any_length=False,
    ),
    "entropy": Call(
        losses.entropy, oracles.entropy, ("logits",), temperatures=(), any_length=False
    ),
    "cosine_softmax": Call(
        losses.cosine_softmax,
        oracles_batch.cosine_softmax,
        ("embeddings", "prototypes"),
        others=("labels",),
        options={"label_smoothing": 0.1},
        closed=True,
    ),
    "prototype_softmax": dataclasses.replace(
        _neighbors,
        loss=losses.prototype_softmax,
        oracle=oracles_batch.prototype_softmax,
        options={"classes": SIZES["c"]},
        closed=True,
    ),
    "cosine_regression": Call(
        losses.cosine_regression,
        oracles_batch.cosine_regression,
        ("predictions",),
        ("targets",),
        temperatures=(),
    ),
    "barlow_twins": _batch("barlow_twins", {"redundancy": 0.3}),
    "vicreg": _batch("vicreg", {"covariance": 3.0}, any_length=False),
    "dino": Call(
        losses.dino,
        oracles_batch.dino,
        ("student",),
        ("teacher", "centre"),
        temperatures=("student_temperature", "teacher_temperature"),
        any_length=False,
    ),
}
