"""Saves without what tensorstore loses at each of them.

Tensorstore, by which orbax writes, gives JSON to Python as strings that are never freed (0.1.74 to
0.1.86; tests/train/test_tensorstore_leak.py shows it). Orbax asks for such JSON at every save:
once for each array, of the same folder, and twice for counters of bytes, of which it makes a line
of its log. With sixty arrays that is 34 KiB a save.
"""

import copy
import functools
from typing import Any

import tensorstore  # comes with orbax

BYTES = "/tensorstore/kvstore/"  # the counters that orbax asks for


def avoid() -> None:
    """Has tensorstore, in this process, give the JSON of one and the same folder out of Python's
    memory, and no counters of bytes; all else it answers as before."""
    spec = tensorstore.KvStore.Spec
    if not hasattr(spec.to_json, "__wrapped__"):
        spec.to_json = _remembering(spec.to_json)
        tensorstore.experimental_collect_matching_metrics = _without_bytes(
            tensorstore.experimental_collect_matching_metrics
        )


def _remembering(to_json):
    last = None, None

    @functools.wraps(to_json)
    def remembering(spec, *args: Any, **kwargs: Any) -> Any:
        nonlocal last
        if args or kwargs:
            return to_json(spec, *args, **kwargs)
        known, json = last
        if known is None or not known == spec:
            json = to_json(spec)
            last = spec, json
        return copy.deepcopy(json)

    return remembering


def _without_bytes(collect):
    @functools.wraps(collect)
    def without_bytes(metric_prefix: str = "", *args: Any, **kwargs: Any) -> list[Any]:
        return [] if metric_prefix == BYTES else collect(metric_prefix, *args, **kwargs)

    return without_bytes
