"""Image sets by name. Every source gives the same thing: a ``Dataset`` of uint8 arrays."""

import gzip
import importlib.util
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from jaxpt.data import folder
from jaxpt.data.labels import LabelMap, label_map
from jaxpt.errors import InputError, require

# Where Debian's package dataset-fashion-mnist and tfds' own download put the four files.
FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"
VALIDATION_SHARE = 0.2


class Split(NamedTuple):
    """Some examples of a set.

    Attributes:
      images: uint8 [n, height, width, channels].
      labels: int32 [n], the set's own (fine) labels.
      ids: int32 [n], positions in the set's original training or test part.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def take(self, index: np.ndarray) -> "Split":
        return Split(self.images[index], self.labels[index], self.ids[index])


class Dataset(NamedTuple):
    """A set with its splits; train and validation are disjoint parts of trainval."""

    name: str
    class_names: tuple[str, ...]
    coarse: LabelMap
    train: Split
    validation: Split
    trainval: Split
    test: Split


def load(config) -> Dataset:
    """Loads the set that a data config names.

    Validation is a fixed fifth of the training part, the same share of every fine class, drawn
    with seed 0 whatever the run's seed is; test is never part of it.

    Args:
      config: ConfigDict with ``source`` ("digits", "fashion_mnist", "npz", "folder" or
        "tfds:NAME"), ``path``, ``image_size`` (folder only), ``label_map`` and ``limit`` (use only
        that many training images, 0 for all).

    Raises:
      InputError: for an unknown source, missing files, or data that does not make sense.
    """
    if config.source.startswith("tfds:"):
        name, trainval, test, names = _tfds(config.source.removeprefix("tfds:"), config.path)
    else:
        require(config.source in SOURCES, f"data.source must be one of {sorted(SOURCES)} or "
                f"tfds:NAME, got {config.source!r}.")
        name, trainval, test, names = SOURCES[config.source](config)
    require(config.limit >= 0, f"data.limit must not be negative, got {config.limit}.")
    for part, arrays in ("training", trainval), ("test", test):
        require(len(arrays[0]) > 0, f"{config.source} has no {part} images.")
    trainval, test = _split("train", *trainval, names), _split("test", *test, names)
    require(trainval.images.shape[1:] == test.images.shape[1:],
            f"{config.source}: training images are {list(trainval.images.shape[1:])}, but test "
            f"images {list(test.images.shape[1:])}.")
    if config.limit:
        keep = np.random.default_rng(0).permutation(len(trainval.ids))[:config.limit]
        trainval = trainval.take(np.sort(keep))
    in_validation = validation_mask(trainval.labels)
    return Dataset(name, tuple(names), label_map(config.label_map, tuple(names)),
                   trainval.take(~in_validation), trainval.take(in_validation), trainval, test)


def _split(part: str, images, labels, class_names) -> Split:
    images, labels = np.asarray(images), np.asarray(labels)
    require(images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] in (1, 3),
            f"{part} images must be uint8 [n, height, width, 1 or 3], got {images.dtype} "
            f"{list(images.shape)}.")
    require(labels.shape == images.shape[:1],
            f"{part} has {images.shape[0]} images but labels of shape {list(labels.shape)}.")
    outside = (labels < 0) | (labels >= len(class_names))
    require(not outside.any(), f"{part} labels must lie in 0 … {len(class_names) - 1}, found "
            f"{labels[outside][:1].tolist()}: name every class or mend the labels.")
    return Split(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int32))


def validation_mask(labels: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[:round(VALIDATION_SHARE * len(members))]] = True
    return mask


def _digits(config):
    """scikit-learn's 1,797 digits; the last 597 are the test part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return ("digits", (images[:1200], digits.target[:1200]),
            (images[1200:], digits.target[1200:]), [str(i) for i in range(10)])


def _fashion_mnist(config):
    """The 60,000 + 10,000 images from their four IDX files."""
    root = pathlib.Path(config.path or FASHION_MNIST_DIR)
    parts = []
    for prefix in "train", "t10k":
        files = [root / f"{prefix}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
        for file in files:
            require(file.is_file(), f"Fashion-MNIST: {file} is missing. Install Debian's package "
                    "dataset-fashion-mnist (apt-get install dataset-fashion-mnist), or set "
                    "data.path to the folder with the four -ubyte.gz files.")
        images, labels = (_read_idx(file) for file in files)
        parts.append((images[..., None], labels))
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
             "bag", "ankle boot")
    return "fashion_mnist", parts[0], parts[1], names


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads one gzipped IDX file of unsigned bytes."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as gzip ({error}): fetch it again.") from error
    whole_header = len(data) > 3 and len(data) >= 4 + 4 * data[3]
    require(whole_header and data[:3] == b"\0\0\x08",
            f"{path} is no IDX file of unsigned bytes: fetch it again.")
    n_axes = data[3]
    shape = np.frombuffer(data, ">u4", n_axes, offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes)
    require(values.size == np.prod(shape), f"{path} is truncated: its header says "
            f"{list(map(int, shape))}, but it holds {values.size} bytes.")
    return values.reshape(shape)


def _npz(config):
    """Arrays train_images, train_labels, test_images, test_labels and optional class_names."""
    path = pathlib.Path(config.path)
    require(path.is_file(), f"data.path {str(path)!r} is no file: give an .npz file.")
    arrays = _read_npz(path)
    missing = {f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")
               } - set(arrays)
    require(not missing, f"{path} lacks the arrays {sorted(missing)}; it has {sorted(arrays)}.")
    for name in "train_labels", "test_labels":
        require(arrays[name].dtype.kind in "iu",
                f"{path}: {name} must be integers, got {arrays[name].dtype}.")
    train, test = ((arrays[f"{part}_images"], arrays[f"{part}_labels"])
                   for part in ("train", "test"))
    names = arrays["class_names"].tolist() if "class_names" in arrays else [
        str(i) for i in range(int(train[1].max(initial=0)) + 1)]
    return path.stem, train, test, names


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no whole .npz file of plain arrays (no objects).") from error


def _folder(config):
    """Class folders below path/train and path/test."""
    return folder.read(pathlib.Path(config.path), config.image_size)


def _tfds(name: str, data_dir: str):
    """Any image-classification set of TensorFlow Datasets, read whole into memory."""
    require(importlib.util.find_spec("tensorflow") is not None,
            f"tfds:{name} needs TensorFlow: pip install 'jaxpt[tfds]'.")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")  # TensorFlow decodes; the accelerator is JAX's
    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
        builder.download_and_prepare()
    except Exception as error:  # tfds raises whatever its download stack raises
        raise InputError(f"tfds:{name} cannot be prepared ({type(error).__name__}: "
                         f"{str(error).splitlines()[0]}).") from error
    for split in "train", "test":
        require(split in builder.info.splits, f"tfds:{name} has no split {split!r}, only "
                f"{sorted(builder.info.splits)}.")
    parts = [tfds.as_numpy(builder.as_dataset(split, batch_size=-1, as_supervised=True))
             for split in ("train", "test")]
    return name.replace("/", "_"), parts[0], parts[1], builder.info.features["label"].names


SOURCES = {"digits": _digits, "fashion_mnist": _fashion_mnist, "npz": _npz, "folder": _folder}
