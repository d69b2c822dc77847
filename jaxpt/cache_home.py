"""The folder of what may be made again at any time."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any


def cache_home() -> pathlib.Path:
    """jaxpt's folder in the user's cache; XDG_CACHE_HOME moves it."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "jaxpt"


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """The JSON value that the cache holds under a name; made, and kept, if there is none."""
    file = cache_home() / name
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        pass  # not there, or broken
    value = make()
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(value))
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)  # then it is made again next time
    return value
