"""Image datasets of TensorFlow Datasets: prepared ones, or downloaded and prepared by it.

A dataset that fits is read into memory, by tf.data unless its files are ArrayRecords. A larger one
stays in its files: ``Records`` reads any example when it is needed, without tf.data, so that a
dataset can be streamed in any order, by any number of processes, and none of it stays in memory.
TensorFlow sees CPUs only. Images are decoded by Pillow, as for every other source; its JPEG decoder
may differ from TensorFlow's by one gray level.

A ``Task`` defines the label, for example to predict something other than the class. The tasks of
VTAB-1k (Zhai et al. 2019, arXiv 1910.04867) are those of its published code,
github.com/google-research/task_adaptation, ``data/*.py`` and ``scripts/run_all_tasks.sh``.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxpt import __version__
from jaxpt.cache import cache_home
from jaxpt.data.decode import Framing, Reading, in_parallel, squares
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require
from jaxpt.files import replacing

# PASCAL VOC: status of a class in an image. Difficult: all its objects there are marked so.
ABSENT, PRESENT, DIFFICULT = 0, 1, 2
# Bytes of a TFRecord file: the length of a record; the length and its checksum, before a record;
# both of these and the checksum after the record.
_LENGTH, _BEFORE, _AROUND = 8, 12, 16


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
    first = builder.info.features[task.features[0]]
    first = getattr(first, "feature", first)  # the feature of a sequence's elements
    if task.classes in (0, getattr(first, "num_classes", None)):
        return tuple(first.names)
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
        records, labels = _checked(builder, "+".join(split for split, _ in splits), task)
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
    if _has_own_index(builder):
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


def _has_own_index(builder) -> bool:
    """Whether a dataset is prepared as ArrayRecord files, which tf.data does not read."""
    return getattr(builder.info.file_format, "value", "") == "array_record"


class Records:
    """Examples of one split, in the order of the files; safe for several threads.

    ArrayRecord files have an index of their records. In TFRecord files each record follows its
    length, so one scan from length to length finds them all.
    """

    def __init__(
        self, builder, split: str, features: tuple[str, ...], places: np.ndarray | None = None
    ):
        """Opens a split.

        Args:
          builder: of a prepared dataset.
          split: in tfds' slicing language.
          features: names of the features to read.
          places: those of an earlier ``Records`` of the same files, which saves the scan.

        Raises:
          InputError: for files of another format, or files that are missing or not whole.
        """
        import tensorflow_datasets as tfds

        self.name = f"{builder.name}, {split}"
        self._files = builder.info.splits[split].file_instructions
        self._decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else {}
        self._features = tfds.decode.PartialDecoding(
            dict.fromkeys(features, True), decoders=self._decoders
        ).extract_features(builder.info.features)
        self._source = None
        self.places = np.zeros((0, 3), np.int64)  # per example: file number, offset, length
        if _has_own_index(builder):
            self._source = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        else:
            form = getattr(builder.info.file_format, "value", "")
            require(
                form == "tfrecord",
                f"{self.name} is prepared as {form} files: only tfrecord "
                "and array_record can be streamed.",
            )
            self.places = self._walked() if places is None else places

    def __len__(self) -> int:
        return len(self.places if self._source is None else self._source)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Reads the features of an example; sequences are lists.

        Raises:
          InputError: if the example cannot be read, with its name.
        """
        try:
            record = self._bytes(position) if self._source is None else self._source[position]
            return self._features.deserialize_example_np(record, decoders=self._decoders)
        except Exception as error:  # readers and parsers raise all kinds for damaged bytes
            raise InputError(f"{self.name_of(position)} cannot be read ({error}).") from error

    def name_of(self, position: int) -> str:
        """Name of an example for messages."""
        return f"{self.name}, example {position}"

    def encoded(self, position: int) -> tuple[bytes, str]:
        """Bytes of the image and its name, as needed by ``Pictures``."""
        return self[position]["image"], self.name_of(position)

    def _bytes(self, position) -> bytes:
        number, offset, length = self.places[position].tolist()
        # Opened each time: a large dataset has more files than a process may keep open.
        with open(self._files[number].filename, "rb", buffering=0) as file:
            record = os.pread(file.fileno(), length, offset)
        require(len(record) == length, f"{self._files[number].filename} ends too early")
        return record

    def _walked(self) -> np.ndarray:
        found = in_parallel(_records_of, self._files)
        return np.concatenate(
            [
                np.zeros((0, 3), np.int64),
                *(np.insert(places, 0, number, axis=1) for number, places in enumerate(found)),
            ]
        )


def _records_of(instruction) -> np.ndarray:
    """Offset and length of the records of a file that belong to the split, int64 [k, 2]."""
    file, found, offset = instruction.filename, [], 0
    try:
        size = os.path.getsize(file)
        with open(file, "rb", buffering=0) as content:
            while offset < size:
                length = int.from_bytes(os.pread(content.fileno(), _LENGTH, offset), "little")
                found.append((offset + _BEFORE, length))
                offset += length + _AROUND
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror or error}): the files of a streamed dataset "
            "must be on this machine or mounted on it; data.resident=yes reads the dataset into "
            "memory instead."
        ) from error
    expected = instruction.examples_in_shard
    require(
        offset == size and len(found) == expected,
        f"{file} is damaged: it should hold "
        f"{expected:,} examples, but {len(found):,} end at byte {offset:,} of {size:,}. "
        "Prepare the dataset again.",
    )
    places = np.array(found, np.int64).reshape(-1, 2)
    return places[instruction.skip : instruction.skip + instruction.take]


def _checked(builder, split: str, task: Task) -> tuple[Records, np.ndarray]:
    """Examples of a split and their labels, which are read on all cores; decodes no image.

    The result is cached in ``cache_home`` and valid as long as names, sizes and modification times
    of the files stay the same.

    Raises:
      InputError: for an example that cannot be read, with its name; see also ``Records``.
    """
    features = ("image", *task.features)
    remembered = cache_home() / "tfds" / f"{_digest(builder, split, task)}.npz"
    try:
        with np.load(remembered, allow_pickle=False) as found:
            return Records(builder, split, features, found["places"]), found["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing or damaged: read them again
    records = Records(builder, split, features)
    logging.getLogger(__name__).warning(
        "Reading the labels of the %s examples of %s once.", f"{len(records):,}", records.name
    )

    def label_of(position):
        return task.label(records[position])

    labels = np.asarray(list(in_parallel(label_of, range(len(records)))))
    _remember(remembered, places=records.places, labels=labels)
    return records, labels


def _digest(builder, split, task) -> str:
    """Digest of everything that the labels and places depend on."""
    about = [
        __version__,
        builder.name,
        split,
        task.label.__qualname__,
        *task.features,
        task.classes,
    ]
    for instruction in builder.info.splits[split].file_instructions:
        about += [os.path.abspath(instruction.filename), instruction.skip, instruction.take]
        try:
            there = os.stat(instruction.filename)
            about += [there.st_size, there.st_mtime_ns]
        except OSError:
            about.append("missing")
    return hashlib.sha256(repr(about).encode()).hexdigest()[:24]


def _remember(file: pathlib.Path, **arrays: np.ndarray) -> None:
    with contextlib.suppress(OSError):  # without the cache, files are read again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, "wb") as whole:
            np.savez(whole, **arrays)


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
