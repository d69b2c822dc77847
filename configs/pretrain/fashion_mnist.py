"""Fashion-MNIST, pre-trained on five coarse classes (tops, trouser, dress, shoes, bag).

    jaxpt pretrain --config=pretrain/fashion_mnist.py:look --workdir=runs/fashion

The first 6,000 training images in a fixed shuffle, so that a run takes minutes on one CPU core;
``--config.data.limit=0`` takes all 60,000. Variants: look, nca, sup_con, cross_entropy; add
",smoke" for a run of seconds.
"""

from jaxpt.configs.pretrain import defaults


def get_config(variant: str = "look"):
    c = defaults.get_config()
    c.data.source = "fashion_mnist"
    c.data.label_map = "fashion5"
    c.data.limit = 6_000
    c.duration = "8 epochs"
    c.batch_size = 120
    c.augment.shift = c.key_augment.shift = 2
    c.augment.flip = c.key_augment.flip = True
    c.model.options = {"widths": (16, 32, 64, 128), "strides": (2, 2, 1, 2)}
    c.memory = 2_400
    c.ema = 0.99
    c.k = 100
    c.knn_every = "2 epochs"
    c.checkpoint_every = "2 epochs"
    return defaults.apply_variant(c, variant)
