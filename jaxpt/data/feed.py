"""Feeds, which bring batches to the devices: gathered there from a resident set, or streamed.

Both kinds give the same batches. A feed has ``resident``, a bool; ``data``, replicated on every
device; ``batches``, which transfers the rows of one step after another to the devices; ``shapes``,
the shapes of what it transfers; and ``gather``, which turns data and rows into a ``Batch`` inside
the jitted step.
"""

import collections
import dataclasses
import errno
import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpt.data.crops import Cropping
from jaxpt.data.dataset import Split
from jaxpt.data.decode import make_pool
from jaxpt.errors import InputError, RunError, require

TASKS = 64  # decoding tasks per batch: small enough that no thread waits long for another
WAITED = 0.2  # a larger share of steps that waited for their images is reported
WAITS = (1, 5, 25)  # seconds before a file is read again that the file system fails to deliver
TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET}
IN_FLIGHT = 2  # steps that the host may be ahead of the devices; each keeps a batch alive


class Batch(NamedTuple):
    """One batch of decoded images.

    Attributes:
      image: uint8 [batch, height, width, channels]; or a dict from the number of each view to such
        an array, if the host takes the views from whole pictures.
      label: int32 [batch].
      id: int32 [batch], position of the example in the original training part.
      index: int32 [batch], its position among the examples trained on, 0 … n − 1.
      epoch: int32 [batch], number of times the example was seen before; −1 while the memory is
        filled.
      seed: int32 scalar, the run's seed; an input, so that one compiled step serves all seeds.
    """

    image: jax.Array | dict[int, jax.Array]
    label: jax.Array
    id: jax.Array
    index: jax.Array
    epoch: jax.Array
    seed: jax.Array


class Rows(NamedTuple):
    """Indices of the examples of a batch, and the epoch of each; both int32 [batch]."""

    index: np.ndarray
    epoch: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Strata:
    """Parts of a set that are drawn in other proportions than they have in it.

    Attributes:
      members: positions in the set, int [m] per stratum, together all n of them.
      quotas: number of examples per pass of each stratum, together n.
    """

    members: tuple[np.ndarray, ...]
    quotas: tuple[int, ...]

    @classmethod
    def by_weight(cls, members: Iterable[np.ndarray], weights: Iterable[float]) -> "Strata":
        """Makes quotas proportional to the weights, rounded so that their sum is n."""
        members, total = tuple(members), np.cumsum(np.asarray(tuple(weights), float))
        ends = np.round(sum(map(len, members)) * total / total[-1]).astype(int)
        return cls(members, tuple(np.diff(ends, prepend=0).tolist()))


def rows_of_step(
    step: int, batch_size: int, *, n: int, seed: int, strata: Strata | None = None
) -> Rows:
    """Rows of a step (0, 1, …) of a run over ``n`` examples."""
    return Rows(*batch_at(step * batch_size, batch_size, n=n, seed=seed, strata=strata))


def batch_at(
    position: int, size: int, *, n: int, seed: int, strata: Strata | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Examples of the stream from ``position`` on.

    The stream is a sequence of shuffled passes over the set. A batch may span the end of one pass
    and the start of the next, so every example is seen exactly once per pass and none is dropped.
    With ``strata``, a pass of n examples holds the quota of each stratum. Within its stratum every
    example is seen equally often, up to one, and its epoch counts how often.

    Args:
      position: number of examples seen before.
      size: number of examples to return.
      n: number of examples in the set.
      seed: the run's seed.
      strata: None draws all examples equally often.

    Returns:
      (indices int32 [size] into the set, epochs int32 [size]: how often each was seen before).
    """
    positions = np.arange(position, position + size)
    passes, places = np.divmod(positions, n)
    indices, epochs = np.empty(size, np.int32), passes.astype(np.int32)
    for number in np.unique(passes).tolist():
        here = passes == number
        if strata is None:
            indices[here] = _permutation(n, seed, number)[places[here]]
        else:
            indices[here], epochs[here] = _stratified(strata, seed, number)[:, places[here]]
    return indices, epochs


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int | tuple[int, ...], epoch: int) -> np.ndarray:
    return np.random.default_rng((*np.atleast_1d(seed).tolist(), epoch)).permutation(n)


@functools.lru_cache(maxsize=4)
def _stratified(strata: Strata, seed: int, number: int) -> np.ndarray:
    """Indices and epochs of a pass, int [2, n]."""
    drawn = []
    for stratum, (members, quota) in enumerate(zip(strata.members, strata.quotas)):
        # Each stratum is a stream of shuffled passes of its own, which goes on in the next pass.
        own = {"n": len(members), "seed": (seed, stratum)}
        index, epoch = batch_at(number * quota, quota, **own)
        drawn.append((members[index], epoch))
    drawn = np.concatenate(drawn, axis=1)
    return drawn[:, _permutation(drawn.shape[1], seed, number)]


def make_feed(config, split: Split, labels: np.ndarray, devices, cropping: Cropping | None = None):
    """Makes the feed selected by ``config.data.resident``: "yes", "no", or "auto" (by size).

    Args:
      config: config of pre-training.
      split: the examples to train on.
      labels: int32 [n], the labels to train with.
      devices: ``Devices``.
      cropping: the views to take from whole pictures, which are always streamed; None feeds square
        images.

    Raises:
      InputError: for another value of ``resident``, or numbers out of range.
    """
    data = config.data
    wanted, limit = data.get("resident", "auto"), data.get("resident_limit_mb", 2048)
    workers, prefetch = data.get("workers", 0), data.get("prefetch", 2)
    require(
        wanted in ("auto", "yes", "no"), f"data.resident must be auto, yes or no, got {wanted!r}."
    )
    for name, value, least in (
        ("resident_limit_mb", limit, 0),
        ("workers", workers, 0),
        ("prefetch", prefetch, 1),
    ):
        require(
            least <= value < 2**20,
            f"data.{name} must lie between {least} and {2**20 - 1}, got {value}.",
        )
    if cropping is None and is_resident(data, split.images.shape):
        return ResidentFeed(split, labels, config.seed, devices)
    streaming = Streaming(config.batch_size, workers, prefetch, cropping)
    return StreamedFeed(split, labels, config.seed, devices, streaming)


def is_resident(data, shape: tuple[int, ...]) -> bool:
    """Whether a data config makes square images of this shape, uint8, resident on the devices."""
    wanted, limit = data.get("resident", "auto"), data.get("resident_limit_mb", 2048)
    return wanted == "yes" or (wanted == "auto" and math.prod(shape) <= limit * 2**20)


class Streaming(NamedTuple):
    """Settings of a ``StreamedFeed``; ``cropping`` is None for square images."""

    batch_size: int
    workers: int
    prefetch: int
    cropping: Cropping | None = None


def warnings(row: dict[str, float]) -> list[str]:
    """Warnings about the input in a row of metrics."""
    share = row.get("waited", 0.0)
    if share <= WAITED:
        return []
    return [
        f"the devices waited for images ({share:.0%} of the latest steps): the host decodes too "
        "slowly. Use more CPU cores, pip install 'jaxpt[pictures]' for a faster resize in new "
        "runs, store smaller pictures, or set data.crops to square; jaxpt plan prints how many "
        "cores a config needs"
    ]


class Resident(NamedTuple):
    """The training set as arrays.

    Attributes:
      image: uint8 [n, height, width, channels].
      label: int32 [n].
      id: int32 [n].
      seed: int32 scalar, the run's seed.
    """

    image: jax.Array
    label: jax.Array
    id: jax.Array
    seed: jax.Array


def gather(data: Resident, rows: Rows) -> Batch:
    """Gathers the batch of these rows inside a jitted step."""
    return Batch(
        data.image[rows.index],
        data.label[rows.index],
        data.id[rows.index],
        rows.index,
        rows.epoch,
        data.seed,
    )


class ResidentFeed:
    """Feed that keeps the whole set on every device; the step gathers batches from it by index."""

    resident = True
    gather = staticmethod(gather)

    def __init__(self, split: Split, labels, seed: int, devices):
        self.n = len(split.ids)
        self.about = (
            f"{self.n:,} images, {math.prod(split.images.shape) / 2**20:,.1f} MiB, "
            "resident on every device."
        )
        self.data = devices.replicate(
            Resident(np.asarray(split.images), labels, split.ids, np.int32(seed))
        )
        self._devices = devices

    def batches(self, rows: Iterable[Rows]) -> Iterator[Rows]:
        """Yields the rows of each step, split over the devices."""
        return map(self._devices.split, rows)

    def shapes(self, rows: Rows) -> Rows:
        """Shapes, with their placement, of what ``batches`` yields for rows such as these."""
        return self._devices.placed(rows, 0)

    def pace(self, metrics) -> None:
        """Does nothing: rows are small, so the host may run far ahead."""

    def timing(self) -> dict[str, float]:
        """Nothing: no step waits for images."""
        return {}

    def close(self) -> None:
        """Does nothing: there is nothing to close."""


class Streamed(NamedTuple):
    """A ``Batch`` without the seed, split over the devices."""

    image: jax.Array | dict[int, jax.Array]
    label: jax.Array
    id: jax.Array
    index: jax.Array
    epoch: jax.Array


def patiently(read, *args, **kwargs):
    """Calls ``read``, again after each of ``WAITS`` if the file system fails to answer.

    Raises:
      InputError: that of ``read``, if it fails for another reason or once more.
    """
    for seconds in WAITS:
        try:
            return read(*args, **kwargs)
        except InputError as error:
            if getattr(error.__cause__, "errno", None) not in TRANSIENT:
                raise
            logging.getLogger(__name__).warning("%s Trying again in %d s.", error, seconds)
            time.sleep(seconds)
    return read(*args, **kwargs)


def streamed(rows: Rows, images: Any) -> Streamed:
    """Shapes of a whole batch of these rows.

    Args:
      rows: the rows of one or of several steps.
      images: uint8 [any, height, width, channels], or its shape; by view if these are cropped on
        the host.
    """
    whole = jax.ShapeDtypeStruct(rows.index.shape, np.int32)
    images = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*rows.index.shape, *x.shape[1:]), x.dtype), images
    )
    return Streamed(images, whole, whole, whole, whole)


class Undecoded(NamedTuple):
    """Feed that brings no images: to compile programs for a set that is not at hand.

    Attributes:
      n: number of images.
      images: shape of a batch of them; by view if these are cropped on the host.
      devices: ``Devices``.
      resident: whether the set would be resident.
    """

    n: int
    images: Any
    devices: Any
    resident: bool

    @property
    def data(self):
        """Shapes of what a feed of this kind has as ``data``."""
        seed, numbers = (jax.ShapeDtypeStruct(shape, np.int32) for shape in ((), (self.n,)))
        if not self.resident:
            return seed
        images = jax.ShapeDtypeStruct((self.n, *self.images.shape[1:]), np.uint8)
        return Resident(images, numbers, numbers, seed)

    def gather(self, data, rows) -> Batch:
        return gather(data, rows) if self.resident else StreamedFeed.gather(data, rows)

    def shapes(self, rows: Rows):
        return self.devices.placed(rows if self.resident else streamed(rows, self.images), 0)


class StreamedFeed:
    """Feed whose batches are decoded ahead by threads.

    Each process reads only the rows of its own devices. The host holds at most ``prefetch +
    IN_FLIGHT + 1`` batches, and one image per thread while it is decoded.
    """

    resident = False

    def __init__(self, split: Split, labels, seed: int, devices, streaming: Streaming):
        self.n = len(split.ids)
        self.data = devices.replicate(np.int32(seed))
        self._split, self._labels, self._devices = split, labels, devices
        self._batch_size, workers, self._prefetch, self._cropping = streaming
        self._own = devices.own_rows(self._batch_size)
        self._pool = make_pool(workers)
        self._in_flight = collections.deque()
        self._steps = self._waits = 0  # since ``timing`` was called
        mb = sum(image.nbytes for image in jax.tree.leaves(self._empty())) / 2**20
        most = self._prefetch + IN_FLIGHT + 1
        how = "as squares, from which the devices crop (data.crops)"
        if self._cropping:
            how = f"with {len(self._cropping.views)} crops of each whole picture (data.crops)"
        self.about = (
            f"{self.n:,} images are streamed {how}, at most {most} batches of {mb:,.1f} MiB in "
            "host memory (data.prefetch) and one image per thread (data.workers)."
        )

    @staticmethod
    def gather(data: jax.Array, rows: Streamed) -> Batch:
        """Assembles the batch inside a jitted step; ``data`` is the seed."""
        return Batch(*rows, data)

    def batches(self, rows: Iterable[Rows]) -> Iterator[Streamed]:
        """Yields the batch of each step, split over the devices; later ones are decoded meanwhile.

        Raises:
          RunError: if an image cannot be read.
        """
        rows = iter(rows)
        waiting = collections.deque(map(self._begin, islice(rows, self._prefetch)))
        while waiting:
            batch, decoding = waiting.popleft()
            waiting.extend(map(self._begin, islice(rows, 1)))
            late = not all(part.done() for part in decoding)
            try:
                for part in decoding:
                    part.result()
            except InputError as error:
                raise RunError(
                    f"{error} Restore the file, then start the same command again. In a new run, "
                    "data.broken=skip leaves out what cannot be read."
                ) from error
            # The host is ahead of the devices, so only idle devices have waited for these images.
            idle = self._in_flight and all(
                x.is_ready() for x in jax.tree.leaves(self._in_flight[-1])
            )
            self._steps, self._waits = self._steps + 1, self._waits + bool(late and idle)
            yield self._devices.split_own(batch, self._batch_size)

    def shapes(self, rows: Rows) -> Streamed:
        """Shapes, with their placement, of what ``batches`` yields for rows such as these."""
        return self._devices.placed(streamed(rows, self._empty()), 0)

    def _begin(self, rows: Rows):
        """Starts decoding this process's rows; returns the batch and the futures that fill it."""
        index, epoch = rows.index[self._own], rows.epoch[self._own]
        ids = self._split.ids[index]
        images = self._empty()

        def fill(places):
            for place in places:
                at = int(index[place])
                if not self._cropping:
                    images[place] = patiently(self._split.images.__getitem__, at)
                    continue
                epoch_of, example = int(epoch[place]), int(ids[place])
                crops = patiently(
                    self._cropping.take, self._split.images, at, epoch=epoch_of, example=example
                )
                for view, crop in crops.items():
                    images[view][place] = crop

        parts = np.array_split(np.arange(len(index)), min(len(index), TASKS))
        return (
            Streamed(images, self._labels[index], ids, index, epoch),
            [self._pool.submit(fill, part) for part in parts],
        )

    def _empty(self) -> np.ndarray | dict[int, np.ndarray]:
        """Memory for the images of this process's rows of a batch."""
        *shape, channels = self._split.images.shape[1:]
        if self._cropping:
            return self._cropping.empty(len(self._own), channels)
        return np.empty((len(self._own), *shape, channels), np.uint8)

    def pace(self, metrics) -> None:
        """Waits until the devices are no more than ``IN_FLIGHT`` steps behind."""
        self._in_flight.append(metrics)
        if len(self._in_flight) > IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())

    def timing(self) -> dict[str, float]:
        """Share of the steps since the last call in which the devices waited for the host."""
        share = self._waits / max(self._steps, 1)
        self._steps = self._waits = 0
        return {"waited": share}

    def close(self) -> None:
        """Ends the threads; decoding that has not started is cancelled."""
        self._pool.shutdown(cancel_futures=True)
