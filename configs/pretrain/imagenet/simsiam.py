"""SimSiam on ImageNet-1k (Chen and He, CVPR 2021).

    jaxpt pretrain --config=pretrain/imagenet/simsiam.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_simsiam

Source: the authors' code: batch 512, rate 0.05 for 256 images, no warm-up, weight decay 1e-4 on all
parameters, projector of three layers of 2,048 that ends in BatchNorm, predictor 512 with a constant
rate. Here the rate changes with every step, not every epoch (docs/fidelity.md).
Expected: linear 68.1 after 100 epochs (the authors' code). Not yet run here.
On paper: 3.43 hours on v5e-32, 110 chip-hours, 1.78 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.05,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "0 steps",
    "optimizer.decay_vectors": True,
    "optimizer.constant_predictor": True,
    "batch_size": 512,
    "model.projector.hidden": (2048, 2048),
    "model.projector.dim": 2048,
    "model.predictor.hidden": (512,),
}


def get_config(variant: str = ""):
    return recipes.imagenet("simsiam", variant, SETTINGS, augment="moco_v2")
