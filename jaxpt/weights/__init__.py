"""Weights in and out: torchvision's and timm's networks as variables of jaxpt's, and back.

jaxpt's networks compute what theirs do, so only names and axes differ. ``layout.py`` says how, one
file a family has its tables, and each table serves both directions. ``files.py`` reads,
``opening.py`` chooses what is meant, ``preparation.py`` knows what images the weights want.
"""

from jaxpt.weights.exchange import (
    LAYOUTS,
    Imported,
    export_state,
    import_state,
    network_of,
    state_shapes,
)
from jaxpt.weights.files import (
    IN_FOLDER,
    SUFFIXES,
    cast,
    digest,
    find,
    load_torch,
    read,
    require_finite,
)
from jaxpt.weights.opening import Opened, open_file

__all__ = [
    "IN_FOLDER",
    "LAYOUTS",
    "SUFFIXES",
    "Imported",
    "Opened",
    "cast",
    "digest",
    "export_state",
    "find",
    "import_state",
    "load_torch",
    "network_of",
    "open_file",
    "read",
    "require_finite",
    "state_shapes",
]
