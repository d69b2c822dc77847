"""LOOK on ImageNet-1k (Feng et al., ICLR 2022).

    jaxpt pretrain --config=pretrain/imagenet/look.py --config.data.path=imagenet \\
        --workdir=runs/imagenet_look

Source: the formula is a reconstruction; k, temperature, memory, head, augmentation and schedule are
jaxpt's defaults, none of them the paper's: its sections on method and experiments could not be read
by us. k follows from the memory: the claim that an image shares its label with most of its k
neighbours needs k well below the number of keys of a class. A queue of 65,536 keys has 65 of each
of 1,000 classes, so this one holds the latest key of every image, 1,281 a class, of which k = 400
is a third; a smaller k from scratch did worse in every trial of ours.
Expected: not yet run. Second-hand (OPERA's table 3), of the paper's own ResNet-50 after 90
epochs, fine-tuned: Flowers-102 96.4, Pets 92.5.
On paper: 2.31 hours on v5e-32, 73.8 chip-hours, 2.21 of 16 GB per chip (benchmarks/plan.py).
Variants: vit_s16, 300ep, smoke.
Data: the folder imagenet/train/CLASS/IMAGE, or tfds:imagenet2012; see docs/recipes.md.
"""

from jaxpt.configs.pretrain import recipes
from jaxpt.data import presets

SETTINGS = {
    "rate": 0.1,
    "optimizer.weight_decay": 0.0001,
    "duration": "90 epochs",
    "look.k": 400,
    # The latest key of every training image, a multiple of 256 so that it divides over devices.
    "memory": recipes.IMAGES // 256 * 256,
    "memory_sharding": "sharded",
    "memory_dtype": "bfloat16",
    "temperature": 0.1,
    "model.projector.hidden": (2048, 2048),
    "model.projector.dim": 128,
}
LONGER = {"300ep": {"duration": "300 epochs"}}


def get_config(variant: str = ""):
    c = recipes.imagenet("look", variant, SETTINGS, augment="moco_v2", longer=LONGER)
    # Keys use weaker augmentation than queries.
    c.key_augment.update(presets.PRESETS["imagenet"].views._asdict())
    return c
