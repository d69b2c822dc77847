"""Image sets by name. Every source gives the same thing, a ``Dataset``: uint8 arrays, or
``Pictures`` that stand where large ones would.
"""

import pathlib
import zipfile
import zlib

import ml_collections
import numpy as np

from jaxpt import __version__
from jaxpt.cache_home import cache_home, remembered
from jaxpt.data import folder, identity, protocols, small_sets, tfds_source
from jaxpt.data.dataset import Dataset, Split, assemble, limited, make_split, validation_mask
from jaxpt.data.identity import Identity
from jaxpt.data.labels import label_map
from jaxpt.errors import InputError, require

__all__ = ["Dataset", "SOURCES", "Split", "identify", "load", "validation_mask"]


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads the set that a data config names.

    Validation is a fixed fifth of the training part, the same share of every fine class, drawn
    with seed 0 whatever the run's seed is, unless a protocol has another; test is never part of
    it.

    Args:
      config: ConfigDict with ``source`` ("digits", "fashion_mnist", "npz", "folder", "tfds:NAME",
        or a name in ``protocols.PROTOCOLS``, with or without "protocol:" before it), ``path``,
        ``image_size`` (of folder, protocols and those tfds sets whose images differ in size),
        ``label_map``, ``limit`` (use only that many training images, 0 for all) and, where it has
        them, ``train_split``, ``test_split`` (of tfds:NAME), ``try_gcs``, see ``tfds_source``,
        ``broken`` (of folder: files that cannot be read), see ``folder.read``, ``resident`` and
        ``resident_limit_mb`` (of folder and sets of tfds: whether images are decoded now or as
        they are looked at).

    Raises:
      InputError: for an unknown source, missing files, or data that does not make sense.
    """
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
        )
    _require_known(source, config)
    if source == "folder":
        return _folder(config)
    if source in SOURCES:
        return _arrays(source, config)
    name, trainval, test, names = tfds_source.read_any(
        source.removeprefix("tfds:"), config, _keep(config)
    )
    return _of_parts(source, name, trainval, test, names, config)


def identify(config: ml_collections.ConfigDict) -> Identity:
    """The identity of the set that a data config names, without decoding its images.

    The bytes of files are read once; later, files whose sizes and times are the same are not.

    Args:
      config: as of ``load``.

    Raises:
      InputError: as ``load``, but for images that cannot be decoded.
    """
    source = config.source.removeprefix(protocols.PREFIX)
    if source == "folder":
        return identity.of_dataset(_folder(config, folder.listed))
    if source in SOURCES:
        return _identity_of_arrays(source, config)
    if source in protocols.PROTOCOLS:
        return protocols.identify(
            source,
            path=config.path,
            limit=config.limit,
            label_map=config.label_map,
            try_gcs=config.get("try_gcs", False),
        )
    _require_known(source, config)
    names, parts = tfds_source.files_of_any(source.removeprefix("tfds:"), config)
    return identity.of_records(names, label_map(config.label_map, names), parts, config.limit)


def _identity_of_arrays(source, config) -> Identity:
    files = FILES[source](config.path)
    if not files:
        return identity.of_dataset(_arrays(source, config))
    if config.label_map.endswith(".csv"):
        files = [*files, config.label_map]
    name = identity.stamp(files, [__version__, source, config.label_map, config.limit])
    return Identity.from_json(
        remembered(
            f"images/{name}.json", lambda: identity.of_dataset(_arrays(source, config)).to_json()
        )
    )


def _require_known(source, config) -> None:
    require(
        source.startswith("tfds:") or source in SOURCES,
        f"data.source must be one of {sorted(SOURCES)}, tfds:NAME or "
        f"a protocol ({', '.join(sorted(protocols.PROTOCOLS))}), got {config.source!r}.",
    )


def _arrays(source, config) -> Dataset:
    name, trainval, test, names = SOURCES[source](config)
    return _of_parts(source, name, trainval, test, names, config)


def _of_parts(source, name, trainval, test, names, config) -> Dataset:
    for part, arrays in ("training", trainval), ("test", test):
        require(len(arrays[0]) > 0, f"{source} has no {part} images.")
    return _assemble(
        name, names, make_split("train", *trainval, names), make_split("test", *test, names), config
    )


def _keep(config) -> int | None:
    """How many bytes of images are decoded now; larger sets are as they are looked at."""
    limit = config.get("resident_limit_mb", 2048) * 2**20
    return {"yes": None, "no": 0}.get(config.get("resident", "auto"), limit)


def _assemble(name, names, trainval, test, config, broken=()) -> Dataset:
    if config.limit:
        trainval = trainval.take(limited(len(trainval.ids), config.limit))
    return assemble(name, names, trainval, test, config.label_map)._replace(broken=broken)


def _npz(config):
    """Arrays train_images, train_labels, test_images, test_labels and optional class_names."""
    path = pathlib.Path(config.path)
    require(path.is_file(), f"data.path {str(path)!r} is no file: give an .npz file.")
    arrays = _read_npz(path)
    missing = {
        f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")
    } - set(arrays)
    require(not missing, f"{path} lacks the arrays {sorted(missing)}; it has {sorted(arrays)}.")
    for name in "train_labels", "test_labels":
        require(
            arrays[name].dtype.kind in "iu",
            f"{path}: {name} must be integers, got {arrays[name].dtype}.",
        )
    train, test = (
        (arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")
    )
    names = (
        arrays["class_names"].tolist()
        if "class_names" in arrays
        else [str(i) for i in range(int(train[1].max(initial=0)) + 1)]
    )
    return path.stem, train, test, names


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no whole .npz file of plain arrays (no objects).") from error


def _folder(config, read=folder.read) -> Dataset:
    """Class folders or lists; a set without a test part is one for pre-training."""
    name, parts, names, broken = read(
        pathlib.Path(config.path),
        config.image_size,
        broken=config.get("broken", "stop"),
        keep=_keep(config),
        cache=cache_home() / "images",
    )
    trainval = make_split("train", *parts["train"], names)
    test = make_split("test", *parts["test"], names) if "test" in parts else trainval.take(slice(0))
    return _assemble(name, names, trainval, test, config, broken)


SOURCES = {
    "digits": lambda config: small_sets.digits(),
    "fashion_mnist": lambda config: small_sets.fashion_mnist(config.path),
    "npz": _npz,
    "folder": None,
}
# The files that a set of arrays is read from; none if it comes with a package.
FILES = {
    "digits": lambda path: [],
    "fashion_mnist": small_sets.fashion_mnist_files,
    "npz": lambda path: [path],
}
