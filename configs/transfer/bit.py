"""Fine-tuning with BiT-HyperRule (Kolesnikov et al., ECCV 2020; see jaxpt/finetune.py).

    jaxpt transfer runs/look --out=runs/transfer.jsonl --config=transfer/bit.py

Source: the paper; the warm-up is that of its authors' code. It trains the whole network with SGD,
momentum 0.9, no weight decay, batch 512, learning rate 0.003 (× 0.1 at 30, 60 and 90 % of training)
and horizontal flips. Number of steps, warm-up, mixup and image sizes depend on the data set (small:
below 20,000 images). A value here other than "" or -1 overrides the rule, for example
``--config.resize=36 --config.crop=32`` for small images on a small machine.
Expected: not yet run; the paper's figures are of its own networks, pre-trained on far more images.
On paper: 2.72 chip-hours of v5e a small set: 6 trainings of ResNet-50 at 480 pixels.
Variant: smoke, which also sets small image sizes.
"""

from jaxpt.configs.transfer import defaults


def get_config(variant: str = ""):
    c = defaults.get_config()
    c.rule = "bit"
    c.duration = c.warmup = ""
    c.mixup, c.resize, c.crop = -1.0, -1, -1
    c.learning_rates, c.weight_decays, c.batch_size = (0.003,), (0.0,), 512
    c.optimizer.name = "sgd"
    c.schedule.name = "steps"
    c.augment.update(shift=0, contrast=0.0, noise=0.0, flip=True)
    if variant == "smoke":
        c.resize, c.crop = 10, 8
    return defaults.apply_variant(c, variant)
