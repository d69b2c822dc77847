"""Round trip from timm to jaxpt and back: exported weights load strictly and give equal outputs.

    python benchmarks/round_trip.py [CASE …]

A case is a network with its options (``CASES``). Random weights are drawn in timm, saved, exported
by jaxpt, and loaded with ``strict=True`` by timm and torchvision. Needs torch, torchvision and timm
in addition to jaxpt. Prints a table and appends to ``records/round_trip.jsonl``.
"""

import argparse
import pathlib
import tempfile

import ml_collections
import numpy as np

from jaxpt import export, models, records
from jaxpt.backbones import open_backbone
from jaxpt.configs.transfer import defaults as transfer_defaults
from jaxpt.export import card
from jaxpt.export.counterparts import counterpart

RECORDS = pathlib.Path(__file__).parent / "records" / "round_trip.jsonl"
# Name in the table → network, norm and options.
CASES = {
    "resnet18": ("resnet18", "batch", {}),
    "resnet50": ("resnet50", "batch", {}),
    "resnet50, GroupNorm": ("resnet50", "group32", {}),
    "wide_resnet50_2": ("wide_resnet50_2", "batch", {}),
    "vit_s16": ("vit_s16", "batch", {}),
    "vit_s16, mean": ("vit_s16", "batch", {"pool": "mean"}),
    "vit_s16, sincos": ("vit_s16", "batch", {"positions": "sincos"}),
    "vit_ti16, 96 px, patch 8": ("vit_ti16", "batch", {"image_size": 96, "patch": 8}),
    "vit_ti16, 6 blocks": ("vit_ti16", "batch", {"depth": 6}),
    "vit_b16": ("vit_b16", "batch", {}),
    "convnext_tiny": ("convnext_tiny", "batch", {}),
    "mobilenet_v2": ("mobilenet_v2", "batch", {}),
}
IMAGES = 4
COLUMNS = {
    "timm_logits": "timm, logits",
    "timm_features": "timm, features",
    "torchvision_logits": "torchvision, logits",
    "torchvision_features": "torchvision, features",
    "stablehlo": "StableHLO, logits",
}


def prepared():
    """Imports torch, timm and torchvision.models; declares torchvision's operators if missing."""
    import torch

    try:
        import torchvision  # noqa: F401
    except (RuntimeError, AttributeError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    from torchvision import models

    return torch, timm, models


def model_of(name: str, norm: str, options: dict) -> ml_collections.ConfigDict:
    """The model config of a case."""
    model = transfer_defaults.get_config().model
    model.update(name=name, norm=norm, dtype="float32")
    model.options.update(options)
    return model


def drawn(network, positions, torch):
    """Redraws the weights so that each affects the output; fixed positions keep their values."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.0, generator=generator)
        elif value.is_floating_point():
            fan_in = value[0].numel() if value.ndim > 1 else 25
            value.normal_(0, fan_in**-0.5, generator=generator)
    if positions is not None:
        network.pos_embed.copy_(torch.tensor(positions))
    return network.eval()


def fixed_positions(network):
    """Fixed positions of a ViT; None if it learns them, or for another network."""
    if getattr(network, "positions", "learnt") == "learnt":
        return None
    side = network.image_size // network.patch
    return network.fixed_positions((side, side), int(network.pool == "token"))


def measure(model: ml_collections.ConfigDict, folder: pathlib.Path) -> dict[str, float]:
    """Largest absolute differences to jaxpt's outputs, for all programs with the same weights."""
    from safetensors.torch import load_file, save_file

    torch, timm, torchvision = prepared()
    ours = models.make_backbone(model)
    size = getattr(ours, "image_size", 224)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), np.uint8)

    @torch.no_grad()
    def outputs(network, config):
        mean, std = (torch.tensor(config[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
        x = torch.tensor(images.transpose(0, 3, 1, 2)).float() / 255
        return network.eval()((x - mean) / std).numpy()

    names = counterpart(model.name, ours)
    with torch.no_grad():
        network = drawn(
            timm.create_model(names.timm, **names.arguments), fixed_positions(ours), torch
        )
    weights = folder / "drawn.safetensors"
    save_file(network.state_dict(), weights)

    def exported(layout, classifier):
        made = export.run(
            weights,
            folder / f"{layout}_{classifier}",
            model=model,
            layout=layout,
            classifier=classifier,
            image_size=size,
            formats=export.FORMATS if classifier else export.FORMATS[:1],
        )
        assert made.layout == layout and not made.notes, made
        return made.folder

    full, bare = exported("timm", True), exported("timm", False)
    opened = open_backbone(full)
    features, dense = opened.features(images), opened.classifier["Dense_0"]
    logits = features @ dense["kernel"] + dense["bias"]
    config = timm.data.resolve_model_data_config(
        timm.create_model(f"local-dir:{full}", pretrained=True)
    )
    found = {
        "largest_logit": np.abs(logits).max(),
        "parameters": sum(x.numel() for x in network.parameters()),
    }

    def note(what, values, wanted):
        found[what] = float(np.abs(values - wanted).max())

    for what, at, wanted, classes in (
        ("timm_logits", full, logits, 1000),
        ("timm_features", bare, features, 0),
    ):
        strict = timm.create_model(names.timm, num_classes=classes, **names.arguments)
        strict.load_state_dict(load_file(at / "model.safetensors"), strict=True)
        note(what, outputs(strict, config), wanted)
        alone = timm.create_model(f"local-dir:{at}", pretrained=True)
        np.testing.assert_array_equal(outputs(alone, config), outputs(strict, config))
    if names.torchvision:
        for what, classifier, wanted in (
            ("torchvision_logits", True, logits),
            ("torchvision_features", False, features),
        ):
            strict = getattr(torchvision, names.torchvision)()
            if not classifier:
                exec(f"strict.{names.head} = torch.nn.Identity()")  # the line that the card shows
            strict.load_state_dict(
                load_file(exported("torchvision", classifier) / "model.safetensors"), strict=True
            )
            note(what, outputs(strict, config), wanted)
    from jax import export as jax_export

    served = jax_export.deserialize(bytearray((full / card.STABLEHLO).read_bytes()))
    note("stablehlo", served.call(images), logits)
    return {name: float(value) for name, value in found.items()}


def markdown(found: list[dict]) -> str:
    """Table of the latest record of each network."""
    newest = {record["network"]: record for record in found}
    lines = [
        "| network | parameters | largest logit | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * (2 + len(COLUMNS)),
    ]
    for name, record in newest.items():
        values = record["values"]
        cells = [f"{values[key]:.0e}" if key in values else "–" for key in COLUMNS]
        lines.append(
            f"| {name} | {values['parameters']:,.0f} | {values['largest_logit']:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    last = found[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["peers"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"Largest absolute difference to jaxpt over {IMAGES} images of 224 × 224 pixels (or of "
            f"the size in the network's name), float32, random weights. {last['device']}, jax "
            f"{last['packages']['jax']}, {versions}, {last['date']}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--small", action="store_true", help="writes no record")
    args = parser.parse_args()
    torch, timm, _ = prepared()
    import torchvision

    peers = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }
    found = []
    for name in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            values = measure(model_of(*CASES[name]), pathlib.Path(folder))
        found.append({"network": name, "values": values, "peers": peers} | records.surroundings())
        print(name, values, flush=True)
        if not args.small:
            records.append(RECORDS, found[-1])
    print(markdown(found))


if __name__ == "__main__":
    main()
