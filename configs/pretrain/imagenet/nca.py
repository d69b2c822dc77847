"""NCA over the whole training set on ImageNet-1k (Wu et al., ECCV 2018).

    jaxpt pretrain --config=pretrain/imagenet/nca.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_nca

Source: the paper: τ 0.05, 128 dimensions, 130 epochs, rate 0.1 (divided by 10 every 40 epochs in
the paper, a cosine here), one key per image. The bank's momentum rises from 0.5 to 0.9 in the paper
and stays at 0.5 here; batch and augmentation are unchecked.
Expected: kNN (k = 30) 76.57 with ResNet-50 after 130 epochs (the paper). Not yet run here.
On paper: 7.58 hours on v5e-32, 242 chip-hours, 1.34 of 16 GB a chip (benchmarks/plan.py).
Variants: vit_s16, 130ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.1,
    "optimizer.weight_decay": 0.0001,
    "batch_size": 256,
    "model.projector.hidden": (),
    "model.projector.dim": 128,
    "memory_kind": "bank",
    "memory_momentum": 0.5,
    "ema": 0.0,
}
LONGER = {"130ep": {"duration": "130 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("nca", variant, SETTINGS, augment="imagenet", longer=LONGER)
