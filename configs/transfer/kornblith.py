"""Fine-tuning as in Kornblith et al. ("Do better ImageNet models transfer better?", CVPR 2019).

    jaxpt transfer runs/imagenet_look --out=runs/fine_tuned.jsonl --config=transfer/kornblith.py \\
        --config.data.source=protocol:dtd

Source: as later papers quote it, unchecked: SGD with momentum 0.9, batch 256, 20,000 steps, cosine,
random crops and flips; 7 rates from 1e-4 to 1e-1 and 7 decays, chosen on validation. Their
decays are divided by the rate; here they are not, there are four of each, and no Nesterov momentum.
Expected: not yet run. Their linear protocol is ``jaxpt evaluate --suite=transfer12``.
On paper: 101 chip-hours of v5e a set: 51 trainings of ResNet-50 at 224 pixels.
Variant: smoke.
"""

from jaxpt.configs.transfer import defaults


def get_config(variant: str = ""):
    c = defaults.get_config()
    c.frozen = False
    c.duration, c.warmup, c.batch_size = "20000 steps", "0 steps", 256
    c.learning_rates = (1e-4, 1e-3, 1e-2, 1e-1)
    c.weight_decays = (0.0, 1e-5, 1e-4, 1e-3)
    c.optimizer.name = "sgd"
    c.augment.update(shift=0, contrast=0.0, noise=0.0, flip=True, crop_area=(0.08, 1.0))
    return defaults.apply_variant(c, variant)
