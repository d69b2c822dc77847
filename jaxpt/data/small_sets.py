"""Built-in datasets: digits from scikit-learn, Fashion-MNIST from a Debian package."""

import gzip
import importlib.resources
import pathlib
import zlib

import numpy as np

from jaxpt.data.decode import Framing
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require

COPIES = 64, 16  # examples of ``photographs`` for training and for testing
# Folder of the four files in Debian's package dataset-fashion-mnist.
FASHION_MNIST_DIR = "/usr/share/datasets/fashion-mnist"
FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def photographs(framing: Framing):
    """scikit-learn's two photographs, JPEGs of 640 × 427 pixels, each many times.

    They are for trying out what reads pictures; only random crops make the examples differ.
    """
    folder = pathlib.Path(str(importlib.resources.files("sklearn.datasets.images")))
    names = ["china", "flower"]
    parts = []
    for n in COPIES:
        labels = np.arange(n) % len(names)
        files = [str(folder / f"{names[label]}.jpg") for label in labels]
        parts.append((Pictures(files, framing, 3), labels))
    return "photographs", *parts, names


def digits():
    """Loads scikit-learn's 1,797 digits; the last 597 are the test part."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return (
        "digits",
        (images[:1200], digits.target[:1200]),
        (images[1200:], digits.target[1200:]),
        [str(i) for i in range(10)],
    )


def fashion_mnist_files(path: str = "") -> list[pathlib.Path]:
    """Paths of the four IDX files: images and labels of the training part and of the test part."""
    root = pathlib.Path(path or FASHION_MNIST_DIR)
    return [
        root / f"{prefix}-{kind}-ubyte.gz"
        for prefix in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]


def fashion_mnist(path: str = ""):
    """Loads the 60,000 + 10,000 images from their four IDX files."""
    files = fashion_mnist_files(path)
    for file in files:
        require(
            file.is_file(),
            f"Fashion-MNIST: {file} is missing. Install Debian's package "
            "dataset-fashion-mnist (apt-get install dataset-fashion-mnist), or set "
            "data.path to the folder with the four -ubyte.gz files.",
        )
    images, labels, test_images, test_labels = (_read_idx(file) for file in files)
    parts = (images[..., None], labels), (test_images[..., None], test_labels)
    return "fashion_mnist", parts[0], parts[1], FASHION_CLASSES


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads one gzipped IDX file of unsigned bytes."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as gzip ({error}): fetch it again.") from error
    whole_header = len(data) > 3 and len(data) >= 4 + 4 * data[3]
    require(
        whole_header and data[:3] == b"\0\0\x08",
        f"{path} is not an IDX file of unsigned bytes: fetch it again.",
    )
    n_axes = data[3]
    shape = np.frombuffer(data, ">u4", n_axes, offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes)
    require(
        values.size == np.prod(shape),
        f"{path} is truncated: its header says "
        f"{list(map(int, shape))}, but it holds {values.size} bytes.",
    )
    return values.reshape(shape)
