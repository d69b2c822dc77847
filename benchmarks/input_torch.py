"""Two views of each picture by torchvision v2, on tensors, written as its documentation advises.

Run by ``benchmarks/input.py`` with a Python that has torch and torchvision; does not need jaxpt.
Reads names of programs from standard input; runs each over the folder's pictures on one thread, and
prints the seconds of CPU time that it took.
"""

import pathlib
import sys
import time

import torch
from PIL import Image
from torchvision.transforms import v2


def main(folder: str, size: int) -> None:
    torch.set_num_threads(1)
    files = sorted(pathlib.Path(folder).glob("*/*.jpg"))
    crop = [v2.RandomResizedCrop(size, (0.2, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    colour = [  # MoCo v2 (Chen et al., arXiv 2003.04297)
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(size // 20 * 2 + 1, (0.1, 2.0))], 0.5),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    programs = {"torchvision crops": v2.Compose(crop), "torchvision": v2.Compose(crop + colour)}
    for line in sys.stdin:
        draw = programs[line.strip()]
        began = time.process_time()
        for file in files:
            with Image.open(file) as image:  # the same decoder, with the same settings
                picture = v2.functional.pil_to_tensor(image.convert("RGB"))
            views = draw(picture), draw(picture)
        assert len(views) == 2
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
