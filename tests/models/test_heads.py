"""Heads of fine-tuning."""

import jax
import numpy as np

from jaxpt import models


def test_the_spinal_head_is_the_papers_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7)).astype(np.float32)
    head = models.SpinalClassifier(width=4, classes=2)
    params = jax.tree.map(
        lambda p: rng.normal(size=p.shape).astype(np.float32),
        head.init(jax.random.key(0), x, False)["params"],
    )

    def layer(name, *inputs):
        p = params[name]
        return np.maximum(np.concatenate(inputs, axis=1) @ p["kernel"] + p["bias"], 0)

    a, b = x[:, :3], x[:, 3:]
    h1 = layer("Dense_0", a)
    h2 = layer("Dense_1", b, h1)
    h3 = layer("Dense_2", a, h2)
    h4 = layer("Dense_3", b, h3)
    out = params["Classifier_0"]["Dense_0"]
    wanted = np.concatenate([h1, h2, h3, h4], axis=1) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(
        head.apply({"params": params}, x, False), wanted, rtol=1e-4, atol=1e-5
    )
