"""Two views of each picture by torchvision in a DataLoader, written as usual.

Run by ``benchmarks/input.py`` with a Python that has torch and torchvision; does not need jaxpt.
Prints the images/s of each pass over a folder after the first, which starts the workers.
"""

import json
import pathlib
import sys
import time

import torch

try:
    import torchvision  # noqa: F401
except (RuntimeError, AttributeError):  # torch lacks torchvision's operators: declare them
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from PIL import Image
from torchvision import transforms


class TwoViews(torch.utils.data.Dataset):
    """Two views of MoCo v2 (Chen et al., arXiv 2003.04297)."""

    def __init__(self, folder: str, size: int):
        self.files = sorted(pathlib.Path(folder).glob("*/*.jpg"))
        self.draw = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, (0.2, 1.0)),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply(
                    [transforms.GaussianBlur(size // 20 * 2 + 1, (0.1, 2.0))], 0.5
                ),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            image = image.convert("RGB")
        return self.draw(image), self.draw(image)


def main(folder, size, batch, passes):
    loader = torch.utils.data.DataLoader(
        TwoViews(folder, size), batch, shuffle=True, num_workers=2, persistent_workers=True
    )
    rates = []
    for _ in range(passes + 1):
        began, seen = time.perf_counter(), 0
        for first, _ in loader:
            seen += len(first)
        rates.append(seen / (time.perf_counter() - began))
    print(json.dumps(rates[1:]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
