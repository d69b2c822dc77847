"""What every source of images gives: a ``Dataset`` with its splits."""

from typing import Any, NamedTuple

import numpy as np

from jaxpt.data.labels import LabelMap, label_map
from jaxpt.data.pictures import Pictures
from jaxpt.errors import require

VALIDATION_SHARE = 0.2


class Split(NamedTuple):
    """Some examples of a set.

    Attributes:
      images: uint8 [n, height, width, channels], or ``Pictures`` that stand where these would.
      labels: int32 [n], the set's own (fine) labels; of a set with several labels an image
        (``multi_label``) uint8 [n, classes] of 0 and 1.
      ids: int32 [n], positions in the set's original training or test part.
      difficult: bool [n, classes] of a multi-label set that has them, else None: pairs that its
        metric leaves out (PASCAL VOC: the image shows only difficult objects of the class).
    """

    images: np.ndarray | Pictures
    labels: np.ndarray
    ids: np.ndarray
    difficult: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    def take(self, index) -> "Split":
        """Those examples; ``index`` is an array of positions, a mask, or a slice (no copy)."""
        return Split(*(None if field is None else field[index] for field in self))


class Dataset(NamedTuple):
    """A set with its splits; train and validation are disjoint parts of trainval.

    ``test`` is empty where a folder has no test part; ``broken`` holds a sentence for each file
    that was left out.
    """

    name: str
    class_names: tuple[str, ...]
    coarse: LabelMap
    train: Split
    validation: Split
    trainval: Split
    test: Split
    broken: tuple[str, ...] = ()


def require_part(dataset: Dataset, part: str) -> None:
    """Raises InputError where a set has no images in the part that is to be scored."""
    require(
        len(getattr(dataset, part).ids) > 0,
        f"{dataset.name} has no {part} images, so nothing "
        f"can be measured on them: give it a {part} part, or name another set.",
    )


def with_test(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts of a set by name; without a test part its validation part is the test part.

    That is how ImageNet is used: it is never trained on, and a fifth of the training part is
    validation.
    """
    if "validation" in parts and "test" not in parts:
        return {"train": parts["train"], "test": parts["validation"]}
    return parts


def make_split(part: str, images, labels, class_names, ids=None) -> Split:
    """Arrays of one label an image as a ``Split``, once they are found to make sense.

    Args:
      part: "train", "validation" or "test", for messages.
      ids: positions in the original part; left out: 0, 1, 2, …

    Raises:
      InputError: for images or labels of another shape or type, or labels without a class.
    """
    images = images if isinstance(images, Pictures) else np.asarray(images)
    labels = np.asarray(labels)
    require(
        images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] in (1, 3),
        f"{part} images must be uint8 [n, height, width, 1 or 3], got {images.dtype} "
        f"{list(images.shape)}.",
    )
    require(
        labels.shape == images.shape[:1],
        f"{part} has {images.shape[0]} images but labels of shape {list(labels.shape)}.",
    )
    outside = (labels < 0) | (labels >= len(class_names))
    require(
        not outside.any(),
        f"{part} labels must lie in 0 … {len(class_names) - 1}, found "
        f"{labels[outside][:1].tolist()}: name every class or mend the labels.",
    )
    ids = np.arange(len(labels)) if ids is None else ids
    return Split(images, labels.astype(np.int32), np.asarray(ids, np.int32))


def assemble(
    name: str,
    class_names,
    trainval: Split,
    test: Split,
    map_name: str = "fine",
    *,
    n_train: int | None = None,
) -> Dataset:
    """The set of these two parts.

    Args:
      map_name: name of the label map, see ``labels.label_map``.
      n_train: the first so many of ``trainval`` are train and the others validation; None: a
        fixed fifth is validation, see ``validation_mask``.

    Raises:
      InputError: for an empty training part, images of two shapes, a label map that does not fit.
    """
    require(len(trainval.ids) > 0, f"{name} has no training images.")
    require(
        trainval.images.shape[1:] == test.images.shape[1:],
        f"{name}: training images are {list(trainval.images.shape[1:])}, but test "
        f"images {list(test.images.shape[1:])}.",
    )
    require(
        not trainval.multi_label or map_name == "fine",
        f"data.label_map {map_name!r} is for "
        f"sets of one label an image, but {name} has several: use 'fine'.",
    )
    if n_train is None:
        in_validation = validation_mask(trainval.labels)
        train, validation = trainval.take(~in_validation), trainval.take(in_validation)
    else:
        train, validation = trainval.take(slice(n_train)), trainval.take(slice(n_train, None))
    return Dataset(
        name,
        tuple(class_names),
        label_map(map_name, tuple(class_names)),
        train,
        validation,
        trainval,
        test,
    )


def validation_mask(labels: np.ndarray, share: float = VALIDATION_SHARE) -> np.ndarray:
    """Which of the training examples are validation where a set has no validation part.

    That share of every class (rounded, but not all of it), drawn with seed 0 whatever the run's
    seed is.

    Args:
      labels: int [n].
      share: above 0 and below 1; a fifth in all of jaxpt's protocols.

    Returns:
      bool [n].
    """
    rng = np.random.default_rng(0)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[: min(round(share * len(members)), len(members) - 1)]] = True
    return mask


def limited(n: int, limit: int) -> np.ndarray:
    """Which ``limit`` of n training examples are used: a fixed draw, sorted; 0 for all of them.

    A smaller limit takes a part of what a larger one takes.
    """
    require(limit >= 0, f"data.limit must not be negative, got {limit}.")
    if not limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])
