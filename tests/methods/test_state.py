"""What methods keep beside encoders and a queue survives a kill, and is the same on any devices."""

import jax
import numpy as np
import pytest
import rounding
import small_runs

from jaxpt import pretrain

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")

# rwSAM's latest features beside a memory, with examples sampled by class.
UNEVEN = {"rw_sam.rho": 0.05, "rw_sam.features": 100, "data.sampling": "class_balanced"}
# Centre, predictor, bank; and losses of the whole batch's statistics.
KEEPERS = {
    "dino": ("dino", {"local_views": 0}),
    "NNCLR": ("nn_clr", {}),
    "bank": ("look", {"memory_kind": "bank"}),
    "Barlow Twins": ("barlow_twins", {}),
    "rwSAM": ("look", UNEVEN | {"data.long_tail": "exponential:3"}),
}


BATCH, STEPS, PLACES = 40, 4, 4  # the feature map of an image has 2 × 2 places


def run(name, dataset, workdir=None, **changes):
    method, settings = KEEPERS[name]
    config = small_runs.config_of(
        method,
        small_runs.RUN
        | settings
        | {
            "batch_size": BATCH,
            "model.options": {"widths": (8,), "strides": (4,)},
            "model.projector": {"hidden": (8,), "dim": 8},
            "model.predictor": {"hidden": (8,)},
            "memory": 120,
            "look.k_warmup": "0 steps",
            "duration": f"{STEPS} steps",
            "checkpoint_every": "2 steps",
            "knn_every": "0 steps",
            "log_every": "1 steps",
            # SGD: Adam divides by gradients of almost nothing, which blows rounding up.
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.05,
            "model.norm": "sync_batch",
        }
        | changes,
    )
    return pretrain.run(config, workdir, quiet=True, dataset=dataset)


@pytest.mark.parametrize("name", ["dino", "bank", "rwSAM"])
def test_a_run_that_was_killed_ends_with_the_same_bits(name, dataset, tmp_path):
    whole = run(name, dataset, str(tmp_path / "run"))
    (tmp_path / "run" / "checkpoints" / "4").rename(tmp_path / "away")  # as if killed after step 2
    resumed = run(name, dataset, str(tmp_path / "run"))
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", ["dino", "NNCLR", "bank", "Barlow Twins", "rwSAM"])
def test_eight_devices_equal_one(name, dataset):
    one, eight = (run(name, dataset, devices=devices) for devices in (1, 8))
    losses = [[row["loss"] for row in r.history if "loss" in row] for r in (one, eight)]
    bound = rounding.of_steps(STEPS, 2 * BATCH * PLACES)
    np.testing.assert_allclose(*losses, rtol=bound)
    small_runs.assert_close(jax.device_get(one.state), jax.device_get(eight.state), atol=bound)
    if one.state.memory is not None:
        np.testing.assert_array_equal(one.state.memory.ids, eight.state.memory.ids)
