"""The encoder as StableHLO: one file that computes features wherever JAX runs, without jaxpt."""

import jax
import numpy as np
from jax import export

from jaxpt import models
from jaxpt.backbones import Backbone
from jaxpt.data.augment import to_float

FILE = "encoder.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def dump(backbone: Backbone, shape: tuple[int, int, int], *, classifier: bool = False) -> bytes:
    """A serialised function, its weights included.

    It takes uint8 images [batch, height, width, channels] with any batch and gives float32 features
    [batch, dim]: preparing the images is a part of it. ``jax.export.deserialize`` reads it; JAX
    keeps such files readable for six months of its releases at least.

    Args:
      backbone: whose features.
      shape: (height, width, channels) of the images.
      classifier: logits of its classifier instead, [batch, classes].
    """
    encoder, params = backbone.encoder, backbone.params
    if classifier:
        kernel = backbone.classifier["Dense_0"]["kernel"]
        encoder = encoder.clone(head=models.Classifier(kernel.shape[1]))
        params = params | {"head": backbone.classifier}

    def outputs(images):
        return models.encode(
            encoder, params, backbone.batch_stats, to_float(images), train=False
        ).output

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), np.uint8)
    return export.export(jax.jit(outputs), platforms=PLATFORMS)(images).serialize()
