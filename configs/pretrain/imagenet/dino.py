"""DINO on ImageNet-1k (Caron et al., ICCV 2021).

    jaxpt pretrain --config=pretrain/imagenet/dino.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_dino

Source: the authors' code: temperatures 0.1 and 0.04, centre 0.9, 65,536 prototypes, small crops
of 96 pixels, SGD and weight decay 1e-4 for ResNet-50 with crops of 0.14–1 and 0.05–0.14. Batch
1,024, rate 0.03, EMA 0.996, head 2048-2048-256 and, for ViT-S, AdamW with 5e-4 are unchecked;
their weight decay rises from 0.04 to 0.4, here it is 0.1.
Expected: ViT-S/16 kNN 69.3 and linear 73.8 after 100 epochs; best ResNet-50 kNN 67.5, linear 75.3
(the code's page). Not yet run here.
On paper: 5.8 hours on v5e-32, 185 chip-hours, 5.13 of 16 GB a chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "10 epochs",
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
    "augment.crop_area": (0.4, 1.0),
    "local_augment.crop_area": (0.05, 0.4),
    "model.norm": "group",
}
LONGER = {"300ep": {"duration": "300 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("dino", variant, SETTINGS, augment="dino", vit=VIT_S16, longer=LONGER)
