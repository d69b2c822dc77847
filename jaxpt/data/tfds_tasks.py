"""What is predicted from an example of TensorFlow Datasets, where it is not its label.

The tasks of VTAB-1k (Zhai et al. 2019, arXiv 1910.04867) are those of its published code,
github.com/google-research/task_adaptation, ``data/*.py`` and ``scripts/run_all_tasks.sh``.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# PASCAL VOC: what a class is to an image. Difficult: all its objects there are marked so.
ABSENT, PRESENT, DIFFICULT = 0, 1, 2


class Task(NamedTuple):
    """How a label comes out of an example.

    Attributes:
      features: names of the features that it needs, beside the image.
      label: from a dict of these features to an int or an array; sequences are arrays or lists.
      classes: how many there are; 0: as many as the first feature has.
      white: the value of a white pixel of the stored image.
    """

    features: tuple[str, ...]
    label: Callable[[dict], int | np.ndarray]
    classes: int = 0
    white: int = 255


def feature(name: str, **others) -> Task:
    """The task of predicting a feature as it is."""
    return Task((name,), lambda example: int(example[name]), **others)


def grouped(name: str, n: int, classes: int, **others) -> Task:
    """The n values of a feature in so many groups of neighbours: ⌊value · classes / n⌋."""
    return Task((name,), lambda example: int(example[name]) * classes // n, classes, **others)


def interval(value: float, edges: tuple[float, ...]) -> int:
    """Index of the last of the ascending edges that lies below the value; it must exist."""
    return int(np.searchsorted(np.asarray(edges), value, side="left")) - 1


def count_objects(example) -> int:
    """CLEVR, 8 classes: 3 to 10 objects."""
    return len(example["objects"]["size"]) - 3


def closest_object(example) -> int:
    """CLEVR, 6 classes: distance of the camera to the nearest object (``pixel_coords[:, 2]``)."""
    nearest = _third(example["objects"]["pixel_coords"]).min()
    return interval(nearest, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))


def closest_vehicle(example) -> int:
    """KITTI, 4 classes: distance to the nearest car, van or truck (types 0, 1, 2), or none."""
    objects = example["objects"]
    depths = _third(objects["location"])[np.asarray(objects["type"]) < 3]
    return interval(depths.min(initial=1000.0), (-100.0, 8.0, 20.0, 999.0))


def _third(triples) -> np.ndarray:
    """The third number of each of some triples, an array or a list, maybe an empty one."""
    return np.reshape(triples, (-1, 3))[:, 2]


def voc_classes(example) -> np.ndarray:
    """PASCAL VOC: uint8 [20] of ABSENT, PRESENT and DIFFICULT."""
    found = np.full(20, ABSENT, np.uint8)
    found[example["labels"]] = DIFFICULT
    found[example["labels_no_difficult"]] = PRESENT
    return found


TASKS = {
    "label": feature("label"),
    "voc": Task(("labels", "labels_no_difficult"), voc_classes, 20),
    "azimuth": feature("label_azimuth"),
    "elevation": feature("label_elevation"),
    # dSprites' images are 0 and 1.
    "x_position": grouped("label_x_position", 32, 16, white=1),
    "orientation": grouped("label_orientation", 40, 16, white=1),
    "count": Task(("objects",), count_objects, 8),
    "closest_object": Task(("objects",), closest_object, 6),
    "closest_vehicle": Task(("objects",), closest_vehicle, 4),
}
