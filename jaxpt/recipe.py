"""The settings of fine-tuning: what a rule makes of the set, and what is wrong with a config.

BiT-HyperRule is from Kolesnikov et al., "Big Transfer (BiT): general visual representation
learning", ECCV 2020, section 3.3; the warm-up, which the paper does not name, is from the authors'
``bit_hyperrule.py``. There the rate of the smallest sets falls at 200, 300 and 400 of 500 steps;
here, as in the paper, it falls at 30, 60 and 90 % for all sizes. The authors' networks have
GroupNorm and weight standardisation; whatever network is fine-tuned here keeps what it has.
"""

import math
from typing import NamedTuple

import ml_collections

from jaxpt import models
from jaxpt.data import augment, protocols, sources
from jaxpt.errors import require
from jaxpt.evaluation.metrics import METRICS

SCHEDULES = ("cosine", "steps")
UNSET = ("", -1)  # what a field says that is left to the rule
SMALL_AREA = 96 * 96
SMALL, MEDIUM = 20_000, 500_000  # training examples


class Settings(NamedTuple):
    """What the rule sets.

    Attributes:
      resize, crop: side of the square that training images are resized to, and of the random crop
        from it; evaluation resizes to ``crop``.
      duration, warmup: of training.
      mixup: α.
    """

    resize: int
    crop: int
    duration: str
    warmup: str
    mixup: float


def bit(*, examples: int, height: int, width: int) -> Settings:
    """The rule's settings for a set of so many training examples of that size in pixels."""
    resize, crop = (160, 128) if height * width < SMALL_AREA else (512, 480)
    if examples < SMALL:
        return Settings(resize, crop, "500 steps", "100 steps", 0.0)
    duration = "10000 steps" if examples < MEDIUM else "20000 steps"
    return Settings(resize, crop, duration, "500 steps", 0.1)


def resolve(config, dataset: sources.Dataset, *, source: str = "") -> ml_collections.ConfigDict:
    """The config with everything set that it leaves to the rule or to the set, and checked.

    An empty metric is that of the protocol that ``source`` names, else top-1. Fields that are
    not "" or −1 stay as they are, whatever the rule says. The rule goes by the number of training
    examples, validation included.

    Raises:
      InputError: as ``check``.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    images = dataset.trainval.images
    rule = bit(examples=len(images), height=images.shape[1], width=images.shape[2])
    config.metric = config.metric or protocols.metric_of(source)
    check(config)
    for name, value in rule._asdict().items():
        if config[name] in UNSET:
            config[name] = value
    check(config)
    return config


def check(config) -> None:
    """Raises InputError for settings that make no sense, or that are left to no rule."""
    models.make_head(config.head, classes=1)
    require(config.rule in ("", "bit"), f'rule must be "" or "bit", got {config.rule!r}.')
    unset = [name for name in Settings._fields if config[name] in UNSET]
    require(
        config.rule == "bit" or not unset,
        f'no rule sets {", ".join(unset)}: set what is "" or -1, or rule to "bit".',
    )
    for name in "learning_rates", "weight_decays", "seeds":
        require(len(config[name]) > 0, f"{name} is empty: name at least one.")
    require(
        all(0 <= seed < 2**31 for seed in config.seeds),
        f"seeds must lie in 0 … 2147483647, got {tuple(config.seeds)}.",
    )
    finite = {
        "learning_rates": config.learning_rates,
        "weight_decays": config.weight_decays,
        "optimizer.clip_norm": [config.optimizer.clip_norm],
        "mixup": [config.mixup],
    }
    for name, values in finite.items():
        require(
            name in unset or all(0 <= value < math.inf for value in values),
            f"{name} must be finite and not negative, got {_told(values)}.",
        )
    for name in "ema", "label_smoothing":
        require(
            0 <= config[name] < 1, f"{name} must be at least 0 and below 1, got {config[name]}."
        )
    augment.check(config.augment)
    require(config.augment.crop_size == 0, "augment.crop_size is of no use here: set crop.")
    require(
        {"resize", "crop"} & {*unset}
        or 0 < config.crop <= config.resize
        or config.crop == config.resize == 0,
        f"crop must lie between 1 and resize, or both be 0, got {config.crop} of {config.resize}.",
    )
    for name, value, known in (
        ("metric", config.metric or "top1", sorted(METRICS)),
        ("schedule.name", config.schedule.name, SCHEDULES),
    ):
        require(value in known, f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _told(values):
    return tuple(values) if len(values) > 1 else values[0]
