"""The user's cache folder. Its content may be deleted and is made again when needed."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from jaxpt.files import replacing


def cache_home() -> pathlib.Path:
    """jaxpt's folder in the user's cache, which XDG_CACHE_HOME can move."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "jaxpt"


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """Returns the JSON value cached under a name; makes and stores it if there is none."""
    file = cache_home() / name
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        pass  # missing or broken
    value = make()
    with contextlib.suppress(OSError):  # if it cannot be stored, it is made again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as kept:
            json.dump(value, kept)
    return value


def use_compile_cache() -> None:
    """Enables JAX's persistent compilation cache, in the user's cache folder.

    What JAX's environment variables set, JAX_COMPILATION_CACHE_DIR and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS, takes precedence.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
