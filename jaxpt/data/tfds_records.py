"""Examples of sets that TensorFlow Datasets prepared, by their positions, images still encoded.

No tf.data is at work: a thread reads the bytes of one example where it wants one, so a set is
streamed in any order, by any number of processes, and nothing of it stays in memory.
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
from jaxpt.data.decode import in_parallel, open_image
from jaxpt.data.tfds_tasks import Task
from jaxpt.errors import InputError, require
from jaxpt.files import replacing

# Around every record of a TFRecord file: its length and a checksum of that before, a checksum of it
# behind.
_LENGTH, _BEFORE, _AROUND = 8, 12, 16


def has_own_index(builder) -> bool:
    """Whether a set is prepared as ArrayRecord files, which tf.data does not read."""
    return getattr(builder.info.file_format, "value", "") == "array_record"


class Records:
    """The examples of one split, in the order of the files; several threads may read at a time.

    ArrayRecord files know where their records are. In TFRecord files they follow one another, each
    behind its length, so that one walk from length to length finds them.
    """

    def __init__(
        self, builder, split: str, features: tuple[str, ...], places: np.ndarray | None = None
    ):
        """
        Args:
          builder: of a prepared set.
          split: in tfds' slicing language.
          features: which of an example's are wanted.
          places: those of an earlier ``Records`` of the same files, which saves the walk.

        Raises:
          InputError: for files of another format, or that are not there or not whole.
        """
        import tensorflow_datasets as tfds

        self.name = f"{builder.name}, {split}"
        self._files = builder.info.splits[split].file_instructions
        self._decoders = {"image": tfds.decode.SkipDecoding()} if "image" in features else {}
        self._features = tfds.decode.PartialDecoding(
            dict.fromkeys(features, True), decoders=self._decoders
        ).extract_features(builder.info.features)
        self._source = None
        self.places = np.zeros((0, 3), np.int64)  # of each: number of the file, offset, bytes
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
        """The wanted features; of a sequence a list.

        Raises:
          InputError: where the example cannot be read, with its name.
        """
        try:
            record = self._bytes(position) if self._source is None else self._source[position]
            return self._features.deserialize_example_np(record, decoders=self._decoders)
        except Exception as error:  # whatever readers and parsers say of damaged bytes
            raise InputError(f"{self.name_of(position)} cannot be read ({error}).") from error

    def name_of(self, position: int) -> str:
        """What messages call an example."""
        return f"{self.name}, example {position}"

    def encoded(self, position: int) -> tuple[bytes, str]:
        """The image's bytes and its name, as ``Pictures`` asks for them."""
        return self[position]["image"], self.name_of(position)

    def _bytes(self, position) -> bytes:
        number, offset, length = self.places[position].tolist()
        # Opened anew: a large set has more files than a process may hold open.
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
    """int64 [k, 2], offset and bytes of those records of a file that the split has."""
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
            f"{file} cannot be read ({error.strerror or error}): a set that is "
            "streamed must lie in files of this machine, or mounted on it; "
            "data.resident=yes reads it into memory."
        ) from error
    expected = instruction.examples_in_shard
    require(
        offset == size and len(found) == expected,
        f"{file} is damaged: it should hold "
        f"{expected:,} examples, and {len(found):,} end at byte {offset:,} of {size:,}. "
        "Prepare the set again.",
    )
    places = np.array(found, np.int64).reshape(-1, 2)
    return places[instruction.skip : instruction.skip + instruction.take]


def checked(builder, split: str, task: Task) -> tuple[Records, np.ndarray]:
    """The examples of a split, and their labels; every image is decoded once, on all cores.

    What was found is remembered in ``cache_home`` for as long as names, sizes and times of change
    of the files are the same.

    Raises:
      InputError: for an example that cannot be read, by its name; see also ``Records``.
    """
    features = ("image", *task.features)
    remembered = cache_home() / "tfds" / f"{_digest(builder, split, task)}.npz"
    try:
        with np.load(remembered, allow_pickle=False) as found:
            return Records(builder, split, features, found["places"]), found["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or broken: look again
    records = Records(builder, split, features)
    logging.getLogger(__name__).warning(
        "Decoding the %s images of %s once, to find broken ones.", f"{len(records):,}", records.name
    )

    def label_of(position):
        example = records[position]
        open_image(example["image"], records.name_of(position))
        return task.label(example)

    labels = np.asarray(list(in_parallel(label_of, range(len(records)))))
    _remember(remembered, places=records.places, labels=labels)
    return records, labels


def _digest(builder, split, task) -> str:
    """Of what the labels and places depend on."""
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
    with contextlib.suppress(OSError):  # without it they are read again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, "wb") as whole:
            np.savez(whole, **arrays)
