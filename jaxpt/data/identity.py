"""Identity of an image dataset by its content, independent of its path and of the decoder.

Two datasets are the same if they have the same classes, labels and images in the same order. An
image is identified by the SHA-256 of its stored form: the bytes of its file, or its row of an
array. Decoded pixels are not used, as another version of Pillow may decode a JPEG differently.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxpt.cache import remembered
from jaxpt.data import labels, objects
from jaxpt.data.dataset import Dataset, Split
from jaxpt.data.labels import LabelMap
from jaxpt.data.pictures import Pictures
from jaxpt.files import is_remote

FILES, ARRAYS, RECORDS = "files", "arrays", "records"
SHOWN = 3  # at most this many classes are named in a sentence
END = 1 << 16  # bytes read at either end of a record file
SHA256 = 32  # bytes of a digest
BITS = 128  # of the sum of digests of a class's images
# Fields of a data config that do not affect results, and those whose content is in the identity.
FREE = ("resident", "resident_limit_mb", "workers", "prefetch")
BY_CONTENT = ("path", "label_map")
OF_VIEWS = ("crops", "resampler")  # they affect the views of training only
# Values with which a field has no effect, as if a config of an earlier version did not have it.
UNCHANGED = {
    "crop_pct": (0.0, 1.0),
    "interpolation": ("", "bicubic"),
    "test_share": (0.0,),
    "shots": (0,),
    "sources": ({},),
    "long_tail": ("",),
    "long_tail_images": (0,),
    "long_tail_seed": (0,),
    "sampling": ("instance",),
    "wrong_labels": (0.0,),
    "labelled_share": (1.0,),
}


class Part(NamedTuple):
    """Digests of one part of a dataset.

    Attributes:
      order: digest of labels and images in order.
      counts: number of images per class; a single total for record files, whose labels are not
        read.
      sums: for each of ``counts``, the sum of the images' digests, which is independent of order.
    """

    order: str
    counts: tuple[int, ...]
    sums: tuple[str, ...]


class Identity(NamedTuple):
    """Content of a dataset, by digests.

    Attributes:
      kind: what was hashed: "files", "arrays", or "records" for the files of a tfds dataset.
      classes: names in the order of the labels.
      coarse: the coarse class of every class.
      parts: "training", which is train and validation together, and "test" unless it is empty; of
        several sources, those of each source with its name, as "digits: training".
    """

    kind: str
    classes: tuple[str, ...]
    coarse: LabelMap
    parts: dict[str, Part]

    @property
    def digest(self) -> str:
        """Short name: digest of classes, labels and images, a dash, digest of coarse classes."""
        parts = {name: part.order for name, part in self.parts.items()}
        return f"{_digest([self.kind, self.classes, parts])}-{_digest(self.coarse)[:8]}"

    def to_json(self) -> str:
        """Serializes the identity to JSON, about 60 bytes per class and part."""
        parts = {name: part._asdict() for name, part in self.parts.items()}
        return json.dumps(self._asdict() | {"coarse": self.coarse._asdict(), "parts": parts})

    @classmethod
    def from_json(cls, text: str) -> "Identity":
        """Parses an identity written by ``to_json``.

        Raises:
          ValueError, TypeError, KeyError or AttributeError: for any other text.
        """
        found = json.loads(text)
        coarse = LabelMap(*map(tuple, (found["coarse"]["coarse_of"], found["coarse"]["names"])))
        parts = {
            name: Part(part["order"], tuple(part["counts"]), tuple(part["sums"]))
            for name, part in found["parts"].items()
        }
        return cls(found["kind"], tuple(found["classes"]), coarse, parts)


def of_dataset(dataset: Dataset, share: Callable | None = None) -> Identity:
    """Identity of a loaded dataset, from its arrays or from the files behind its ``Pictures``.

    Args:
      dataset: the dataset.
      share: shares the reading of files among several processes, see ``parallel.shared``; None
        reads all files here. The result is the same.
    """
    if dataset.sources is not None:
        names = dataset.sources.names
        return joined({name: of_dataset(dataset.alone(name), share) for name in names})
    n = len(dataset.class_names)
    held_out = np.isin(dataset.trainval.ids, dataset.validation.ids)
    parts = {"training": _part(dataset.trainval, n, held_out.tobytes(), share)}
    if len(dataset.test.ids):
        parts["test"] = _part(dataset.test, n, b"", share)
    kind = FILES if isinstance(dataset.trainval.images, Pictures) else ARRAYS
    return Identity(kind, tuple(dataset.class_names), dataset.coarse, parts)


def joined(found: Mapping[str, Identity]) -> Identity:
    """Identity of several sources that are mixed, from the identity of each."""
    classes = labels.joined({s: LabelMap((), i.classes) for s, i in found.items()}).names
    coarse = labels.joined({source: one.coarse for source, one in found.items()})
    parts, before = {}, 0
    for source, one in found.items():
        after = len(classes) - before - len(one.classes)
        for name, part in one.parts.items():
            if len(part.counts) == len(one.classes):  # else they are those of record files
                counts = (0,) * before + part.counts + (0,) * after
                sums = ("0",) * before + part.sums + ("0",) * after
                part = part._replace(counts=counts, sums=sums)
            parts[f"{source}: {name}"] = part
        before += len(one.classes)
    kinds = dict.fromkeys(one.kind for one in found.values())
    return Identity(" and ".join(kinds), classes, coarse, parts)


def is_test(part: str) -> bool:
    """Whether a part of an identity is a test part, of one or of several sources."""
    return part.rpartition(": ")[2] == "test"


def outline(dataset: Dataset) -> str:
    """Digest of the labels of a dataset and of the names of its files, which are not read."""
    digest = hashlib.sha256(repr(dataset.class_names).encode())
    for split in dataset.trainval, dataset.validation, dataset.test:
        digest.update(f"{len(split.ids)} ".encode() + np.ascontiguousarray(split.labels).tobytes())
        for file in getattr(split.images, "files", None) or ():
            digest.update(os.fsencode(os.path.basename(file)) + b"\0")
    return digest.hexdigest()[:32]


def of_records(
    class_names: Iterable[str], coarse: LabelMap, parts: dict[str, Iterable[Any]], limit: int
) -> Identity:
    """Identity of a prepared tfds dataset; only the ends of its files are read.

    Args:
      class_names, coarse: of the dataset.
      parts: tfds' file instructions (``filename``, ``skip``, ``take``, ``examples_in_shard``) of
        "training" and "test".
      limit: number of training examples used, 0 for all.
    """
    found = {}
    for name, instructions in parts.items():
        instructions = list(instructions)
        about = [
            [
                os.path.basename(i.filename),
                i.skip,
                i.take,
                i.examples_in_shard,
                _ends(os.fspath(i.filename)),
            ]
            for i in instructions
        ]
        order = _digest([about, limit if name == "training" else 0])
        found[name] = Part(order, (sum(i.take for i in instructions),), (order,))
    return Identity(RECORDS, tuple(class_names), coarse, found)


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a data config that affect results, in addition to the content of the dataset."""
    # Unreadable files either stop the loading or are left out of the dataset and its identity, so
    # ``broken`` need not be compared.
    without = (*FREE, *BY_CONTENT, *OF_VIEWS, "broken", "try_gcs")
    found = {
        name: value
        for name, value in config.items()
        if name not in without and value not in UNCHANGED.get(name, ())
    }
    if "sources" in found:
        found["sources"] = {name: settings(own) for name, own in found["sources"].items()}
    return found


def differences(there: Identity, here: Identity) -> dict[str, list[str]]:
    """Differences of two datasets: sentences without a full stop, by part and for "classes".

    If one was hashed as files and the other as arrays, their images cannot be compared; then only
    classes and numbers of images are.

    Args:
      there: the stored identity.
      here: the identity of the present data.

    Returns:
      Non-empty lists of sentences by "classes", "training" or "test"; {} if nothing differs. Parts
      are compared only if the classes are the same.
    """
    found = {"classes": _class_differences(there, here)}
    if found["classes"]:
        return found
    for name in sorted(there.parts.keys() | here.parts.keys()):
        before, now = there.parts.get(name), here.parts.get(name)
        if before is None or now is None:
            found[name] = [f"{'there is no' if now is None else 'there is now a'} {name} part"]
        elif there.kind != here.kind:
            if sum(before.counts) != sum(now.counts):
                found[name] = [f"{name} has {_counted(sum(before.counts), sum(now.counts))}"]
        elif before.order != now.order:
            found[name] = _part_differences(name, before, now, there.classes)
    return {name: sentences for name, sentences in found.items() if sentences}


def _class_differences(there: Identity, here: Identity) -> list[str]:
    gone = [f"{c!r} is gone" for c in there.classes if c not in here.classes]
    new = [f"{c!r} is new" for c in here.classes if c not in there.classes]
    if gone or new:
        return [f"classes differ: {_some(gone + new)}"]
    if there.classes != here.classes:
        return [f"the classes are in another order: {_some(map(repr, here.classes))}"]
    coarse = [
        f"{c!r} belongs to {there.coarse.names[a]!r} there and to {here.coarse.names[b]!r} here"
        for c, a, b in zip(there.classes, there.coarse.coarse_of, here.coarse.coarse_of)
        if there.coarse.names[a] != here.coarse.names[b]
    ]
    if coarse:
        return [f"the label map differs: {_some(coarse)}"]
    if there.coarse != here.coarse:
        return ["the coarse classes are in another order"]
    return []


def _part_differences(name: str, before: Part, now: Part, classes: tuple[str, ...]) -> list[str]:
    if len(before.counts) != len(classes) or len(now.counts) != len(classes):  # records
        if sum(before.counts) != sum(now.counts):
            return [f"{name} has {_counted(sum(before.counts), sum(now.counts))}"]
        return [f"the record files of {name} differ"]
    pairs = zip(classes, before.counts, now.counts)
    numbers = [_counted(a, b, f" of {c!r}") for c, a, b in pairs if a != b]
    changed = [repr(c) for c, a, b in zip(classes, before.sums, now.sums) if a != b]
    if changed and _total(before) == _total(now) and sum(before.counts) == sum(now.counts):
        return [f"the same images have other labels in {name}: of {_some(changed)}"]
    if numbers:
        return [f"{name} has {_some(numbers)}"]
    if changed:
        return [f"the bytes of images of {_some(changed)} in {name} differ"]
    return [f"the images of {name} are in another order, or other images are held out"]


def _counted(before: int, now: int, of_class: str = "") -> str:
    return f"{now:,} image{'s' * (now != 1)}{of_class} (before: {before:,})"


def _some(words: Iterable[str]) -> str:
    words = list(words)
    more = [f"{len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return ", ".join(words[:SHOWN] + more)


def _total(part: Part) -> int:
    return sum(int(value, 16) for value in part.sums) % 2**BITS


def _part(split: Split, classes: int, held_out: bytes, share: Callable | None) -> Part:
    images = split.images
    if isinstance(images, Pictures) and share is not None:
        digests = share(len(images), lambda own: _shared_digests(images[own]), SHA256)
        return _hashed(split, classes, held_out, map(bytes, digests))
    if isinstance(images, Pictures) and images.files is not None:
        # Unchanged files are not read a second time.
        about = [classes, hashlib.sha256(split.labels.tobytes() + held_out).hexdigest()]
        name = f"images/{stamp(images.files, about)}.json"
        return Part(*remembered(name, lambda: _hashed(split, classes, held_out, _digests(images))))
    return _hashed(split, classes, held_out, _digests(images))


def _shared_digests(images: Pictures) -> np.ndarray:
    """Digests of a process's share of the images; unchanged files are not read a second time."""

    def make():
        return b"".join(images.digests()).hex()

    if images.files is None:
        found = make()
    else:
        found = remembered(f"images/{stamp(images.files, 'digests')}.json", make)
    return np.frombuffer(bytes.fromhex(found), np.uint8).reshape(-1, SHA256)


def _hashed(split: Split, classes: int, held_out: bytes, digests: Iterable[bytes]) -> Part:
    order = hashlib.sha256(f"{classes}".encode())
    if not isinstance(split.images, Pictures):
        order.update(f"{split.images.dtype} {split.images.shape[1:]}".encode())
    groups = split.labels if split.labels.ndim == 1 else np.zeros(len(split.labels), np.int32)
    counts, sums = [0] * classes, [0] * classes
    for label, group, digest in zip(split.labels, groups.tolist(), digests):
        order.update(label.tobytes() + digest)
        counts[group] += 1
        sums[group] += int.from_bytes(digest[: BITS // 8], "big")
    order.update(held_out)
    if split.difficult is not None:
        order.update(np.ascontiguousarray(split.difficult).tobytes())
    return Part(
        order.hexdigest()[:24], tuple(counts), tuple(f"{total % 2**BITS:x}" for total in sums)
    )


def _digests(images: np.ndarray | Pictures) -> Iterable[bytes]:
    if isinstance(images, Pictures):
        return images.digests()
    return (hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images)


def _ends(file: str) -> list[Any]:
    """Size of a record file and digest of its first and last bytes; [] if it cannot be read."""
    try:
        with open(file, "rb") as content:
            first = content.read(END)
            size = content.seek(0, os.SEEK_END)
            content.seek(max(0, size - END))
            return [size, hashlib.sha256(first + content.read()).hexdigest()]
    except OSError:
        return []


def stamp(files: Iterable[str | os.PathLike], about: Any = None) -> str:
    """Name that changes when one of the files changes, from their metadata, see ``objects``."""
    digest = hashlib.sha256(json.dumps(about, default=list).encode())
    here = os.getcwd()
    for file in files:
        where = file if is_remote(file) else os.path.join(here, file)
        text = f"{where}\0{objects.stamp(file)}\n"
        digest.update(text.encode(errors="surrogateescape"))
    return digest.hexdigest()[:24]


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, default=list).encode()).hexdigest()[:16]
