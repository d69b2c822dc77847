"""SupMoCo on ImageNet-1k (Majumder et al., arXiv:2101.11058).

    jaxpt pretrain --config=pretrain/imagenet/sup_moco.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_sup_moco

Source: the paper: memory of 64,000, τ 0.07, EMA 0.999. Head, batch, rate and augmentation are MoCo
v2's (docs/fidelity.md).
Expected: not known to us. Not yet run here.
On paper: 2.95 hours on v5e-32, 94.4 chip-hours, 0.793 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = recipes.MOCO | {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "batch_size": 256,
    "memory": 64000,
    "temperature": 0.07,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}


def get_config(variant: str = ""):
    return recipes.imagenet("sup_moco", variant, SETTINGS, augment="moco_v2")
