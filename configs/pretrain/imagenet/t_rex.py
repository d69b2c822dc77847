"""t-ReX on ImageNet-1k (Sariyildiz et al., ICLR 2023).

    jaxpt pretrain --config=pretrain/imagenet/t_rex.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_t_rex

Source: the paper: one large and eight small crops of 96 pixels, head of 2,048 to 256, τ 0.1, 100
epochs, rate 0.1 for 256 images. The paper uses GELU; here the head has ReLU and one hidden layer.
For t-ReX* add --config.t_rex.prototypes_from=memory --config.memory=8192.
Expected: top-1 78.0, mean transfer log-odds 1.1704; t-ReX* 80.2 and 0.8829 by other crops (the
paper). Not yet run here.
On paper: 3.7 hours on v5e-32, 119 chip-hours, 3.58 of 16 GB a chip (benchmarks/plan.py).
Variants: vit_s16, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.1,
    "optimizer.weight_decay": 0.0001,
    "temperature": 0.1,
    "local_augment.crop_size": 96,
    "model.projector.hidden": (2048,),
    "model.projector.dim": 256,
}


def get_config(variant: str = ""):
    return recipes.imagenet("t_rex", variant, SETTINGS, augment="t_rex")
