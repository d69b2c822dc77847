"""Measurement of the transfer study: accuracies by group of test images, on several sets."""

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from jaxpt.data import glyphs, imbalance, sources
from jaxpt.data.dataset import Dataset, Split
from jaxpt.evaluate import NOT_OF_A_SET
from jaxpt.evaluation.few_shot import few_shot_predictions
from jaxpt.evaluation.geometry import class_separation
from jaxpt.evaluation.knn import knn_classify
from jaxpt.evaluation.task import some_rows

ROWS = 5_000  # of each side of a set, a fixed draw
SHOTS, DRAWS, L2 = 5, 10, 10.0
K, TEMPERATURE = 20, 0.07
BLOCK = 100  # test images per group if a set has no groups of its own
# Further sets of a source: name of the measure, labels, and whether it is few-shot or kNN.
FURTHER = {
    "glyphs": {
        "greek_5shot": "greek",
        "cyrillic_5shot": "cyrillic",
        "family_knn": "family",
        "weight_knn": "weight",
        "slant_knn": "slant",
        "serifs_knn": "serifs",
    }
}
PROTOCOL = {
    "few_shot": {"shots": SHOTS, "draws": DRAWS, "l2": L2, "features": "backbone, whitened"},
    "knn": {"k": K, "temperature": TEMPERATURE, "features": "backbone, unit length"},
    "rows": ROWS,
}


class Side(NamedTuple):
    """Images to fit on or to score, with the group of each image to score."""

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def measured(
    features: Callable[[np.ndarray], np.ndarray],
    dataset: Dataset,
    config: ml_collections.ConfigDict,
    *,
    part: str,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measures a feature function on its set and, on the test part, on the further sets.

    Args:
      features: uint8 images → float [n, dim].
      dataset: the set of ``config``.
      config: the data config, whose source names the further sets.
      part: "validation" or "test"; evaluators fit on train, or on train + validation.

    Returns:
      (values, correct): accuracies by name, and for each name the number of correct predictions by
      draw and group, with the groups' names and sizes. After pre-training on a long-tailed draw,
      "many_5shot", "medium_5shot" and "few_5shot" are "fine_5shot" of thirds of the classes.
    """
    fit, score = _sides(_name(config), part)
    known, asked = features(fit.images), features(score.images)
    coarse = dataset.coarse(fit.labels), dataset.coarse(score.labels)
    found = {
        "coarse_knn": _knn(known, coarse[0], asked) == coarse[1],
        "fine_knn": _knn(known, fit.labels, asked) == score.labels,
        "fine_5shot": _few_shot(known, fit.labels, asked, score.labels) == score.labels,
    }
    groups, of_classes = dict.fromkeys(found, score.groups), {}
    if config.get("long_tail"):
        for name, classes in imbalance.thirds(fit.labels, config.long_tail_seed).items():
            name = f"{name}_5shot"
            found[name], groups[name] = found["fine_5shot"], score.groups
            of_classes[name] = np.isin(score.labels, classes)
    if part == "test":
        for name, labels in FURTHER.get(config.source.partition(":")[0], {}).items():
            other = ml_collections.ConfigDict(config.to_dict())
            other.source, other.label_map = f"{config.source.partition(':')[0]}:{labels}", "fine"
            other.limit = 0
            fit, score = _sides(_name(other), part)
            one, two = features(fit.images), features(score.images)
            predicted = (
                _few_shot(one, fit.labels, two, score.labels)
                if name.endswith("shot")
                else _knn(one, fit.labels, two)
            )
            found[name], groups[name] = predicted == score.labels, score.groups
    correct = {
        name: _by_group(right, groups[name], of_classes.get(name)) for name, right in found.items()
    }
    values = {
        name: float(np.mean(right[..., of_classes.get(name, slice(None))]))
        for name, right in found.items()
    }
    values["class_separation"] = class_separation(asked, coarse[1])
    return values, correct


def loaded(config: ml_collections.ConfigDict) -> Dataset:
    """``sources.load``, once per process and config."""
    return _loaded(_name(config))


def _name(config: ml_collections.ConfigDict) -> str:
    """Text of a data config, without the fields that do not change the set."""
    fields = {k: v for k, v in config.to_dict().items() if k not in NOT_OF_A_SET}
    return json.dumps(fields, sort_keys=True)


@functools.lru_cache(maxsize=4)
def _loaded(name: str) -> Dataset:
    return sources.load(ml_collections.ConfigDict(json.loads(name)))


@functools.lru_cache(maxsize=32)
def _sides(name: str, part: str) -> tuple[Side, Side]:
    config, dataset = ml_collections.ConfigDict(json.loads(name)), _loaded(name)
    known, asked = (
        (dataset.trainval, dataset.test) if part == "test" else (dataset.train, dataset.validation)
    )
    groups = np.array([f"{i // BLOCK:03d}" for i in range(len(asked.ids))])
    if part == "test" and config.source.startswith("glyphs"):
        labels = config.source.partition(":")[2] or "latin"
        groups = glyphs.test_groups(config.path, config.image_size, labels)
    return _drawn(known, np.zeros(len(known.ids), int)), _drawn(asked, groups)


def _drawn(split: Split, groups) -> Side:
    rows = some_rows(len(split.ids), ROWS)
    return Side(split.images[rows], split.labels[rows], groups[rows])


def _knn(known, labels, asked):
    return knn_classify(known, labels, asked, k=K, temperature=TEMPERATURE)


def _few_shot(known, labels, asked, wanted):
    return few_shot_predictions(known, labels, asked, wanted, shots=SHOTS, draws=DRAWS, l2=L2)


def _by_group(right: np.ndarray, groups: np.ndarray, counted=None) -> dict[str, Any]:
    """Counts of correct predictions by group, of all images or of those in the mask ``counted``."""
    names, index = np.unique(groups, return_inverse=True)
    mask = np.ones(len(groups), bool) if counted is None else counted
    counts = [
        np.bincount(index, weights=row & mask, minlength=len(names)).astype(int).tolist()
        for row in np.atleast_2d(right)
    ]
    sizes = np.bincount(index, weights=mask, minlength=len(names)).astype(int).tolist()
    return {"groups": names.tolist(), "sizes": sizes, "correct": counts}
