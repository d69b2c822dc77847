"""t-ReX on ImageNet-1k (Sariyildiz et al., ICLR 2023).

    jaxpt pretrain --config=pretrain/imagenet/t_rex.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_t_rex

Source: the authors' code: t-ReX is OCM with three hidden layers: one large and eight small crops of
96 pixels, head of 3 × 2,048 and 256 with BatchNorm and GELU on features of length one, prototypes
from a memory of 8,192 keys, EMA 0.999, τ 0.1, batch 256, rate 0.1, 10 epochs of warm-up, 100
epochs. "star" is t-ReX*, OCM with one hidden layer and other crops; "plain" has learnt prototypes
instead of the memory. Keys have length one, come from a view of their own, and those of the query's
image are left out, unlike in the code (docs/fidelity.md).
Expected: t-ReX top-1 78.0, mean transfer log-odds 1.1704; t-ReX* 80.2 and 0.8829 (the code's page).
Not yet run here.
On paper: 5.45 hours on v5e-32, 174 chip-hours, 1.45 of 16 GB a chip (benchmarks/plan.py).
Variants: vit_s16, star, plain, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.1,
    "batch_size": 256,
    "optimizer.weight_decay": 0.0001,
    "optimizer.warmup": "10 epochs",
    "optimizer.final_rate": 1e-6 / 0.1,
    "t_rex.prototypes_from": "memory",
    "memory": 8192,
    "temperature": 0.1,
    "model.options": {"zero_init": False},
    "local_augment.crop_size": 96,
    "model.projector.hidden": (2048, 2048, 2048),
    "model.projector.dim": 256,
}
WORDS = {
    "star": {
        "augment.crop_area": (0.4, 1.0),
        "key_augment.crop_area": (0.4, 1.0),
        "local_augment.crop_area": (0.05, 0.4),
        "model.projector.hidden": (2048,),
    },
    "plain": {"t_rex.prototypes_from": "learnt"},
}


def get_config(variant: str = ""):
    return recipes.imagenet("t_rex", variant, SETTINGS, augment="t_rex", longer=WORDS)
