"""Small networks for small images: a convolutional one and a multilayer perceptron."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.models.layers import check_widths, make_norm


class SmallCNN(nn.Module):
    """Four 3×3 convolutions, then the spatial mean, for images of 8×8 to 32×32 pixels.

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


class MLP(nn.Module):
    """Multilayer perceptron: dense layers on the pixels of images of one size.

    The activations of the last hidden layer are the features.

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
