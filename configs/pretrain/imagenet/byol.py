"""BYOL on ImageNet-1k (Grill et al., NeurIPS 2020).

    jaxpt pretrain --config=pretrain/imagenet/byol.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_byol

Source: the authors' code: heads 4096-256, 10 epochs of warm-up, LARS; rate 0.45 for 100 epochs, 0.3
for 300, 0.2 for 1,000, with EMA 0.99, 0.99, 0.996 and weight decay 1e-6, 1e-6, 1.5e-6. Batch 4,096
is from memory of the paper. The first target is a copy of the online encoder (docs/fidelity.md).
Expected: linear 72.5 after 300 epochs, 74.3 after 1,000 (unchecked). Not yet run here.
On paper: 3.53 hours on v5e-32, 113 chip-hours, 11.1 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.45,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "optimizer.late_rate": True,
    "batch_size": 4096,
    "ema": 0.99,
    "model.projector.hidden": (4096,),
    "model.projector.dim": 256,
    "model.predictor.hidden": (4096,),
}
LONGER = {
    "300ep": {"duration": "300 epochs", "rate": 0.3},
    "1000ep": {
        "duration": "1000 epochs",
        "rate": 0.2,
        "ema": 0.996,
        "optimizer.weight_decay": 1.5e-06,
    },
}


def get_config(variant: str = ""):
    return recipes.imagenet("byol", variant, SETTINGS, augment="byol", longer=LONGER)
