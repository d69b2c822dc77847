"""The pre-training step of LOOK in plain PyTorch.

Run by ``benchmarks/step.py`` with a Python that has torch; does not need jaxpt. Channels last;
automatic mixed precision on a GPU; ``torch.compile`` for the encoders if it works.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
TEMPERATURE, EMA = 0.1, 0.99


class Block(nn.Module):
    """Residual block: two 3×3 convolutions, or a bottleneck, and a shortcut."""

    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        outputs = 4 * width if bottleneck else width
        channels = [inputs, *[width] * (len(kernels) - 1), outputs]
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, s, kernel // 2, bias=False)
            for a, b, kernel, s in zip(channels, channels[1:], kernels, strides)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels[1:])
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x):
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            y = norm(conv(y))
            if i + 1 < len(self.convs):
                y = F.relu(y)
        return F.relu(y + self.shortcut(x))


def encoder(shapes):
    """ResNet with a projector of one hidden layer."""
    bottleneck, width, dim = shapes["network"] == "resnet50", shapes["width"], shapes["dim"]
    large = shapes["stem"] == "imagenet"
    kernel, stride = (7, 2) if large else (3, 1)
    layers = [
        nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ] + [nn.MaxPool2d(3, 2, 1)] * large
    channels = width
    for stage, blocks in enumerate(BLOCKS[shapes["network"]]):
        for i in range(blocks):
            layers.append(
                Block(channels, width * 2**stage, 2 if stage and i == 0 else 1, bottleneck)
            )
            channels = width * 2**stage * (4 if bottleneck else 1)
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4 * dim, bias=False),
        nn.BatchNorm1d(4 * dim),
        nn.ReLU(),
        nn.Linear(4 * dim, dim),
    )


def look(queries, keys, labels, key_labels, ids, key_ids, k):
    """Mean of LOOK's loss by a similarity matrix and ``topk``; 0 for queries without a positive."""
    s = F.normalize(queries.float()) @ keys.T
    s, index = torch.topk(s.masked_fill(ids[:, None] == key_ids[None, :], float("-inf")), k)
    same = key_labels[index] == labels[:, None]
    logits = s / TEMPERATURE
    loss = torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~same, -1e30), 1)
    return torch.where(same.any(1), loss, 0.0).mean()


def stepper(shapes, compiled: bool):
    """Makes a function that runs one step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    batch, n, classes = shapes["batch"], shapes["memory"], shapes["classes"]
    online, target = (
        encoder(shapes).to(device, memory_format=torch.channels_last) for _ in range(2)
    )
    target.load_state_dict(online.state_dict())
    fast_online, fast_target = (
        (torch.compile(x) for x in (online, target)) if compiled else (online, target)
    )
    optimizer = torch.optim.AdamW(online.parameters(), lr=1e-3, fused=device == "cuda")
    side = shapes["pixels"]
    images = torch.randint(
        256, (shapes["images"], 3, side, side), dtype=torch.uint8, device=device
    ).to(memory_format=torch.channels_last)
    rows = torch.arange(batch, device=device) % shapes["images"]
    labels, ids = torch.randint(classes, (batch,), device=device), rows
    keys = F.normalize(torch.randn(n, shapes["dim"], device=device))
    key_labels = torch.randint(classes, (n,), device=device)
    key_ids, cursor = -2 - torch.arange(n, device=device), 0
    half = shapes["dtype"] == "bfloat16"

    def step():
        nonlocal cursor
        x = images[rows].float() / 127.5 - 1
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            with torch.no_grad():
                own = F.normalize(fast_target(x).float())
            queries = fast_online(x)
        loss = look(queries, keys, labels, key_labels, ids, key_ids, shapes["k"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - EMA)
            place = (cursor + torch.arange(batch, device=device)) % n
            keys[place], key_labels[place], key_ids[place] = own, labels, ids
            cursor = (cursor + batch) % n
        return loss

    return step


def measure(step, rounds, steps) -> float:
    """Median seconds per step, over rounds of ``steps`` consecutive steps."""
    step().item()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()
        seconds.append((time.perf_counter() - began) / steps)
    return statistics.median(seconds)


def main() -> None:
    shapes, rounds, steps = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    found = {"plain": measure(stepper(shapes, False), rounds, steps)}
    try:
        found["torch.compile"] = measure(stepper(shapes, True), rounds, steps)
    except Exception as error:  # for example without a compiler
        print(f"torch.compile does not work here: {type(error).__name__}", file=sys.stderr)
    how = min(found, key=found.get)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(
        json.dumps(
            {
                "seconds": found[how],
                "how": how,
                "all": found,
                "device": device,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
