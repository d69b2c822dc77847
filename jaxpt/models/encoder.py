"""Encoder: a backbone with a head, its initialisation and its forward pass."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxpt.models.inputs import prepare
from jaxpt.models.layers import STOCHASTIC_DEPTH


class Encoder(nn.Module):
    """A backbone with a head. Transfer uses the backbone and discards the head.

    Attributes:
      backbone: images → (features, intermediates).
      head: features → output, a projector or a classifier; None makes the features the output. A
        head with ``takes_map`` is given the last of the intermediates, a map, instead.
      predictor: output → prediction, the additional MLP of some methods' online branch, or None.
      normalisation, channels, size: preprocessing of the images, see ``inputs.prepare``.
    """

    backbone: nn.Module
    head: nn.Module | None = None
    predictor: nn.Module | None = None
    normalisation: str = "unit"
    channels: int | None = None
    size: int = 0

    def __call__(self, images, train: bool):
        """Images → (head output [batch, …], features [batch, dim], prediction or None)."""
        features, x = self.given(images, train)
        output = features if self.head is None else self.head(x, train)
        prediction = None if self.predictor is None else self.predictor(output, train)
        return output, features, prediction

    def given(self, images, train: bool):
        """Images → (features [batch, dim], input of the head)."""
        images = prepare(images, self.normalisation, self.channels, self.size)
        features, layers = self.backbone(images, train)
        takes_map = getattr(self.head, "takes_map", False)
        return features, list(layers.values())[-1] if takes_map else features


class Encoded(NamedTuple):
    """Results of a forward pass of an encoder.

    Attributes:
      output: float32 [batch, …], output of the head.
      features: float32 [batch, dim], output of the backbone.
      prediction: float32 [batch, …], output of the predictor, or None.
      batch_stats: BatchNorm's running statistics after the pass.
    """

    output: jax.Array
    features: jax.Array
    prediction: jax.Array | None
    batch_stats: Any


def init(encoder: Encoder, key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
    """Initialises (parameters, batch statistics) for images of the shape of ``images``."""
    variables = encoder.init(key, images[:1], False)
    return variables["params"], variables.get("batch_stats", {})


def encode(
    encoder: Encoder,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    *,
    train: bool,
    key: jax.Array | None = None,
) -> Encoded:
    """Runs a forward pass of an encoder.

    In training, BatchNorm uses the statistics of the batch and updates the running ones, and
    networks with stochastic depth use ``key`` to draw the branches that they drop.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    if not train:
        return Encoded(*encoder.apply(variables, images, False), batch_stats)
    outputs, changed = encoder.apply(
        variables,
        images,
        True,
        mutable=["batch_stats"],
        rngs=None if key is None else {STOCHASTIC_DEPTH: key},
    )
    return Encoded(*outputs, changed.get("batch_stats", {}))
