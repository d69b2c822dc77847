"""Conversion of weights between torchvision, timm and jaxpt.

jaxpt's networks compute the same functions, so only names and axes differ. ``layout.py`` describes
the differences, with one file of tables per family; each table serves both directions. ``files.py``
reads weight files, ``opening.py`` selects the network in them, and ``preparation.py`` finds the
image normalisation that belongs to the weights.
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
from jaxpt.weights.opening import Opened, open_file, unused_norm
from jaxpt.weights.preparation import framed

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
    "framed",
    "import_state",
    "load_torch",
    "network_of",
    "open_file",
    "read",
    "require_finite",
    "state_shapes",
    "unused_norm",
]
