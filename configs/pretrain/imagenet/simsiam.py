"""SimSiam on ImageNet-1k (Chen and He, CVPR 2021).

    jaxpt pretrain --config=pretrain/imagenet/simsiam.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_simsiam

Source: the paper: batch 512, rate 0.05 for 256 images, no warm-up, projector 2048-2048-2048,
predictor 512; weight decay 1e-4 is unchecked. The predictor's rate decays here.
Expected: linear 68.1 after 100 epochs (the authors' code). Not yet run here.
On paper: 3.38 hours on v5e-32, 108 chip-hours, 1.71 of 16 GB a chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.05,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "0 steps",
    "batch_size": 512,
    "model.projector.hidden": (2048, 2048),
    "model.projector.dim": 2048,
    "model.predictor.hidden": (512,),
}


def get_config(variant: str = ""):
    return recipes.imagenet("simsiam", variant, SETTINGS, augment="moco_v2")
