"""Exemplar v2 on ImageNet-1k (Zhao et al., ICLR 2021).

    jaxpt pretrain --config=pretrain/imagenet/exemplar.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_exemplar

Source: MoCo v2's settings, said to be the paper's; unchecked (docs/fidelity.md).
Expected: not known to us. Not yet run here.
On paper: 2.95 hours on v5e-32, 94.5 chip-hours, 0.794 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 200ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = recipes.MOCO | {
    "rate": 0.03,
    "optimizer.weight_decay": 0.0001,
    "batch_size": 256,
    "temperature": 0.2,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 128,
}
LONGER = {"200ep": {"duration": "200 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet("exemplar", variant, SETTINGS, augment="moco_v2", longer=LONGER)
