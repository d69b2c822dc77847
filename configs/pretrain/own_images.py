"""Pre-training on a folder of your own images, with settings chosen for it.

    jaxpt pretrain --config=pretrain/own_images.py:cpu --config.data.path=photos \\
        --workdir=runs/photos

Words of the variant: cpu (planned for ten minutes on two cores: ResNet-18, 64 pixels; the default),
gpu (an hour at most on a GPU: ResNet-50, 160 pixels) or full (ResNet-50, 224 pixels, all devices);
the name of a method (default: look); an augmentation preset, such as augment=simclr; smoke (a few
seconds). The networks have BatchNorm, so ``jaxpt export`` writes them for timm.

Image size, batch, memory, k, the level of the labels and the duration are chosen from the number,
size and classes of the images, and printed with the reason. A flag or an assignment in your own
copy of this file takes precedence. If there is no test part, a fifth of each class is held out.
From Python: set ``data.path``, then ``config = own_images.fit(config)``.
"""

import collections
import contextlib
import pathlib
import statistics
from typing import NamedTuple

import ml_collections
from PIL import Image

from jaxpt.configs.pretrain import defaults, recipes
from jaxpt.data import labels, listing, presets, sources
from jaxpt.data.dataset import limited
from jaxpt.errors import InputError
from jaxpt.methods import METHODS
from jaxpt.train.progress import tell

SMALLEST, LARGEST_MEMORY = 32, 65_536  # pixels; keys
CLASS = 16  # training images that a class of the chosen level should have
SAMPLE = 200  # files whose size is looked up


class Size(NamedTuple):
    """Limits of a variant: pixels, images per step, passes over the set, and images seen in all."""

    network: str
    dtype: str
    side: int
    batch: int
    epochs: int
    seen: int


# The last number is what fits into the time that a variant promises.
SIZES = {
    "cpu": Size("resnet18", "float32", 64, 64, 100, 40_000),
    "gpu": Size("resnet50", "bfloat16", 160, 256, 200, 5_000_000),
    "full": Size("resnet50", "bfloat16", 224, 1024, 200, 100_000_000),
}
# Values that leave a field to ``fit``.
OPEN = {
    "data.image_size": 0,
    "data.label_map": "auto",
    "batch_size": 0,
    "memory": 0,
    "look.k": 0,
    "knn_k": 0,
    "duration": "",
}


def get_config(variant: str = "cpu"):
    words = list(filter(None, variant.split(",")))
    sizes = [word for word in words if word in SIZES]
    if len(sizes) > 1:
        raise InputError(f"variant {variant!r} names {len(sizes)} sizes: name one.")
    unknown = [w for w in words if w not in (*SIZES, *METHODS, "smoke") and "augment=" not in w]
    if unknown:
        raise InputError(
            f"variant {unknown[0]!r} is unknown: use one of {', '.join(SIZES)}, a method, "
            "augment=PRESET and smoke."
        )
    name = (sizes or ["cpu"])[0]
    size = SIZES[name]
    c = defaults.get_config()
    c.size = name
    method = next((word for word in words if word in METHODS), "look")
    defaults.apply_variant(c, method)
    c.data.source, c.data.path = "folder", "photos"
    c.data.test_share = 0.2
    presets.apply(c, "moco_v2")
    c.key_augment.update(presets.PRESETS["imagenet"].views._asdict())  # weaker than the queries'
    if name == "cpu":
        for part in c.augment, c.key_augment, c.local_augment:
            part.blur = (0.0,)  # slow on CPUs, and 64 pixels are blurred already
    c.update_from_flattened_dict(recipes.HEADS.get(method, {}))
    c.model.name, c.model.dtype = size.network, size.dtype
    c.model.norm = "batch" if name == "cpu" else "sync_batch"
    c.model.projector.update(hidden=(512,), dim=128)
    c.optimizer.learning_rate, c.optimizer.weight_decay = 1e-3, 1e-2  # of AdamW
    c.ema = 0.99
    c.update_from_flattened_dict(OPEN)
    for word in words:
        if word.startswith("augment="):
            presets.apply(c, word.removeprefix("augment="))
    if "smoke" in words:
        c.update_from_flattened_dict(
            {"data.image_size": 16, "data.limit": 64, "batch_size": 16, "duration": "2 steps"}
        )
        c.model.update(name="small_cnn", norm="batch", dtype="float32")
        c.model.options = ml_collections.ConfigDict(
            {"widths": (8, 16), "strides": (2, 1)}, allow_dotted_keys=False
        )
        c.model.projector.update(hidden=(16,), dim=8)
        c.log_every = c.knn_every = c.checkpoint_every = "2 steps"
    return c


def fit(config) -> ml_collections.ConfigDict:
    """Chooses the fields that are open, and prints them with the reasons.

    ``jaxpt`` calls it after all flags have been applied.

    Args:
      config: of ``get_config``.

    Raises:
      InputError: if the images cannot be listed.
    """
    config, size = config.copy_and_resolve_references(), SIZES[config.size]
    with config.unlocked():
        del config.size
    given = {name: value for name, value in _flat(config).items() if value != OPEN.get(name)}
    classes, side = _images(config.data)
    classes = [classes[i] for i in limited(len(classes), config.data.limit)]
    reasons = {}

    def choose(name, value, reason):
        if name not in given:
            config.update_from_flattened_dict({name: value})
            reasons[name] = reason

    n = len(classes)
    short = max(SMALLEST, side // SMALLEST * SMALLEST)
    choose(
        "data.image_size",
        min(size.side, short),
        f"the typical image has {side} pixels on its shorter side, and the variant at most "
        f"{size.side}",
    )
    level, reason = _level(classes)
    choose("data.label_map", level, reason)
    typical = _typical(
        labels.label_map(config.data.label_map, tuple(sorted(set(classes)))), classes
    )
    batch = 2 ** max(3, (n // 8).bit_length() - 1)
    choose(
        "batch_size",
        min(size.batch, batch),
        f"{n:,} training images, at least eight steps in each pass",
    )
    batch = config.batch_size
    keys = min(n, LARGEST_MEMORY) // batch * batch or batch
    choose(
        "memory",
        keys,
        "the latest key of every training image, in whole batches"
        if n <= LARGEST_MEMORY
        else "as many keys as are compared quickly",
    )
    of_class = max(1, round(typical * config.memory / n))
    k = min(400, max(3, round(of_class / 3)))
    choose(
        "look.k", k, f"a third of the {of_class:,} keys that the memory holds of a typical class"
    )
    choose(
        "knn_k", max(1, min(20, typical - 1)), f"a typical class has {typical:,} training images"
    )
    epochs = min(size.epochs, size.seen // n)
    choose(
        "duration",
        f"{epochs} epochs" if epochs else f"{size.seen} examples",
        f"at most {size.epochs} passes and {size.seen:,} images",
    )
    if "duration" in reasons and epochs:
        often = f"{max(1, epochs // 10)} epochs"
        config.knn_every = config.checkpoint_every = often
        config.optimizer.warmup = f"{max(1, epochs // 20)} epochs"
    for name, reason in reasons.items():
        section, _, field = name.rpartition(".")
        tell(f"jaxpt: {name}={config[section][field] if section else config[field]}: {reason}.")
    return config


def _flat(config) -> dict:
    return {
        name: (config[a] if not b else config[a][b])
        for name in OPEN
        for a, _, b in [name.partition(".")]
    }


def _images(data) -> tuple[list[str], int]:
    """Class of each training image, and the median length of the shorter sides in pixels."""
    if data.source != "folder":
        found = ml_collections.ConfigDict(data.to_dict())
        found.update(label_map="fine", image_size=data.image_size or SMALLEST)
        found = sources.load(found)
        return [found.class_names[y] for y in found.trainval.labels], found.train.images.shape[1]
    parts = listing.contents(pathlib.Path(data.path)).parts
    classes, files = list(parts["train"].classes), parts["train"].files
    sides = []
    for file in files[:: max(1, len(files) // SAMPLE)]:
        with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            with Image.open(file) as image:
                sides.append(min(image.size))
    if len(parts) == 1 and data.test_share:
        counts = collections.Counter(classes)
        kept = {
            c: count - min(round(data.test_share * count), count - 1) for c, count in counts.items()
        }
        classes = [c for c, count in kept.items() for _ in range(count)]
    return classes, round(statistics.median(sides or [SMALLEST]))


def _level(classes: list[str]) -> tuple[str, str]:
    """Label map of the finest level whose classes are not too small, and the reason."""
    levels = max(len(name.split("/")) for name in classes)
    if levels == 1:
        return "fine", f"{len(set(classes)):,} classes without levels"
    for level in range(levels, 0, -1):
        name = "fine" if level == levels else f"level:{level}"
        mapped = labels.label_map(name, tuple(sorted(set(classes))))
        typical = _typical(mapped, classes)
        if typical >= CLASS or level == 1:
            return name, (
                f"{len(mapped.names):,} classes at level {level} of {levels}, and a typical "
                f"image's class has {typical:,} images"
            )


def _typical(mapped: labels.LabelMap, classes: list[str]) -> int:
    """Size of the class of a typical image: the median over images."""
    of = dict(zip(sorted(set(classes)), mapped.coarse_of, strict=True))
    counts = collections.Counter(of[name] for name in classes)
    return round(statistics.median(counts[of[name]] for name in classes))
