"""Image sets of TensorFlow Datasets: prepared, or fetched and prepared by it.

A set that fits is read into memory by tf.data; a larger one stays in its files, see
``tfds_records``. TensorFlow sees CPUs only, and images are decoded by Pillow as those of every
other source. Its decoder of JPEG may differ from TensorFlow's by a grey level.
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
    """Reads any image classification set of TensorFlow Datasets.

    Args:
      name: a builder, as "cifar10", "eurosat/rgb" or "dtd:3.*.*".
      config: ConfigDict with ``path`` (the folder of one prepared set, the one that holds its
        ``dataset_info.json``; or where tfds keeps its sets; or "" for tfds' own place),
        ``image_size`` (of sets whose images differ in size; others stay as they are) and,
        optional, ``train_split`` ("train"), ``test_split`` ("test"), both in tfds' slicing
        language, ``try_gcs`` (False: ask tfds' bucket for a prepared copy) and what
        ``Reading.of`` takes.
      keep: see ``read``.

    Returns:
      (name, (train images, train labels), (test images, test labels), class names), images uint8
      [n, height, width, 1 or 3], or as many ``Pictures``.

    Raises:
      InputError: without TensorFlow, where the set cannot be had, is none of classified images,
        or has no such split, with the splits that it has.
    """
    builder, splits = _open_any(name, config)
    features = builder.info.features
    height, width, channels = features["image"].shape
    require(
        channels in (1, 3), f"tfds:{name} has images of {channels} channels: 1 or 3 can be read."
    )
    reading = Reading.of(config)
    parts = []
    for split in splits:
        n = count(builder, split, f"tfds:{name}")
        if height and height == width:
            framing = Framing.centre(height, reading)
        else:
            require(
                config.image_size >= 1,
                f"tfds:{name} has images of several shapes: "
                f"data.image_size must be at least 1, got {config.image_size}.",
            )
            framing = Framing.centre(config.image_size, reading)
        parts.append(read(builder, [(split, n)], TASKS["label"], framing, channels, keep=keep))
    return name.split(":")[0].replace("/", "_"), *parts, features["label"].names


def files_of_any(name: str, config) -> tuple[list[str], dict[str, list[Any]]]:
    """The class names of a set, and the record files of "training" and "test", as tfds lists them;
    arguments and errors as of ``read_any``."""
    builder, splits = _open_any(name, config)
    return builder.info.features["label"].names, {
        part: files_of(builder, [split], f"tfds:{name}")
        for part, split in zip(("training", "test"), splits)
    }


def files_of(builder, splits: list[str], source: str) -> list[Any]:
    """tfds' instructions for the record files of these splits, as ``identity.of_records`` takes
    them; errors as of ``count``."""
    for split in splits:
        count(builder, split, source)
    return [i for split in splits for i in builder.info.splits[split].file_instructions]


def _open_any(name: str, config):
    """(builder of a set of classified images, [training split, test split])"""
    builder = open_builder(name, config.path, try_gcs=config.get("try_gcs", False))
    features = builder.info.features
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    named = (image_key, label_key) == ("image", "label") and {"image", "label"} <= set(features)
    require(
        named and hasattr(features["label"], "num_classes"),
        f"tfds:{name} is no set of "
        f"classified images with the features image and label: it has {sorted(features)}.",
    )
    return builder, [config.get(f"{part}_split", part) for part in ("train", "test")]


def is_prepared(path: str) -> bool:
    """Whether a folder is that of one prepared set of tfds."""
    return bool(path) and (pathlib.Path(path) / "dataset_info.json").is_file()


def open_builder(name: str, path: str = "", *, try_gcs: bool = False, hint: str = ""):
    """A prepared builder, with TensorFlow kept off every accelerator.

    Args:
      name: a builder with optional config and version, as ``tfds.builder`` takes it.
      path: the folder of the prepared set, or tfds' data_dir, or "" for tfds' own place.
      try_gcs: ask tfds' public bucket for a prepared copy before its first source.
      hint: what to say where the set cannot be had.

    Raises:
      InputError: without TensorFlow, or where the set cannot be opened, fetched or prepared.
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
    except Exception as error:  # tfds raises whatever its download stack raises
        raise InputError(
            f"tfds:{name} cannot be prepared ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}). {hint}".strip()
        ) from error
    wanted = name.split(":")[0].split("/")[0]
    require(
        builder.name == wanted,
        f"{path} holds the set {builder.name!r}, not {wanted!r}: mend data.path or data.source.",
    )
    return builder


def keep_to_cpu() -> None:
    """Hides accelerators from TensorFlow, which would take all of their memory from JAX.

    Raises:
      InputError: where TensorFlow was started with them before.
    """
    import tensorflow as tf

    for kind in "GPU", "TPU":
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError:
            pass  # it runs already; what matters is what it sees
    seen = {device.device_type for device in tf.config.get_visible_devices()}
    require(
        seen <= {"CPU"},
        f"TensorFlow already runs on {sorted(seen - {'CPU'})}, whose memory "
        "JAX needs: load tfds data before TensorFlow is used for anything else.",
    )


def count(builder, split: str, source: str) -> int:
    """How many examples a split in tfds' slicing language has.

    Raises:
      InputError: where there is no such split, with those there are and how to choose.
    """
    try:
        return builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{source} has no split {split!r} ({str(error).splitlines()[0]}), only "
            f"{sorted(builder.info.splits)}: choose with data.train_split and data.test_split, "
            "also slices as 'train[:80%]' and 'train[80%:]'."
        ) from error


def class_names(builder, task: Task) -> tuple[str, ...]:
    """Names of a task's classes: the feature's, or numbers where the task makes its own."""
    feature = builder.info.features[task.features[0]]
    feature = getattr(feature, "feature", feature)  # of each element of a sequence
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
      splits: (a split in tfds' slicing language, how many examples it has) for each.
      task: what the label is.
      rows: increasing positions of the wanted examples among those of all the splits, int [k];
        None for all.
      keep: images of more bytes than this stay encoded in the set's files (``Pictures``); None:
        all are read into memory.

    Returns:
      (images uint8 [n or k, side, side, channels], labels, an array of what ``task.label`` gives).

    Raises:
      InputError: where a split has another number of examples, with both numbers; for an image
        that cannot be decoded.
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
    """(image, name) of the rows in the mask ``wanted``; their labels go to ``labels``."""
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
    """The examples of a split, these features of each, images still encoded.

    Always in the same order: that of the files, one after another.
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
