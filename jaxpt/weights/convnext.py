"""Layouts of ConvNeXts."""

import re

from jaxpt.weights.layout import ARRAYS, Layout

_TIMM = (
    (r"^conv_stem/", "stem/0/"),
    (r"^norm_stem/", "stem/1/"),
    (r"^norm/", "head/norm/"),
    (r"/layer_scale$", "/gamma"),
    (r"/conv/", "/conv_dw/"),
    (r"/(fc\d)/", r"/mlp/\1/"),
    (r"^stage(\d+)_norm", r"stage\1_downsample/0"),
    (r"^stage(\d+)_conv", r"stage\1_downsample/1"),
    (r"^stage(\d+)_", lambda m: f"stages/{int(m[1]) - 1}/"),
    (r"/block(\d+)/", lambda m: f"/blocks/{int(m[1]) - 1}/"),
    *ARRAYS,
)
_TORCHVISION = (
    (r"^conv_stem/", "features/0/0/"),
    (r"^norm_stem/", "features/0/1/"),
    (r"^norm/", "classifier/0/"),
    (r"/conv/", "/block/0/"),
    (r"/norm/", "/block/2/"),
    (r"/fc1/", "/block/3/"),
    (r"/fc2/", "/block/5/"),
    (r"^stage(\d+)_norm", lambda m: f"features/{2 * int(m[1]) - 2}/0"),
    (r"^stage(\d+)_conv", lambda m: f"features/{2 * int(m[1]) - 2}/1"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"features/{2 * int(m[1]) - 1}/{int(m[2]) - 1}/"),
    *ARRAYS,
)
_BLOCKS = {(3, 3, 9, 3): "convnext_tiny"}


def layouts(network) -> dict[str, Layout]:
    del network  # all alike
    return {
        "timm": Layout(_TIMM, ("head.fc.weight", "head.fc.bias")),
        "torchvision": Layout(
            _TORCHVISION, ("classifier.2.weight", "classifier.2.bias"), columns=r"layer_scale$"
        ),
    }


def identify(state) -> dict | None:
    """Identifies the network by name; None for another family or size."""
    scales = [
        m
        for name in state
        if (
            m := re.match(
                r"(?:stages|features)\.(\d+)\.(?:blocks\.)?\d+\.(?:gamma|layer_scale)$", name
            )
        )
    ]
    stages = sorted({int(m[1]) for m in scales})
    blocks = tuple(sum(int(m[1]) == stage for m in scales) for stage in stages)
    return {"name": _BLOCKS[blocks]} if blocks in _BLOCKS else None
