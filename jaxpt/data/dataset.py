"""``Dataset`` and its splits, the common form of all sources."""

from typing import Any, NamedTuple

import numpy as np

from jaxpt.data.labels import LabelMap, label_map
from jaxpt.data.pictures import Pictures
from jaxpt.errors import require

VALIDATION_SHARE = 0.2


class Split(NamedTuple):
    """Examples of a dataset.

    Attributes:
      images: uint8 [n, height, width, channels], or ``Pictures`` of this shape.
      labels: int32 [n], the dataset's own (fine) labels; uint8 [n, classes] of 0 and 1 if images
        have several labels (``multi_label``).
      ids: int32 [n], positions in the original training or test part.
      difficult: bool [n, classes] for multi-label datasets that have them, else None: pairs that
        the metric leaves out (PASCAL VOC: the image shows only difficult objects of the class).
      files: [n], path of each image's file, or None if the images are not separate files.
    """

    images: np.ndarray | Pictures
    labels: np.ndarray
    ids: np.ndarray
    difficult: np.ndarray | None = None
    files: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    def take(self, index) -> "Split":
        """Selects examples by an array of positions, a mask, or a slice (without a copy)."""
        return Split(*(None if field is None else field[index] for field in self))


class Dataset(NamedTuple):
    """A dataset with its splits; train and validation are disjoint parts of trainval.

    ``test`` is empty if a folder has no test part; ``broken`` has a sentence for each file that was
    left out. ``sources`` maps every class to its source if several are mixed, see ``mixture``, and
    ``weights`` has a number per source if they are drawn by weight.
    """

    name: str
    class_names: tuple[str, ...]
    coarse: LabelMap
    train: Split
    validation: Split
    trainval: Split
    test: Split
    broken: tuple[str, ...] = ()
    sources: LabelMap | None = None
    weights: tuple[float, ...] = ()

    def by_source(self, split: Split) -> dict[str, Split]:
        """Splits examples by their source; {"": split} if there is only one."""
        if self.sources is None:
            return {"": split}
        # The examples of a source follow one another.
        of, names = self.sources(split.labels), self.sources.names
        edges = np.searchsorted(of, np.arange(len(names) + 1))
        return {
            name: split.take(slice(first, end)) for name, first, end in zip(names, edges, edges[1:])
        }

    def alone(self, source: str) -> "Dataset":
        """One of several sources, with classes and labels of its own."""
        number = self.sources.names.index(source)
        classes = np.flatnonzero(np.asarray(self.sources.coarse_of) == number)
        coarse = self.coarse(classes)

        def named(names, chosen):
            return tuple(names[i].removeprefix(f"{source}/") for i in chosen)

        def own(split):
            split = self.by_source(split)[source]
            return split._replace(labels=split.labels - np.int32(classes[0]))

        coarse_of = tuple((coarse - coarse.min()).tolist())
        return Dataset(
            source,
            named(self.class_names, classes),
            LabelMap(coarse_of, named(self.coarse.names, np.unique(coarse))),
            *map(own, (self.train, self.validation, self.trainval, self.test)),
        )


def require_part(dataset: Dataset, part: str) -> None:
    """Raises InputError if a dataset has no images in the part that is to be measured."""
    require(
        len(getattr(dataset, part).ids) > 0,
        f"{dataset.name} has no {part} images, so nothing can be measured on them: "
        f"give it a {part} part, or choose another dataset.",
    )


def with_test(parts: dict[str, Any]) -> dict[str, Any]:
    """Renames the validation part to test if there is no test part.

    This is how ImageNet is used: its validation part is never trained on, and a fifth of the
    training part is held out for validation.
    """
    if "validation" in parts and "test" not in parts:
        return {"train": parts["train"], "test": parts["validation"]}
    return parts


def make_split(part: str, images, labels, class_names, ids=None, files=None) -> Split:
    """Validates arrays with one label per image and returns them as a ``Split``.

    Args:
      part: "train", "validation" or "test", for messages.
      images: uint8 [n, height, width, 1 or 3], or ``Pictures``.
      labels: int [n].
      class_names: in the order of the labels.
      ids: positions in the original part; 0, 1, 2, … by default.
      files: path of each image; by default those of ``Pictures``.

    Raises:
      InputError: for images or labels of another shape or dtype, or labels without a class name.
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
        f"{labels[outside][:1].tolist()}: name every class or fix the labels.",
    )
    ids = np.arange(len(labels)) if ids is None else ids
    if files is None and isinstance(images, Pictures):
        files = images.files
    return Split(
        images,
        labels.astype(np.int32),
        np.asarray(ids, np.int32),
        files=None if files is None else np.asarray(files, object),
    )


def assemble(
    name: str,
    class_names,
    trainval: Split,
    test: Split,
    map_name: str = "fine",
    *,
    n_train: int | None = None,
) -> Dataset:
    """Assembles a ``Dataset`` from its trainval and test parts.

    Args:
      name, class_names: of the dataset.
      trainval, test: the two parts.
      map_name: name of the label map, see ``labels.label_map``.
      n_train: the first ``n_train`` examples of ``trainval`` are train, the others validation;
        None holds out a fixed fifth for validation, see ``validation_mask``.

    Raises:
      InputError: for an empty training part, images of two shapes, or a label map that does not
        fit.
    """
    require(len(trainval.ids) > 0, f"{name} has no training images.")
    require(
        trainval.images.shape[1:] == test.images.shape[1:],
        f"{name}: training images are {list(trainval.images.shape[1:])}, but test "
        f"images {list(test.images.shape[1:])}.",
    )
    require(
        not trainval.multi_label or map_name == "fine",
        f"data.label_map {map_name!r} needs one label per image, but {name} has several: "
        "use 'fine'.",
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
    """Mask of the training examples that are held out for validation.

    It holds ``share`` of every class (rounded, but never a whole class), drawn with seed 0
    regardless of the run's seed. It is used if a dataset has no validation part.

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
    """Positions of the ``limit`` training examples to use out of n, sorted; 0 for all.

    The draw is fixed: a smaller limit selects a subset of a larger one.
    """
    require(limit >= 0, f"data.limit must not be negative, got {limit}.")
    if not limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).permutation(n)[:limit])
