"""What every pre-training config starts from: each field with what it means.

The values are jaxpt's defaults; where a paper's are unknown (LOOK's), none is the paper's.
"""

import ml_collections

from jaxpt.errors import InputError


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.method = "look"  # look, nca, sup_con, cross_entropy
    c.duration = "60 epochs"  # or steps, or examples
    c.batch_size = 120  # over all devices
    c.views = 1  # augmented views of each image per step through the online encoder

    c.data = ml_collections.ConfigDict()
    c.data.source = "digits"  # digits, fashion_mnist, npz, folder, tfds:NAME
    c.data.path = ""
    c.data.image_size = 32  # folder only
    c.data.label_map = "fine"  # fine, halves, parity, fashion5
    c.data.limit = 0  # only so many training images; 0: all
    c.data.train_on = "trainval"  # or "train", which leaves a fifth for validation

    c.augment = ml_collections.ConfigDict()  # of queries, and of every view without a target
    c.augment.shift = 1  # pixels
    c.augment.flip = False
    c.augment.contrast = 0.2
    c.augment.brightness = 0.0
    c.augment.noise = 0.05  # share of the full range
    c.augment.erase = 0.0  # side of an erased square, share of the image
    c.key_augment = ml_collections.ConfigDict(c.augment.to_dict())  # of keys

    c.model = ml_collections.ConfigDict()
    c.model.name = "small_cnn"  # small_cnn, resnet18, resnet50
    c.model.norm = "group"  # group, batch, sync_batch
    c.model.dtype = "float32"  # of the computation; parameters are float32
    c.model.options = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    c.model.projector = ml_collections.ConfigDict({"hidden": (128,), "dim": 64})

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # adamw, sgd, lars
    c.optimizer.learning_rate = 3e-3
    c.optimizer.momentum = 0.9  # sgd and lars
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup = "0 steps"

    c.temperature = 0.1
    c.memory = 1200  # keys
    c.ema = 0.98  # of the target encoder
    c.target_norm = "batch"  # or "running": BatchNorm statistics in the target encoder
    c.k = 100
    c.k_warmup = "0 steps"  # way from the whole memory down to k
    c.no_positive = "nearest"  # or drop, floor
    c.own_view = 0.0  # weight of the query's own second view as an extra positive
    c.label_smoothing = 0.0

    c.knn_every = "5 epochs"  # kNN monitor
    c.knn_k = 20
    c.log_every = "20 steps"
    c.checkpoint_every = "10 epochs"
    c.keep_checkpoints = 2
    c.mapping = "shard_map"  # or pmap
    c.devices = 0  # all
    return c


def apply_tuned(config: ml_collections.ConfigDict, tuned: dict) -> ml_collections.ConfigDict:
    """Sets the fields that tuning chose for the config's method."""
    config.update_from_flattened_dict(tuned[config.method])
    return config


METHODS = ("look", "nca", "sup_con", "cross_entropy")


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Words after the colon, joined by commas: a method's name, and "smoke" for seconds."""
    for word in filter(None, (variant or "").split(",")):
        if word in METHODS:
            config.method = word
        elif word == "smoke":
            config.duration = "4 steps"
            config.log_every = config.knn_every = config.checkpoint_every = "2 steps"
            config.data.limit = 300
        else:
            raise InputError(f"variant {word!r} is unknown: use one of {', '.join(METHODS)} and "
                             "smoke.")
    return config
