"""How batches come to the devices: gathered there from the whole set, or streamed by the host.

Both give the same batches. A feed is ``resident`` or not, and has ``data``, the same on every
device; ``batches``, which takes the rows of one step after another to the devices; and ``gather``,
which makes the ``Batch`` of these inside the jitted step.
"""

import collections
import functools
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np

from jaxpt.data.dataset import Split
from jaxpt.data.decode import make_pool
from jaxpt.errors import InputError, RunError, require

TASKS = 64  # that the images of a batch are shared among, so that no thread waits for another
IN_FLIGHT = 2  # steps that the host may be ahead of the devices; each holds a batch


class Batch(NamedTuple):
    """One batch of decoded images.

    Attributes:
      image: uint8 [batch, height, width, channels].
      label: int32 [batch].
      id: int32 [batch], which example of the set.
      index: int32 [batch], its place among the training examples, 0 … n − 1.
      epoch: int32 [batch], how often the example was seen before; −1 while the memory is filled.
      seed: int32 scalar, the run's; an input of the step, so that one compiled step serves all.
    """

    image: jax.Array
    label: jax.Array
    id: jax.Array
    index: jax.Array
    epoch: jax.Array
    seed: jax.Array


class Rows(NamedTuple):
    """Which examples make a batch, and how often each was seen before; int32 [batch] both."""

    index: np.ndarray
    epoch: np.ndarray


def rows_of_step(step: int, batch_size: int, *, n: int, seed: int) -> Rows:
    """The rows of step 0, 1, … of a run over ``n`` examples."""
    return Rows(*batch_at(step * batch_size, batch_size, n=n, seed=seed))


def batch_at(position: int, size: int, *, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples the stream holds from ``position`` on.

    The stream is one shuffled pass over the set after another; a batch may end one pass and begin
    the next, so every example is seen exactly once in every pass and none is dropped.

    Args:
      position: examples seen before.
      size: examples wanted.
      n: examples in the set.
      seed: the run's seed.

    Returns:
      (indices int32 [size] into the set, epochs int32 [size]).
    """
    positions = np.arange(position, position + size)
    epochs, places = np.divmod(positions, n)
    indices = np.empty(size, np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(n, seed, int(epoch))[places[here]]
    return indices, epochs.astype(np.int32)


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def make_feed(config, split: Split, labels: np.ndarray, devices):
    """The feed that ``config.data.resident`` asks for: "yes", "no", or "auto", by size.

    Args:
      config: of pre-training.
      split: what is trained on.
      labels: int32 [n], those to train with.
      devices: ``Devices``.

    Raises:
      InputError: for another word, or numbers that cannot be.
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
    mb = math.prod(split.images.shape) / 2**20
    if wanted == "yes" or (wanted == "auto" and mb <= limit):
        return ResidentFeed(split, labels, config.seed, devices)
    return StreamedFeed(split, labels, config.seed, devices, config.batch_size, workers, prefetch)


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
    """The batch of those rows, inside a jitted step."""
    return Batch(
        data.image[rows.index],
        data.label[rows.index],
        data.id[rows.index],
        rows.index,
        rows.epoch,
        data.seed,
    )


class ResidentFeed:
    """The whole set on every device: batches are gathered from it by index inside the step."""

    resident = True
    gather = staticmethod(gather)

    def __init__(self, split: Split, labels, seed: int, devices):
        self.n = len(split.ids)
        self.about = (
            f"{self.n:,} images, {math.prod(split.images.shape) / 2**20:,.1f} MiB, "
            "lie on every device."
        )
        self.data = devices.replicate(
            Resident(np.asarray(split.images), labels, split.ids, np.int32(seed))
        )
        self._devices = devices

    def batches(self, rows: Iterable[Rows]) -> Iterator[Rows]:
        """The rows of each step, split over the devices."""
        return map(self._devices.split, rows)

    def pace(self, metrics) -> None:
        """Rows are small: the host may be as far ahead as it likes."""

    def close(self) -> None:
        """Nothing is open."""


class Streamed(NamedTuple):
    """A batch without the seed, split over the devices; see ``Batch``."""

    image: jax.Array
    label: jax.Array
    id: jax.Array
    index: jax.Array
    epoch: jax.Array


class StreamedFeed:
    """Batches that threads decode ahead; each process reads the rows of its own devices alone.

    The host holds at most ``prefetch + IN_FLIGHT + 1`` batches, and for each thread the image that
    it is decoding.
    """

    resident = False

    def __init__(
        self, split: Split, labels, seed: int, devices, batch_size: int, workers: int, prefetch: int
    ):
        self.n = len(split.ids)
        self.data = devices.replicate(np.int32(seed))
        self._split, self._labels, self._devices = split, labels, devices
        self._own, self._batch_size = devices.own_rows(batch_size), batch_size
        self._pool, self._prefetch = make_pool(workers), prefetch
        self._in_flight = collections.deque()
        mb = len(self._own) * math.prod(split.images.shape[1:]) / 2**20
        most = prefetch + IN_FLIGHT + 1
        self.about = (
            f"{self.n:,} images are streamed, at most {most} batches of {mb:,.1f} MiB "
            "in host memory (data.prefetch) and one image a thread (data.workers)."
        )

    @staticmethod
    def gather(data: jax.Array, rows: Streamed) -> Batch:
        """The batch, inside a jitted step; ``data`` is the seed."""
        return Batch(*rows, data)

    def batches(self, rows: Iterable[Rows]) -> Iterator[Streamed]:
        """The batch of each step, split over the devices; later ones are decoded meanwhile.

        Raises:
          RunError: where a file cannot be read any more.
        """
        rows = iter(rows)
        waiting = collections.deque(map(self._begin, islice(rows, self._prefetch)))
        while waiting:
            batch, decoding = waiting.popleft()
            waiting.extend(map(self._begin, islice(rows, 1)))
            try:
                for part in decoding:
                    part.result()
            except InputError as error:
                raise RunError(
                    f"{error} It could be read when the run began: bring it back, and "
                    "start the run again."
                ) from error
            yield self._devices.split_own(batch, self._batch_size)

    def _begin(self, rows: Rows):
        """A batch of this process's rows, and the work that fills its images."""
        index, epoch = rows.index[self._own], rows.epoch[self._own]
        images = np.empty((len(index), *self._split.images.shape[1:]), np.uint8)

        def fill(places):
            for place in places:
                images[place] = self._split.images[index[place]]

        parts = np.array_split(np.arange(len(index)), min(len(index), TASKS))
        return (
            Streamed(images, self._labels[index], self._split.ids[index], index, epoch),
            [self._pool.submit(fill, part) for part in parts],
        )

    def pace(self, metrics) -> None:
        """Waits until the devices are no more than ``IN_FLIGHT`` steps behind."""
        self._in_flight.append(metrics)
        if len(self._in_flight) > IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())

    def close(self) -> None:
        """Ends the threads; what is not begun is not done."""
        self._pool.shutdown(cancel_futures=True)
