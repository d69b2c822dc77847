"""Makes ``weight_references.json`` with PyTorch, torchvision and timm; the tests need none of them.

    python tests/weight_references.py

Made with torch 2.13.0, torchvision 0.28.0 and timm 1.0.31. The weights of the two small ResNets are
drawn by NumPy from their names, here and in the tests.
"""

import base64
import hashlib
import json
import pathlib
import tempfile
import zlib

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".json")
BLOCKS, SIZE, CLASSES = (2, 1, 1, 1), 40, 10  # of the small ResNets and their images
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


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
    import torch
    library = torch.library.Library("torchvision", "DEF")  # a build without its own operators
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    from torchvision.models import resnet

    found = {"shapes": {}, "outputs": {}, "files": _files(torch)}
    for name in NETWORKS:
        digests = {digest(_shapes(make(name))) for make in (
            timm.create_model, lambda name: getattr(resnet, name)())}
        found["shapes"][name], = digests  # torchvision and timm agree
    for name, block in ("basic", resnet.BasicBlock), ("bottleneck", resnet.Bottleneck):
        network = resnet.ResNet(block, list(BLOCKS), num_classes=CLASSES).eval()
        state = {key: torch.tensor(drawn(key, shape)) for key, shape in _shapes(network).items()}
        network.load_state_dict(state, strict=False)
        with torch.no_grad():
            logits = network(torch.tensor(images().transpose(0, 3, 1, 2)))
        found["outputs"][name] = {"shapes": _shapes(network), "logits": logits.tolist()}
    FILE.write_text(json.dumps(found) + "\n")


def _shapes(network):
    return {name: list(value.shape) for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")}


def _files(torch):
    """One state dict as each layout writes it, and its values."""
    from safetensors.torch import save_file
    view = torch.arange(12.0).reshape(3, 4)[1:].T
    state = {"float": torch.arange(6.0).reshape(2, 3), "view": view,
             "half": torch.tensor([0.5, -2.0]).half(), "bfloat16": torch.tensor([1.5]).bfloat16(),
             "double": torch.tensor(0.25, dtype=torch.float64), "empty": torch.zeros(3, 0),
             "parameter": torch.nn.Parameter(torch.ones(2)), "count": torch.tensor(7)}
    writers = {
        "zip.pth": lambda path: torch.save(state, path),
        "legacy.pth": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        "plain.safetensors": lambda path: save_file(
            {name: value.detach().contiguous() for name, value in state.items()}, path)}
    found = {"values": {name: value.tolist() for name, value in state.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name, write in writers.items():
            path = pathlib.Path(folder) / name
            write(path)
            packed = zlib.compress(path.read_bytes(), 9)
            found[name] = base64.b64encode(packed).decode()
    return found


if __name__ == "__main__":
    main()
