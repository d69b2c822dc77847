"""Image datasets of TensorFlow Datasets: prepared ones, or downloaded and prepared by it.

A dataset that fits is read into memory by tf.data; a larger one stays in its files, see
``tfds_records``. TensorFlow sees CPUs only. Images are decoded by Pillow, as for every other
source; its JPEG decoder may differ from TensorFlow's by one gray level.
"""

import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxpt.data.decode import Framing, Reading, squares
from jaxpt.data.pictures import Pictures
from jaxpt.data.tfds_records import Records, checked, has_own_index
from jaxpt.data.tfds_tasks import TASKS, Task
from jaxpt.errors import InputError, require


def read_any(name: str, config, keep: int | None = None):
    """Reads any image classification dataset of TensorFlow Datasets.

    Args:
      name: a builder, such as "cifar10", "eurosat/rgb" or "dtd:3.*.*".
      config: ConfigDict with ``path`` (folder of one prepared dataset, the one that contains
        ``dataset_info.json``; or tfds' data_dir; or "" for tfds' default), ``image_size`` (for
        datasets whose images differ in size or are not square; others keep their size) and
        optionally ``train_split`` (default "train") and ``test_split`` (default "test"), both in
        tfds' slicing language, ``try_gcs`` (whether to look for a prepared copy in tfds' bucket,
        default False) and the fields of ``Reading.of``.
      keep: see ``read``.

    Returns:
      (name, (train images, train labels), (test images, test labels), class names); images are
      uint8 [n, height, width, 1 or 3], or ``Pictures`` of this shape.

    Raises:
      InputError: if TensorFlow is missing, the dataset cannot be prepared or is not an image
        classification dataset, or a split does not exist (with the splits that do).
    """
    builder, splits = _open_any(name, config)
    features = builder.info.features
    height, width, channels = features["image"].shape
    require(
        channels in (1, 3), f"tfds:{name} has images of {channels} channels: only 1 or 3 are read."
    )
    parts = []
    for split in splits:
        n = count(builder, split, f"tfds:{name}")
        same = height and height == width
        require(
            same or config.image_size >= 1,
            f"tfds:{name} has images of several shapes: "
            f"data.image_size must be at least 1, got {config.image_size}.",
        )
        framing = Framing.centre(height, Reading.of(config)) if same else Framing.of(config)
        parts.append(read(builder, [(split, n)], TASKS["label"], framing, channels, keep=keep))
    return name.split(":")[0].replace("/", "_"), *parts, features["label"].names


def files_of_any(name: str, config) -> tuple[list[str], dict[str, list[Any]]]:
    """Class names of a dataset, and tfds' file instructions for "training" and "test".

    Arguments and errors as in ``read_any``.
    """
    builder, splits = _open_any(name, config)
    return builder.info.features["label"].names, {
        part: files_of(builder, [split], f"tfds:{name}")
        for part, split in zip(("training", "test"), splits)
    }


def files_of(builder, splits: list[str], source: str) -> list[Any]:
    """tfds' file instructions for some splits, as needed by ``identity.of_records``.

    Errors as in ``count``.
    """
    for split in splits:
        count(builder, split, source)
    return [i for split in splits for i in builder.info.splits[split].file_instructions]


def _open_any(name: str, config):
    """Opens an image classification dataset: (builder, [training split, test split])."""
    builder = open_builder(name, config.path, try_gcs=config.get("try_gcs", False))
    features = builder.info.features
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    named = (image_key, label_key) == ("image", "label") and {"image", "label"} <= set(features)
    require(
        named and hasattr(features["label"], "num_classes"),
        f"tfds:{name} is not an image classification dataset with the features image and label: "
        f"it has {sorted(features)}.",
    )
    return builder, [config.get(f"{part}_split", part) for part in ("train", "test")]


def is_prepared(path: str) -> bool:
    """Whether a folder contains one prepared tfds dataset."""
    return bool(path) and (pathlib.Path(path) / "dataset_info.json").is_file()


def open_builder(name: str, path: str = "", *, try_gcs: bool = False, hint: str = ""):
    """Opens a tfds builder, prepares the dataset, and keeps TensorFlow off accelerators.

    Args:
      name: a builder with optional config and version, as for ``tfds.builder``.
      path: folder of the prepared dataset, or tfds' data_dir, or "" for tfds' default.
      try_gcs: whether to look for a prepared copy in tfds' public bucket first.
      hint: added to the message if the dataset cannot be prepared.

    Raises:
      InputError: if TensorFlow is missing, or the dataset cannot be opened, downloaded or prepared.
    """
    require(
        importlib.util.find_spec("tensorflow") is not None,
        f"tfds:{name} needs TensorFlow: pip install 'jaxpt[tfds]'.",
    )
    import tensorflow_datasets as tfds

    keep_to_cpu()
    try:
        if is_prepared(path):
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.builder(name, data_dir=path or None, try_gcs=try_gcs)
            builder.download_and_prepare()
    except Exception as error:  # tfds passes on whatever its download libraries raise
        raise InputError(
            f"tfds:{name} cannot be prepared ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}). {hint}".strip()
        ) from error
    wanted = name.split(":")[0].split("/")[0]
    require(
        builder.name == wanted,
        f"{path} holds the dataset {builder.name!r}, not {wanted!r}: fix data.path or data.source.",
    )
    return builder


def keep_to_cpu() -> None:
    """Hides accelerators from TensorFlow, which would take all of their memory from JAX.

    Raises:
      InputError: if TensorFlow has already been initialized with accelerators.
    """
    import tensorflow as tf

    for kind in "GPU", "TPU":
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError:
            pass  # already initialized: the check below decides
    seen = {device.device_type for device in tf.config.get_visible_devices()}
    require(
        seen <= {"CPU"},
        f"TensorFlow already runs on {sorted(seen - {'CPU'})}, whose memory "
        "JAX needs: load tfds data before TensorFlow is used for anything else.",
    )


def count(builder, split: str, source: str) -> int:
    """Number of examples of a split in tfds' slicing language.

    Raises:
      InputError: if there is no such split; the message lists the splits and how to choose.
    """
    try:
        return builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{source} has no split {split!r} ({str(error).splitlines()[0]}), only "
            f"{sorted(builder.info.splits)}: set data.train_split and data.test_split, "
            "which may be slices such as 'train[:80%]' and 'train[80%:]'."
        ) from error


def class_names(builder, task: Task) -> tuple[str, ...]:
    """Class names of a task: those of the feature, or numbers if the task defines its own."""
    feature = builder.info.features[task.features[0]]
    feature = getattr(feature, "feature", feature)  # the feature of a sequence's elements
    if task.classes in (0, getattr(feature, "num_classes", None)):
        return tuple(feature.names)
    return tuple(str(label) for label in range(task.classes))


def read(
    builder,
    splits: list[tuple[str, int]],
    task: Task,
    framing: Framing,
    channels: int = 3,
    rows: np.ndarray | None = None,
    keep: int | None = None,
) -> tuple[np.ndarray | Pictures, np.ndarray]:
    """Reads splits one after another.

    Args:
      builder: of a prepared dataset.
      splits: (split in tfds' slicing language, number of its examples) pairs.
      task: defines the label.
      framing: how each image becomes a square.
      channels: 3, or 1 for grayscale.
      rows: increasing positions of the examples to read in the concatenated splits, int [k]; None
        for all.
      keep: images of more bytes than this in total stay encoded in the dataset's files
        (``Pictures``); None reads all into memory.

    Returns:
      (images uint8 [n or k, side, side, channels], array of labels given by ``task.label``).

    Raises:
      InputError: if a split has another number of examples than given, or an image cannot be
        decoded.
    """
    n_all = sum(n for _, n in splits)
    rows = np.arange(n_all) if rows is None else rows
    if keep is not None and len(rows) * framing.side**2 * channels > keep:
        records, labels = checked(builder, "+".join(split for split, _ in splits), task)
        require(
            len(records) == n_all,
            f"{records.name} holds {len(records):,} examples, but {n_all:,} were expected.",
        )
        return Pictures(rows, framing, channels, records.encoded, task.white), labels[rows]
    wanted = np.zeros(n_all, bool)
    wanted[rows] = True
    labels: list = []
    images = squares(
        _encoded(builder, splits, task, wanted, labels), len(rows), framing, channels, task.white
    )
    return images, np.asarray(labels)


def _encoded(builder, splits, task, wanted, labels) -> Iterator[tuple[bytes, str]]:
    """Yields (image, name) of rows in the mask ``wanted``; appends their labels to ``labels``."""
    before = 0
    for split, n in splits:
        found = 0
        for found, example in enumerate(examples(builder, split, ("image", *task.features)), 1):
            if found <= n and wanted[before + found - 1]:
                labels.append(task.label(example))
                yield example["image"], f"{builder.name}, {split}, example {found - 1}"
        require(
            found == n,
            f"{builder.name}: {split} holds {found:,} examples, but {n:,} were expected.",
        )
        before += n


def examples(builder, split: str, features: tuple[str, ...]) -> Iterator[dict]:
    """Iterates over the examples of a split with the given features, images still encoded.

    The order is always that of the files, one after another.
    """
    if has_own_index(builder):
        records = Records(builder, split, features)
        return map(records.__getitem__, range(len(records)))
    import tensorflow_datasets as tfds

    skip = {"image": tfds.decode.SkipDecoding()} if "image" in features else {}
    decoding = tfds.decode.PartialDecoding({name: True for name in features}, decoders=skip)
    order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return iter(
        tfds.as_numpy(
            builder.as_dataset(
                split=split, decoders=decoding, read_config=order, shuffle_files=False
            )
        )
    )
