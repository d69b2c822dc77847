"""Export of backbones: weights in timm's and torchvision's names, StableHLO, and a model card."""

from jaxpt.export.folder import FORMATS, LAYOUTS, Exported, run

__all__ = ["FORMATS", "LAYOUTS", "Exported", "run"]
