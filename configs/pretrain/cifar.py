"""CIFAR-10 and CIFAR-100 with ResNet-18 and a 3×3 stem, for every method.

    jaxpt pretrain --config=pretrain/cifar.py:look --workdir=runs/cifar10_look
    jaxpt pretrain --config=pretrain/cifar.py:simclr,cifar100,1000ep --workdir=runs/cifar100_simclr

Words of the variant: a method, cifar100 (default: cifar10), 1000ep (default: 200 epochs) and smoke
(a few seconds, on digits). The data set is loaded by TensorFlow Datasets (pip install
'jaxpt[tfds]') and kept on the device.

Source: the settings are jaxpt's own starting points, not tuned; temperatures, weights and views are
the papers' if they state any (configs/pretrain/defaults.py).
Expected: none of these has been run yet. solo-learn reports, with ResNet-18, 1,000 epochs, its own
settings and an online linear classifier, CIFAR-10 / CIFAR-100:

    sup_con  93.82 / 70.38    byol          92.58 / 70.46    nn_clr   91.88 / 69.62
    moco_v3  93.10 / 68.83    barlow_twins  92.10 / 70.90    simclr   90.74 / 65.78
    moco_v2  92.94 / 69.89    vicreg        92.07 / 68.54    simsiam  90.51 / 66.04
    dino     89.52 / 66.76

and SupContrast with ResNet-50: cross_entropy 95.0 / 75.3, sup_con 96.0 / 76.5, simclr 93.6 / 70.7.
Others: no published value known to us.
On paper: on v5e-1 0.337 hours (cross_entropy) to 1.36 (dino), look 0.475 (benchmarks/plan.py).
"""

from jaxpt.configs.pretrain import defaults, recipes
from jaxpt.data import presets
from jaxpt.methods import METHODS

SETTINGS = {"rate": 0.1, "optimizer.weight_decay": 5e-4}
# Per method: less weight decay without labels, and heads of the width that the method needs.
OTHERS = {
    "cross_entropy": {"cross_entropy.label_smoothing": 0.1},
    "nca": {"memory_kind": "bank", "ema": 0.0},
    "look": {"memory": 49_920},  # the latest keys of (almost) all training images
    "sup_con": {"views": 2, "augment.crop_area": (0.2, 1.0)},
    "byol": {"optimizer.weight_decay": 1e-4, "model.predictor.hidden": (1024,)},
    "simsiam": {
        "rate": 0.05,
        "model.projector.dim": 2048,
        "model.predictor.hidden": (512,),
        "optimizer.constant_predictor": True,
    },
    "barlow_twins": {
        "rate": 0.05,
        "optimizer.weight_decay": 1e-4,
        "model.projector.hidden": (2048, 2048),
        "model.projector.dim": 2048,
    },
    "vicreg": {
        "rate": 0.05,
        "optimizer.weight_decay": 1e-4,
        "model.projector.hidden": (2048, 2048),
        "model.projector.dim": 2048,
    },
    "dino": {"rate": 0.05, "dino.prototypes": 4096, "ema": 0.996, "local_augment.crop_size": 16},
    "t_rex": {"local_augment.crop_size": 16},
    "moco_v3": {"model.predictor.hidden": (1024,)},
    "nn_clr": {"model.predictor.hidden": (1024,)},
}
LABELLED = ("cross_entropy", "nca")  # their papers only shift and flip images
WORDS = {"cifar100": {"data.source": "tfds:cifar100"}, "1000ep": {"duration": "1000 epochs"}}


def get_config(variant: str = "look"):
    words = variant.split(",")
    method = next((word for word in words if word in METHODS), "look")
    c = defaults.apply_variant(defaults.get_config(), method)
    c.data.source = "tfds:cifar10"
    c.duration = "200 epochs"
    c.batch_size = 256
    presets.apply(c, "small_images" if method in LABELLED else "simclr")
    for part in c.augment, c.key_augment, c.local_augment:
        part.blur = (0.0,)  # SimCLR uses no blur on CIFAR
        part.crop_interpolation = "bilinear"  # as in SupContrast's code
    if method not in LABELLED:
        for part in c.augment, c.key_augment, c.local_augment:
            part.jitter = (0.4, 0.4, 0.4, 0.1)  # SimCLR's colour strength of 0.5; SupContrast's too
    c.model.name = "resnet18"
    c.model.norm = "sync_batch"
    c.model.projector.update(hidden=(512,), dim=256)
    c.optimizer.name = "sgd"
    c.optimizer.warmup = "5 epochs"
    c.memory, c.ema = 8192, 0.99
    c.checkpoint_every = "10 epochs"
    return recipes.changed(
        c,
        ",".join(word for word in words if word != method),
        recipes.HEADS.get(method, {})
        | SETTINGS
        | OTHERS.get(method, {})
        | {"model.options": {"stem": "small"}},
        WORDS,
    )
