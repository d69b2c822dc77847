"""Heads for backbones: projectors and classifiers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxpt.models.norm import check_widths, make_norm
from jaxpt.ops.similarity import similarities, unit_vectors


class Projector(nn.Module):
    """An MLP head with Dense–norm–ReLU for each hidden width, then Dense.

    Attributes:
      hidden: widths of the hidden layers, each a multiple of 8 with norm "group".
      dim: width of the output.
      norm, dtype, axis_name: as in ``make_norm``.
    """

    hidden: tuple[int, ...]
    dim: int
    norm: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, features, train: bool):
        check_widths(self.norm, self.hidden)
        norm = make_norm(self.norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = features.astype(self.dtype)
        for width in self.hidden:
            x = nn.relu(norm()(nn.Dense(width, use_bias=False, dtype=self.dtype)(x)))
        return nn.Dense(self.dim, dtype=self.dtype)(x).astype(jnp.float32)


class Classifier(nn.Module):
    """A linear layer in float32, initialised to zero."""

    classes: int

    @nn.compact
    def __call__(self, features, train: bool):
        del train  # the same in training and evaluation
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros)(features)


class MlpClassifier(nn.Module):
    """A projector and a linear classifier (SL-MLP); transfer discards both."""

    projector: Projector
    classes: int

    @nn.compact
    def __call__(self, features, train: bool):
        return Classifier(self.classes)(nn.relu(self.projector(features, train)), train)


class SpinalClassifier(nn.Module):
    """Four layers that each see half of the features and the previous layer, then a classifier.

    With the halves x_a and x_b: h1 = σ(W1 x_a), h2 = σ(W2 [x_b, h1]), h3 = σ(W3 [x_a, h2]),
    h4 = σ(W4 [x_b, h3]), out = W [h1, h2, h3, h4] (arXiv 2110.07097); σ is ReLU here.
    """

    width: int
    classes: int

    @nn.compact
    def __call__(self, features, train: bool):
        half = features.shape[-1] // 2
        halves = features[..., :half], features[..., half:]
        hidden = []
        for i in range(4):
            x = jnp.concatenate([halves[i % 2], *hidden[-1:]], axis=-1)
            hidden.append(nn.relu(nn.Dense(self.width)(x)))
        return Classifier(self.classes)(jnp.concatenate(hidden, axis=-1), train)


class PrototypeHead(nn.Module):
    """DINO's head: a projector and cosines to learnt prototypes (Caron et al., ICCV 2021)."""

    projector: Projector
    prototypes: int

    @nn.compact
    def __call__(self, features, train: bool):
        x = unit_vectors(self.projector(features, train))
        rows = self.param(
            "prototypes", nn.initializers.normal(0.02), (self.prototypes, self.projector.dim)
        )
        return similarities(x, unit_vectors(rows))
