"""MaskCon on ImageNet-1k (Feng and Patras, CVPR 2023).

    jaxpt pretrain --config=pretrain/imagenet/mask_con.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_mask_con

Source: the authors' code: τ 0.1, target τ 0.05, memory 8,192, EMA 0.99, a head without BatchNorm;
it has no run on ImageNet at this size. Width of the head, batch, rate and augmentation are MoCo
v2's (docs/fidelity.md).
Expected: not published. Not yet run here.
On paper: 2.87 hours on v5e-32, 91.8 chip-hours, 0.74 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = recipes.MOCO | {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "batch_size": 256,
    "memory": 8192,
    "ema": 0.99,
    "temperature": 0.1,
    "mask_con.target_temperature": 0.05,
    "mask_con.weight": 1.0,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}


def get_config(variant: str = ""):
    return recipes.imagenet("mask_con", variant, SETTINGS, augment="moco_v2")
