"""Weights in and out: torchvision's and timm's networks as variables of jaxpt's, and back.

jaxpt's networks compute what theirs do, so only names and axes differ. ``layout.py`` says how, one
file a family has its tables, and each table serves both directions.
"""

from jaxpt.weights.exchange import (
    LAYOUTS,
    Imported,
    export_state,
    import_state,
    network_of,
    state_shapes,
    tell_resized,
)
from jaxpt.weights.files import SUFFIXES, load_torch

__all__ = [
    "LAYOUTS",
    "SUFFIXES",
    "Imported",
    "export_state",
    "import_state",
    "load_torch",
    "network_of",
    "state_shapes",
    "tell_resized",
]
