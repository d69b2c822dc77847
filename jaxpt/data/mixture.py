"""Several sources as one dataset: ``data.sources``, each with a label space of its own.

Classes are numbered one source after the other and named "source/class". The source of an example
therefore follows from its label (``Dataset.sources``), and methods need nothing else to compare
within a source.
"""

import logging
import math
import re
from collections.abc import Mapping

import ml_collections
import numpy as np

from jaxpt.data.dataset import Dataset, Split
from jaxpt.data.decode import Framing, reframe
from jaxpt.data.feed import Strata
from jaxpt.data.labels import LabelMap, joined
from jaxpt.data.pictures import Pictures
from jaxpt.errors import require

# Fields of a data config that a source may have of its own, besides its weight.
OWN = (
    *("source", "path", "label_map", "train_split", "test_split", "try_gcs", "broken"),
    *("crop_pct", "interpolation", "background", "exif_orientation", "test_share", "limit"),
)


def configs(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Data config of each source by its name, in the order of the names.

    Without ``sources`` it is {"": config}. A field that a source does not have is that of
    ``config``; its ``source`` is its name by default.

    Raises:
      InputError: for a name, a field or a weight that is not valid.
    """
    found = {}
    if not config.get("sources"):
        return {"": config}
    for name, own in sorted(config.sources.items()):
        where = f"data.sources.{name}"
        require(
            re.fullmatch(r"[\w:-]+", name) is not None and hasattr(own, "items"),
            f"{where} must be a name of letters, digits, _, - and :, with a dict of fields, such "
            f"as {{'path': 'photos', 'weight': 2.0}}, got {own!r}.",
        )
        fields = dict(own)
        weight = fields.pop("weight", 1.0)
        require(
            isinstance(weight, int | float) and 0 < weight < math.inf,
            f"{where}.weight must be a number above 0, got {weight!r}.",
        )
        for field, value in fields.items():
            require(
                field in OWN,
                f"{where} has no field {field!r}: it may have weight, {', '.join(OWN)}.",
            )
            usual = type(config.get(field, value))
            require(
                isinstance(value, usual) or (usual is float and isinstance(value, int)),
                f"{where}.{field} must be of type {usual.__name__}, got {value!r}.",
            )
        usual = config.to_dict() | {"sources": {}, "source": name}
        found[name] = ml_collections.ConfigDict(usual | fields)
    return found


def weights(config: ml_collections.ConfigDict) -> tuple[float, ...]:
    """Weight of each source in the order of ``configs``; () if none has one.

    Raises:
      InputError: if only some have one.
    """
    found = [own.get("weight") for _, own in sorted(config.sources.items())]
    require(
        None not in found or not any(found),
        f"data.sources has weights of some sources only, {found}: give one to each or to none.",
    )
    return () if None in found else tuple(map(float, found))


def join(datasets: Mapping[str, Dataset], config: ml_collections.ConfigDict) -> Dataset:
    """Joins the loaded sources to one dataset.

    If the images differ in size, decoded ones are resized to ``data.image_size``; if only some are
    grayscale, these get three equal channels.

    Raises:
      InputError: for several labels per image, or streamed images of several sizes.
    """
    for name, dataset in datasets.items():
        require(
            not dataset.trainval.multi_label,
            f"data.sources.{name}: {dataset.name} has several labels per image, which "
            "pre-training cannot use.",
        )
    shapes = {name: d.trainval.images.shape[1:3] for name, d in datasets.items()}
    framing = Framing.of(config) if len(set(shapes.values())) > 1 else None
    if framing:
        logging.getLogger(__name__).warning(
            "the sources have images of %s pixels: all become %d × %d (data.image_size).",
            ", ".join(f"{height} × {width} ({name})" for name, (height, width) in shapes.items()),
            framing.side,
            framing.side,
        )
    trainval, test = (
        _joined({name: getattr(d, part) for name, d in datasets.items()}, datasets, framing)
        for part in ("trainval", "test")
    )
    in_validation = np.concatenate(
        [np.isin(d.trainval.ids, d.validation.ids) for d in datasets.values()]
    )
    fine = {name: LabelMap((), d.class_names) for name, d in datasets.items()}
    return Dataset(
        " + ".join(datasets),
        joined(fine).names,
        joined({name: d.coarse for name, d in datasets.items()}),
        trainval.take(~in_validation),
        trainval.take(in_validation),
        trainval,
        test,
        sum((d.broken for d in datasets.values()), ()),
        LabelMap(
            tuple(i for i, d in enumerate(datasets.values()) for _ in d.class_names),
            tuple(datasets),
        ),
        weights(config),
    )


def _joined(splits: Mapping[str, Split], datasets: Mapping[str, Dataset], framing) -> Split:
    """Joins one part of all sources; ids go on from one source to the next, as labels do."""
    ids, labels, first_id, first_label = [], [], 0, 0
    for name, split in splits.items():
        ids.append(split.ids + np.int32(first_id))
        labels.append(split.labels + np.int32(first_label))
        first_id += int(split.ids.max(initial=-1)) + 1
        first_label += len(datasets[name].class_names)
    files = [split.files for split in splits.values()]
    return Split(
        _images({name: split.images for name, split in splits.items()}, framing),
        np.concatenate(labels),
        np.concatenate(ids),
        files=None if any(x is None for x in files) else np.concatenate(files),
    )


def _images(images: Mapping[str, np.ndarray | Pictures], framing: Framing | None):
    channels = max(x.shape[3] for x in images.values())
    if framing:
        images = {name: _resized(name, x, framing) for name, x in images.items()}
    if any(isinstance(x, Pictures) for x in images.values()):
        return Pictures.of_several(list(images.values()), channels)
    return np.concatenate([np.broadcast_to(x, (*x.shape[:3], channels)) for x in images.values()])


def _resized(name: str, images: np.ndarray | Pictures, framing: Framing):
    shape, square = images.shape[1:3], (framing.side, framing.side)
    if shape == square:
        return images
    require(
        not isinstance(images, Pictures),
        f"data.sources.{name}: its images are streamed at {shape[0]} pixels, but those of another "
        f"source have {framing.side} (data.image_size): set data.image_size to {shape[0]}.",
    )
    if not len(images):
        return np.empty((0, *square, images.shape[3]), np.uint8)
    return reframe(images, framing)


def label_sources(dataset: Dataset) -> np.ndarray | None:
    """Source of every class to train on: int32 [coarse classes]; None if there is only one."""
    if dataset.sources is None:
        return None
    found = np.empty(len(dataset.coarse.names), np.int32)
    found[list(dataset.coarse.coarse_of)] = dataset.sources.coarse_of
    return found


def strata(dataset: Dataset, split: Split, by_class: Strata | None = None) -> Strata | None:
    """Sources with weights, or else ``by_class``, the classes as ``data.sampling`` draws them.

    Raises:
      InputError: for both, or for a weight so small that no image of its source is drawn.
    """
    if not dataset.weights:
        return by_class
    require(
        by_class is None,
        "data.sampling and the weights of data.sources both decide how often an image is drawn: "
        "set data.sampling to instance, or leave out the weights.",
    )
    of, names = dataset.sources(split.labels), dataset.sources.names
    found = Strata.by_weight((np.flatnonzero(of == i) for i in range(len(names))), dataset.weights)
    for name, quota in zip(names, found.quotas):
        require(
            quota > 0,
            f"data.sources.{name}.weight is so small that none of its images is drawn in a pass of "
            f"{len(split.ids):,}: raise it.",
        )
    return found


def shares(dataset: Dataset, split: Split) -> tuple[float, ...]:
    """Share of each source in the examples that are drawn; (1.0,) if there is only one.

    Raises:
      InputError: for a source without training examples, or as ``strata``.
    """
    counts = {name: len(some.ids) for name, some in dataset.by_source(split).items()}
    for name, count in counts.items():
        require(
            count > 0,
            f"data.sources.{name} has no image among the {len(split.ids)} to train on: raise "
            "data.pretrain_limit.",
        )
    parts = strata(dataset, split)
    drawn = parts.quotas if parts else counts.values()
    return tuple(x / sum(drawn) for x in drawn)


def about(dataset: Dataset, split: Split) -> str:
    """A sentence on the sources of the training examples; "" if there is only one."""
    if dataset.sources is None:
        return ""
    drawn = zip(dataset.by_source(split).items(), shares(dataset, split))
    words = (f"{len(x.ids):,} of {name} ({share:.0%} of a pass)" for (name, x), share in drawn)
    return f"Images: {', '.join(words)}."
