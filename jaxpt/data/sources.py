"""Image datasets by name. Every source returns a ``Dataset`` of uint8 arrays, or of ``Pictures``
in place of large ones.
"""

import contextlib
import logging
import pathlib
import unicodedata
import zipfile
import zlib
from collections.abc import Callable

import ml_collections
import numpy as np

from jaxpt import __version__
from jaxpt.cache import cache_home, remembered
from jaxpt.data import (
    folder,
    glyphs,
    grain_source,
    identity,
    mixture,
    objects,
    protocols,
    small_sets,
    tfds,
)
from jaxpt.data.dataset import (
    VALIDATION_SHARE,
    Dataset,
    Split,
    assemble,
    limited,
    make_split,
    validation_mask,
    with_test,
)
from jaxpt.data.decode import Framing
from jaxpt.data.identity import Identity
from jaxpt.data.labels import label_map
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require

__all__ = ["SOURCES", "VALIDATION_SHARE", "Dataset", "Split", "identify", "load", "validation_mask"]

SHOWN = 3  # classes named in a message
FEW_CLASSES = 100_000  # of labels without names, even of a set with fewer images
# Prefixes of array names in an .npz file (train_images); in Keras' names, suffixes (x_train).
PREFIXES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads the dataset that a data config names.

    The validation split is the dataset's own validation part if it has both a validation and a test
    part. Otherwise it is a fixed fifth of the training part, the same share of every fine class,
    drawn with seed 0 regardless of the run's seed. It never overlaps with the test split; if there
    is no test part, the validation part is the test split.

    Args:
      config: ConfigDict with ``sources`` (fields of several sources by name, see ``mixture``; {}
        reads one), ``source`` ("digits", "fashion_mnist", "photographs", "npz", "folder",
        "glyphs", "glyphs:LABELS", "tfds:NAME", "grain", "grain:MODULE:FUNCTION", or a name in
        ``protocols.PROTOCOLS``, with or without the prefix "protocol:"), ``path``, ``image_size``
        (for glyphs and sources whose images differ in size), ``label_map``, ``limit`` (number of
        training images to use, 0 for all) and optionally ``test_share`` (share of each class to
        hold out as the test part of a set without test and validation parts), ``crop_pct`` and
        ``interpolation``, see ``decode.Framing.of``; ``train_split`` and ``test_split`` (for
        tfds:NAME) and ``try_gcs``, see ``tfds``; ``broken`` (for folder: what to do with
        files that cannot be read), see ``folder.read``; ``background`` and ``exif_orientation``
        (for everything that is decoded), see ``decode.Reading``; ``resident``,
        ``resident_limit_mb`` and ``crops`` (whether images of files are decoded now or when they
        are used).

    Returns:
      The ``Dataset``.

    Raises:
      InputError: for an unknown source, missing files, or inconsistent data.
    """
    several = mixture.configs(config)
    if len(several) > 1:
        return mixture.join({name: load(one) for name, one in several.items()}, config)
    (config,) = several.values()
    source = config.source.removeprefix(protocols.PREFIX)
    if source in protocols.PROTOCOLS and source not in SOURCES:
        return protocols.load(
            source,
            path=config.path,
            image_size=config.image_size,
            limit=config.limit,
            label_map=config.label_map,
            try_gcs=config.get("try_gcs", False),
            keep=_keep(config),
            framing=config,
        )
    _require_known(config)
    if source in SOURCES:
        return SOURCES[source](config)
    if source.startswith(grain_source.PREFIX):
        return _grain(config)
    name, train, test, names = tfds.read_any(source.removeprefix("tfds:"), config, _keep(config))
    return _assemble(name, names, {"train": train, "test": test}, config)


def identify(
    config: ml_collections.ConfigDict, loaded: Dataset | None = None, share: Callable | None = None
) -> Identity:
    """Identity of the dataset that a data config names, computed without decoding its images.

    Files are read once; later calls skip those whose sizes and times are unchanged.

    Args:
      config: as for ``load``.
      loaded: the result of ``load``, whose list of files need not be made again.
      share: see ``identity.of_dataset``.

    Raises:
      InputError: as ``load``, except for images that cannot be decoded.
    """
    several = mixture.configs(config)
    if len(several) > 1:
        return identity.joined({name: identify(one, share=share) for name, one in several.items()})
    (config,) = several.values()
    if config.source == "folder" and loaded and isinstance(loaded.trainval.images, Pictures):
        return identity.of_dataset(loaded, share)
    with _quiet():
        if config.source == "folder":
            return identity.of_dataset(_folder(config, folder.listed), share)
        return _identify(config.source.removeprefix(protocols.PREFIX), config)


def _identify(source: str, config) -> Identity:
    if source in SOURCES:
        return _identity_of_arrays(source, config)
    if source.startswith(grain_source.PREFIX):
        return identity.of_dataset(_grain(config))
    if source in protocols.PROTOCOLS:
        return protocols.identify(
            source,
            path=config.path,
            limit=config.limit,
            label_map=config.label_map,
            try_gcs=config.get("try_gcs", False),
        )
    _require_known(config)
    names, parts = tfds.files_of_any(source.removeprefix("tfds:"), config)
    return identity.of_records(names, label_map(config.label_map, names), parts, config.limit)


@contextlib.contextmanager
def _quiet():
    """Silences the log messages about a dataset, which ``load`` writes anyway."""
    logger = logging.getLogger("jaxpt.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _identity_of_arrays(source, config) -> Identity:
    files = FILES[source](config.path)
    if not files:
        return identity.of_dataset(SOURCES[source](config))
    if config.label_map.endswith(".csv"):
        files = [*files, config.label_map]
    about = [__version__, source, config.label_map, config.limit]
    if source.startswith("glyphs"):
        about.append(config.image_size)
    name = identity.stamp(files, about)
    return Identity.from_json(
        remembered(
            f"images/{name}.json", lambda: identity.of_dataset(SOURCES[source](config)).to_json()
        )
    )


def _require_known(config) -> None:
    source = config.source.removeprefix(protocols.PREFIX)
    is_folder = pathlib.Path(source).is_dir()
    require(
        source.startswith(("tfds:", grain_source.PREFIX)) or source in SOURCES,
        f"data.source must be one of {sorted(SOURCES)}, tfds:NAME, grain:MODULE:FUNCTION or "
        f"a protocol ({', '.join(sorted(protocols.PROTOCOLS))}), got {config.source!r}"
        + (": for the images in it, set data.source to folder, and data.path." * is_folder or "."),
    )


def _keep(config) -> int | None:
    """Limit in bytes up to which images are decoded at once; larger datasets stay encoded."""
    resident, limit = config.get("resident", "auto"), config.get("resident_limit_mb", 2048) * 2**20
    if config.get("crops") == "whole":
        require(
            resident != "yes",
            "data.crops whole streams its pictures: set data.resident to auto or no.",
        )
        return 0
    return {"yes": None, "no": 0}.get(resident, limit)


def _assemble(name, names, parts: dict, config, broken=(), files=None) -> Dataset:
    """Assembles a dataset from its parts, given as (images, labels) by name, and their files.

    If there is a validation part, trainval is the training part followed by the validation part.
    """
    parts, files, own = with_test(parts), with_test(files or {}), tuple(parts)
    if own != tuple(parts):
        _log("%s has no test part: its validation part is used as the test part.", name)
    for part, (images, _) in parts.items():
        kind = {"train": "training"}.get(part, part)
        require(len(images) > 0, f"{name} has no {kind} images.")
    splits = {
        part: make_split(part, *arrays, names, files=files.get(part))
        for part, arrays in parts.items()
    }
    splits = _with_held_out_test(splits, config.get("test_share", 0.0))
    missing = np.setdiff1d(np.arange(len(names)), splits["train"].labels)
    if len(missing):
        some = ", ".join(repr(names[i]) for i in missing[:SHOWN])
        _log("%s has no training image of %s classes, such as %s.", name, len(missing), some)
    trainval, n_train = splits["train"], None
    if "validation" in splits:
        n_train, trainval = len(trainval.ids), _joined(name, trainval, splits["validation"])
        if config.get("train_on") == "trainval":
            _log(
                "%s: training also uses the %s validation images (data.train_on=trainval); "
                "set data.train_on=train to leave them out.",
                name,
                f"{len(splits['validation'].ids):,}",
            )
    test = splits.get("test", trainval.take(slice(0)))
    if config.limit:
        rows = limited(len(trainval.ids), config.limit)
        trainval = trainval.take(rows)
        n_train = n_train and int(np.sum(rows < n_train))
    dataset = assemble(name, names, trainval, test, config.label_map, n_train=n_train)
    if len(dataset.coarse.names) == 1:
        _log(
            "%s: all images are of one class, %r, so labels teach nothing.",
            name,
            dataset.coarse.names[0],
        )
    return dataset._replace(broken=broken)


def _with_held_out_test(splits: dict[str, Split], share: float) -> dict[str, Split]:
    """Holds out a fixed share of each class for testing if there is only a training part."""
    require(0 <= share <= 0.5, f"data.test_share must lie between 0 and 0.5, got {share}.")
    if not share or len(splits) > 1:
        return splits
    train = splits["train"]
    held_out = validation_mask(train.labels, share)
    return {"train": train.take(~held_out), "test": train.take(held_out)}


def _joined(name, train: Split, validation: Split) -> Split:
    shapes = train.images.shape[1:], validation.images.shape[1:]
    require(
        shapes[0] == shapes[1],
        f"{name}: training images are {list(shapes[0])}, but validation images {list(shapes[1])}.",
    )
    images = (
        train.images.joined(validation.images)
        if isinstance(train.images, Pictures)
        else np.concatenate((train.images, validation.images))
    )
    labels = np.concatenate((train.labels, validation.labels))
    files = None if train.files is None else np.concatenate((train.files, validation.files))
    return Split(images, labels, np.arange(len(labels), dtype=np.int32), files=files)


def _log(text: str, *values) -> None:
    logging.getLogger(__name__).warning(text, *values)


def _small(read) -> Callable[[ml_collections.ConfigDict], Dataset]:
    def load(config):
        name, train, test, names = read(config)
        return _assemble(name, names, {"train": train, "test": test}, config)

    return load


def _npz(config) -> Dataset:
    path = pathlib.Path(config.path)
    pairs, names = read_npz(path)
    return _assemble(path.stem, names, pairs, config)


def read_npz(path: pathlib.Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """Reads images and labels by part, and the class names; see ``PREFIXES``.

    Raises:
      InputError: if the file is not an .npz file with such arrays.
    """
    require(path.is_file(), f"data.path {str(path)!r} is not a file: set it to an .npz file.")
    arrays = _arrays(path)
    parts, used = {}, {"class_names"}
    for part, prefixes in PREFIXES.items():
        found = {
            kind: [
                name
                for prefix in prefixes
                for name in (f"{prefix}_{kind}", f"{axis}_{prefix}")
                if name in arrays
            ]
            for kind, axis in (("images", "x"), ("labels", "y"))
        }
        used |= {name for names in found.values() for name in names}
        require(
            all(len(names) <= 1 for names in found.values()),
            f"{path} has several arrays for the same part: {sorted(sum(found.values(), []))}.",
        )
        if any(found.values()):
            parts[part] = {kind: names[0] for kind, names in found.items() if names}
    wanted = {"train", "test"} - ({"test"} if "validation" in parts else set())
    missing = {
        f"{part}_{kind}"
        for part in (*parts, *wanted)
        for kind in ("images", "labels")
        if kind not in parts.get(part, {})
    }
    require(not missing, f"{path} lacks the arrays {sorted(missing)}; it has {sorted(arrays)}.")
    if unused := sorted(set(arrays) - used):
        _log("%s: the arrays %s are not used.", path, unused)
    pairs = {
        part: (_images(path, named["images"], arrays), _labels(path, named["labels"], arrays))
        for part, named in parts.items()
    }
    return pairs, _names(path, arrays, pairs["train"][1])


def _images(path, name: str, arrays) -> np.ndarray:
    """Returns an array of images as uint8 [n, height, width, channels].

    Raises:
      InputError: for another dtype or channels first, with the expression that fixes it.
    """
    images = arrays[name]
    if images.dtype != np.uint8 and images.dtype.kind in "fiub" and images.size:
        low, high = images.min(), images.max()
        fix = "x"
        if images.dtype.kind == "f" and high <= 1:
            fix = "x * 255" if low >= 0 else "(x + 1) * 127.5"
        raise InputError(
            f"{path}: {name} must be uint8 from 0 to 255, got {images.dtype} {list(images.shape)} "
            f"from {low:g} to {high:g}: save np.clip(np.round({fix}), 0, 255).astype(np.uint8)."
        )
    if images.ndim == 3:
        return images[..., None]
    require(
        images.ndim != 4 or images.shape[-1] in (1, 3) or images.shape[1] not in (1, 3),
        f"{path}: {name} must be [n, height, width, channels], got {list(images.shape)}: save "
        "x.transpose(0, 2, 3, 1).",
    )
    return images


def _labels(path, name: str, arrays) -> np.ndarray:
    """Returns integer labels [n] or [n, 1] as [n]."""
    labels = arrays[name]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    require(
        labels.ndim == 1,
        f"{path}: {name} must be of shape [n] or [n, 1], got {list(labels.shape)}: save "
        "x.argmax(1) if they are one-hot.",
    )
    require(labels.dtype.kind in "iu", f"{path}: {name} must be integers, got {labels.dtype}.")
    return labels


def _names(path, arrays, labels) -> list[str]:
    """Class names from ``class_names``, or the label numbers if there is no such array."""
    if "class_names" not in arrays:
        largest = int(labels.max(initial=0))
        require(
            largest < max(FEW_CLASSES, len(labels)),
            f"{path}: labels go up to {largest:,}, far more than there are images: number the "
            "classes from 0 with np.unique(labels, return_inverse=True)[1], or add class_names.",
        )
        return [str(i) for i in range(largest + 1)]
    names = arrays["class_names"]
    require(
        names.ndim == 1 and names.dtype.kind in "SUiu",
        f"{path}: class_names must be text [n], got {names.dtype} {list(names.shape)}.",
    )
    try:
        decoded = [
            unicodedata.normalize("NFC", n.decode() if isinstance(n, bytes) else str(n))
            for n in names.tolist()
        ]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: class_names must be UTF-8 ({error}).") from error
    require(
        len(set(decoded)) == len(decoded),
        f"{path}: class_names contains {max(decoded, key=decoded.count)!r} twice.",
    )
    return decoded


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a whole .npz file of plain arrays.") from error


def _folder(config, read=folder.read) -> Dataset:
    """Loads class folders or lists; without a test part the dataset serves pre-training only."""
    require(bool(config.path), "data.path is empty: set it to the folder or list of images.")
    name, parts, files, names, broken = read(
        objects.place(config.path),
        Framing.of(config),
        broken=config.get("broken", "stop"),
        keep=_keep(config),
        cache=cache_home() / "images",
    )
    return _assemble(name, names, parts, config, broken, files)


def _glyphs(labels: str) -> Callable[[ml_collections.ConfigDict], Dataset]:
    def load(config):
        name, parts, names = glyphs.read(config.path, config.image_size, labels)
        return _assemble(name, names, parts, config)

    return load


def _photographs(config) -> Dataset:
    name, train, test, names = small_sets.photographs(Framing.of(config))
    return _assemble(name, names, {"train": train, "test": test}, config)


def _grain(config) -> Dataset:
    name, parts, names = grain_source.read(config.source, config.path, Framing.of(config))
    return _assemble(name, names, parts, config)


SOURCES = {
    "grain": _grain,
    "photographs": _photographs,
    "digits": _small(lambda config: small_sets.digits()),
    "fashion_mnist": _small(lambda config: small_sets.fashion_mnist(config.path)),
    "npz": _npz,
    "folder": _folder,
    "glyphs": _glyphs("latin"),
    **{f"glyphs:{labels}": _glyphs(labels) for labels in glyphs.LABELS[1:]},
}
# Files that array datasets are read from; empty if the dataset ships with a package.
FILES = {
    "grain": lambda path: [f for files in grain_source.files_of(path).values() for f in files],
    "photographs": lambda path: [],
    "digits": lambda path: [],
    "fashion_mnist": small_sets.fashion_mnist_files,
    "npz": lambda path: [path],
    **{name: glyphs.files for name in SOURCES if name.startswith("glyphs")},
}
