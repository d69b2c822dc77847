"""Layouts of MobileNetV2 in torchvision, and of ``mobilenetv2_100`` in timm."""

from jaxpt.weights.layout import ARRAYS, Layout

# Layers of a block in order, with and without expansion.
_LAYERS = {True: ("expand", "depthwise", "project"), False: ("depthwise", "project")}
_TIMM_LAYERS = {True: ("conv_pw", "conv_dw", "conv_pwl"), False: ("conv_dw", "conv_pw")}


def layouts(network) -> dict[str, Layout]:
    blocks = [
        (group, i, expansion > 1)
        for group, (expansion, _, n, _) in enumerate(network.groups)
        for i in range(n)
    ]
    timm, torchvision = [], []
    for number, (group, i, expands) in enumerate(blocks, 1):
        layers = _LAYERS[expands]
        for place, layer in enumerate(layers):
            conv, norm = (rf"^block{number}/{part}_{layer}/" for part in ("conv", "norm"))
            timm += [
                (conv, f"blocks/{group}/{i}/{_TIMM_LAYERS[expands][place]}/"),
                (norm, f"blocks/{group}/{i}/bn{place + 1}/"),
            ]
            # All layers but the last have an activation and are wrapped in a module with it.
            inside = "/0", "/1"
            if layer == "project":
                torchvision += [
                    (conv, f"features/{number}/conv/{place}/"),
                    (norm, f"features/{number}/conv/{place + 1}/"),
                ]
            else:
                torchvision += [
                    (pattern, f"features/{number}/conv/{place}{end}/")
                    for pattern, end in zip((conv, norm), inside)
                ]
    last = len(blocks) + 1
    timm += [(r"^conv_last/", "conv_head/"), (r"^norm_stem/", "bn1/"), (r"^norm_last/", "bn2/")]
    torchvision += [
        (r"^conv_stem/", "features/0/0/"),
        (r"^norm_stem/", "features/0/1/"),
        (r"^conv_last/", f"features/{last}/0/"),
        (r"^norm_last/", f"features/{last}/1/"),
    ]
    return {
        "timm": Layout((*timm, *ARRAYS), ("classifier.weight", "classifier.bias")),
        "torchvision": Layout(
            (*torchvision, *ARRAYS), ("classifier.1.weight", "classifier.1.bias")
        ),
    }


def identify(state) -> dict | None:
    """Identifies the network by its last layer; None for another family."""
    known = (
        {"features.1.conv.0.0.weight", "features.18.0.weight"},
        {"blocks.0.0.conv_dw.weight", "blocks.6.0.conv_pwl.weight", "conv_head.weight"},
    )
    return {"name": "mobilenet_v2"} if any(names <= state.keys() for names in known) else None
