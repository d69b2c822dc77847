"""Where things are kept that may be made again at any time."""

import os
import pathlib


def cache_home() -> pathlib.Path:
    """jaxpt's folder in the user's cache; XDG_CACHE_HOME moves it."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return home / "jaxpt"
