"""VICReg on ImageNet-1k (Bardes et al., ICLR 2022).

    jaxpt pretrain --config=pretrain/imagenet/vicreg.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_vicreg

Source: the authors' code: 100 epochs with batch 512 and rate 0.3, 1,000 with batch 2,048 and rate
0.2; projector of three layers of 8,192, weights 25, 25, 1, LARS, weight decay 1e-6, 10 epochs of
warm-up, a cosine to a thousandth (docs/fidelity.md).
Expected: linear 73.2 after 1,000 epochs (the code's page). Not yet run here.
On paper: 9.33 hours on v5e-32, 299 chip-hours, 5.02 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.3,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "optimizer.late_rate": True,
    "optimizer.final_rate": 0.001,
    "batch_size": 512,
    "model.projector.hidden": (8192, 8192),
    "model.projector.dim": 8192,
}
LONGER = {"1000ep": {"duration": "1000 epochs", "batch_size": 2048, "rate": 0.2}}


def get_config(variant: str = ""):
    return recipes.imagenet("vicreg", variant, SETTINGS, augment="byol", longer=LONGER)
