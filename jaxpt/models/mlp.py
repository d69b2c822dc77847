"""A multilayer perceptron, for small images of one size."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.models.layers import check_widths, make_norm


class MLP(nn.Module):
    """Dense layers on the pixels; the last hidden layer's activations are the features.

    Attributes:
      widths: widths of the hidden layers, each a multiple of 8 with norm "group".
      image_size: side of the images in pixels; the network takes no others.
      norm: as in ``make_norm``, or "none": then the layers have biases.
      dtype, axis_name: as in ``make_norm``.
      frozen: number of lowest layers that get no gradient and stay in evaluation mode.
    """

    widths: tuple[int, ...] = (256, 128, 64)
    image_size: int = 28
    norm: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Float images [batch, height, width, channels] → (features [batch, widths[-1]], dict)."""
        plain = self.norm == "none"
        check_widths(self.norm, self.widths)
        side, shape = self.image_size, images.shape[1:3]
        require(
            shape == (side, side),
            f"this MLP takes images of {side}×{side} pixels, got {shape[0]}×{shape[1]}: resize "
            "them, or set the option image_size before training.",
        )
        x = images.reshape(len(images), -1).astype(self.dtype)
        intermediates = {}
        for i, width in enumerate(self.widths):
            name = f"layer{i + 1}"
            x = nn.Dense(width, use_bias=plain, dtype=self.dtype, name=name)(x)
            if not plain:
                norm = make_norm(
                    self.norm,
                    train=train and i >= self.frozen,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                )
                x = norm(name=f"norm{i + 1}")(x)
            x = nn.relu(x)
            x = jax.lax.stop_gradient(x) if i < self.frozen else x
            intermediates[name] = x
        return x.astype(jnp.float32), intermediates
