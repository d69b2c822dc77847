"""MoCo v2 on ImageNet-1k (Chen et al., arXiv:2003.04297).

    jaxpt pretrain --config=pretrain/imagenet/moco_v2.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_moco_v2

Source: the authors' code: rate 0.03 for 256 images, weight decay 1e-4 on all parameters, memory
65,536, EMA 0.999, τ 0.2, cosine, no warm-up, a head of two matrices without BatchNorm. It differs
in 100 epochs instead of 200, in synchronised BatchNorm in place of shuffling, in keys of real
images from the first step on, in leaving out earlier keys of the query's image, and in a rate that
changes with every step, not every epoch (docs/fidelity.md).
Expected: linear 67.5 ± 0.1 after 200 epochs, 71.1 after 800 (the code's page). Not yet run here.
On paper: 2.95 hours on v5e-32, 94.5 chip-hours, 0.794 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 200ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = recipes.MOCO | {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "0 steps",
    "batch_size": 256,
    "temperature": 0.2,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}
LONGER = {"200ep": {"duration": "200 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("moco_v2", variant, SETTINGS, augment="moco_v2", longer=LONGER)
