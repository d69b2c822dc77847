"""MoCo v3 on ImageNet-1k (Chen et al., ICCV 2021).

    jaxpt pretrain --config=pretrain/imagenet/moco_v3.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_moco_v3

Source: the authors' code: batch 4,096, LARS, 10 epochs of warm-up, τ 1, EMA from 0.99 up to 1; rate
0.6 for 100 epochs, 0.3 for 300 and 1,000, weight decay 1e-6. Head and predictor are its, and so is
the order of views. ViT-S: AdamW, rate 1.5e-4, weight decay 0.1 on all parameters, τ 0.2, 40 epochs
of warm-up, 12 heads, fixed sine-cosine positions, patch projection frozen (docs/fidelity.md).
Expected: linear 68.9 after 100 epochs, 72.8 after 300; ViT-S 73.2 after 300 (the code's page).
Not yet run here.
On paper: 3.53 hours on v5e-32, 113 chip-hours, 11.1 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.6,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "optimizer.late_rate": True,
    "batch_size": 4096,
    "ema": 0.99,
    "temperature": 1.0,
    "augment.crop_area": (0.2, 1.0),
    "augment.crop_interpolation": "bilinear",
    "model.projector.hidden": (4096,),
    "model.projector.dim": 256,
    "model.predictor.hidden": (4096,),
}
VIT_S16 = {
    "duration": "300 epochs",
    "temperature": 0.2,
    "optimizer.warmup": "40 epochs",
    "optimizer.clip_norm": 0.0,
    "optimizer.decay_vectors": True,
    "optimizer.freeze": ("patch_embed",),
    "model.options": {"positions": "sincos", "heads": 12, "initialisation": "xavier"},
    "model.predictor.last_norm": "plain",
    "augment.crop_area": (0.08, 1.0),
    "model.projector.hidden": (4096, 4096),
}
LONGER = {
    "300ep": {"duration": "300 epochs", "rate": 0.3},
    "1000ep": {
        "duration": "1000 epochs",
        "rate": 0.3,
        "ema": 0.996,
        "optimizer.weight_decay": 1.5e-06,
    },
}


def get_config(variant: str = ""):
    return recipes.imagenet(
        "moco_v3", variant, SETTINGS, augment="byol", vit=VIT_S16, longer=LONGER
    )
