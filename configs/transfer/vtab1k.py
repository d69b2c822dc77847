"""Fine-tuning on the 1,000 images of a VTAB data set (Zhai et al., arXiv:1910.04867).

    jaxpt transfer runs/imagenet_look --out=runs/vtab.jsonl --config=transfer/vtab1k.py \\
        --config.data.source=protocol:vtab_dtd

Source: VTAB's light protocol as we know it, unchecked: SGD with momentum 0.9, batch 512, 2,500
steps, a rate of 0.01 or 0.1 that is divided by 10 at one and two thirds; no augmentation. The batch
is 500 instead of 512 here, because the sweep trains on a part of 800 images.
Expected: not yet run. Frozen features on all nineteen sets are ``jaxpt evaluate --suite=vtab1k``.
On paper: 4.35 chip-hours of v5e a set: 9 trainings of ResNet-50 at 224 pixels.
Variant: smoke.
"""

from jaxpt.configs.transfer import defaults


def get_config(variant: str = ""):
    c = defaults.get_config()
    c.frozen = False
    c.duration, c.warmup, c.batch_size = "2500 steps", "0 steps", 500
    c.learning_rates, c.weight_decays = (0.01, 0.1), (0.0,)
    c.optimizer.name = "sgd"
    c.schedule.update(name="steps", at=(1 / 3, 2 / 3), factor=0.1)
    c.augment.update(shift=0, contrast=0.0, noise=0.0)
    return defaults.apply_variant(c, variant)
