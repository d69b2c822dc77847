"""Random access to the examples of prepared tfds datasets, with images still encoded.

This does not use tf.data: a thread reads the bytes of one example when it needs it. So a dataset
can be streamed in any order, by any number of processes, and none of it stays in memory.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from jaxpt import __version__
from jaxpt.cache import cache_home
from jaxpt.data.decode import in_parallel
from jaxpt.data.tfds_tasks import Task
from jaxpt.errors import InputError, require
from jaxpt.files import replacing

# Bytes of a TFRecord file: the length of a record; the length and its checksum, before a record;
# both of these and the checksum after the record.
_LENGTH, _BEFORE, _AROUND = 8, 12, 16


def has_own_index(builder) -> bool:
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
        if has_own_index(builder):
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


def checked(builder, split: str, task: Task) -> tuple[Records, np.ndarray]:
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
