"""Layout of ResNets, whose names are the same in torchvision and timm."""

import re

from jaxpt.weights.layout import ARRAYS, Layout

_RENAMED = (
    (r"^conv_stem/", "conv1/"),
    (r"^norm_stem/", "bn1/"),
    (r"^stage(\d+)_block(\d+)/", lambda m: f"layer{m[1]}/{int(m[2]) - 1}/"),
    (r"conv_shortcut/", "downsample/0/"),
    (r"norm_shortcut/", "downsample/1/"),
    (r"norm(\d)/", r"bn\1/"),
    *ARRAYS,
)
# Keys: blocks per stage, and the width of a bottleneck's 3×3 convolution relative to the stage (0
# without bottlenecks).
_KNOWN = {
    ((2, 2, 2, 2), 0): "resnet18",
    ((3, 4, 6, 3), 0): "resnet34",
    ((3, 4, 6, 3), 1): "resnet50",
    ((3, 4, 23, 3), 1): "resnet101",
    ((3, 8, 36, 3), 1): "resnet152",
    ((3, 4, 6, 3), 2): "wide_resnet50_2",
    ((3, 4, 23, 3), 2): "wide_resnet101_2",
}


def layouts(network) -> dict[str, Layout]:
    del network  # all alike
    return dict.fromkeys(("timm", "torchvision"), Layout(_RENAMED, ("fc.weight", "fc.bias")))


def identify(state) -> dict | None:
    """Identifies name, norm and options of the network; None for another family or size.

    BatchNorm is recognised by its statistics; without them, the norm is taken to be the GroupNorm
    of timm's ``resnet50_gn``.
    """
    blocks = {re.match(r"layer([1-4])\.(\d+)\.conv1\.weight$", name) for name in state} - {None}
    counts = tuple(sum(m[1] == stage for m in blocks) for stage in "1234")
    if "conv1.weight" not in state or "layer1.0.conv2.weight" not in state:
        return None
    widening = state["layer1.0.conv2.weight"].shape[0] // state["conv1.weight"].shape[0]
    kind = counts, widening if "layer1.0.conv3.weight" in state else 0
    options = {"stem": "small"} if state["conv1.weight"].shape[-1] == 3 else {}
    norm = "batch" if "bn1.running_mean" in state else "group32"
    return {"name": _KNOWN[kind], "norm": norm, "options": options} if kind in _KNOWN else None
