"""The registry is true: each method reads the fields that it is said to read, and no others."""

import config_reads
import ml_collections
import pytest
import small_runs

from jaxpt.methods import METHODS

# What turns everything on that a method can read.
MIXED = {"cross_entropy.mixup": 0.4, "cross_entropy.cutmix": 0.4}
CASES = {
    **{name: (name, {"look.own_view": 0.5}) for name in METHODS},
    "SL-MLP": ("cross_entropy", MIXED | {"cross_entropy.classifier": "mlp"}),
    "plain t-ReX": ("t_rex", {"t_rex.prototypes_from": "learnt"}),
    "approximate": ("look", {"look.neighbors": "approximate"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_method_reads_what_is_said_of_it(case, dataset):
    name, changes = CASES[case]
    config = small_runs.config_of(name, small_runs.HAND | {"ema_end": 1.0} | changes)
    config.local_views = int("crops" in METHODS[name].reads)
    config_reads.check(config, dataset)


def test_sections_of_methods_are_of_methods_that_there_are():
    config = small_runs.config_of("look", {})
    parts = {name for name in config if isinstance(config[name], ml_collections.ConfigDict)}
    others = {
        "data",
        "augment",
        "key_augment",
        "local_augment",
        "model",
        "optimizer",
        "probe",
        "rw_sam",
    }
    assert parts - others <= METHODS.keys()
    for entry in METHODS.values():  # what is a method's own has its value in its section
        assert not {field.partition(".")[0] for field in entry.settings} & METHODS.keys()
