"""Transfer: what is measured of a pre-trained backbone, and how fine-tuning is done.

    jaxpt transfer runs/digits --out=runs/transfer.jsonl
    jaxpt transfer resnet50.pth scratch --out=runs/pets.jsonl --config.data.source=folder \\
        --config.data.path=pets --config.data.image_size=224 --config.model.name=resnet50 \\
        --config.metric=mean_per_class

Values are jaxpt's defaults. ``:smoke`` fine-tunes for seconds; ``transfer/bit.py`` is
BiT-HyperRule.
"""

import ml_collections

from jaxpt.data import augment
from jaxpt.errors import InputError


def get_config(variant: str = ""):
    c = ml_collections.ConfigDict()
    c.frozen = True  # weighted kNN, linear probe, 5-shot, geometry
    c.finetune = True
    c.seeds = (0, 1, 2)  # of fine-tuning
    c.metric = ""  # top1, mean_per_class; "": that of the set's protocol, else top1

    c.data = ml_collections.ConfigDict()  # an empty source: the set of pre-training
    c.data.source = ""
    c.data.path = ""
    c.data.image_size = 32  # as in configs/pretrain/defaults.py
    c.data.train_split = "train"
    c.data.test_split = "test"
    c.data.try_gcs = False
    c.data.background = "white"
    c.data.exif_orientation = True
    c.data.label_map = "fine"
    c.data.limit = 0

    # The network of weight files and of scratch; a workdir has its own.
    c.model = ml_collections.ConfigDict()
    c.model.name = ""  # of a weight file: as the names in it say
    c.model.norm = ""  # batch, group, groupN (N groups); "": as weights tell, batch for scratch
    c.model.dtype = "float32"
    c.model.options = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    c.model.normalisation = ""  # unit, imagenet, MEAN/STD; "": the weight file's, unit for scratch
    c.model.state = ""  # which network of a weight file: a state, or a prefix of names
    c.head = ml_collections.ConfigDict({"name": "linear", "width": 256})  # or mlp, spinal

    # Every rate with every decay; the best on validation is refitted and tested once.
    c.learning_rates = (1e-3, 3e-3)
    c.weight_decays = (1e-4,)
    c.batch_size = 120
    c.duration = "20 epochs"
    c.warmup = "1 epochs"
    c.optimizer = ml_collections.ConfigDict(
        {"name": "adamw", "momentum": 0.9, "clip_norm": 0.0}
    )  # longer gradients are cut; 0: none
    c.schedule = ml_collections.ConfigDict(  # or steps: times factor at those shares of training
        {"name": "cosine", "at": (0.3, 0.6, 0.9), "factor": 0.1}
    )
    c.freeze = 0  # so many of the lowest parts stay as they are: 1 is the stem; -1 all
    c.layer_decay = 1.0  # of the learning rate, from the head towards the stem
    c.label_smoothing = 0.0
    c.mixup = 0.0  # alpha; 0: none
    c.ema = 0.0  # of the weights that are evaluated; 0: none
    c.resize = 0  # training images are resized to this side …
    c.crop = 0  # … and cropped at random to this; test images are resized to it. 0: as they are
    c.rule = ""  # bit: BiT-HyperRule sets what is "" or -1 of duration, warmup, mixup, resize, crop

    c.augment = ml_collections.ConfigDict(  # see configs/pretrain/defaults.py
        augment.Settings(shift=1, contrast=0.2, noise=0.05)._asdict()
    )
    c.mapping = "shard_map"
    c.devices = 0
    return apply_variant(c, variant)


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """ "smoke" for a fine-tuning of seconds, or nothing."""
    if variant == "smoke":
        config.update(
            duration="3 steps",
            warmup="0 steps",
            seeds=(0,),
            batch_size=120,
            learning_rates=config.learning_rates[:1],
        )
    elif variant:
        raise InputError(f"variant {variant!r} is unknown: the only one is smoke.")
    return config
