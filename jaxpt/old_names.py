"""Fields of the pre-training config that had another name in earlier versions.

Configs of runs, exports and records are read with their fields under today's names. A config that
somebody writes must use these: an old name there gets a sentence with the new one.
"""

from typing import Any, Mapping

from jaxpt.errors import InputError

# Old name → new names. A field with several meant another thing for each of those methods.
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
    """A saved pre-training config under today's names; anything else is returned as it is.

    A field that several methods had in common goes to the section of the config's own method. If
    that has no such field, it was never read, and is dropped.
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
    """Raises InputError if a pre-training config has a field under its old name."""
    if _is_pretraining(config):
        for name in config:
            if name in MOVED:
                raise InputError(sentence(name))


def sentence(name: str) -> str:
    """What to write in place of an old name."""
    *others, last = (f"config.{new}" for new in MOVED[name])
    if not others:
        return f"config.{name} is {last} now: use the new name."
    return f"config.{name} is {', '.join(others)} or {last} now: use that of your method."


def _is_pretraining(config) -> bool:
    return (
        "method" in config
    )  # a config of fine-tuning has a mixup and a label_smoothing of its own
