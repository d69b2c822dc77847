"""What every pre-training config starts from: each field with what it means.

The values are jaxpt's defaults; where a paper's are unknown (LOOK's), none is the paper's.
Methods other than the four that the demo compares are not tuned.
"""

import ml_collections

from jaxpt import old_names
from jaxpt.data import presets
from jaxpt.errors import InputError
from jaxpt.methods import METHODS


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.method = "look"  # one of jaxpt.methods.METHODS
    c.duration = "60 epochs"  # or steps, or examples
    c.batch_size = 120  # over all devices
    c.micro_batches = 1  # parts that a device encodes its share of a batch in, to save memory
    c.views = 1  # augmented views of each image per step through the online encoder
    c.local_views = 0  # small crops of each image beside them (multi-crop)

    c.data = ml_collections.ConfigDict()
    c.data.source = "digits"  # digits, fashion_mnist, npz, folder, tfds:NAME, protocol:NAME
    c.data.path = ""
    c.data.image_size = 32  # folder, tfds images of several shapes, protocol (0: the protocol's)
    c.data.train_split = "train"  # tfds:NAME, in tfds' slicing language
    c.data.test_split = "test"
    c.data.try_gcs = False  # ask tfds' bucket for a prepared copy first
    c.data.broken = "stop"  # at files that cannot be read (folder), or skip: leave them out
    c.data.resident = "auto"  # on the devices if it fits the limit; yes; no: streamed by the host
    c.data.resident_limit_mb = 2048  # larger sets are streamed
    c.data.workers = 0  # threads that decode what is streamed; 0: one a core
    c.data.prefetch = 2  # batches that they decode ahead
    c.data.label_map = "fine"  # fine, halves, parity, fashion5, level:1 (coarsest), FILE.csv
    c.data.limit = 0  # only so many training images; 0: all
    c.data.pretrain_limit = 0  # pre-training alone sees only so many of them; 0: all
    c.data.train_on = "trainval"  # or "train", which leaves a fifth for validation

    c.augment = ml_collections.ConfigDict()  # of the views, and of a target that sees the same
    c.augment.crop_area = (1.0, 1.0)  # smallest and largest share that a random crop keeps
    c.augment.crop_size = 0  # its side, pixels; 0: the image's
    c.augment.shift = 1  # pixels
    c.augment.flip = False
    c.augment.contrast = 0.2
    c.augment.brightness = 0.0
    c.augment.noise = 0.05  # share of the full range
    c.augment.erase = 0.0  # side of an erased square, share of the image
    c.augment.rand_augment = 0  # operations of RandAugment
    c.augment.rand_augment_level = 9.0  # their strength, 0 … 10
    c.augment.jitter = (0.0, 0.0, 0.0, 0.0)  # of brightness, contrast, saturation, hue
    c.augment.jitter_probability = 0.8
    c.augment.grey = 0.0  # probability
    c.augment.blur = (0.0,)  # probabilities, of the first view, the second, …, all further ones
    c.augment.blur_sigma = (0.1, 2.0)  # pixels
    c.augment.blur_size = 0.1  # side of the kernel, share of the image's
    c.augment.solarise = (0.0,)  # probabilities, as of blur
    c.key_augment = ml_collections.ConfigDict(c.augment.to_dict())  # of keys that go to a memory
    c.local_augment = ml_collections.ConfigDict(c.augment.to_dict())  # of small crops
    c.local_augment.crop_area = (0.1, 0.5)

    c.model = ml_collections.ConfigDict()
    c.model.name = "small_cnn"  # one of jaxpt.models.BACKBONES: resnet50, vit_s16, …
    c.model.weights = ""  # a file of torchvision or timm that the backbone starts from; "": chance
    c.model.normalisation = ""  # of images: unit, imagenet; "": imagenet with weights, else unit
    c.model.norm = "group"  # group, group32, batch, sync_batch; ViTs and ConvNeXts have their own
    c.model.dtype = "float32"  # of the computation; parameters are float32
    c.model.remat = False  # blocks are computed again for the gradient, to save memory
    c.model.options = ml_collections.ConfigDict({}, allow_dotted_keys=False)
    c.model.projector = ml_collections.ConfigDict({"hidden": (128,), "dim": 64})
    c.model.predictor = ml_collections.ConfigDict({"hidden": (128,)})  # BYOL and its kin

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # adamw, sgd, lars
    c.optimizer.learning_rate = 3e-3
    c.optimizer.momentum = 0.9  # sgd and lars
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup = "0 steps"
    c.optimizer.clip_norm = 0.0  # longer gradients are cut to this norm; 0: none is

    # What several methods share: jaxpt.methods.METHODS says which of them read it.
    c.temperature = 0.1  # τ of the loss: similarities are divided by it
    c.memory = 1200  # keys
    c.memory_kind = "queue"  # or bank: one key for each training example
    c.memory_momentum = 0.5  # of a bank's keys
    c.memory_sharding = "replicated"  # or sharded: each device holds its part of the slots
    c.memory_dtype = "float32"  # or bfloat16: half the bytes; keys are compared in float32
    c.ema = 0.98  # of the target encoder
    c.ema_end = -1.0  # where a cosine takes the EMA to; below 0: it stays
    c.target_norm = "batch"  # or "running": BatchNorm statistics in the target encoder

    # What one method alone reads, under its name.
    c.look = ml_collections.ConfigDict()
    c.look.k = 100  # neighbours of a query
    c.look.neighbors = "exact"  # exact; approximate: faster on TPUs, misses some (metric: recall)
    c.look.k_warmup = "0 steps"  # time in which k falls from the whole memory to look.k
    c.look.k_by_class = False  # k in proportion to the class's frequency in the memory
    c.look.no_positive = "nearest"  # queries without a same-class neighbour: nearest, drop, floor
    c.look.own_view = 0.0  # weight of an InfoNCE term: the query's own second view is its positive
    c.look.gate = 0.0  # steepness of a soft edge of the neighbourhood; 0: the hard edge
    c.look.balanced = False  # neighbours weigh in inverse proportion to their class's frequency
    c.look.robustness = 0.0  # q of (1 − p^q) / q, for noisy labels; 0: −log p

    c.cross_entropy = ml_collections.ConfigDict()
    c.cross_entropy.classifier = "linear"  # linear, or mlp, which is SL-MLP
    c.cross_entropy.label_smoothing = 0.0  # share of the target that all classes get
    c.cross_entropy.mixup = 0.0  # alpha of the Beta that weighs two images; 0: no mixup
    c.cross_entropy.cutmix = 0.0  # alpha, as of mixup; with both, each step has one at random

    c.sup_con = ml_collections.ConfigDict()
    c.sup_con.form = "out"  # where the mean over positives is: out of the logarithm, or in it

    c.spread = ml_collections.ConfigDict()
    c.spread.weight = 0.5  # share of instance discrimination within classes; the rest is SupCon

    c.mask_con = ml_collections.ConfigDict()
    c.mask_con.weight = 1.0  # share of the soft targets; the rest has the query's own key alone
    c.mask_con.target_temperature = 0.05  # τ of the soft targets over the class's keys

    c.grafit = ml_collections.ConfigDict()
    c.grafit.weight = 0.5  # share of SupCon over the memory; the rest is instance discrimination

    c.t_rex = ml_collections.ConfigDict()
    c.t_rex.prototypes_from = "learnt"  # learnt, or memory, which is t-ReX*

    c.barlow_twins = ml_collections.ConfigDict()
    c.barlow_twins.redundancy = 0.0051  # weight of the correlations off the diagonal

    c.vicreg = ml_collections.ConfigDict()
    c.vicreg.invariance = 25.0  # weight of the distance between the views
    c.vicreg.variance = 25.0  # weight of the spread that every feature must have
    c.vicreg.covariance = 1.0  # weight of the correlations between features

    c.dino = ml_collections.ConfigDict()
    c.dino.prototypes = 256  # outputs that the softmax is over
    c.dino.target_temperature = 0.04  # τ of the target's softmax, below that of the loss: sharper
    c.dino.centre_momentum = 0.9  # of the mean that is subtracted from the target's outputs

    c.knn_every = "5 epochs"  # kNN monitor
    c.knn_k = 20
    c.log_every = "20 steps"
    c.checkpoint_every = "10 epochs"
    c.keep_checkpoints = 2  # the latest
    c.keep_best = False  # and the one with the best kNN monitor
    c.stop_on_save_failure = True  # or go on, and save again next time
    c.max_skipped = 0  # steps whose numbers are not finite that are skipped before the run stops
    c.steps_per_call = 0  # steps in one compiled call; 0: one on CPUs, 16 on accelerators
    c.param_sharding = "replicated"  # or sharded: parameters, moments and target in parts (FSDP)
    c.mapping = "shard_map"  # or pmap
    c.devices = 0  # all
    return c


def completed(saved: dict) -> dict:
    """A saved config under today's names, with the defaults of fields that came after it.

    Args:
      saved: plain dicts, as in a run's ``config.json`` or a record.
    """

    def fill(default, value):
        if not (isinstance(default, dict) and isinstance(value, dict)):
            return value
        return default | {name: fill(default.get(name), x) for name, x in value.items()}

    return fill(get_config().to_dict(), old_names.with_new_names(saved))


def apply_tuned(config: ml_collections.ConfigDict, tuned: dict) -> ml_collections.ConfigDict:
    """Sets the fields that tuning chose for the config's method, where it was tuned."""
    config.update_from_flattened_dict(tuned.get(config.method, {}))
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Words after the colon, joined by commas: a method's name, "augment=" with the name of a
    preset of ``jaxpt.data.presets``, and "smoke" for seconds.

    The method's name brings its settings; ``--config.method`` alone would not.
    """
    words = list(filter(None, (variant or "").split(",")))
    named = [word for word in words if word in METHODS]
    if len(named) > 1:
        raise InputError(f"variant {variant!r} names {len(named)} methods: name one.")
    for word in words:
        if word in named:
            config.method = word
            config.update_from_flattened_dict(METHODS[word].settings)
        elif word.startswith("augment="):
            presets.apply(config, word.removeprefix("augment="))
        elif word == "smoke":
            config.duration = "4 steps"
            config.log_every = config.knn_every = config.checkpoint_every = "2 steps"
            config.data.limit = 300
        else:
            raise InputError(
                f"variant {word!r} is unknown: use one of {', '.join(METHODS)}, "
                "augment=PRESET and smoke."
            )
    return config
