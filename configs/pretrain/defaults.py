"""Default pre-training config: every field with its default value and its meaning.

The values are jaxpt's defaults. None of LOOK's is the paper's: we had no access to its values.
Only the four methods that the demo compares are tuned.
"""

import functools

import ml_collections

from jaxpt import old_names
from jaxpt.data import presets
from jaxpt.errors import InputError
from jaxpt.methods import METHODS


def get_config() -> ml_collections.ConfigDict:
    c = ml_collections.ConfigDict()
    c.seed = 0  # of initial parameters, order and augmentation
    c.method = "look"  # one of jaxpt.methods.METHODS; set it by variant, see ``apply_variant``
    c.duration = "60 epochs"  # in epochs, steps or examples
    c.batch_size = 120  # images per step, over all devices
    c.micro_batches = 1  # parts in which a device encodes its share of a batch, to save memory
    c.views = 1  # augmented views per image and step that the online encoder sees
    c.separate_views = False  # whether full views have BatchNorm statistics of their own
    c.local_views = 0  # small crops per image in addition to the views (multi-crop)

    c.data = ml_collections.ConfigDict()
    c.data.source = "digits"  # folder, npz, tfds:NAME, grain:MODULE:FUNCTION, protocol:NAME, …
    c.data.path = ""  # file or folder of the images
    c.data.sources = ml_collections.ConfigDict({}, allow_dotted_keys=False)  # name → fields, weight
    c.data.image_size = 32  # pixels, for folder, tfds of mixed shapes, protocol (0: the protocol's)
    c.data.crop_pct = 0.0  # share of the shorter side in the centre square; 0: the weights', else 1
    c.data.interpolation = ""  # bicubic, bilinear, lanczos; "": the weights', else bicubic
    c.data.train_split = "train"  # of tfds:NAME, in tfds' slicing language
    c.data.test_split = "test"  # of tfds:NAME
    c.data.try_gcs = False  # first look for a prepared copy in tfds' bucket
    c.data.broken = "stop"  # at unreadable files of a folder: stop, or skip them
    c.data.background = "white"  # colour behind transparent pixels: white, black or #rrggbb
    c.data.exif_orientation = True  # rotate images according to their EXIF orientation
    c.data.resident = "auto"  # images on the devices: yes, no (streamed by the host), auto: by size
    c.data.resident_limit_mb = 2048  # "auto" streams larger data sets
    c.data.crops = "auto"  # cut views from the whole picture or its square; auto: whole if streamed
    c.data.resampler = "auto"  # of whole pictures: pillow, cykooz_resizer; auto: the faster one
    c.data.workers = 0  # threads that decode streamed images; 0: one per core
    c.data.prefetch = 2  # batches decoded ahead
    c.data.label_map = "fine"  # fine, halves, parity, fashion5, level:1 (coarsest), FILE.csv
    c.data.test_share = 0.0  # of each class, held out to test a set with a training part alone
    c.data.limit = 0  # number of training images to keep; 0: all
    c.data.pretrain_limit = 0  # number of these that pre-training sees; 0: all
    c.data.long_tail = ""  # long-tailed draw of these: exponential:RATIO, pareto:RATIO; "": all
    c.data.long_tail_images = 0  # their number; 0: as many as the classes allow
    c.data.long_tail_seed = 0  # which classes are rare, and which of their images are drawn
    c.data.sampling = "instance"  # classes in batches: instance, square_root or class_balanced
    c.data.wrong_labels = 0.0  # share of these that get another coarse class, to test robustness
    c.data.train_on = "trainval"  # or train: a fifth is held out for validation

    c.augment = ml_collections.ConfigDict()  # for the views, and for a target that sees them
    c.augment.crop_area = (1.0, 1.0)  # smallest and largest share of the image that a crop keeps
    c.augment.crop_size = 0  # side of the crop after resizing, pixels; 0: the image's
    c.augment.crop_interpolation = "bilinear"  # or bicubic; both antialiased
    c.augment.shift = 1  # largest translation, pixels
    c.augment.flip = False  # horizontal flip of half of the views
    c.augment.contrast = 0.2  # largest relative change
    c.augment.brightness = 0.0  # largest change, share of the full range
    c.augment.noise = 0.05  # standard deviation, share of the full range
    c.augment.erase = 0.0  # side of the erased square, share of the image's side
    c.augment.rand_augment = 0  # number of RandAugment's operations; 0: none
    c.augment.rand_augment_level = 9.0  # strength of RandAugment's operations, 0 … 10
    c.augment.jitter = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    c.augment.jitter_probability = 0.8  # of colour jitter
    c.augment.grey = 0.0  # probability of greyscale
    c.augment.blur = (0.0,)  # probabilities for the first view, the second, …, all further ones
    c.augment.blur_sigma = (0.1, 2.0)  # smallest and largest standard deviation, pixels
    c.augment.blur_size = 0.1  # side of the kernel, share of the image's side
    c.augment.solarise = (0.0,)  # probabilities, as for blur
    c.key_augment = ml_collections.ConfigDict(c.augment.to_dict())  # for keys of a memory
    c.local_augment = ml_collections.ConfigDict(c.augment.to_dict())  # for small crops
    c.local_augment.crop_area = (0.1, 0.5)

    c.model = ml_collections.ConfigDict()
    c.model.name = "small_cnn"  # one of jaxpt.models.BACKBONES: resnet50, vit_s16, …
    c.model.weights = ""  # torchvision or timm file with the backbone's initial weights; "": random
    c.model.state = ""  # network to read from that file: a state, or a prefix of names
    c.model.normalisation = ""  # of images: unit, imagenet or MEAN/STD; "": the file's, else unit
    c.model.norm = "group"  # group, groupN, batch or sync_batch; ignored by ViTs and ConvNeXts
    c.model.dtype = "float32"  # of the computation; parameters stay float32
    c.model.remat = False  # recompute blocks in the backward pass, to save memory
    c.model.options = ml_collections.ConfigDict({}, allow_dotted_keys=False)  # of the network
    c.model.projector = ml_collections.ConfigDict()
    c.model.projector.hidden = (128,)  # widths of the hidden layers
    c.model.projector.dim = 64  # width of the output
    c.model.projector.unit_input = False  # scale the features to length one first
    c.model.projector.norm = ""  # of hidden layers: none, or as model.norm; "": model.norm
    c.model.projector.activation = "relu"  # of hidden layers: relu or gelu
    c.model.projector.bias = False  # whether hidden layers have a bias
    c.model.projector.last_norm = "none"  # of the output: none, plain, scale or affine (+ offset)
    c.model.projector.last_bias = True  # whether the last layer has a bias
    c.model.projector.init_std = 0.0  # standard deviation of the initial weights; 0: LeCun's
    c.model.predictor = ml_collections.ConfigDict()  # of BYOL and similar methods, as projector
    c.model.predictor.hidden = (128,)
    c.model.predictor.norm = ""
    c.model.predictor.activation = "relu"
    c.model.predictor.bias = False
    c.model.predictor.last_norm = "none"
    c.model.predictor.last_bias = True
    c.model.predictor.init_std = 0.0

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # adamw, sgd or lars
    c.optimizer.learning_rate = 3e-3  # largest, after the warm-up
    c.optimizer.momentum = 0.9  # of sgd and lars
    c.optimizer.weight_decay = 1e-4  # of weight matrices and kernels, see decay_vectors
    c.optimizer.warmup = "0 steps"  # duration of the linear warm-up of the learning rate
    c.optimizer.final_rate = 0.0  # learning rate at the end, as a share of learning_rate
    c.optimizer.drop_at = ()  # shares of the training at which the rate drops; (): cosine instead
    c.optimizer.drop_factor = 0.1  # of each of these drops
    c.optimizer.clip_norm = 0.0  # larger gradients are scaled down to this norm; 0: no clipping
    c.optimizer.clip_each = False  # clip every array by its own norm, not all by the global one
    c.optimizer.nesterov = False  # of sgd
    c.optimizer.late_rate = False  # of lars: multiply by the rate after the momentum, not before
    c.optimizer.weight_decay_end = -1.0  # final value of a cosine; negative: it is constant
    c.optimizer.decay_vectors = False  # whether weight decay also applies to biases and norms
    c.optimizer.vector_rate = 1.0  # learning rate of biases and norms, as a share of learning_rate
    c.optimizer.constant_predictor = False  # train the predictor at learning_rate throughout
    c.optimizer.freeze = ()  # names of modules or parameters that are not trained, …
    c.optimizer.freeze_for = ""  # … and for how long; "": always

    # Fields of several methods: jaxpt.methods.METHODS lists which methods read them.
    c.other_sources = "ignored"  # images of other data.sources in the loss: ignored, or negatives
    c.temperature = 0.1  # τ of the loss, by which similarities are divided
    c.memory = 1200  # number of keys in a queue
    c.memory_kind = "queue"  # queue: the latest keys; bank: one key per training example
    c.memory_momentum = 0.5  # weight of the old key when a bank's key is updated
    c.memory_sharding = "replicated"  # replicated; sharded: each device holds a part of the slots
    c.memory_dtype = "float32"  # float32, or bfloat16: half the bytes, compared in float32
    c.neighbor_workspace = 512  # MiB of similarities that LOOK and NCA hold on accelerators
    c.ema = 0.98  # decay of the target encoder's moving average
    c.ema_end = -1.0  # final EMA of a cosine schedule; negative: the EMA is constant
    c.weight_ema = 0.0  # decay of an average of the weights, for methods without a target; 0: none
    c.evaluated_weights = "online"  # to measure and export: online, or target (EMA)
    c.target_norm = "batch"  # BatchNorm statistics in the target encoder: batch or running

    c.rw_sam = ml_collections.ConfigDict()  # sharpness-aware steps, see docs/imbalance.md
    c.rw_sam.rho = 0.0  # length of the step uphill before the gradient is taken; 0: none
    c.rw_sam.alpha = 1.0  # weight of an image uphill: its density to this negative power; 0: SAM
    c.rw_sam.bandwidth = 0.25  # of the density's kernel, a share of the features' r.m.s. distance
    c.rw_sam.features = 2048  # number of latest features, among which the density is estimated

    # Fields of a single method, under its name.
    c.look = ml_collections.ConfigDict()
    c.look.k = 100  # neighbours per query
    c.look.neighbors = "exact"  # exact; approximate: faster on TPUs, misses some (metric: recall)
    c.look.k_warmup = "0 steps"  # duration of k's decay from the whole memory to look.k
    c.look.k_by_class = False  # make k proportional to the frequency of the class in the memory
    c.look.no_positive = "nearest"  # queries without same-class neighbours: nearest, drop or floor
    c.look.own_view = 0.0  # weight of an InfoNCE term whose positive is the image's second view
    c.look.gate = 0.0  # steepness of a soft edge of the neighbourhood; 0: hard edge
    c.look.balanced = False  # weight neighbours by the inverse frequency of their class
    c.look.robustness = 0.0  # q of the loss (1 − p^q) / q for noisy labels; 0: −log p

    c.cross_entropy = ml_collections.ConfigDict()
    c.cross_entropy.classifier = "linear"  # linear, or mlp (SL-MLP)
    c.cross_entropy.label_smoothing = 0.0  # share of the target spread over all classes
    c.cross_entropy.mixup = 0.0  # alpha of the Beta distribution of mixup's weights; 0: no mixup
    c.cross_entropy.cutmix = 0.0  # alpha, as for mixup; with both, each step draws one of them

    c.sup_con = ml_collections.ConfigDict()
    c.sup_con.form = "out"  # mean over the positives outside (out) or inside (in) the logarithm

    c.spread = ml_collections.ConfigDict()
    c.spread.weight = 0.5  # weight of instance discrimination within classes; the rest is SupCon

    c.mask_con = ml_collections.ConfigDict()
    c.mask_con.weight = 1.0  # weight of the soft targets; the rest is the query's own key
    c.mask_con.target_temperature = 0.05  # τ of the soft targets over the keys of the class

    c.grafit = ml_collections.ConfigDict()
    c.grafit.weight = 0.5  # weight of SupCon over the memory; the rest is instance discrimination

    c.t_rex = ml_collections.ConfigDict()
    c.t_rex.prototypes_from = "memory"  # memory (class means: t-ReX, t-ReX*), or learnt (plain)

    c.barlow_twins = ml_collections.ConfigDict()
    c.barlow_twins.redundancy = 0.0051  # weight of the off-diagonal correlations

    c.vicreg = ml_collections.ConfigDict()
    c.vicreg.invariance = 25.0  # weight of the distance between the views
    c.vicreg.variance = 25.0  # weight of the lower bound on each feature's spread
    c.vicreg.covariance = 1.0  # weight of the correlations between features

    c.dino = ml_collections.ConfigDict()
    c.dino.prototypes = 256  # number of outputs of the head, over which the softmax is taken
    c.dino.target_temperature = 0.04  # τ of the target's softmax; below temperature, so sharper
    c.dino.target_temperature_start = 0.04  # its value at the start of the run
    c.dino.target_temperature_warmup = "0 epochs"  # duration of the linear change from there
    c.dino.learnt_norms = False  # whether the norms of the prototypes are learnt; otherwise 1
    c.dino.centre_momentum = 0.9  # momentum of the mean subtracted from the target's outputs

    c.knn_every = "5 epochs"  # interval of the kNN monitor
    c.knn_k = 20  # neighbours of the kNN monitor
    c.knn_fine = False  # also classify by the fine labels
    c.probe = ml_collections.ConfigDict()  # linear classifier of the features, trained alongside
    c.probe.labels = ""  # that it learns: coarse, fine; "": no probe
    c.probe.learning_rate = 1e-3  # of its own optimizer, Adam
    c.log_every = "20 steps"  # interval of rows in metrics.jsonl
    c.trackers = ""  # where rows go in addition: wandb, mlflow, or wandb,mlflow
    c.checkpoint_every = "10 epochs"  # interval of checkpoints
    c.keep_checkpoints = 2  # number of latest checkpoints to keep
    c.keep_best = False  # also keep the checkpoint with the best kNN accuracy
    c.stop_on_save_failure = True  # False: continue, and retry at the next save
    c.max_skipped = 0  # steps with NaN or inf that are skipped before the run stops
    c.steps_per_call = 0  # steps per compiled call; 0: one on CPUs, 16 on accelerators
    c.param_sharding = "replicated"  # sharded: split parameters, moments and target (FSDP)
    c.mapping = "shard_map"  # shard_map or pmap
    c.devices = 0  # number of devices to use; 0: all
    return c


def completed(saved: dict) -> dict:
    """Returns a saved config with current field names and defaults for fields added since.

    Args:
      saved: nested dicts, as in a run's ``config.json`` or a record.
    """

    def fill(default, value):
        if not (isinstance(default, dict) and isinstance(value, dict)):
            return value
        return default | {name: fill(default.get(name), x) for name, x in value.items()}

    return fill(_defaults(), old_names.with_new_names(saved))


@functools.cache
def _defaults() -> dict:
    return get_config().to_dict()


def apply_tuned(config: ml_collections.ConfigDict, tuned: dict) -> ml_collections.ConfigDict:
    """Applies the tuned fields of the config's method, if ``tuned`` has any."""
    config.update_from_flattened_dict(tuned.get(config.method, {}))
    return config


def apply_variant(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies the variant, which is the part of ``--config=FILE:VARIANT`` after the colon.

    A variant is a list of words, joined by commas: the name of a method, "augment=" followed by the
    name of a preset of ``jaxpt.data.presets``, and "smoke", which shortens the run to seconds. The
    name of a method also applies the settings of that method, which ``--config.method`` does not.
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
