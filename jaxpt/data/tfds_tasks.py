"""Prediction tasks on tfds datasets, for example to predict something other than the label.

The tasks of VTAB-1k (Zhai et al. 2019, arXiv 1910.04867) are those of its published code,
github.com/google-research/task_adaptation, ``data/*.py`` and ``scripts/run_all_tasks.sh``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# PASCAL VOC: status of a class in an image. Difficult: all its objects there are marked so.
ABSENT, PRESENT, DIFFICULT = 0, 1, 2


class Task(NamedTuple):
    """Definition of the label of an example.

    Attributes:
      features: names of the features it needs, in addition to the image.
      label: maps a dict of these features to an int or an array; sequences are arrays or lists.
      classes: number of classes; 0 for that of the first feature.
      white: value of a white pixel in the stored image.
    """

    features: tuple[str, ...]
    label: Callable[[dict], int | np.ndarray]
    classes: int = 0
    white: int = 255


def feature(name: str, **others) -> Task:
    """Task of predicting a feature unchanged."""
    return Task((name,), lambda example: int(example[name]), **others)


def grouped(name: str, n: int, classes: int, **others) -> Task:
    """Task of predicting one of n values in ``classes`` groups: ⌊value · classes / n⌋."""
    return Task((name,), lambda example: int(example[name]) * classes // n, classes, **others)


def interval(value: float, edges: tuple[float, ...]) -> int:
    """Index of the last of the ascending edges below the value; one must exist."""
    return int(np.searchsorted(np.asarray(edges), value, side="left")) - 1


def count_objects(example) -> int:
    """Label of CLEVR by number of objects, 8 classes: 3 to 10 objects."""
    return len(example["objects"]["size"]) - 3


def closest_object(example) -> int:
    """Label of CLEVR by distance of the nearest object (``pixel_coords[:, 2]``), 6 classes."""
    nearest = _third(example["objects"]["pixel_coords"]).min()
    return interval(nearest, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))


def closest_vehicle(example) -> int:
    """Label of KITTI by distance of the nearest car, van or truck (types 0 to 2); 4 classes."""
    objects = example["objects"]
    depths = _third(objects["location"])[np.asarray(objects["type"]) < 3]
    return interval(depths.min(initial=1000.0), (-100.0, 8.0, 20.0, 999.0))


def _third(triples) -> np.ndarray:
    """Third number of each triple in an array or a list, which may be empty."""
    return np.reshape(triples, (-1, 3))[:, 2]


def voc_classes(example) -> np.ndarray:
    """Label of PASCAL VOC: uint8 [20] of ABSENT, PRESENT and DIFFICULT."""
    found = np.full(20, ABSENT, np.uint8)
    found[example["labels"]] = DIFFICULT
    found[example["labels_no_difficult"]] = PRESENT
    return found


TASKS = {
    "label": feature("label"),
    "voc": Task(("labels", "labels_no_difficult"), voc_classes, 20),
    "azimuth": feature("label_azimuth"),
    "elevation": feature("label_elevation"),
    # dSprites' pixels are 0 and 1.
    "x_position": grouped("label_x_position", 32, 16, white=1),
    "orientation": grouped("label_orientation", 40, 16, white=1),
    "count": Task(("objects",), count_objects, 8),
    "closest_object": Task(("objects",), closest_object, 6),
    "closest_vehicle": Task(("objects",), closest_vehicle, 4),
}
