"""A small convolutional network for images of 8×8 to 32×32 pixels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.models.layers import check_widths, make_norm


class SmallCNN(nn.Module):
    """Four 3×3 convolutions, then the spatial mean.

    Attributes:
      widths: channels of the layers, each a multiple of 8.
      strides: strides of the layers.
      norm: see ``make_norm``.
      dtype: computation dtype.
      axis_name: mapped axis for synchronised BatchNorm.
      frozen: number of lowest layers that get no gradient and stay in evaluation mode.
    """

    widths: tuple[int, ...] = (16, 32, 32, 64)
    strides: tuple[int, ...] = (1, 2, 1, 2)
    norm: str = "group"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Float images [batch, height, width, channels] → (features [batch, widths[-1]], dict)."""
        require(
            len(self.widths) == len(self.strides),
            f"widths and strides must have equal lengths, got {self.widths} and {self.strides}.",
        )
        check_widths(self.norm, self.widths)
        x = images.astype(self.dtype)
        intermediates = {}
        for i, (width, stride) in enumerate(zip(self.widths, self.strides)):
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False, dtype=self.dtype)(x)
            norm = make_norm(
                self.norm,
                train=train and i >= self.frozen,
                axis_name=self.axis_name,
                dtype=self.dtype,
            )
            x = nn.relu(norm()(x))
            x = jax.lax.stop_gradient(x) if i < self.frozen else x
            intermediates[f"layer{i + 1}"] = x
        return jnp.mean(x, axis=(1, 2)).astype(jnp.float32), intermediates
