"""Barlow Twins on ImageNet-1k (Zbontar et al., ICML 2021).

    jaxpt pretrain --config=pretrain/imagenet/barlow_twins.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_barlow_twins

Source: the authors' code: batch 2,048, rate 0.2 for matrices and 0.0048 for biases and BatchNorm,
both for 256 images, LARS and weight decay 1e-6 for matrices only, a cosine to a thousandth,
projector of three layers of 8,192, λ 0.0051, 1,000 epochs, here 100 (docs/fidelity.md).
Expected: linear 73.3 after 1,000 epochs (the code's page). Not yet run here.
On paper: 3.98 hours on v5e-32, 127 chip-hours, 8.14 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.2,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "optimizer.late_rate": True,
    "optimizer.final_rate": 0.001,
    "optimizer.vector_rate": 0.0048 / 0.2,
    "batch_size": 2048,
    "barlow_twins.redundancy": 0.0051,
    "model.projector.hidden": (8192, 8192),
    "model.projector.dim": 8192,
}
LONGER = {"1000ep": {"duration": "1000 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("barlow_twins", variant, SETTINGS, augment="byol", longer=LONGER)
