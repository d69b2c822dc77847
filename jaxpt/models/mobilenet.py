"""MobileNetV2 (Sandler et al., CVPR 2018), with torchvision's architecture."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.models.layers import check_widths, make_norm
from jaxpt.models.resnet import symmetric_conv

# Expansion, channels, blocks and first stride of each group of blocks.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Block(nn.Module):
    """Inverted residual block: 1×1 expansion, 3×3 depthwise convolution, 1×1 projection."""

    expansion: int
    width: int
    stride: int
    dtype: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        """Maps float [batch, height, width, channels] to ``self.width`` channels, with stride."""
        inner, y = self.expansion * x.shape[-1], x
        if self.expansion > 1:
            y = symmetric_conv(inner, (1, 1), dtype=self.dtype, name="conv_expand")(y)
            y = nn.relu6(self.norm(name="norm_expand")(y))
        y = symmetric_conv(
            inner,
            (3, 3),
            strides=self.stride,
            feature_group_count=inner,
            dtype=self.dtype,
            name="conv_depthwise",
        )(y)
        y = nn.relu6(self.norm(name="norm_depthwise")(y))
        y = symmetric_conv(self.width, (1, 1), dtype=self.dtype, name="conv_project")(y)
        y = self.norm(name="norm_project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """A MobileNetV2 without its classifier.

    Attributes:
      groups: expansion, channels, blocks and first stride of each group of blocks.
      stem, last: channels of the first and of the last convolution.
      norm, dtype, axis_name: as in ``make_norm``.
      remat: whether the backward pass recomputes the activations of each block to save memory.
      frozen: number of parts (stem, block 1, …) that get no gradient and stay in evaluation mode;
        the last convolution belongs to the last block.
    """

    groups: tuple[tuple[int, int, int, int], ...] = GROUPS
    stem: int = 32
    last: int = 1280
    norm: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Float images [batch, height, width, channels] → (features [batch, last], blocks)."""
        check_widths(self.norm, (self.stem, self.last, *(width for _, width, *_ in self.groups)))
        x = symmetric_conv(self.stem, (3, 3), strides=2, dtype=self.dtype, name="conv_stem")(
            images.astype(self.dtype)
        )
        x = self._stop(0, nn.relu6(self._norm(0, train)(name="norm_stem")(x)))
        intermediates, make_block = {"stem": x}, nn.remat(Block) if self.remat else Block
        blocks = [
            (expansion, width, stride if i == 0 else 1)
            for expansion, width, n, stride in self.groups
            for i in range(n)
        ]
        for depth, block in enumerate(blocks, 1):
            x = make_block(*block, self.dtype, self._norm(depth, train), name=f"block{depth}")(x)
            x = intermediates[f"block{depth}"] = self._stop(depth, x)
        x = symmetric_conv(self.last, (1, 1), dtype=self.dtype, name="conv_last")(x)
        x = nn.relu6(self._norm(len(blocks), train)(name="norm_last")(x))
        x = intermediates["last"] = self._stop(len(blocks), x)
        return jnp.mean(x, axis=(1, 2)).astype(jnp.float32), intermediates

    def _norm(self, depth, train):
        return make_norm(
            self.norm,
            train=train and depth >= self.frozen,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )

    def _stop(self, depth, x):
        return jax.lax.stop_gradient(x) if depth < self.frozen else x
