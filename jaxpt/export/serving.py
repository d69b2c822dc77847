"""Export of the encoder as StableHLO, a single file that runs with JAX and without jaxpt."""

import jax
import numpy as np
from jax import export

from jaxpt import models
from jaxpt.backbones import Backbone
from jaxpt.data.augment import to_float

FILE = "encoder.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def dump(backbone: Backbone, shape: tuple[int, int, int], *, classifier: bool = False) -> bytes:
    """Serialises the encoder, including weights and image preparation.

    The function maps uint8 images [batch, height, width, channels], with any batch size, to float32
    features [batch, dim]. Read it with ``jax.export.deserialize``; JAX keeps such files readable
    for at least six months of its releases.

    Args:
      backbone: the backbone.
      shape: (height, width, channels) of the images.
      classifier: whether to return the logits of its classifier, [batch, classes], instead.
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
