"""Readers of original archives, for datasets that TensorFlow Datasets cannot download.

Each reader takes the folder of the unpacked archive and lists the images of every part from the
archive's own annotation files; nothing is decoded here.
"""

import pathlib
import zlib
from typing import NamedTuple

from jaxpt.errors import InputError, require


class Listing(NamedTuple):
    """The images of a dataset.

    Attributes:
      class_names: in the order of the labels.
      parts: (file, label) pairs of "train", "test" and, if the archive has one, "validation".
    """

    class_names: tuple[str, ...]
    parts: dict[str, list[tuple[pathlib.Path, int]]]


def aircraft(root: pathlib.Path) -> Listing:
    """FGVC-Aircraft (Maji et al. 2013), its 100 variants.

    Reads ``images_variant_{train,val,test}.txt`` (lines "1025794 707-320"), ``variants.txt`` and
    ``images/ID.jpg`` below ``root``, ``root/data`` or ``root/fgvc-aircraft-2013b/data``. The
    banner with the photographer's name below every photo is not cropped.
    """
    root = _below(root, "images_variant_train.txt", ("", "data", "fgvc-aircraft-2013b/data"))
    names = _lines(root / "variants.txt")

    def part(name):
        pairs = [line.split(" ", 1) for line in _lines(root / f"images_variant_{name}.txt")]
        return [
            (root / "images" / f"{image}.jpg", _label(names, variant, root / "variants.txt"))
            for image, variant in pairs
        ]

    return Listing(names, {"train": part("train"), "validation": part("val"), "test": part("test")})


def cars(root: pathlib.Path) -> Listing:
    """Stanford Cars (Krause et al. 2013).

    Reads ``devkit/cars_train_annos.mat``, ``devkit/cars_meta.mat``,
    ``cars_test_annos_withlabels.mat`` (next to or in ``devkit``), ``cars_train/*.jpg`` and
    ``cars_test/*.jpg``.
    """
    devkit = root / "devkit"
    names = tuple(str(name) for name in _mat(devkit / "cars_meta.mat", "class_names"))
    labelled = _below(root, "cars_test_annos_withlabels.mat", ("", "devkit"))

    def part(folder, annotations):
        listed = _mat(annotations, "annotations")
        return [(root / folder / str(car["fname"]), int(car["class"]) - 1) for car in listed]

    return Listing(
        names,
        {
            "train": part("cars_train", devkit / "cars_train_annos.mat"),
            "test": part("cars_test", labelled / "cars_test_annos_withlabels.mat"),
        },
    )


def sun397(root: pathlib.Path) -> Listing:
    """SUN397 (Xiao et al. 2010), the first of its ten partitions.

    Reads ``ClassName.txt``, ``Training_01.txt`` and ``Testing_01.txt`` (lines
    "/a/abbey/sun_aaalbzqrimafwbiv.jpg") in ``root`` or ``root/Partitions``, and the images below
    ``root/SUN397``.
    """
    lists = _below(root, "Training_01.txt", ("", "Partitions"))
    names = _lines(lists / "ClassName.txt")

    def part(file):
        return [
            (
                root / "SUN397" / line.lstrip("/"),
                _label(names, line.rsplit("/", 1)[0], lists / "ClassName.txt"),
            )
            for line in _lines(lists / file)
        ]

    return Listing(
        tuple(name.removeprefix("/")[2:] for name in names),
        {"train": part("Training_01.txt"), "test": part("Testing_01.txt")},
    )


def birdsnap(root: pathlib.Path) -> Listing:
    """Birdsnap (Berg et al. 2014), as downloaded by its own script ``get_birdsnap.py``.

    Reads ``test_images.txt`` (a header, then lines "CLASS/IMAGE.jpg") and the images
    ``download/images/CLASS/IMAGE.jpg``; images that are not listed are the training part. Many of
    its links are dead, so a new download is smaller than the published dataset.
    """
    listed = set(_lines(root / "test_images.txt"))
    files = sorted((root / "download" / "images").glob("*/*.jpg"))
    names = tuple(sorted({file.parent.name for file in files}))
    parts = {"train": [], "test": []}
    for file in files:
        part = "test" if f"{file.parent.name}/{file.name}" in listed else "train"
        parts[part].append((file, names.index(file.parent.name)))
    return Listing(names, parts)


def _below(root: pathlib.Path, file: str, folders: tuple[str, ...]) -> pathlib.Path:
    """First of these folders that contains the file."""
    for folder in folders:
        if (root / folder / file).is_file():
            return root / folder
    raise InputError(
        f"{file} is missing: looked for it in "
        f"{', '.join(str(root / folder) for folder in folders)}."
    )


def _lines(file: pathlib.Path) -> tuple[str, ...]:
    require(file.is_file(), f"{file} is missing: unpack the whole archive.")
    return tuple(
        line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    )


def _label(names: tuple[str, ...], name: str, file: pathlib.Path) -> int:
    require(name in names, f"class {name!r} is not in {file}.")
    return names.index(name)


def _mat(file: pathlib.Path, variable: str):
    """Reads a variable of a MATLAB file as a one-dimensional array."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    require(file.is_file(), f"{file} is missing: unpack the whole archive.")
    try:
        return loadmat(file, squeeze_me=True)[variable].reshape(-1)
    except (KeyError, ValueError, OSError, TypeError, MatReadError, zlib.error) as error:
        raise InputError(f"{file} is no MATLAB file with {variable!r}: fetch it again.") from error


ARCHIVES = {"aircraft": aircraft, "birdsnap": birdsnap, "cars": cars, "sun397": sun397}
