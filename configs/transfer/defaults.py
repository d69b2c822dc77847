"""Transfer: what is measured of a pre-trained encoder, and how fine-tuning is done.

    jaxpt transfer runs/digits --out=runs/transfer.jsonl

Values are jaxpt's defaults. ``:smoke`` fine-tunes for seconds.
"""

import ml_collections

from jaxpt.errors import InputError


def get_config(variant: str = ""):
    c = ml_collections.ConfigDict()
    c.frozen = True  # weighted kNN, linear probe, 5-shot, geometry
    c.finetune = True  # the full network with a new linear head
    c.seeds = (0, 1, 2)  # of fine-tuning
    c.batch_size = 120
    c.duration = "20 epochs"
    c.learning_rates = (1e-3, 3e-3)  # the best on validation is refitted and tested once
    c.optimizer = ml_collections.ConfigDict(
        {"name": "adamw", "learning_rate": 0.0, "momentum": 0.9, "weight_decay": 1e-4})
    c.warmup = "1 epochs"

    c.data = ml_collections.ConfigDict()  # an empty source: the set of pre-training
    c.data.source = ""
    c.data.path = ""
    c.data.image_size = 32  # as in configs/pretrain/defaults.py
    c.data.train_split = "train"
    c.data.test_split = "test"
    c.data.try_gcs = False
    c.data.label_map = "fine"
    c.data.limit = 0

    c.augment = ml_collections.ConfigDict(
        {"crop_area": (1.0, 1.0), "crop_size": 0, "shift": 1, "flip": False, "contrast": 0.2,
         "brightness": 0.0, "noise": 0.05, "erase": 0.0})
    c.mapping = "shard_map"
    c.devices = 0
    if variant == "smoke":
        c.duration, c.warmup, c.seeds, c.learning_rates = "3 steps", "0 steps", (0,), (1e-3,)
    elif variant:
        raise InputError(f"variant {variant!r} is unknown: the only one is smoke.")
    return c
