"""Heads for backbones: projectors and classifiers."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require
from jaxpt.models.layers import check_widths, make_norm
from jaxpt.ops.similarity import similarities, unit_vectors

ACTIVATIONS = {"relu": nn.relu, "gelu": functools.partial(nn.gelu, approximate=False)}
# Norms of the last layer → which learnt parameters they have.
LAST_NORMS = {
    "none": None,
    "plain": {"use_scale": False, "use_bias": False},
    "scale": {"use_scale": True, "use_bias": False},
    "affine": {"use_scale": True, "use_bias": True},
}


class Projector(nn.Module):
    """An MLP head with Dense–norm–activation for each hidden width, then Dense–norm.

    The sources differ in every part of it; ``configs/pretrain/heads.py`` has the head of each
    method's source.

    Attributes:
      hidden: widths of the hidden layers, each a multiple of 8 with norm "group".
      dim: width of the output.
      norm: norm of the hidden layers, as in ``make_norm``, or "none".
      activation: of the hidden layers, a key of ``ACTIVATIONS``.
      bias: whether hidden layers have a bias. Before BatchNorm it has no effect on the output.
      last_norm: norm of the output, a key of ``LAST_NORMS``: none, or one of the kind ``norm``
        without learnt parameters (plain), with a scale, or with scale and offset (affine).
      last_bias: whether the last layer has a bias.
      unit_input: whether features are scaled to length one first.
      init_std: standard deviation of the initial weights; 0 for LeCun's, 1/√inputs.
      dtype, axis_name: as in ``make_norm``.
    """

    hidden: tuple[int, ...]
    dim: int
    norm: str = "batch"
    activation: str = "relu"
    bias: bool = False
    last_norm: str = "none"
    last_bias: bool = True
    unit_input: bool = False
    init_std: float = 0.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, features, train: bool):
        check_widths(self.norm, self.hidden)
        norm = None
        if self.norm != "none":
            norm = make_norm(self.norm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        init = nn.initializers
        kernel_init = init.normal(self.init_std) if self.init_std else init.lecun_normal()
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=kernel_init)
        x = unit_vectors(features) if self.unit_input else features
        x = x.astype(self.dtype)
        for width in self.hidden:
            x = dense(width, use_bias=self.bias)(x)
            x = ACTIVATIONS[self.activation](x if norm is None else norm()(x))
        x = dense(self.dim, use_bias=self.last_bias)(x)
        if self.last_norm != "none":
            check_widths(self.norm, [self.dim])
            x = norm(**LAST_NORMS[self.last_norm])(x)
        return x.astype(jnp.float32)


class Classifier(nn.Module):
    """A linear layer in float32, initialised to zero.

    Attributes:
      classes: number of outputs.
      temperature: 0 for W x + b; above 0 the outputs are W x / (temperature · ‖x‖), without bias,
        the similarities to a prototype of each class of Saito et al., ICCV 2019.
    """

    classes: int
    temperature: float = 0.0

    @nn.compact
    def __call__(self, features, train: bool):
        del train  # the same in training and evaluation
        plain = not self.temperature
        x = features if plain else unit_vectors(features) / self.temperature
        return nn.Dense(self.classes, use_bias=plain, kernel_init=nn.initializers.zeros)(x)


class MlpClassifier(nn.Module):
    """A projector and a linear classifier (SL-MLP); transfer discards both."""

    projector: Projector
    classes: int
    temperature: float = 0.0

    @nn.compact
    def __call__(self, features, train: bool):
        x = nn.relu(self.projector(features, train))
        return Classifier(self.classes, self.temperature)(x, train)


class SpinalClassifier(nn.Module):
    """Four layers that each see half of the features and the previous layer, then a classifier.

    With the halves x_a and x_b: h1 = σ(W1 x_a), h2 = σ(W2 [x_b, h1]), h3 = σ(W3 [x_a, h2]),
    h4 = σ(W4 [x_b, h3]), out = W [h1, h2, h3, h4] (arXiv 2110.07097); σ is ReLU here.
    """

    width: int
    classes: int
    temperature: float = 0.0

    @nn.compact
    def __call__(self, features, train: bool):
        half = features.shape[-1] // 2
        halves = features[..., :half], features[..., half:]
        hidden = []
        for i in range(4):
            x = jnp.concatenate([halves[i % 2], *hidden[-1:]], axis=-1)
            hidden.append(nn.relu(nn.Dense(self.width)(x)))
        x = jnp.concatenate(hidden, axis=-1)
        return Classifier(self.classes, self.temperature)(x, train)


class CovarianceClassifier(nn.Module):
    """Second-order pooling: the square root of the covariance of a map's positions, classified.

    The channels of the last map, X [positions, channels], are reduced to ``width`` by a linear
    layer if there are more, centred, and Σ = Xᵀ X / positions. The classifier sees the upper
    triangle of √Σ (iSQRT-COV, Li et al., CVPR 2018; there BatchNorm and ReLU follow the reduction).

    Attributes:
      width: largest number of channels.
      classes: number of classes.
      iterations: of Newton and Schulz, see ``covariance_sqrt``.
      temperature: see ``Classifier``.
    """

    width: int
    classes: int
    iterations: int = 24
    temperature: float = 0.0
    takes_map = True  # it is given the backbone's last map instead of its features

    @nn.compact
    def __call__(self, maps, train: bool):
        """Maps float [batch, …, channels] to outputs [batch, classes]."""
        x = maps.astype(jnp.float32)
        x = x.reshape(len(x), -1, x.shape[-1]) if x.ndim > 2 else x[:, None]
        require(
            x.shape[1] > 1,
            "the covariance head needs a map of at least 2 positions, but the network's last map "
            f"has {x.shape[1]}: use another head.name, larger images or smaller strides.",
        )
        if x.shape[-1] > self.width:
            x = nn.Dense(self.width, use_bias=False)(x)
        root = covariance_sqrt(x, self.iterations)
        x = root[:, *np.triu_indices(root.shape[-1])]
        return Classifier(self.classes, self.temperature)(x, train)


# Accelerators multiply float32 in lower precision by default.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def covariance_sqrt(x: jax.Array, iterations: int = 24) -> jax.Array:
    """Square root of the covariance Σ of the columns of each matrix.

    Let X₀ be the centred matrix over its Frobenius norm, so that Σ = (tr Σ) X₀ᵀ X₀. The iteration
    of Newton and Schulz, X ← ½ (3 I − X Xᵀ) X, raises all positive singular values to 1, which
    leaves the orthogonal factor of X₀, and √Σ = √(tr Σ) X₀ᵀ Xₙ. This equals the iteration on Σ
    itself (iSQRT-COV) in exact arithmetic. But it is stable for singular Σ, where that one
    diverges once rounding makes an eigenvalue negative, and cheaper with fewer rows than columns.

    Singular values of X₀ far below 1.5⁻ⁿ after n iterations have not converged: their roots come
    out too small. The error of the result is at most 0.036 √(tr Σ) in spectral norm after 5
    iterations, 0.0048 after 10 and 0.000017 after 24. The gradient is that of the iterations.

    Args:
      x: float [batch, rows, columns]. Σ divides by the number of rows.
      iterations: n ≥ 1.

    Returns:
      float32 [batch, columns, columns]; zero for rows that are all equal.

    Source:
      Li et al., "Towards faster training of global covariance pooling networks by iterative matrix
      square root normalization" (iSQRT-COV), CVPR 2018; Björck and Bowie, 1971, for the iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}.")
    x = x.astype(jnp.float32)
    x = (x - jnp.mean(x, axis=1, keepdims=True)) / jnp.sqrt(x.shape[1])
    # The norm is over the largest entry first, so that no square leaves the range of float32.
    # Neither division has a gradient at 0.
    largest = jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
    x = x / largest
    squares = jnp.sum(x**2, axis=(1, 2), keepdims=True)
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    start = x / norm
    # The smaller of X Xᵀ and Xᵀ X.
    wide = x.shape[1] < x.shape[2]

    def iterate(x, _):
        product = _matmul(_matmul(x, x.mT), x) if wide else _matmul(x, _matmul(x.mT, x))
        return (3 * x - product) / 2, None

    end, _ = jax.lax.scan(iterate, start, length=iterations)
    root = _matmul(start.mT, end)
    # Exactly symmetric, whatever the rounding.
    return largest * norm * (root + root.mT) / 2


def map_classifier(function: Callable, head: Any) -> Any:
    """Applies a function to each parameter of the last layer of a head for fine-tuning.

    Args:
      function: array → array.
      head: parameters of ``Classifier``, or of a head that ends in one.

    Returns:
      the head's parameters, otherwise unchanged.
    """
    last = "Classifier_0"
    if last not in head:
        return jax.tree.map(function, head)
    return head | {last: jax.tree.map(function, head[last])}


class PrototypeHead(nn.Module):
    """DINO's head: a projector and a weight-normalised layer (Caron et al., ICCV 2021).

    The output is the cosine to each prototype, multiplied by its norm if norms are learnt.

    Attributes:
      projector: maps features to the space of the prototypes.
      prototypes: number of outputs.
      learnt_norms: whether the norm of each prototype is learnt; otherwise all are 1.
    """

    projector: Projector
    prototypes: int
    learnt_norms: bool = False

    @nn.compact
    def __call__(self, features, train: bool):
        x = unit_vectors(self.projector(features, train))
        # PyTorch's initialisation of a linear layer. The length of a row has no effect on the
        # output, but the gradient is inversely proportional to it.
        rows = self.param(
            "prototypes",
            nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0),
            (self.prototypes, self.projector.dim),
        )
        cosines = similarities(x, unit_vectors(rows))
        if not self.learnt_norms:
            return cosines
        return cosines * self.param("norms", nn.initializers.ones, (self.prototypes,))


def check_head(norm: str, given: dict[str, Any], where: str) -> None:
    """Raises InputError if a setting of a projector's or predictor's layers is invalid.

    Args:
      norm: of the hidden layers.
      given: other fields of ``Projector`` by name.
      where: section of the config, for error messages.
    """
    for name, known in ("activation", ACTIVATIONS), ("last_norm", LAST_NORMS):
        require(
            given[name] in known,
            f"{where}.{name} must be one of {', '.join(known)}, got {given[name]!r}.",
        )
    require(
        norm != "none" or given["last_norm"] == "none",
        f"{where}.last_norm {given['last_norm']} needs a kind of norm, but {where}.norm is none: "
        "set it to batch, sync_batch or group.",
    )
    require(
        given["init_std"] >= 0, f"{where}.init_std must not be negative, got {given['init_std']}."
    )
