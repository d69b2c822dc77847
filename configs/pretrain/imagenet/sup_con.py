"""SupCon on ImageNet-1k (Khosla et al., NeurIPS 2020).

    jaxpt pretrain --config=pretrain/imagenet/sup_con.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_sup_con

Source: the paper, from memory: batch 6,144, 350 epochs, here 100, LARS, τ 0.1, two views. The head,
2048-128 without BatchNorm, is that of SupContrast's code, which multiplies the loss by τ/0.07.
Learning rate and weight decay are unchecked; the paper's augmentation is AutoAugment, here it is
SimCLR's (docs/fidelity.md).
Expected: 100 epochs: not published. Not yet run here.
On paper: 2.79 hours on v5e-32, 89.2 chip-hours, 16.2 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 350ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.3,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "batch_size": 6144,
    "views": 2,
    "temperature": 0.1,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}
LONGER = {"350ep": {"duration": "350 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("sup_con", variant, SETTINGS, augment="simclr", longer=LONGER)
