"""Work on many images by a pool of threads: Pillow decodes outside of Python's lock."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

TOGETHER = 1024  # items that are begun together


def make_pool(workers: int = 0) -> ThreadPoolExecutor:
    """A pool of so many threads; 0: as many as there are cores."""
    return ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="decode")


def in_parallel(function: Callable, items: Iterable, workers: int = 0) -> Iterator[Any]:
    """``map`` by a pool of threads: results in order, few of them waiting at any time."""
    with make_pool(workers) as pool:
        items = iter(items)
        while some := list(islice(items, TOGETHER)):
            yield from pool.map(function, some)
