"""Vectors of pictures, their look-alikes, and near-duplicates: files in, files out.

``embed`` writes the vectors of a set with the path of each picture; ``search`` finds the nearest of
them, ``duplicates`` the pairs that show the same.
"""

import importlib
import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxpt.backbones import SCRATCH, Backbone, open_backbone
from jaxpt.configs.pretrain import defaults
from jaxpt.data import check, listing, mixture, objects, sources
from jaxpt.data.decode import Framing, in_parallel, open_image
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError, require, shown
from jaxpt.evaluation.features import extract
from jaxpt.evaluation.geometry import unit_rows
from jaxpt.files import is_remote, replacing, unwritable
from jaxpt.ops import knn
from jaxpt.report import gallery
from jaxpt.report.gallery import Picture, Row
from jaxpt.train.parallel import Devices

SUFFIXES = (".npz", ".parquet")
COLUMNS = ("path", "label", "split", "vector")
# Fields of a data config that decide which pixels of a picture the network sees.
FRAMING = ("image_size", "crop_pct", "interpolation", "background", "exif_orientation")
SIDE = 224  # pixels, of networks that do not say for which images they are
AT_ONCE = 1024  # queries
MOST_ROWS = 1000  # of a page
COSINE = 0.98  # least cosine of near-duplicates
CANDIDATES = 20  # nearest vectors among which near-duplicates are looked for


class Vectors(NamedTuple):
    """Vectors of pictures.

    Attributes:
      path: str [n], the absolute path of each picture, or SET/SPLIT/ID if it is not a file.
      label: str [n], its class, "" if it has none.
      split: str [n], train, validation or test, "" if the set has no parts.
      vector: float32 [n, dim], features of the backbone; their lengths are the network's.
      about: the network ("source", "checkpoint", "weights"), and "framing" of the pictures.
    """

    path: np.ndarray
    label: np.ndarray
    split: np.ndarray
    vector: np.ndarray
    about: dict[str, Any]


class Found(NamedTuple):
    """Look-alikes of queries: float32 cosines and int indices, both [queries, k], nearest first.

    An index of −1 stands for fewer than k vectors.
    """

    cosines: np.ndarray
    indices: np.ndarray


class Pair(NamedTuple):
    """Two pictures that show nearly the same.

    Attributes:
      first, second: positions of the pictures.
      cosine: of their vectors, or None without vectors.
      bits: bits of 64 in which their perceptual hashes differ, or None if those are not alike.
    """

    first: int
    second: int
    cosine: float | None
    bits: int | None


def embed(
    source: str | os.PathLike,
    data: str | os.PathLike = "",
    *,
    image_size: int = 0,
    encoder: str = "",
    model: ml_collections.ConfigDict | None = None,
) -> Vectors:
    """Computes the vectors of a set of pictures.

    Args:
      source: a run, an export or a weight file, see ``open_backbone``.
      data: a folder of pictures, with or without class folders, a list file, an .npz file, or the
        name of a set as in ``data.source``; "" means the set of pre-training.
      image_size: side of the pictures in pixels; 0 means that of training.
      encoder: which of a run's encoders, see ``open_backbone``.
      model: network of a weight file, see ``open_backbone``.

    Returns:
      the ``Vectors``.

    Raises:
      InputError: for a network or a set that cannot be opened.
    """
    backbone = open_backbone(source, model=model, encoder=encoder)
    config = _data_config(backbone, os.fspath(data), image_size)
    about = {
        "source": _place(source),
        "model": _model(backbone, model),
        "checkpoint": backbone.checkpoint,
        "weights": backbone.made.get("weights", "online"),
        "framing": {name: config[name] for name in FRAMING},
    }
    folder = objects.place(config.path)
    files = listing.pictures(folder) if config.source == "folder" and _is_plain(folder) else None
    if files is not None:
        empty = np.full(len(files), "")
        vector = _features(backbone, _pictures(backbone, files, about))
        return Vectors(_absolute(files), empty, empty, vector, about)
    dataset = sources.load(config)
    require(
        not dataset.trainval.multi_label,
        f"{dataset.name} has several labels per image: embed takes one.",
    )
    paths, labels, splits, vectors = [], [], [], []
    held_out = np.isin(dataset.trainval.ids, dataset.validation.ids)
    names = np.asarray(dataset.class_names)
    for part, split in ("train", dataset.trainval), ("test", dataset.test):
        if not len(split.ids):
            continue
        paths.append(
            _absolute(split.files)
            if split.files is not None
            else np.char.add(f"{dataset.name}/{part}/", split.ids.astype(str))
        )
        labels.append(names[split.labels])
        splits.append(
            np.where(held_out, "validation", "train")
            if part == "train"
            else np.full(len(split.ids), part)
        )
        vectors.append(_features(backbone, split.images))
    return Vectors(*map(np.concatenate, (paths, labels, splits, vectors)), about)


def embed_files(files: Sequence[str | os.PathLike], about: dict[str, Any]) -> np.ndarray:
    """Computes the vectors of picture files by the network that made others.

    Args:
      files: the pictures.
      about: of ``Vectors``.

    Returns:
      float32 [n, dim].

    Raises:
      InputError: if the network is not there any more or has changed, or a file cannot be read.
    """
    require(len(files) > 0, "there are no pictures to look for.")
    source = about["source"]
    require(
        os.path.exists(source) or source.startswith(SCRATCH),
        f"the network of the vectors, {source!r}, is not there any more: embed the pictures again.",
    )
    backbone = open_backbone(
        source,
        model=about["model"] and ml_collections.ConfigDict(about["model"]),
        encoder=about["weights"] if _is_run(source) else "",
    )
    require(
        backbone.checkpoint == about["checkpoint"],
        f"{source!r} holds another network than the one that made the vectors (it was trained on "
        "since): embed the pictures again.",
    )
    return _features(backbone, _pictures(backbone, list(map(os.fspath, files)), about))


def search(vectors: Vectors, queries: np.ndarray | None = None, *, k: int = 10) -> Found:
    """Finds the k vectors with the largest cosines.

    Args:
      vectors: to search.
      queries: float [m, dim]; None looks for the look-alikes of each of ``vectors`` among the
        others.
      k: number of look-alikes.

    Returns:
      ``Found``, of m rows.

    Raises:
      InputError: for k below 1, or queries of another dimension.
    """
    require(k >= 1, f"k must be at least 1, got {k}.")
    keys = jnp.asarray(unit_rows(vectors.vector), jnp.float32)
    asked = vectors.vector if queries is None else np.asarray(queries)
    require(
        asked.ndim == 2 and asked.shape[1] == keys.shape[1],
        f"queries must be [m, {keys.shape[1]}], as the vectors are, got {list(asked.shape)}.",
    )
    asked, ids = unit_rows(asked), np.arange(len(keys), dtype=np.int32)
    found = []
    for start in range(0, len(asked), AT_ONCE):
        rows = np.asarray(asked[start : start + AT_ONCE], np.float32)
        own = {"query_ids": ids[start : start + AT_ONCE], "key_ids": ids} if queries is None else {}
        found.append(knn.search(jnp.asarray(rows), keys, min(k, len(keys)), **own))
    return Found(*(np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*found)))


def search_files(
    vectors: Vectors, files: Sequence[str | os.PathLike], queries: np.ndarray, *, k: int = 10
) -> Found:
    """Finds the look-alikes of picture files; a picture is not its own look-alike.

    Args:
      vectors: to search.
      files: of the queries.
      queries: float [m, dim], their vectors by ``embed_files``.
      k: number of look-alikes.

    Raises:
      InputError: as ``search``.
    """
    found = search(vectors, queries, k=k + 1)
    real = np.array([os.path.realpath(path) for path in vectors.path.tolist()])
    rows = []
    for file, cosines, indices in zip(files, *found):
        other = real[indices] != os.path.realpath(file)
        order = np.argsort(~other, kind="stable")[:k]  # the picture itself comes last
        rows.append((cosines[order], np.where(other, indices, -1)[order]))
    return Found(*(np.stack(part) for part in zip(*rows)))


def duplicates(
    files: Sequence[str],
    vectors: Vectors | None = None,
    *,
    cosine: float = COSINE,
    bits: int = check.NEAR_BITS,
) -> list[Pair]:
    """Finds pairs of pictures that show nearly the same, by vectors and by perceptual hash.

    By vectors, each pair that is among the ``CANDIDATES`` nearest of one of the two counts.

    Args:
      files: the pictures; those that cannot be read have no hash.
      vectors: of the same pictures, or None.
      cosine: least cosine of the vectors.
      bits: most bits of 64 in which the hashes differ; −1 computes none.

    Returns:
      the pairs, most similar first: by bits, then by cosine.

    Raises:
      InputError: for constants out of range.
    """
    require(-1 < cosine <= 1, f"cosine must lie above −1 and be at most 1, got {cosine}.")
    require(-1 <= bits <= 32, f"bits must lie between −1 and 32, got {bits}.")
    found: dict[tuple[int, int], dict[str, Any]] = {}
    if bits >= 0:
        for later, earlier, differ in check.near_pairs(in_parallel(_print_of, files), bits):
            found[earlier, later] = {"bits": differ}
    if vectors is not None:
        unit = unit_rows(vectors.vector)
        nearest = search(vectors, k=CANDIDATES)
        rows, columns = np.nonzero(nearest.cosines >= cosine)
        for row, column in zip(rows.tolist(), columns.tolist()):
            place = sorted((row, int(nearest.indices[row, column])))
            found.setdefault(tuple(place), {})
        for (first, second), values in found.items():
            values["cosine"] = float(unit[first] @ unit[second])
    pairs = [Pair(*places, v.get("cosine"), v.get("bits")) for places, v in found.items()]
    return sorted(
        pairs, key=lambda p: (64 if p.bits is None else p.bits, -(p.cosine or 0.0), p[:2])
    )


def pictures_of(where: str | os.PathLike) -> list[str]:
    """Picture files below a folder, or of a list file, or the file itself.

    Raises:
      InputError: if there are none.
    """
    path = objects.place(os.fspath(where))
    if objects.is_file(path) and pathlib.PurePath(path).suffix.lower() in listing.LISTS:
        return [file for part in listing.contents(path).parts.values() for file in part.files]
    if objects.is_file(path):
        return [os.fspath(path)]
    require(
        objects.is_folder(path),
        f"{os.fspath(where)!r} is neither a picture nor a folder of pictures.",
    )
    return listing.pictures(path)


def write_page(
    out: str | os.PathLike,
    vectors: Vectors,
    found: Found,
    files: Sequence[str] | None = None,
    *,
    title: str = "Look-alikes",
) -> pathlib.Path:
    """Writes a page of queries with their look-alikes, at most ``MOST_ROWS`` of them.

    Args:
      out: the file, .html.
      vectors: that were searched.
      found: their look-alikes.
      files: the queries; None if each of ``vectors`` was one.
      title: of the page.

    Raises:
      InputError: if the file cannot be written, or the vectors are not of files.
    """
    own = files is None
    paths = vectors.path.tolist()
    require(
        os.path.isabs(paths[0]),
        f"the vectors are not of picture files, such as {paths[0]!r}: a page needs files.",
    )
    asked = list(range(len(paths))) if own else list(range(len(files)))
    shown_rows = asked[:: -(-len(asked) // MOST_ROWS)]
    rows = []
    for i in shown_rows:
        query = Picture(paths[i], str(vectors.label[i])) if own else Picture(str(files[i]))
        rows.append(
            Row(
                query,
                [
                    (Picture(paths[j], str(vectors.label[j])), f"{c:.3f}".replace("-", "−"))
                    for c, j in zip(found.cosines[i].tolist(), found.indices[i].tolist())
                    if j >= 0
                ],
            )
        )
    k = found.indices.shape[1]
    lead = [
        f"{'All' if len(rows) == len(asked) else f'{len(rows):,} of'} {len(asked):,} pictures, "
        f"each with the {k} most similar of {len(paths):,}. The number below a picture is the "
        "cosine of the two vectors."
    ]
    if own and any(vectors.label):
        first = found.indices[:, 0]
        share = np.mean(vectors.label[first] == vectors.label)
        lead.append(
            f"The most similar picture has the same label for {share:.0%} of all pictures. "
            "Look-alikes with another label have a dashed frame and its name."
        )
    return gallery.write(out, title, lead, rows)


def write_duplicates(
    out: str | os.PathLike, files: Sequence[str], pairs: Sequence[Pair], labels=None
) -> pathlib.Path:
    """Writes a page of near-duplicates: the first picture of each group with the others.

    Raises:
      InputError: if the file cannot be written.
    """
    rows: dict[int, list] = {}
    for pair in pairs[:MOST_ROWS]:
        rows.setdefault(pair.first, []).append((pair.second, words(pair)))

    def picture(i):
        return Picture(files[i], "" if labels is None else str(labels[i]))

    lead = [f"{len(pairs):,} pairs of pictures that show nearly the same."]
    return gallery.write(
        out,
        "Near-duplicates",
        lead,
        [Row(picture(i), [(picture(j), text) for j, text in near]) for i, near in rows.items()],
    )


def words(pair: Pair) -> str:
    """Similarity of a pair, such as "3 bits, cosine 0.991"."""
    said = [f"{pair.bits} bit{'s' * (pair.bits != 1)}"] if pair.bits is not None else []
    return ", ".join(said + ([f"cosine {pair.cosine:.3f}"] if pair.cosine is not None else []))


def save(vectors: Vectors, out: str | os.PathLike) -> None:
    """Writes vectors to an .npz or a .parquet file, with the columns path, label, split, vector.

    Raises:
      InputError: for another ending, a file that cannot be written, or .parquet without pyarrow.
    """
    path = check_out(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            if path.suffix == ".npz":
                columns = dict(zip(COLUMNS, vectors[:4], strict=True))
                np.savez(file, **columns, about=json.dumps(vectors.about))
            else:
                _write_parquet(file, vectors)
    except OSError as error:
        raise unwritable(path, error, option="out", kind="file") from error


def check_out(out: str | os.PathLike) -> pathlib.Path:
    """Returns the path of a file to save to, after checking that its format can be written."""
    path = pathlib.Path(out)
    require(path.suffix in SUFFIXES, f"--out must end in .npz or .parquet, got {os.fspath(out)!r}.")
    if path.suffix == ".parquet":
        _module("pyarrow.parquet", "parquet", f"writing {os.fspath(out)!r}")
    return path


def load(file: str | os.PathLike) -> Vectors:
    """Reads vectors that ``save`` wrote.

    Raises:
      InputError: for a file that is not one, or .parquet without pyarrow.
    """
    path = pathlib.Path(file)
    require(path.is_file(), f"there are no vectors {os.fspath(file)!r}: jaxpt embed writes them.")
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path)
        with np.load(path, allow_pickle=False) as there:
            return Vectors(*(there[name] for name in COLUMNS), json.loads(str(there["about"])))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{os.fspath(file)!r} holds no vectors of jaxpt embed ({error}): embed again."
        ) from error


def write_faiss(vectors: Vectors, out: str | os.PathLike) -> None:
    """Writes a faiss index of the unit vectors, in the order of ``vectors``: products are cosines.

    Raises:
      InputError: without faiss, or if the file cannot be written.
    """
    faiss = _module("faiss", "faiss", f"writing {os.fspath(out)!r}")
    rows = np.ascontiguousarray(unit_rows(vectors.vector), np.float32)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    path = pathlib.Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            file.write(faiss.serialize_index(index).tobytes())
    except OSError as error:
        raise unwritable(path, error, option="faiss", kind="file") from error


def _module(name: str, extra: str, what: str) -> ModuleType:
    """Imports an optional package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{what} needs {name.split('.')[0]}, which is not installed: pip install "
            f"'jaxpt[{extra}]'."
        ) from error


def _write_parquet(file, vectors: Vectors) -> None:
    import pyarrow
    import pyarrow.parquet

    rows, dim = vectors.vector.shape
    flat = pyarrow.array(np.asarray(vectors.vector, np.float32).ravel())
    columns = [pyarrow.array(column.tolist(), pyarrow.string()) for column in vectors[:3]]
    columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, dim))
    table = pyarrow.table(dict(zip(COLUMNS, columns, strict=True)))
    table = table.replace_schema_metadata({"jaxpt": json.dumps(vectors.about)})
    pyarrow.parquet.write_table(table, file)


def _read_parquet(path: pathlib.Path) -> Vectors:
    table = _module("pyarrow.parquet", "parquet", f"reading {os.fspath(path)!r}").read_table(path)
    columns = [np.array(table[name].to_pylist(), str) for name in COLUMNS[:3]]
    vector = table["vector"].combine_chunks()
    values = np.asarray(vector.values, np.float32).reshape(len(vector), -1)
    return Vectors(*columns, values, json.loads(table.schema.metadata[b"jaxpt"]))


def _data_config(backbone: Backbone, data: str, image_size: int) -> ml_collections.ConfigDict:
    """Data config of the set: that of the run if it is its own, else with its framing alone."""
    trained = None
    if backbone.config is not None:
        trained = ml_collections.ConfigDict(
            defaults.completed({"data": backbone.config.data.to_dict()})["data"]
        )
    require(
        bool(data) or trained is not None,
        f"{backbone.label} has no pre-training set: name a folder of pictures or a set (--data=…).",
    )
    there = is_remote(data) or os.path.exists(data)
    own = [] if trained is None else [trained]
    if data:  # one of several sources, if there are
        own = [
            one
            for whole in own
            for one in mixture.configs(whole).values()
            if (not there and data == one.source)
            or (there and bool(one.path) and objects.real(data) == objects.real(one.path))
        ]
    if own:
        config = own[0]
    else:
        config = defaults.get_config().data
        shape = (backbone.made.get("data") or {}).get("shape")
        side = shape[0] if shape else getattr(backbone.encoder.backbone, "image_size", SIDE)
        if trained is not None:
            config.update({name: trained[name] for name in FRAMING if name in trained})
        config.image_size = side
        config.crop_pct = backbone.made.get("framing", {}).get("crop_pct") or config.crop_pct
        if there:
            config.update(source="npz" if data.endswith(".npz") else "folder", path=data)
        else:
            config.source = data
    config.label_map, config.resident = "fine", "auto"
    config.image_size = image_size or config.image_size
    return config


def _is_plain(folder: pathlib.Path | str) -> bool:
    """Whether a folder holds pictures but no class folders."""
    return objects.is_folder(folder) and listing.is_plain(folder)


def _pictures(backbone: Backbone, files: list[str], about) -> Pictures:
    framing = Framing.of(ml_collections.ConfigDict(about["framing"]))
    return Pictures(files, framing, 1 if backbone.encoder.channels == 1 else 3)


def _features(backbone: Backbone, images) -> np.ndarray:
    arguments = backbone.encoder, backbone.params, backbone.batch_stats
    return extract(*arguments, images, devices=Devices())


def _print_of(file: str) -> check.Print | None:
    try:
        return check.print_of(open_image(objects.read(objects.place(file)), shown(file)))
    except InputError:
        return None


def _absolute(files) -> np.ndarray:
    return np.array([f if is_remote(f) else os.path.abspath(f) for f in files], str)


def _place(source) -> str:
    """Absolute path of a network, without its label; "scratch:SEED" as it is."""
    label, equals, rest = os.fspath(source).partition("=")
    path = rest if equals and not os.path.exists(os.fspath(source)) else os.fspath(source)
    return os.path.abspath(path) if os.path.exists(path) else path


def _model(backbone: Backbone, given) -> dict[str, Any] | None:
    """Fields of the network of a weight file or of scratch, with which it can be opened again."""
    if backbone.config is not None:
        return None
    model = backbone.model.to_dict() | {"normalisation": backbone.encoder.normalisation}
    return model | {"state": (given or {}).get("state", "")}


def _is_run(source: str) -> bool:
    return os.path.isdir(os.path.join(source, "checkpoints"))
