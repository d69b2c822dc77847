"""Grafit, as MaskCon's authors state it, on ImageNet-1k (Touvron et al., ICCV 2021).

    jaxpt pretrain --config=pretrain/imagenet/grafit.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_grafit

Source: equal weights and τ 0.1 as in MaskCon's code, whose form of the loss this is; Grafit's own
code was not read. Head, batch, rate, memory and augmentation are MoCo v2's (docs/fidelity.md).
Expected: not known to us. Not yet run here.
On paper: 3.06 hours on v5e-32, 97.8 chip-hours, 0.865 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = recipes.MOCO | {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "batch_size": 256,
    "grafit.weight": 0.5,
    "temperature": 0.1,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 256,
}


def get_config(variant: str = ""):
    return recipes.imagenet("grafit", variant, SETTINGS, augment="moco_v2")
