"""Networks whose lowest parts are frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt import models
from jaxpt.train import optimizer as optimizers


@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_a_resnet_freezes_from_the_stem_upwards(frozen):
    network = models.resnet.ResNet((1, 1, 1, 1), models.resnet.BasicBlock, stem="small", width=8)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(lambda: network.init(jax.random.key(0), images, False))()
    # Blocks start as the identity; with no zeros every part has a gradient.
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])

    def loss(params):
        (features, _), changed = network.clone(frozen=frozen).apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            images,
            True,
            mutable=["batch_stats"],
        )
        return jnp.sum(features**2), changed["batch_stats"]

    gradients, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
    depths = optimizers.depths({"backbone": params})["backbone"]
    for name, part in gradients.items():
        (depth,) = set(jax.tree.leaves(depths[name]))
        assert (float(optax.tree.norm(part)) > 0) == (depth >= frozen), name
        if name in stats:
            change = jax.tree.map(
                lambda a, b: jnp.abs(a - b).max(), stats[name], variables["batch_stats"][name]
            )
            assert (max(jax.tree.leaves(change)) > 0) == (depth >= frozen), name
