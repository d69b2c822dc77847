"""DINO on ImageNet-1k (Caron et al., ICCV 2021).

    jaxpt pretrain --config=pretrain/imagenet/dino.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_dino

Source: the authors' code: temperatures 0.1 and 0.04, centre 0.9, 65,536 weight-normalised
prototypes that rest in the first epoch, head 2048-2048-256 with GELU and no BatchNorm, 8 small
crops of 96 pixels, batch 512, gradients cut to norm 3 each, EMA from 0.996; the teacher is
measured. ResNet-50: SGD, rate 0.03, weight decay 1e-4, crops of 0.14–1 and 0.05–0.14. ViT-S: AdamW,
rate 5e-4, weight decay from 0.04 to 0.4, drop path 0.1. "boosted" is the longer ViT-S of the code's
page. ResNet-50's weight decay, from 1e-4 to 1e-4 there, is a constant here (docs/fidelity.md).
Expected: ViT-S/16 kNN 69.3 and linear 73.8 after 100 epochs; best ResNet-50 kNN 67.5, linear 75.3
(the code's page). Not yet run here.
On paper: 6.78 hours on v5e-32, 217 chip-hours, 3.31 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, boosted, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.03,
    "batch_size": 512,
    "local_views": 8,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "10 epochs",
    "optimizer.final_rate": 1e-6 / 0.06,
    "optimizer.clip_norm": 3.0,
    "optimizer.clip_each": True,
    "optimizer.freeze": ("prototypes",),
    "optimizer.freeze_for": "1 epochs",
    "model.options": {"zero_init": False},
    "ema": 0.996,
    "temperature": 0.1,
    "dino.target_temperature": 0.04,
    "dino.prototypes": 65536,
    "augment.crop_area": (0.14, 1.0),
    "local_augment.crop_area": (0.05, 0.14),
    "local_augment.crop_size": 96,
    "model.projector.hidden": (2048, 2048),
    "model.projector.dim": 256,
}
VIT_S16 = {
    "rate": 0.0005,
    "optimizer.weight_decay": 0.04,
    "optimizer.weight_decay_end": 0.4,
    "optimizer.final_rate": 1e-6 / 0.001,
    "optimizer.clip_norm": 3.0,
    "model.options": {"drop_path": 0.1},
    "augment.crop_area": (0.4, 1.0),
    "local_augment.crop_area": (0.05, 0.4),
}
LONGER = {
    "300ep": {"duration": "300 epochs"},
    # For ViT-S only: with learnt norms other networks may diverge, says the code's page.
    "boosted": {
        "duration": "300 epochs",
        "batch_size": 1024,
        "dino.target_temperature": 0.07,
        "dino.target_temperature_warmup": "30 epochs",
        "dino.learnt_norms": True,
        "optimizer.freeze": ("prototypes", "norms"),
    },
}


def get_config(variant: str = ""):
    return recipes.imagenet("dino", variant, SETTINGS, augment="dino", vit=VIT_S16, longer=LONGER)
