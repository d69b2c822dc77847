"""Cross-entropy with mixup and CutMix."""

import jax
import numpy as np
import pytest
import small_runs

from jaxpt import models, pretrain
from jaxpt.data import mixup
from jaxpt.errors import InputError
from jaxpt.methods import encoding


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_step_of_cross_entropy_with_mixed_images_and_labels(alphas, dataset):
    changes = {f"cross_entropy.{name}": alpha for name, alpha in alphas.items()}
    step = small_runs.step_of("cross_entropy", dataset, views=1, **changes)
    config, batch = step.config, step.batch
    draw = mixup.draw(batch.seed, step.before.step, **{"mixup": 0.0, "cutmix": 0.0} | alphas)
    images = np.asarray(encoding.global_images(config, batch))
    images, share = jax.tree.map(
        lambda x: np.asarray(x[0]),
        jax.vmap(lambda x: mixup.mix_views(draw, x, 8, "batch"), axis_name="batch")(images[None]),
    )
    logits = np.asarray(
        models.encode(step.method.encoder, step.before.params, {}, images, train=True).output
    )
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = sum(
        weight[:, None] * (0.9 * np.eye(10)[labels] + 0.01)
        for weight, labels in ((share, batch.label), (1 - share, np.roll(batch.label, -1)))
    )
    assert 0.01 < share[0] < 0.99
    np.testing.assert_allclose(
        step.metrics["loss"], -(target * log_p).sum(axis=1).mean(), rtol=1e-5
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cross_entropy.mixup": -0.1}, r"cross_entropy\.mixup must lie .*got -0\.1"),
        ({"cross_entropy.cutmix": 1e6}, r"cross_entropy\.cutmix must lie .*got 1000000"),
    ],
)
def test_mixing_that_cannot_be(changes, message, dataset):
    with pytest.raises(InputError, match=message):
        pretrain.prepare(small_runs.config_of("cross_entropy", small_runs.HAND | changes), dataset)
