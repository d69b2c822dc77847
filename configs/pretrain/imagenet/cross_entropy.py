"""Cross-entropy on ImageNet-1k (as in He et al., CVPR 2016, and Goyal et al. 2017).

    jaxpt pretrain --config=pretrain/imagenet/cross_entropy.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_cross_entropy

Source: common practice, unchecked: SGD with momentum 0.9, rate 0.1 for 256 images, weight decay
1e-4, 5 epochs of warm-up, a cosine over 100 epochs in place of the papers' drops over 90, label
smoothing 0.1, BatchNorm of each device. For SL-MLP (Wang et al., CVPR 2022), whose code was not
read, add --config.cross_entropy.classifier=mlp (docs/fidelity.md).
Expected: about 76 % top-1 (unchecked). Not yet run here.
On paper: 1.55 hours on v5e-32, 49.5 chip-hours, 1.59 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes

SETTINGS = {
    "rate": 0.1,
    "optimizer.weight_decay": 0.0001,
    "cross_entropy.label_smoothing": 0.1,
    "model.norm": "batch",
    "model.projector.hidden": (2048,),
    "model.projector.dim": 2048,
}
VIT_S16 = {
    "rate": 0.00025,
    "optimizer.weight_decay": 0.05,
    "cross_entropy.mixup": 0.8,
    "cross_entropy.cutmix": 1.0,
    "augment.rand_augment": 2,
}
LONGER = {"300ep": {"duration": "300 epochs"}}


def get_config(variant: str = ""):
    return recipes.imagenet(
        "cross_entropy", variant, SETTINGS, augment="imagenet", vit=VIT_S16, longer=LONGER
    )
