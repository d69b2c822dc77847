"""Shared parts of the recipes: ImageNet-1k defaults, variants, and the reduction to a smoke run.

A recipe is a config of ``pretrain/imagenet/`` or ``pretrain/cifar.py``: a method with the settings
of its source. Settings that a source does not state, and all constants of LOOK, are jaxpt's.

All recipes differ from PyTorch code in a few ways, on purpose (docs/fidelity.md, "All recipes"):
ResNets see images with mean and standard deviation 0.5 instead of ImageNet's statistics, the blur
has a kernel of a tenth of the side, computation is in bfloat16, dense layers of heads start from
LeCun's initialisation, and epochs follow one another without a gap.
"""

import ml_collections

from jaxpt.configs.pretrain import defaults
from jaxpt.data import presets
from jaxpt.errors import InputError

IMAGES, CLASSES = 1_281_167, 1_000  # of ImageNet-1k's training split

_PLAIN_HEAD = {  # Linear–ReLU–Linear, as in MoCo's moco/builder.py and SupContrast's resnet_big.py
    "model.projector.norm": "none",
    "model.projector.bias": True,
}
# The layers of each method's heads, and whether views pass through BatchNorm together, as in its
# authors' code unless docs/fidelity.md says otherwise; widths are the recipes'. A method that is
# not named has jaxpt's default: Linear–norm–ReLU, Linear.
HEADS: dict[str, dict] = {
    **dict.fromkeys(
        ("sup_con", "sup_moco", "exemplar", "spread", "mask_con", "grafit", "moco_v2"), _PLAIN_HEAD
    ),
    "t_rex": {
        "model.projector.unit_input": True,
        "model.projector.activation": "gelu",
        "model.projector.bias": True,
        "model.projector.last_bias": False,
        "model.projector.init_std": 0.02,
    },
    "moco_v3": {
        "separate_views": True,
        "model.projector.last_norm": "plain",
        "model.projector.last_bias": False,
        "model.predictor.last_bias": False,
    },
    "simclr": {
        "model.projector.last_norm": "scale",
        "model.projector.last_bias": False,
        "model.projector.init_std": 0.01,
    },
    "byol": {
        "separate_views": True,
        "model.projector.bias": True,
        "model.projector.last_bias": False,
        "model.predictor.bias": True,
        "model.predictor.last_bias": False,
    },
    "simsiam": {
        "separate_views": True,
        "model.projector.last_norm": "plain",
        "model.projector.last_bias": False,
    },
    "barlow_twins": {"separate_views": True, "model.projector.last_bias": False},
    "vicreg": {
        "separate_views": True,
        "model.projector.bias": True,
        "model.projector.last_bias": False,
    },
    "dino": _PLAIN_HEAD | {"model.projector.activation": "gelu", "model.projector.init_std": 0.02},
    "nn_clr": {"model.projector.last_norm": "affine", "model.projector.last_bias": False},
}
# MoCo's code decays all parameters and starts residual blocks as torchvision does by default.
MOCO = {"optimizer.decay_vectors": True, "model.options": {"zero_init": False}}
# ViT-S/16, if the source has no settings for it: AdamW as in MoCo v3 (Chen et al., ICCV 2021), a
# longer warm-up than for ResNets, and clipping, which is jaxpt's choice.
VIT_S16 = {
    "model.name": "vit_s16",
    "model.norm": "sync_batch",
    # No norm follows the patch projection, so the scale of its input matters.
    "model.normalisation": "imagenet",
    "model.options": {},
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.1,
    "optimizer.clip_norm": 1.0,
    "optimizer.warmup": "10 epochs",
    "optimizer.drop_at": (),
    "rate": 1.5e-4,
}


def imagenet(
    method: str,
    variant: str,
    settings: dict,
    *,
    augment: str,
    vit: dict | None = None,
    longer: dict | None = None,
) -> ml_collections.ConfigDict:
    """Builds a recipe for ImageNet-1k, by default with ResNet-50 for 100 epochs.

    Args:
      method: name of the method.
      variant: words joined by commas: "vit_s16", a key of ``longer``, "smoke".
      settings: fields by their dotted names; "rate" is the learning rate for 256 images, scaled to
        the batch size.
      augment: a preset of ``jaxpt.data.presets``.
      vit: settings of ViT-S/16 that override ``VIT_S16`` and ``settings``.
      longer: settings per word of the variant, such as "300ep".

    Raises:
      InputError: for an unknown word.
    """
    c = defaults.apply_variant(defaults.get_config(), method)
    c.data.source = "folder"
    c.data.path = "imagenet"  # with train/CLASS/IMAGE
    c.data.image_size = 224
    c.data.crop_pct = 0.875  # squares are 224 pixels of a shorter side of 256
    c.data.crops = "whole"
    c.duration = "100 epochs"
    c.batch_size = 1024
    presets.apply(c, augment)
    c.model.name = "resnet50"
    c.model.norm = "sync_batch"
    c.model.dtype = "bfloat16"
    c.optimizer.name = "sgd"
    c.optimizer.warmup = "5 epochs"
    c.ema = 0.999
    c.memory = 65_536
    c.log_every, c.knn_every, c.checkpoint_every = "100 steps", "5 epochs", "1 epochs"
    # The network comes last, so that its settings override those of longer runs.
    return changed(
        c,
        variant,
        HEADS.get(method, {}) | settings,
        {**(longer or {}), "vit_s16": VIT_S16 | (vit or {})},
    )


def changed(
    config, variant: str, settings: dict, words: dict[str, dict]
) -> ml_collections.ConfigDict:
    """Applies ``settings``, then the settings of the variant's words, in the order of ``words``."""
    asked = list(filter(None, variant.split(",")))
    unknown = [word for word in asked if word not in {*words, "smoke"}]
    if unknown:
        raise InputError(
            f"variant {unknown[0]!r} is unknown: use one of {', '.join([*words, 'smoke'])}."
        )
    fields = dict(settings)
    for word in words:
        fields |= words[word] if word in asked else {}
    rate = fields.pop("rate")
    config.update_from_flattened_dict(
        {name: value for name, value in fields.items() if name != "model.options"}
    )
    config.model.options = ml_collections.ConfigDict(
        fields.get("model.options", {}), allow_dotted_keys=False
    )
    config.optimizer.learning_rate = rate * config.batch_size / 256
    return shrunk(config) if "smoke" in asked else config


def shrunk(config) -> ml_collections.ConfigDict:
    """Reduces a recipe to a run of a few seconds with a network of two layers.

    It trains on digits, or on two photographs if views are taken from whole pictures. Method, loss,
    optimizer and augmentation are unchanged. A ViT keeps its type, with one block.
    """
    whole = config.data.crops == "whole"
    config.data.update(source="photographs" if whole else "digits", path="", limit=64)
    config.data.image_size = 8
    config.model.update(dtype="float32")
    config.model.projector.hidden = tuple(16 for _ in config.model.projector.hidden)
    config.model.predictor.hidden = tuple(16 for _ in config.model.predictor.hidden)
    config.model.projector.dim = 8
    if config.model.name.startswith("vit"):
        options = config.model.options.to_dict() | {"patch": 4, "image_size": 8, "depth": 1}
    else:
        config.model.name, options = "small_cnn", {"widths": (8, 16), "strides": (2, 1)}
    config.model.options = ml_collections.ConfigDict(options, allow_dotted_keys=False)
    config.local_augment.crop_size = 4 if config.local_augment.crop_size else 0
    config.batch_size, config.memory = 16, 64
    config.dino.prototypes = 32
    config.look.k = min(config.look.k, 8)
    config.local_views = min(config.local_views, 2)
    config.duration, config.optimizer.warmup = "2 steps", "1 steps"
    config.log_every = config.knn_every = config.checkpoint_every = "2 steps"
    config.knn_k = 5
    config.micro_batches = config.devices = 1
    return config
