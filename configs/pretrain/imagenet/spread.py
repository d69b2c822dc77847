"""Spread (SupCon with class-conditional InfoNCE) on ImageNet-1k (Chen et al., ICML 2022).

    jaxpt pretrain --config=pretrain/imagenet/spread.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_spread

Source: τ 0.5 and equal weights as in the paper, which has no run on ImageNet. All other settings
are those of the sup_con recipe, with a smaller batch (docs/fidelity.md).
Expected: not published. Not yet run here.
On paper: 2.87 hours on v5e-32, 91.9 chip-hours, 5.59 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.3,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "batch_size": 2048,
    "temperature": 0.5,
    "spread.weight": 0.5,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}


def get_config(variant: str = ""):
    return recipes.imagenet("spread", variant, SETTINGS, augment="simclr")
