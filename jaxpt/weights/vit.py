"""Layouts of vision transformers; torchvision has none with mean pooling."""

import math
import re

import numpy as np

from jaxpt.models.vit import SIZES, resize_positions
from jaxpt.weights.layout import ARRAYS, Layout, before

_TIMM = (
    (r"^positions$", "pos_embed"),
    (r"^block(\d+)/", lambda m: f"blocks/{before(m)}/"),
    (r"/(qkv|proj)/", r"/attn/\1/"),
    (r"/(fc\d)/", r"/mlp/\1/"),
    (r"^patch_embed/", "patch_embed/proj/"),
    *ARRAYS,
)
_TORCHVISION = (
    (r"^positions$", "encoder/pos_embedding"),
    (r"^cls_token$", "class_token"),
    (r"^block(\d+)/", lambda m: f"encoder/layers/encoder_layer_{before(m)}/"),
    (r"/norm(\d)/", r"/ln_\1/"),
    (r"^norm/", "encoder/ln/"),
    (r"/fc1/", "/mlp/0/"),
    (r"/fc2/", "/mlp/3/"),
    (r"/proj/", "/self_attention/out_proj/"),
    (r"/qkv/kernel", "/self_attention/in_proj_weight"),
    (r"/qkv/bias", "/self_attention/in_proj_bias"),
    (r"^patch_embed/", "conv_proj/"),
    *ARRAYS,
)


def layouts(network) -> dict[str, Layout]:
    if network.pool == "mean":
        return {"timm": _layout(network, ((r"^norm/", "fc_norm/"), *_TIMM), "pos_embed", "head")}
    return {
        "timm": _layout(network, _TIMM, "pos_embed", "head"),
        "torchvision": _layout(network, _TORCHVISION, "encoder.pos_embedding", "heads.head"),
    }


def _layout(network, renamed, positions, head):
    tokens, side = int(network.pool == "token"), network.image_size // network.patch
    fixed = (
        {}
        if network.positions == "learnt"
        else {positions: network.fixed_positions((side, side), tokens)}
    )

    def fitted(tensor, shape):
        grid = _side(tensor.shape[1] - tokens) if tensor.ndim == 3 else 0
        if not grid or tensor.shape[2] != shape[2]:
            return None
        return np.asarray(resize_positions(tensor, (grid, grid), (side, side)))

    return Layout(
        renamed, (f"{head}.weight", f"{head}.bias"), fixed=fixed, resized={positions: fitted}
    )


def identify(state) -> dict | None:
    """Identifies name and options of the network; None for another family or size."""
    patches, positions = (
        next((state[name] for name in names if name in state), None)
        for names in (
            ("patch_embed.proj.weight", "conv_proj.weight"),
            ("pos_embed", "encoder.pos_embedding"),
        )
    )
    if patches is None or positions is None or positions.ndim != 3:
        return None
    blocks = {
        m[1]
        for name in state
        if (m := re.match(r"(?:blocks\.|encoder\.layers\.encoder_layer_)(\d+)\.", name))
    }
    width, patch = patches.shape[0], patches.shape[-1]
    token = "cls_token" in state or "class_token" in state
    side = _side(positions.shape[1] - token)
    names = {size[:2]: name for name, size in SIZES.items()}
    if not side or (width, len(blocks)) not in names:
        return None
    return {
        "name": names[width, len(blocks)],
        "options": {
            "patch": patch,
            "image_size": patch * side,
            "pool": "token" if token else "mean",
        },
    }


def _side(patches: int) -> int:
    """Side of a square grid of ``patches`` patches; 0 if they do not form a square."""
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else 0
