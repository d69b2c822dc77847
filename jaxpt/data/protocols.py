"""Named transfer protocols: datasets by name, in exactly the splits that papers report.

Datasets are read by TensorFlow Datasets, or from the unpacked archive of their authors where it
cannot download them; small ones are built in.
"""

import hashlib
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxpt.data import decode, identity, labels, small_sets, tfds
from jaxpt.data.dataset import Dataset, Split, assemble, limited, make_split
from jaxpt.data.decode import Framing, Reading
from jaxpt.data.identity import Identity
from jaxpt.data.pictures import Pictures
from jaxpt.data.tfds import DIFFICULT, PRESENT, TASKS
from jaxpt.errors import InputError, require

PREFIX = "protocol:"  # of ``data.source``
TOP1, MEAN_PER_CLASS, VOC07_MAP = "top1", "mean_per_class", "voc07_map"


class Protocol(NamedTuple):
    """A transfer dataset and its protocol.

    Attributes:
      source: "tfds:NAME:VERSION", "archive:NAME" (a key of ``ARCHIVES``) or a key of
        ``SMALL_SETS``.
      classes: number of classes.
      sizes: required number of examples of each part; of train and validation only if they are
        defined by a fixed list or slice.
      metric: "top1", "mean_per_class" or "voc07_map".
      train, validation, test: splits of the source, in tfds' slicing language. Without a
        validation split, a fixed fifth of train is validation (``dataset.validation_mask``).
      resize, crop: see ``decode.Framing``; 0 and 0 keep the original size.
      task: key of ``tfds.TASKS``.
      split_rule: "" or "eurosat", see ``eurosat_trainval``.
      get: what to download manually, and the folder layout; "" if it is downloaded automatically.
    """

    source: str
    classes: int
    sizes: dict[str, int]
    metric: str = TOP1
    train: str = "train"
    validation: str = ""
    test: str = "test"
    resize: int = 224
    crop: int = 224
    task: str = "label"
    split_rule: str = ""
    get: str = ""


def _sizes(trainval: int, test: int, train: int = 0, validation: int = 0) -> dict[str, int]:
    official = {"train": train, "validation": validation} if train else {}
    return {**official, "trainval": trainval, "test": test}


# The datasets: their sources, splits and sizes. Letters give the source of each fact:
# K  Kornblith et al. 2019, "Do better ImageNet models transfer better?" (arXiv 1805.08974), as
#    quoted by later papers: metrics, 224 pixels, validation. We found no code of its authors.
# T  the builders and lists shipped with TensorFlow Datasets 4.9, and the pages of its catalog
# V  VTAB's code, github.com/google-research/task_adaptation: its slices and tasks
# P  the dataset's own paper or page, as quoted by others
# U  unchecked: assumed, as no source could be read. A wrong size is an error at the first load.

# K: the shorter side is resized to 224 pixels (bicubic) and the center cropped; validation is the
# official part for Aircraft, DTD, Flowers and VOC07, else a fifth of train. The choice of the fifth
# is ours.
KORNBLITH = {
    "cifar10": Protocol("tfds:cifar10:3.*.*", 10, _sizes(50_000, 10_000)),  # P
    "cifar100": Protocol("tfds:cifar100:3.*.*", 100, _sizes(50_000, 10_000)),  # P
    # T: tfds calls the published test part validation.
    "food101": Protocol("tfds:food101:2.*.*", 101, _sizes(75_750, 25_250), test="validation"),
    "birdsnap": Protocol(  # P: sizes; many of its links are dead
        "archive:birdsnap",
        500,
        _sizes(47_386, 2_443),
        get=(
            "thomasberg.org/datasets/birdsnap/1.1/birdsnap.tgz, whose get_birdsnap.py fetches the "
            "images to download/images; data.path is the folder with test_images.txt. Many links "
            "are dead: only an old copy is complete."
        ),
    ),
    "sun397": Protocol(  # P: partition 1 of ten; tfds' default config is another split
        "archive:sun397",
        397,
        _sizes(19_850, 19_850),
        get=(
            "SUN397.tar.gz and Partitions.zip from vision.princeton.edu/projects/2010/SUN; "
            "data.path is the folder with SUN397/a/abbey/… and Training_01.txt, Testing_01.txt and "
            "ClassName.txt (also in Partitions/)."
        ),
    ),
    "cars": Protocol(  # T: sizes; the download no longer exists
        "archive:cars",
        196,
        _sizes(8_144, 8_041),
        get=(
            "Stanford Cars: cars_train/, cars_test/, devkit/ and "
            "cars_test_annos_withlabels.mat, all in the folder data.path."
        ),
    ),
    "aircraft": Protocol(  # trainval and test: P; train and validation: U
        "archive:aircraft",
        100,
        _sizes(6_667, 3_333, 3_334, 3_333),
        MEAN_PER_CLASS,
        validation="validation",
        get=(
            "fgvc-aircraft-2013b.tar.gz from www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft; "
            "data.path is its folder."
        ),
    ),
    "voc07": Protocol(  # T
        "tfds:voc/2007:5.*.*",
        20,
        _sizes(5_011, 4_952, 2_501, 2_510),
        VOC07_MAP,
        validation="validation",
        task="voc",
    ),
    "dtd": Protocol(  # T: the first of ten splits
        "tfds:dtd:3.*.*", 47, _sizes(3_760, 1_880, 1_880, 1_880), validation="validation"
    ),
    "pets": Protocol(  # P
        "tfds:oxford_iiit_pet:4.*.*", 37, _sizes(3_680, 3_669), MEAN_PER_CLASS
    ),
    # T: train is 30 images of each of 102 classes (with background), drawn by tfds. U: that 6,084
    # remain (9,144 images in all), and that K drew the same ones.
    "caltech101": Protocol("tfds:caltech101:3.*.*", 102, _sizes(3_060, 6_084), MEAN_PER_CLASS),
    "flowers102": Protocol(  # P: trainval and test; T: the parts; their 1,020 each: U
        "tfds:oxford_flowers102:2.*.*",
        102,
        _sizes(2_040, 6_149, 1_020, 1_020),
        MEAN_PER_CLASS,
        validation="validation",
    ),
}

OTHERS = {
    # T: 27,000 in one split. Sizes 18,900 / 8,100 are from t-ReX (Sariyildiz et al. 2023), whose
    # choice of images is unknown; ours is in ``eurosat_trainval``.
    "eurosat": Protocol(
        "tfds:eurosat/rgb:2.*.*", 10, _sizes(18_900, 8_100), test="train", split_rule="eurosat"
    ),
    "imagenet": Protocol(  # U: sizes. The published validation part is the test part here
        "tfds:imagenet2012:5.*.*",
        1000,
        _sizes(1_281_167, 50_000),
        test="validation",
        get=(
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, in "
            "downloads/manual below tfds' data folder."
        ),
    ),
    "digits": Protocol("digits", 10, _sizes(1_200, 597), resize=0, crop=0),
    "fashion_mnist": Protocol("fashion_mnist", 10, _sizes(60_000, 10_000), resize=0, crop=0),
}


def _vtab(
    source: str,
    classes: int,
    test_size: int,
    *,
    validation=("validation", 0),
    test: str = "test",
    **others,
) -> Protocol:
    """Protocol of VTAB-1k (V): 800 training examples, 200 for validation, the whole test part.

    V resizes the whole image to 224 × 224, ignoring its aspect ratio, with TensorFlow's bilinear
    interpolation; ours is Pillow's bicubic.

    Args:
      source, classes, test, others: see ``Protocol``.
      test_size: number of test examples.
      validation: the tfds split, and the position in it where V's validation part begins.
    """
    split, first = validation
    return Protocol(
        source,
        classes,
        _sizes(1_000, test_size, 800, 200),
        train="train[:800]",
        validation=f"{split}[{first}:{first + 200}]",
        test=test,
        crop=0,
        **others,
    )


# V: without a validation part, it is the end of train, after 90 % of it (Caltech-101, CIFAR-100,
# SVHN, CLEVR), 80 % (Pets, dSprites) or 60 % (EuroSAT and RESISC45, whose last 20 % are the test
# part). Sizes: T and V, but U for CLEVR's 70,000 + 15,000.
VTAB = {
    "vtab_caltech101": _vtab("tfds:caltech101:3.*.*", 102, 6_084, validation=("train", 2_754)),
    "vtab_cifar100": _vtab("tfds:cifar100:3.*.*", 100, 10_000, validation=("train", 45_000)),
    "vtab_dtd": _vtab("tfds:dtd:3.*.*", 47, 1_880),
    "vtab_flowers102": _vtab("tfds:oxford_flowers102:2.*.*", 102, 6_149),
    # V uses version 3 of Pets, which tfds no longer has: the slices may contain other images.
    "vtab_pets": _vtab("tfds:oxford_iiit_pet:4.*.*", 37, 3_669, validation=("train", 2_944)),
    "vtab_svhn": _vtab("tfds:svhn_cropped:3.*.*", 10, 26_032, validation=("train", 65_931)),
    "vtab_sun397": _vtab(
        "tfds:sun397/tfds:4.*.*",
        397,
        21_750,
        get=("The download is gone: data.path must be the folder of a copy prepared by tfds."),
    ),
    "vtab_patch_camelyon": _vtab("tfds:patch_camelyon:2.*.*", 2, 32_768),
    "vtab_eurosat": _vtab(
        "tfds:eurosat/rgb:2.*.*", 10, 5_400, validation=("train", 16_200), test="train[21600:]"
    ),
    "vtab_resisc45": _vtab(
        "tfds:resisc45:3.*.*",
        45,
        6_300,
        validation=("train", 18_900),
        test="train[25200:]",
        get=("NWPU-RESISC45.rar, in downloads/manual below tfds' data folder."),
    ),
    "vtab_retinopathy": _vtab(
        "tfds:diabetic_retinopathy_detection/btgraham-300:3.*.*",
        5,
        42_670,
        get=(
            "The images and trainLabels.csv of kaggle.com/c/diabetic-retinopathy-detection, in "
            "downloads/manual below tfds' data folder."
        ),
    ),
    "vtab_clevr_count": _vtab(
        "tfds:clevr:3.*.*", 8, 15_000, validation=("train", 63_000), test="validation", task="count"
    ),
    "vtab_clevr_distance": _vtab(
        "tfds:clevr:3.*.*",
        6,
        15_000,
        validation=("train", 63_000),
        test="validation",
        task="closest_object",
    ),
    "vtab_dmlab": _vtab("tfds:dmlab:2.0.1", 6, 22_735),
    "vtab_kitti_distance": _vtab("tfds:kitti:3.*.*", 4, 711, task="closest_vehicle"),
    "vtab_dsprites_position": _vtab(
        "tfds:dsprites:2.*.*",
        16,
        73_728,
        validation=("train", 589_824),
        test="train[663552:]",
        task="x_position",
    ),
    "vtab_dsprites_orientation": _vtab(
        "tfds:dsprites:2.*.*",
        16,
        73_728,
        validation=("train", 589_824),
        test="train[663552:]",
        task="orientation",
    ),
    # V: validation is from the first half of the published test part, test is the second half.
    "vtab_smallnorb_azimuth": _vtab(
        "tfds:smallnorb:2.*.*",
        18,
        12_150,
        validation=("test", 0),
        test="test[12150:]",
        task="azimuth",
    ),
    "vtab_smallnorb_elevation": _vtab(
        "tfds:smallnorb:2.*.*",
        9,
        12_150,
        validation=("test", 0),
        test="test[12150:]",
        task="elevation",
    ),
}

PROTOCOLS: dict[str, Protocol] = {**KORNBLITH, **OTHERS, **VTAB}
TRANSFER12 = tuple(KORNBLITH)
VTAB1K = tuple(VTAB)


def load(
    name: str,
    *,
    path: str = "",
    image_size: int = 0,
    limit: int = 0,
    label_map: str = "fine",
    try_gcs: bool = False,
    keep: int | None = None,
    framing: Any = None,
    listed: bool = False,
) -> Dataset:
    """Loads the dataset of a protocol.

    Args:
      name: one of ``PROTOCOLS``, such as "dtd" or "vtab_dmlab".
      path: folder of the unpacked archive, of a prepared tfds dataset, or tfds' data_dir; "" for
        the default place. Archives have no default place: see ``Protocol.get``.
      image_size: side of the images in pixels; 0 for that of the protocol, which is 224 or the
        original size.
      limit: number of training images to use; 0 for all.
      label_map: see ``jaxpt.data.labels``.
      try_gcs: whether to look for a prepared copy in tfds' public bucket first.
      keep: parts of a tfds dataset or an archive of more bytes than this stay encoded, see
        ``tfds.read``; None decodes any.
      framing: a data config with the fields of ``Framing.of``; None for their defaults. A protocol
        that squeezes images to a square does so regardless.
      listed: whether image files of archives stay encoded and unchecked.

    Returns:
      The ``Dataset``. Labels are int32 [n]; for the metric "voc07_map" they are uint8 [n, classes]
      of 0 and 1, and ``Split.difficult`` marks the pairs that the metric leaves out.

    Raises:
      InputError: for an unknown name, a missing dataset (with instructions), or parts whose sizes
        differ from the protocol's (with both numbers).
    """
    require(
        name in PROTOCOLS, f"protocol must be one of {', '.join(sorted(PROTOCOLS))}, got {name!r}."
    )
    require(image_size >= 0, f"data.image_size must not be negative, got {image_size}.")
    protocol = PROTOCOLS[name]
    opened = _open(name, protocol, path, try_gcs, keep, listed)
    require(
        len(opened.class_names) == protocol.classes,
        f"{name} has {len(opened.class_names)} "
        f"classes, but the protocol {protocol.classes}. {protocol.get}".strip(),
    )
    for part, expected in protocol.sizes.items():
        found = opened.sizes[part]
        require(
            found == expected,
            f"{name}: {part} has {found:,} examples, but the protocol "
            f"{expected:,}. {protocol.get}".strip(),
        )
    framing = _framing(protocol, image_size, framing)
    rows = limited(opened.sizes["trainval"], limit)
    trainval = _split("train", opened, *opened.read("trainval", rows, framing), rows)
    rows_of_test = np.arange(opened.sizes["test"])
    test = _split("test", opened, *opened.read("test", rows_of_test, framing), rows_of_test)
    n_train = int(np.sum(rows < opened.sizes["train"])) if protocol.validation else None
    return assemble(name, opened.class_names, trainval, test, label_map, n_train=n_train)


def identify(
    name: str, *, path: str = "", limit: int = 0, label_map: str = "fine", try_gcs: bool = False
) -> Identity:
    """Identity of a protocol's dataset, without decoding its images.

    Arguments and errors as in ``load``.
    """
    protocol = PROTOCOLS[name]
    kind, _, source = protocol.source.partition(":")
    if kind != "tfds":
        return identity.of_dataset(
            load(name, path=path, limit=limit, label_map=label_map, listed=True)
        )
    builder = tfds.open_builder(source, path, try_gcs=try_gcs, hint=protocol.get)
    names = tfds.class_names(builder, TASKS[protocol.task])
    splits = {"training": [protocol.train, protocol.validation], "test": [protocol.test]}
    return identity.of_records(
        names,
        labels.label_map(label_map, names),
        {
            part: tfds.files_of(builder, list(filter(None, listed)), f"tfds:{source}")
            for part, listed in splits.items()
        },
        limit,
    )


def metric_of(source: str) -> str:
    """Metric of the protocol that ``data.source`` names; "top1" if it is not a protocol."""
    protocol = PROTOCOLS.get(source.removeprefix(PREFIX))
    return protocol.metric if protocol else "top1"


def eurosat_trainval(file_names, labels) -> np.ndarray:
    """Mask of EuroSAT's images for training and validation; the others are test.

    EuroSAT was published without a split. 70 % of every class are selected: the images whose file
    names have the smallest SHA-256, so the split depends neither on the order of the images nor on
    a library's random numbers. These are 18,900 of 27,000 images, as in t-ReX, whose own choice of
    images is not known to us.

    Args:
      file_names: n names such as "AnnualCrop_1.jpg".
      labels: int [n].

    Returns:
      bool [n].
    """
    labels = np.asarray(labels)
    digests = np.array([hashlib.sha256(name.encode()).hexdigest() for name in file_names])
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        by_digest = members[np.argsort(digests[members], kind="stable")]
        mask[by_digest[: round(0.7 * len(members))]] = True
    return mask


class _Opened(NamedTuple):
    """A dataset that is available but not yet decoded.

    Attributes:
      class_names: in the order of the labels.
      sizes: number of examples of "train", "validation" (0 if there is none), "trainval" and
        "test".
      read: maps ("trainval" or "test", rows of it, framing) to (images, labels).
    """

    class_names: tuple[str, ...]
    sizes: dict[str, int]
    read: Callable[[str, np.ndarray, Framing | None], tuple[np.ndarray, np.ndarray]]


class _Archive(NamedTuple):
    """The images of an unpacked archive, as its own annotation files list them; none is decoded.

    Attributes:
      class_names: in the order of the labels.
      parts: (file, label) pairs of "train", "test" and, if the archive has one, "validation".
    """

    class_names: tuple[str, ...]
    parts: dict[str, list[tuple[pathlib.Path, int]]]


def _open(
    name: str,
    protocol: Protocol,
    path: str,
    try_gcs: bool,
    keep: int | None = None,
    listed: bool = False,
) -> _Opened:
    kind, _, source = protocol.source.partition(":")
    if kind == "tfds":
        return _open_tfds(protocol, source, path, try_gcs, keep)
    if kind == "archive":
        require(bool(path), f"{name} cannot be downloaded: set data.path. {protocol.get}")
        return _open_archive(ARCHIVES[source](pathlib.Path(path)), listed, keep)
    return _open_arrays(*SMALL_SETS[kind](path))


def _open_tfds(protocol, source, path, try_gcs, keep) -> _Opened:
    builder = tfds.open_builder(source, path, try_gcs=try_gcs, hint=protocol.get)
    task = TASKS[protocol.task]

    def count(split):
        return tfds.count(builder, split, f"tfds:{source}") if split else 0

    if protocol.split_rule == "eurosat":
        everything = [(protocol.train, count(protocol.train))]
        named = list(tfds.examples(builder, protocol.train, ("filename", "label")))
        mask = eurosat_trainval(
            [example["filename"].decode() for example in named],
            [example["label"] for example in named],
        )
        where = {"trainval": np.flatnonzero(mask), "test": np.flatnonzero(~mask)}
        sizes = {"train": int(mask.sum()), "validation": 0}
        splits = {"trainval": everything, "test": everything}
    else:
        splits = {
            "trainval": [
                (split, count(split)) for split in (protocol.train, protocol.validation) if split
            ],
            "test": [(protocol.test, count(protocol.test))],
        }
        where = {part: np.arange(sum(n for _, n in listed)) for part, listed in splits.items()}
        sizes = {"train": count(protocol.train), "validation": count(protocol.validation)}

    def read(part, rows, framing):
        return tfds.read(builder, splits[part], task, framing, rows=where[part][rows], keep=keep)

    return _Opened(
        tfds.class_names(builder, task),
        {**sizes, **{part: len(rows) for part, rows in where.items()}},
        read,
    )


def _open_archive(archive: _Archive, listed: bool, keep: int | None = None) -> _Opened:
    train, validation = archive.parts["train"], archive.parts.get("validation", [])
    parts = {"trainval": train + validation, "test": archive.parts["test"]}

    def read(part, rows, framing):
        chosen = [parts[part][row] for row in rows]
        files = [str(file) for file, _ in chosen]
        stays = keep is not None and len(files) * framing.side**2 * 3 > keep
        if listed or stays:
            images = Pictures(files, framing, 3)
        else:
            images = decode.squares(zip(map(pathlib.Path, files), files), len(files), framing)
        return images, np.array([label for _, label in chosen], np.int32)

    return _Opened(
        archive.class_names,
        {
            "train": len(train),
            "validation": len(validation),
            **{part: len(files) for part, files in parts.items()},
        },
        read,
    )


def _open_arrays(name, trainval, test, class_names) -> _Opened:
    parts = {"trainval": trainval, "test": test}

    def read(part, rows, framing):
        images, labels = parts[part]
        images = images[rows]
        return decode.reframe(images, framing) if framing else images, labels[rows]

    sizes = {part: len(labels) for part, (_, labels) in parts.items()}
    return _Opened(tuple(class_names), {"train": len(trainval[1]), "validation": 0, **sizes}, read)


def _framing(protocol: Protocol, image_size: int, config=None) -> Framing | None:
    """Framing of a protocol's images; None if they keep their size."""
    side = image_size or protocol.resize
    if not side:
        return None
    config = {} if config is None else config
    squeezed = protocol.resize and not protocol.crop
    return Framing(side, 0, Reading.of(config)) if squeezed else Framing.of(config, side)


def _split(part: str, opened: _Opened, images, labels, rows) -> Split:
    if labels.ndim == 1:
        return make_split(part, images, labels, opened.class_names, rows)
    return Split(
        images, (labels == PRESENT).astype(np.uint8), rows.astype(np.int32), labels == DIFFICULT
    )


def _aircraft(root: pathlib.Path) -> _Archive:
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

    return _Archive(
        names, {"train": part("train"), "validation": part("val"), "test": part("test")}
    )


def _cars(root: pathlib.Path) -> _Archive:
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

    return _Archive(
        names,
        {
            "train": part("cars_train", devkit / "cars_train_annos.mat"),
            "test": part("cars_test", labelled / "cars_test_annos_withlabels.mat"),
        },
    )


def _sun397(root: pathlib.Path) -> _Archive:
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

    return _Archive(
        tuple(name.removeprefix("/")[2:] for name in names),
        {"train": part("Training_01.txt"), "test": part("Testing_01.txt")},
    )


def _birdsnap(root: pathlib.Path) -> _Archive:
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
    return _Archive(names, parts)


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


ARCHIVES = {"aircraft": _aircraft, "birdsnap": _birdsnap, "cars": _cars, "sun397": _sun397}
SMALL_SETS = {"digits": lambda path: small_sets.digits(), "fashion_mnist": small_sets.fashion_mnist}
