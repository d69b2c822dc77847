"""Makes ``head_references.json`` with PyTorch, which the tests do not need.

    python tests/head_references.py

The heads of the methods' published code, written anew from its description in docs/fidelity.md, and
their losses, on fixed features and with parameters that are a formula of their position. Made with
torch 2.14.1.
"""

import json
import math
import pathlib

ROWS, FEATURES, HIDDEN, DIM, PROTOTYPES, KEYS = 8, 6, 8, 4, 5, 16


def wave(n: int, shift: float, scale: float = 1.0, mean: float = 0.0) -> list[float]:
    """Numbers of a formula, which every language has: mean + scale · sin(1.7 i + shift)."""
    return [mean + scale * math.sin(1.7 * i + shift) for i in range(n)]


def main() -> None:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_default_dtype(torch.float64)

    def tensor(shape, shift, scale=1.0, mean=0.0):
        return torch.tensor(wave(math.prod(shape), shift, scale, mean)).reshape(shape)

    def filled(head):
        for k, (name, p) in enumerate(head.named_parameters()):
            norm = p.ndim == 1 and "weight" in name
            with torch.no_grad():
                p.copy_(tensor(tuple(p.shape), k, 0.2 if norm else 0.5, 1.0 if norm else 0.0))
        return head

    def mlp(inputs, widths, *, norm, act=nn.ReLU, bias, last_bias, last=None):
        layers = []
        for width in widths[:-1]:
            layers += [nn.Linear(inputs, width, bias=bias)]
            layers += [nn.BatchNorm1d(width)] if norm else []
            layers += [act()]
            inputs = width
        layers += [nn.Linear(inputs, widths[-1], bias=last_bias)]
        if last is not None:
            layers += [nn.BatchNorm1d(widths[-1], affine=last)]
        return filled(nn.Sequential(*layers))

    def cross(a, b, temperature):
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
        return F.cross_entropy(logits, torch.arange(len(a)))

    x1, x2 = tensor((ROWS, FEATURES), 0.3), tensor((ROWS, FEATURES), 1.1)
    keys = F.normalize(tensor((KEYS, DIM), 2.2), dim=1)
    found = {}

    head = mlp(FEATURES, [HIDDEN, DIM], norm=False, bias=True, last_bias=True)
    q, k = F.normalize(head(x1), dim=1), F.normalize(head(x2), dim=1).detach()
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ keys.T], dim=1) / 0.2
    found["moco_v2"] = F.cross_entropy(logits, torch.zeros(ROWS, dtype=torch.long))

    head = mlp(FEATURES, [HIDDEN, DIM], norm=True, bias=False, last_bias=False, last=False)
    predictor = mlp(DIM, [HIDDEN, DIM], norm=True, bias=False, last_bias=False)
    z1, z2 = head(x1), head(x2)
    p1, p2 = predictor(z1), predictor(z2)
    found["moco_v3"] = 2 * (cross(p1, z2, 1.0) + cross(p2, z1, 1.0))

    def distances(p, z):
        return 2 - 2 * F.cosine_similarity(p, z, dim=1)

    head = mlp(FEATURES, [HIDDEN, DIM], norm=True, bias=True, last_bias=False)
    predictor = mlp(DIM, [HIDDEN, DIM], norm=True, bias=True, last_bias=False)
    z1, z2 = head(x1), head(x2)
    found["byol"] = (distances(predictor(z1), z2) + distances(predictor(z2), z1)).mean()

    head = mlp(FEATURES, [HIDDEN, HIDDEN, DIM], norm=True, bias=False, last_bias=False, last=False)
    predictor = mlp(DIM, [HIDDEN, DIM], norm=True, bias=False, last_bias=True)
    z1, z2 = head(x1), head(x2)
    cosines = (F.cosine_similarity(predictor(z), w, dim=1).mean() for z, w in ((z1, z2), (z2, z1)))
    found["simsiam"] = 1 - sum(cosines) * 0.5  # jaxpt's is larger by 1

    head = mlp(FEATURES, [HIDDEN, HIDDEN, DIM], norm=True, bias=False, last_bias=False)
    norm = nn.BatchNorm1d(DIM, affine=False)
    c = norm(head(x1)).T @ norm(head(x2)) / ROWS
    diagonal = ((torch.diagonal(c) - 1) ** 2).sum()
    found["barlow_twins"] = diagonal + 0.0051 * ((c**2).sum() - (torch.diagonal(c) ** 2).sum())

    head = mlp(FEATURES, [HIDDEN, HIDDEN, DIM], norm=True, bias=True, last_bias=False)
    z1, z2 = head(x1), head(x2)
    invariance = F.mse_loss(z1, z2)
    spread = covariance = 0.0
    for z in z1, z2:
        z = z - z.mean(dim=0)
        spread += F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean() / 2
        c = z.T @ z / (ROWS - 1)
        covariance += ((c**2).sum() - (torch.diagonal(c) ** 2).sum()) / DIM
    found["vicreg"] = 25 * invariance + 25 * spread + covariance

    head = mlp(FEATURES, [HIDDEN, HIDDEN, DIM], norm=False, act=nn.GELU, bias=True, last_bias=True)
    rows = F.normalize(tensor((PROTOTYPES, DIM), 3.3), dim=1)
    out = [F.normalize(head(x), dim=1) @ rows.T for x in (x1, x2)]
    centre = tensor((PROTOTYPES,), 4.4, 0.1)
    soft = [F.softmax((o - centre) / 0.04, dim=1).detach() for o in out]
    pairs = (soft[0], out[1]), (soft[1], out[0])
    found["dino"] = sum((-t * F.log_softmax(s / 0.1, dim=1)).sum(1).mean() for t, s in pairs) / 2

    head = mlp(FEATURES, [HIDDEN] * 3 + [DIM], norm=True, act=nn.GELU, bias=True, last_bias=False)
    labels = torch.arange(KEYS) % 4
    means = F.normalize(torch.stack([keys[labels == c].sum(0) for c in range(4)]), dim=1)
    logits = F.normalize(head(F.normalize(x1, dim=1)), dim=1) @ means.T / 0.1
    found["t_rex"] = F.cross_entropy(logits, torch.arange(ROWS) % 4)

    head = mlp(FEATURES, [HIDDEN, HIDDEN, DIM], norm=True, bias=False, last_bias=False, last=True)
    found["nn_clr"] = head(x1).pow(2).mul(tensor((ROWS, DIM), 5.5)).sum()  # the head alone

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, first):
            super().__init__()
            self.first = first
            self.bn1 = nn.BatchNorm2d(inputs)
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            other = inputs != width
            self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if other else None

        def forward(self, x):
            y = F.relu(self.bn1(x))
            x = y if self.first else x
            y = self.conv2(F.relu(self.bn2(self.conv1(y))))
            return y + (x if self.shortcut is None else self.shortcut(x))

    blocks = [Block(4, 4, 1, True), Block(4, 4, 1, False)]
    blocks += [Block(4, 8, 2, True), Block(8, 8, 1, False)]
    blocks += [Block(8, 16, 2, True), Block(16, 16, 1, False)]
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1, bias=False), *blocks, nn.BatchNorm2d(16), nn.ReLU()
    )
    features = filled(network)(tensor((4, 1, 8, 8), 6.6)).mean(dim=(2, 3))
    found["resnet_preact"] = F.cross_entropy(features, torch.arange(4))

    text = json.dumps({name: round(value.item(), 9) for name, value in found.items()}, indent=1)
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
