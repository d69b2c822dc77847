"""Backbones for use elsewhere: weights in the names of timm and torchvision, the encoder as
StableHLO, a model card."""

from jaxpt.export.folder import FORMATS, LAYOUTS, Exported, run

__all__ = ["FORMATS", "LAYOUTS", "Exported", "run"]
