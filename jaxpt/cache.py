"""Where things are kept that may be made again at any time."""

import os
import pathlib

import jax


def cache_home() -> pathlib.Path:
    """jaxpt's folder in the user's cache; XDG_CACHE_HOME moves it."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "jaxpt"


def use_compile_cache() -> None:
    """Lets XLA programs outlive the process, in the user's cache folder.

    A folder that JAX_COMPILATION_CACHE_DIR names is left as it is.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
