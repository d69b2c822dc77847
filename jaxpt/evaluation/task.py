"""Input and output of evaluators: a task, and its measured values and details."""

from typing import Any, NamedTuple

import numpy as np

from jaxpt.data.dataset import Dataset, Split, require_part, validation_mask
from jaxpt.errors import require
from jaxpt.evaluation.checks import check_split
from jaxpt.evaluation.metrics import METRICS

PARTS = ("validation", "test")
MULTI_LABEL = "voc07_map"  # the metric of sets with several labels per image


class Examples(NamedTuple):
    """Features and labels of one side of a task.

    Attributes:
      features: float [n, dim].
      fine: int [n], the set's own labels; uint8 [n, classes] for a multi-label set.
      coarse: int [n], the classes of the label map.
      ids: str [n], such as "test/17", unique per image.
      images: uint8 [n, height, width, channels], or None if no evaluator draws them.
      difficult: bool [n, classes], pairs that a multi-label metric excludes, or None.
      files: [n], path of each image's file, or None if the images are not files.
    """

    features: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    ids: np.ndarray
    images: np.ndarray | None = None
    difficult: np.ndarray | None = None
    files: np.ndarray | None = None


class Task(NamedTuple):
    """Features of one network on one set: evaluators fit on ``fit`` and are scored on ``score``.

    Attributes:
      fit, score: the two sides, which share no image.
      validation: bool [rows of fit], rows held out while a constant is chosen.
      class_names, coarse_names: names of the fine and the coarse classes.
      coarse_of: coarse class of each fine class.
      labels: the labels to measure accuracies on: "fine", and also "coarse" if there is a map.
      metric: metric of the set, a key of ``METRICS`` or ``MULTI_LABEL``.
      classifier: {"kernel": [dim, classes], "bias": [classes]}, the linear classifier that the
        network was trained with, or None.
    """

    fit: Examples
    score: Examples
    validation: np.ndarray
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...]
    coarse_of: tuple[int, ...]
    labels: tuple[str, ...] = ("fine", "coarse")
    metric: str = "top1"
    classifier: dict[str, np.ndarray] | None = None

    @property
    def multi_label(self) -> bool:
        return self.metric == MULTI_LABEL

    def sides(self):
        """List of (prefix of value names, labels to fit on, labels to score), one per labels."""
        return [
            (f"{name}_", getattr(self.fit, name), getattr(self.score, name)) for name in self.labels
        ]


def guesses(split: Split, dataset: Dataset) -> dict[str, dict[str, float]]:
    """The accuracy of always naming the most frequent class, to compare others with.

    Returns:
      "fine", and "coarse" if there is a label map → number of classes, share of the most frequent
      one, number of images; {} for several labels per image.
    """
    if split.multi_label:
        return {}
    labels = {"fine": (split.labels, dataset.class_names)}
    if len(dataset.coarse.names) < len(dataset.class_names):
        labels["coarse"] = dataset.coarse(split.labels), dataset.coarse.names
    return {
        kind: {
            "classes": len(names),
            "share": float(np.bincount(of).max() / len(of)),
            "images": len(of),
        }
        for kind, (of, names) in labels.items()
    }


class Measured(NamedTuple):
    """Result of an evaluator.

    Attributes:
      values: name → float, the values shown in tables.
      details: data of figures as plain JSON values; see docs/evaluation.md.
      notes: sentences about values that could not be measured.
    """

    values: dict[str, float]
    details: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


def make_task(features, dataset: Dataset, *, part: str, metric: str = "top1") -> Task:
    """Makes the task of a feature function on a set.

    Args:
      features: function from the name of a part of the set ("trainval" or "test") to float
        [n, dim] features of its images, in their order. It is called with "test" only if ``part``
        is "test".
      dataset: the set.
      part: "validation": fitted on train, scored on validation; "test": fitted on train +
        validation, scored on test.
      metric: a key of ``METRICS``, or "voc07_map".

    Raises:
      InputError: for an unknown part or metric, a part without images, or features of the wrong
        shape or with NaN.
    """
    require(part in PARTS, f"part must be one of {PARTS}, got {part!r}.")
    known = (*METRICS, MULTI_LABEL)
    require(metric in known, f"metric must be one of {known}, got {metric!r}.")
    require_part(dataset, part)
    in_validation = np.isin(dataset.trainval.ids, dataset.validation.ids)
    require(
        np.array_equal(dataset.trainval.ids[~in_validation], dataset.train.ids),
        f"{dataset.name}: train and validation must be disjoint parts of trainval, in order.",
    )
    trainval = np.asarray(features("trainval"))
    _check_rows(dataset.name, "training", trainval, dataset.trainval)
    if part == "validation":
        fit = _examples("train", trainval[~in_validation], dataset.train, dataset)
        score = _examples("train", trainval[in_validation], dataset.validation, dataset)
        # With several labels per image, a fifth of all images is drawn, not of each class.
        held_out = validation_mask(
            dataset.train.labels
            if dataset.train.labels.ndim == 1
            else np.zeros(len(dataset.train.ids))
        )
    else:
        test = np.asarray(features("test"))
        _check_rows(dataset.name, "test", test, dataset.test)
        fit = _examples("train", trainval, dataset.trainval, dataset)
        score = _examples("test", test, dataset.test, dataset)
        held_out = in_validation
    check_split(fit.features, np.arange(len(fit.ids)), score.features)
    mapped = dataset.coarse.coarse_of != tuple(range(len(dataset.class_names)))
    return Task(
        fit,
        score,
        held_out,
        dataset.class_names,
        dataset.coarse.names,
        dataset.coarse.coarse_of,
        ("fine", "coarse") if mapped else ("fine",),
        metric,
    )


def _check_rows(name, part, features, split):
    require(
        features.ndim == 2 and len(features) == len(split.ids),
        f"the features of {name}'s "
        f"{len(split.ids)} {part} images must be [{len(split.ids)}, dim], got "
        f"{list(features.shape)}.",
    )


def _examples(prefix: str, features, split: Split, dataset: Dataset) -> Examples:
    several = split.labels.ndim == 2
    return Examples(
        features,
        split.labels,
        split.labels if several else dataset.coarse(split.labels),
        np.char.add(f"{prefix}/", split.ids.astype(str)),
        split.images,
        getattr(split, "difficult", None),
        getattr(split, "files", None),
    )


def some_rows(n: int, most: int) -> np.ndarray:
    """Sorted indices of a fixed draw of ``most`` of n rows, or of all rows if n is smaller."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])
