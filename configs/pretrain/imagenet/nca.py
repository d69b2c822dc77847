"""NCA over the whole training set on ImageNet-1k (Wu et al., ECCV 2018).

    jaxpt pretrain --config=pretrain/imagenet/nca.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_nca

Source: the paper: τ 0.05, 128 dimensions, 130 epochs, rate 0.1 divided by 10 every 40 epochs, one
key per image. The bank's momentum rises from 0.5 to 0.9 in the paper and stays at 0.5 here; its
batch and augmentation are unknown to us (docs/fidelity.md).
Expected: kNN (k = 30) 76.57 with ResNet-50 after 130 epochs (the paper). Not yet run here.
On paper: 6.49 hours on v5e-32, 208 chip-hours, 2.08 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.1,
    "optimizer.weight_decay": 0.0001,
    "duration": "130 epochs",
    "optimizer.drop_at": (40 / 130, 80 / 130, 120 / 130),
    "batch_size": 256,
    "model.projector.hidden": (),
    "model.projector.dim": 128,
    "memory_kind": "bank",
    "memory_momentum": 0.5,
    "ema": 0.0,
}


def get_config(variant: str = ""):
    return recipes.imagenet("nca", variant, SETTINGS, augment="imagenet")
