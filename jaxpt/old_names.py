"""Renamed fields of the pre-training config.

Saved configs (of runs, exports and records) are read with old names replaced by new ones. In a
config that a user writes, an old name is an error that gives the new one.
"""

from typing import Any, Mapping

from jaxpt.errors import InputError

# Old name → new names. A field with several new names had a different meaning in each method.
MOVED = {
    "k": ("look.k",),
    "k_warmup": ("look.k_warmup",),
    "k_by_class": ("look.k_by_class",),
    "neighbors": ("look.neighbors",),
    "no_positive": ("look.no_positive",),
    "own_view": ("look.own_view",),
    "gate": ("look.gate",),
    "balanced": ("look.balanced",),
    "robustness": ("look.robustness",),
    "classifier": ("cross_entropy.classifier",),
    "label_smoothing": ("cross_entropy.label_smoothing",),
    "mixup": ("cross_entropy.mixup",),
    "cutmix": ("cross_entropy.cutmix",),
    "form": ("sup_con.form",),
    "weight": ("spread.weight", "mask_con.weight", "grafit.weight"),
    "target_temperature": ("mask_con.target_temperature", "dino.target_temperature"),
    "prototypes_from": ("t_rex.prototypes_from",),
    "prototypes": ("dino.prototypes",),
    "centre_momentum": ("dino.centre_momentum",),
    "redundancy": ("barlow_twins.redundancy",),
}


def with_new_names(config: Any) -> Any:
    """Replaces old names in a saved pre-training config; returns anything else unchanged.

    A field that several methods shared goes to the section of the config's method. If that section
    has no such field, the method never read it, and it is dropped.
    """
    if not isinstance(config, dict) or not _is_pretraining(config):
        return config
    old = config.keys() & MOVED
    moved = {name: value for name, value in config.items() if name not in old}
    for name in sorted(old):
        for new in MOVED[name]:
            section, _, field = new.partition(".")
            if len(MOVED[name]) == 1 or section == config["method"]:
                moved[section] = {field: config[name]} | moved.get(section, {})
    return moved


def check(config: Mapping[str, Any]) -> None:
    """Raises InputError if a pre-training config contains an old name."""
    if _is_pretraining(config):
        for name in config:
            if name in MOVED:
                raise InputError(sentence(name))


def sentence(name: str) -> str:
    """Error message that gives the new name for an old one."""
    *others, last = (f"config.{new}" for new in MOVED[name])
    if not others:
        return f"config.{name} is now {last}: use the new name."
    return f"config.{name} is now {', '.join(others)} or {last}: use that of your method."


def _is_pretraining(config) -> bool:
    # A fine-tuning config has its own mixup and label_smoothing, and no method.
    return "method" in config
