"""SupCon on ImageNet-1k (Khosla et al., NeurIPS 2020).

    jaxpt pretrain --config=pretrain/imagenet/sup_con.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_sup_con

Source: the paper: batch 6,144, 350 epochs, LARS, τ 0.1, two views, projector 2048-128. Learning
rate and weight decay are unchecked. The paper's augmentation is AutoAugment, here it is SimCLR's.
Expected: 100 epochs: not published. Not yet run here.
On paper: 2.84 hours on v5e-32, 90.7 chip-hours, 16.1 of 16 GB a chip (benchmarks/plan.py).
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
