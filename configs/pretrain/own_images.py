"""Pre-training on your own images: the ImageNet-1k recipe of LOOK with three lines changed.

    jaxpt pretrain --config=pretrain/own_images.py --workdir=runs/photos

Copy this file and put your own values into the three lines. Any config of ``pretrain/imagenet/``
can be used instead of look. The folder is photos/train/CLASS/IMAGE, see docs/data.md.
"""

from jaxpt.configs.pretrain.imagenet import look


def get_config(variant: str = ""):
    c = look.get_config(variant)
    c.data.path = "photos"
    c.batch_size, c.optimizer.learning_rate = 64, 0.025  # the rate in proportion to the batch
    c.memory, c.look.k = 2048, 100  # at most as many keys as there are images
    return c
