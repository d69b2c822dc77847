"""A batch encoded in parts: the same step, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import HAND, assert_close, batch_of, config_of, over_one_device, some_state

from jaxpt import pretrain
from jaxpt.methods import encoding

pytestmark = pytest.mark.usefixtures("unoptimised")


def step_in(dataset, name, parts, **changes):
    """State and metrics after a step in so many parts."""
    config = config_of(name, HAND | {"micro_batches": parts} | changes)
    method, _ = pretrain.prepare(config, dataset)
    batch = batch_of(dataset, range(8), epoch=3, seed=5)
    before = some_state(method, config, dataset, batch)
    return jax.jit(over_one_device(method.step))(before, batch)


# One of each kind of step: a memory, losses of a batch, a predictor, small crops, one view.
KINDS = ("look", "sup_con", "nn_clr", "byol", "barlow_twins", "t_rex", "dino", "cross_entropy")


@pytest.mark.parametrize("name", KINDS)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(name, dataset):
    local = {"local_views": 1} if name in ("t_rex", "dino") else {}
    whole, parts = (step_in(dataset, name, n, **local) for n in (1, 4))
    assert_close(whole, parts, atol=2e-5)


@pytest.mark.parametrize("part", [0, 3])
def test_every_part_has_all_views_of_its_examples(part, dataset):
    """BatchNorm sees a part alone: the output of a part is that of its examples alone."""
    changes = HAND | {"model.norm": "batch", "micro_batches": 4}
    config = config_of("look", changes)
    method, _ = pretrain.prepare(config, dataset)
    batch = batch_of(dataset, range(8))
    stats = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))).batch_stats
    state = some_state(method, config, dataset, batch)
    state = state.replace(batch_stats=jax.tree.map(lambda x: jnp.ones(x.shape), stats))

    def outputs(config, batch):
        return jax.jit(
            lambda: encoding.queries(method.encoder, state.params, state, batch, config).output
        )()

    mine = np.arange(16) % 4 == part
    alone = outputs(
        config_of("look", changes | {"micro_batches": 1}), batch_of(dataset, [part, part + 4])
    )
    np.testing.assert_allclose(outputs(config, batch)[mine], alone, atol=1e-5)


def test_running_statistics_move_once_for_each_part(dataset):
    changes = {"model.norm": "batch", "views": 1}
    whole, parts = (step_in(dataset, "sup_con", n, **changes)[0].batch_stats for n in (1, 2))
    means = [jax.tree.leaves(x)[0] for x in (whole, parts)]
    # Means of halves average to the mean: 0.1 of it once, and 1 − 0.9² of it if they were equal.
    assert 1.5 < np.linalg.norm(means[1]) / np.linalg.norm(means[0]) < 2.3


def test_temporaries_fall_with_the_number_of_parts(dataset):
    def temporaries(parts):
        config = config_of(
            "look",
            HAND
            | {
                "micro_batches": parts,
                "batch_size": 64,
                "memory": 64,
                "model.options": {"widths": (32, 32), "strides": (1, 1)},
            },
        )
        method, _ = pretrain.prepare(config, dataset)
        batch = jax.tree.map(jnp.asarray, batch_of(dataset, range(64)))
        state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        compiled = jax.jit(over_one_device(method.step)).lower(state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole, quarters, sixteenths = (temporaries(n) for n in (1, 4, 16))
    assert quarters < 0.5 * whole and sixteenths < 0.25 * whole
