"""Grain's random-access sources: of a function of your own, or of ArrayRecord files.

Order, epochs and resume are jaxpt's own, so Grain's samplers and iterators are not used.
"""

import glob
import importlib
import importlib.util
import logging
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxpt.data.decode import Framing, in_parallel
from jaxpt.data.listing import PART_OF, PARTS
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require

PREFIX = "grain:"
ENDINGS = (".array_record", ".arrayrecord", ".riegeli")
# Names of features in a tf.train.Example, the first that is there.
IMAGE, LABEL = ("image", "image/encoded"), ("label", "image/class/label")


class Examples(NamedTuple):
    """Random access to examples.

    Attributes:
      name: for messages.
      source: anything with a length whose elements are mappings with "image" (the bytes of a file,
        or uint8 [height, width] or [height, width, 3]) and "label" (int), pairs of these, or
        serialized ``tf.train.Example``.
    """

    name: str
    source: Any

    def __getitem__(self, position: int) -> tuple[bytes | np.ndarray, int]:
        """Image and label of an example.

        Raises:
          InputError: if it cannot be read or has another form.
        """
        try:
            example = self.source[int(position)]
            if isinstance(example, bytes):
                example = _parsed(example)
            if not isinstance(example, (tuple, list)):
                example = example["image"], example["label"]
            image, label = example
            image = image if isinstance(image, bytes) else np.asarray(image, np.uint8)
            return image, int(label)
        except Exception as error:  # a source may raise anything
            raise InputError(
                f"{self.named(position)} cannot be read as an image and a label "
                f"({type(error).__name__}: {error})."
            ) from error

    def named(self, position: int) -> str:
        return f"{self.name}, example {position}"

    def encoded(self, position: int) -> tuple[bytes | np.ndarray, str]:
        """Image of an example and its name, as needed by ``Pictures``."""
        return self[position][0], self.named(position)


def read(source: str, path: str, framing: Framing):
    """Reads the images and labels of a source; images stay where they are.

    Args:
      source: "grain:MODULE:FUNCTION", a function without arguments that returns a source, or a dict
        of sources by part ("train", "validation", "test"), optionally with "class_names"; or
        "grain" for ArrayRecord files.
      path: of the ArrayRecord files: a file, a pattern, or a folder of files whose names begin with
        that of a part.
      framing: how each image becomes a square.

    Returns:
      (name, {part: (images, labels)}, class names).

    Raises:
      InputError: for a function that cannot be called, or examples of another form.
    """
    name, parts, class_names = _of_function(source) if source != "grain" else _of_files(path)
    found = {}
    for part, rows in parts.items():
        examples = Examples(f"{name}, {part}", rows)
        logging.getLogger(__name__).warning(
            "Reading the labels of the %s examples of %s.", f"{len(rows):,}", examples.name
        )
        labels = getattr(rows, "labels", None)
        if labels is None:
            labels = list(in_parallel(lambda i, e=examples: e[i][1], range(len(rows))))
        positions = np.arange(len(rows))
        found[part] = Pictures(positions, framing, 3, examples.encoded), np.asarray(labels)
    if class_names is None:
        most = max(int(labels.max(initial=0)) for _, labels in found.values())
        class_names = [str(label) for label in range(most + 1)]
    return name, found, list(class_names)


def files_of(path: str) -> dict[str, list[str]]:
    """ArrayRecord files of each part, sorted by name.

    Raises:
      InputError: if there are none, or none for training.
    """
    root = pathlib.Path(path)
    files = sorted(glob.glob(str(root / "*") if root.is_dir() else path))
    files = [file for file in files if file.endswith(ENDINGS)]
    require(bool(path) and bool(files), f"data.path {path!r} has no ArrayRecord files.")
    if not root.is_dir():
        return {"train": files}
    found: dict[str, list[str]] = {}
    for file in files:
        stem = pathlib.Path(file).name.lower()
        names = [name for name in PART_OF if stem.startswith(name)]
        require(
            bool(names),
            f"{file} does not begin with the name of a part, such as train or test: rename it, or "
            "set data.path to a pattern of the training files.",
        )
        found.setdefault(PART_OF[max(names, key=len)], []).append(file)
    require("train" in found, f"{path} has ArrayRecord files, but none that begins with train.")
    return {part: found[part] for part in PARTS if part in found}


def _of_files(path: str):
    require(
        importlib.util.find_spec("grain") is not None,
        "data.source grain needs Grain: pip install 'jaxpt[grain]'.",
    )
    from grain.sources import ArrayRecordDataSource

    parts = {part: ArrayRecordDataSource(files) for part, files in files_of(path).items()}
    return pathlib.Path(path.rstrip("/")).stem.rstrip("*-_."), parts, None


def _of_function(source: str):
    module, _, function = source.removeprefix(PREFIX).partition(":")
    require(
        bool(module) and bool(function),
        f"data.source {source!r}: write grain:MODULE:FUNCTION, such as grain:my_data:photos.",
    )
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:  # the function is the user's own
        raise InputError(
            f"data.source {source!r} cannot be called ({type(error).__name__}: {error}): it must "
            "be a function without arguments in a module that Python can import from here."
        ) from error
    parts = dict(made) if isinstance(made, dict) else {"train": made}
    class_names = parts.pop("class_names", None)
    require(
        "train" in parts and parts.keys() <= PARTS.keys(),
        f"data.source {source!r} has the parts {sorted(parts)}: name them train, validation and "
        "test.",
    )
    return function, parts, class_names


def _parsed(record: bytes) -> dict[str, Any]:
    """Image and label of a serialized ``tf.train.Example``; does not need TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    image, label = (next(n for n in names if n in features) for names in (IMAGE, LABEL))
    return {
        "image": features[image].bytes_list.value[0],
        "label": features[label].int64_list.value[0],
    }
