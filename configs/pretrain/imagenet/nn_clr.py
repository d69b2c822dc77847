"""NNCLR on ImageNet-1k (Dwibedi et al., ICCV 2021).

    jaxpt pretrain --config=pretrain/imagenet/nn_clr.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_nn_clr

Source: the paper, from memory: batch 4,096, LARS, τ 0.1, memory 98,304, 1,000 epochs. No code of
its authors was found; the head, 2048-2048-256 with BatchNorm after each layer and predictor 4,096,
is lightly's, which quotes the paper (docs/fidelity.md).
Expected: linear 75.6 after 1,000 epochs (the paper). Not yet run here.
On paper: 3.53 hours on v5e-32, 113 chip-hours, 11.1 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 1000ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.3,
    "optimizer.name": "lars",
    "optimizer.weight_decay": 1e-06,
    "optimizer.warmup": "10 epochs",
    "batch_size": 4096,
    "memory": 98304,
    "temperature": 0.1,
    "model.projector.hidden": (2048, 2048),
    "model.projector.dim": 256,
    "model.predictor.hidden": (4096,),
}
LONGER = {"1000ep": {"duration": "1000 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("nn_clr", variant, SETTINGS, augment="byol", longer=LONGER)
