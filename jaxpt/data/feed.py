"""How batches come to the devices: gathered there from the whole set, or streamed by the host.

Both give the same batches. A feed is ``resident`` or not, and has ``data``, the same on every
device; ``batches``, which takes the rows of one step after another to the devices; and ``gather``,
which makes the ``Batch`` of these inside the jitted step.
"""

import collections
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import jax
import numpy as np

from jaxpt.data import resident as resident_sets
from jaxpt.data.batch import Batch
from jaxpt.data.dataset import Split
from jaxpt.data.parallel import make_pool
from jaxpt.data.resident import Resident, Rows
from jaxpt.errors import InputError, RunError, require

TASKS = 64  # that the images of a batch are shared among, so that no thread waits for another
IN_FLIGHT = 2  # steps that the host may be ahead of the devices; each holds a batch


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


class ResidentFeed:
    """The whole set on every device; see ``resident.py``."""

    resident = True
    gather = staticmethod(resident_sets.gather)

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
