"""Named transfer protocols: datasets by name, in exactly the splits that papers report."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxpt.data import archives, decode, identity, labels, small_sets, tfds
from jaxpt.data.dataset import Dataset, Split, assemble, limited, make_split
from jaxpt.data.decode import Framing, Reading
from jaxpt.data.identity import Identity
from jaxpt.data.pictures import Pictures
from jaxpt.data.protocol_sets import KORNBLITH, OTHERS, VTAB, Protocol
from jaxpt.data.tfds import DIFFICULT, PRESENT, TASKS
from jaxpt.errors import require

PREFIX = "protocol:"  # of ``data.source``
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
        return _open_archive(archives.ARCHIVES[source](pathlib.Path(path)), listed, keep)
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


def _open_archive(listing: archives.Listing, listed: bool, keep: int | None = None) -> _Opened:
    train, validation = listing.parts["train"], listing.parts.get("validation", [])
    parts = {"trainval": train + validation, "test": listing.parts["test"]}

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
        listing.class_names,
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


SMALL_SETS = {"digits": lambda path: small_sets.digits(), "fashion_mnist": small_sets.fashion_mnist}
