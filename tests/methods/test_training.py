"""Every method on real digits."""

import numpy as np
import pytest
from small_runs import METHODS, STEPS, WITH_MEMORY, WITH_TARGET

from jaxpt.evaluation.geometry import effective_rank

pytestmark = pytest.mark.usefixtures("unoptimised")

UNSUPERVISED = (
    "moco_v2",
    "moco_v3",
    "simclr",
    "byol",
    "simsiam",
    "barlow_twins",
    "vicreg",
    "dino",
    "nn_clr",
)
# LOOK beyond the paper, and options of others, each by the fields that turn it on.
VARIANTS = {
    "multi-crop, soft gate": ("look", {"local_views": 2, "look.gate": 20.0}),
    "bank, robust, balanced, k by class": (
        "look",
        {
            "memory_kind": "bank",
            "look.robustness": 0.5,
            "look.balanced": True,
            "look.k_by_class": True,
        },
    ),
    "SL-MLP": ("cross_entropy", {"cross_entropy.classifier": "mlp"}),
    "plain t-ReX": ("t_rex", {"t_rex.prototypes_from": "learnt"}),
}


@pytest.fixture(params=[*METHODS, *VARIANTS])
def trained(request, train):
    method, changes = VARIANTS.get(request.param, (request.param, {}))
    return train(method, **changes)


def test_loss_falls(trained):
    assert len(trained.losses) == STEPS and int(trained.state.step) == STEPS
    share = 0.9 if trained.method == "moco_v3" else 0.87  # its loss is nearly flat at τ = 1
    assert np.mean(trained.losses[-5:]) < share * np.mean(trained.losses[:5])


def test_neighbours_share_their_class_far_above_chance(trained):
    margin = 0.5 if trained.method in UNSUPERVISED else 0.6
    assert trained.history[-1]["knn"] > 0.1 + margin  # ten classes


def test_features_do_not_collapse(trained, dataset):
    features = trained.features(dataset.trainval.images)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    together = np.zeros(len(unit), int)  # one class: the rank of all features
    assert effective_rank(unit, together) > 5
    assert unit.var(axis=0).sum() > 0.03  # 0 where all point one way; none is negative
    assert effective_rank(unit, dataset.trainval.labels) > 3


def test_a_memory_and_a_target_belong_to_some(trained):
    from_memory = trained.method == "t_rex" and trained.config.t_rex.prototypes_from == "memory"
    assert (trained.state.memory is not None) == (trained.method in WITH_MEMORY or from_memory)
    assert (trained.state.target is not None) == (trained.method in WITH_TARGET or from_memory)


def test_logged_k_comes_down_from_the_whole_memory(train):
    k = [row["k"] for row in train("look").history if "k" in row]
    assert k[0] == 5100 and k[10] == pytest.approx(np.sqrt(5100 * 10), abs=0.5)
    assert k[20:] == [10] * (STEPS - 20) and k == sorted(k, reverse=True)
