"""Default transfer config: the measurements of a pre-trained backbone, and its fine-tuning.

    jaxpt transfer runs/digits --out=runs/transfer.jsonl
    jaxpt transfer resnet50.pth scratch --out=runs/pets.jsonl --config.data.source=folder \\
        --config.data.path=pets --config.data.image_size=224 --config.model.name=resnet50 \\
        --config.metric=mean_per_class

The values are jaxpt's defaults. The variant ``:smoke`` fine-tunes for a few seconds. For
BiT-HyperRule use ``transfer/bit.py``.
"""

import ml_collections

from jaxpt.data import augment
from jaxpt.errors import InputError


def get_config(variant: str = ""):
    c = ml_collections.ConfigDict()
    c.frozen = True  # evaluate frozen features: weighted kNN, linear probe, 5-shot, geometry
    c.finetune = True  # fine-tune the backbone
    c.seeds = (0, 1, 2)  # of fine-tuning
    c.metric = ""  # top1 or mean_per_class; "": that of the set's protocol, else top1

    c.data = ml_collections.ConfigDict()
    c.data.source = ""  # "": the data set of pre-training
    # These are explained in configs/pretrain/defaults.py.
    c.data.path = ""
    c.data.image_size = 32
    c.data.crop_pct = 0.0
    c.data.interpolation = ""
    c.data.resident = "auto"
    c.data.resident_limit_mb = 2048
    c.data.crops = "auto"
    c.data.resampler = "auto"
    c.data.train_split = "train"
    c.data.test_split = "test"
    c.data.try_gcs = False
    c.data.background = "white"
    c.data.exif_orientation = True
    c.data.label_map = "fine"
    c.data.test_share = 0.0
    c.data.limit = 0
    c.data.shots = 0  # labelled training images per class, drawn anew for each seed; 0: all
    c.data.labelled_share = 1.0  # share of the training images of each class with a label; 1: all

    # The network for weight files and for training from scratch; a workdir has its own.
    c.model = ml_collections.ConfigDict()
    c.model.name = ""  # a backbone; "": recognised from the names in the weight file
    c.model.norm = ""  # batch, group, groupN (N groups); "": from the weights, batch for scratch
    c.model.dtype = "float32"
    c.model.options = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    c.model.normalisation = ""  # unit, imagenet or MEAN/STD; "": the file's, unit for scratch
    c.model.state = ""  # network to read from a weight file: a state, or a prefix of names
    c.head = ml_collections.ConfigDict()
    c.head.name = "linear"  # linear, mlp, spinal, or covariance (second-order pooling)
    c.head.width = 256  # of hidden layers; most channels of covariance
    c.head.iterations = 24  # of Newton and Schulz, in covariance
    c.head.temperature = 0.0  # of unit features compared with a vector of each class; 0: W x + b

    # Tries all pairs of rate and decay; the best on validation is trained again and tested once.
    c.learning_rates = (1e-3, 3e-3)  # to choose from
    c.weight_decays = (1e-4,)  # to choose from
    c.batch_size = 120
    c.duration = "20 epochs"
    c.warmup = "1 epochs"  # duration of the linear warm-up of the learning rate
    c.optimizer = ml_collections.ConfigDict(  # clip_norm 0: no clipping
        {"name": "adamw", "momentum": 0.9, "clip_norm": 0.0}
    )
    c.schedule = ml_collections.ConfigDict(  # cosine; or steps: times factor at shares of training
        {"name": "cosine", "at": (0.3, 0.6, 0.9), "factor": 0.1}
    )
    c.freeze = 0  # number of lowest parts that are not trained: 1 is the stem; -1: all
    c.layer_decay = 1.0  # factor of the learning rate per part, from the head towards the stem
    c.label_smoothing = 0.0  # share of the target spread over all classes
    c.mixup = 0.0  # alpha; 0: no mixup
    c.minimax_entropy = 0.0  # weight of the entropy of training images without labels; 0: unused
    c.ema = 0.0  # decay of the average of weights that is evaluated; 0: no average
    c.resize = 0  # side to which training images are resized; 0: unchanged
    c.crop = 0  # side of their random crop, and of resized test images; 0: unchanged
    c.rule = ""  # bit: BiT-HyperRule sets duration, warmup, mixup, resize, crop if "" or -1

    c.augment = ml_collections.ConfigDict(  # see configs/pretrain/defaults.py
        augment.Settings(shift=1, contrast=0.2, noise=0.05)._asdict()
    )
    c.mapping = "shard_map"
    c.devices = 0
    return apply_variant(c, variant)


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies the variant: "smoke" for a fine-tuning of a few seconds, or ""."""
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
