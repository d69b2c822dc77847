"""SimCLR on ImageNet-1k (Chen et al., ICML 2020).

    jaxpt pretrain --config=pretrain/imagenet/simclr.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_simclr

Source: the authors' code: batch 4,096, LARS, rate 0.3 for 256 images, weight decay 1e-6, 10 epochs
of warm-up, τ 0.1; the head is the first paper's, 2048-128 with BatchNorm after both layers, the
last one without offset (docs/fidelity.md).
Expected: linear 69.3 after 1,000 epochs (unchecked). Not yet run here.
On paper: 2.81 hours on v5e-32, 89.8 chip-hours, 10.9 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.3,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "batch_size": 4096,
    "temperature": 0.1,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}
LONGER = {"1000ep": {"duration": "1000 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("simclr", variant, SETTINGS, augment="simclr", longer=LONGER)
