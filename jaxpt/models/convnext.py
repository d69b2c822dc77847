"""ConvNeXt (Liu et al., CVPR 2022), equal to ``convnext_tiny`` of torchvision and timm."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.models.layers import StochasticDepth, drop_rates, layer_norm

_INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Residual block with a 7×7 depthwise convolution, an MLP over channels and a layer scale."""

    drop: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Maps float [batch, height, width, channels] to the same shape."""
        width = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
        y = nn.Conv(
            width,
            (7, 7),
            padding=[(3, 3)] * 2,
            feature_group_count=width,
            dtype=self.dtype,
            kernel_init=_INIT,
            name="conv",
        )(x)
        y = dense(4 * width, name="fc1")(layer_norm(self.dtype)(name="norm")(y))
        y = dense(width, name="fc2")(nn.gelu(y, approximate=False))
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (width,))
        return x + StochasticDepth(self.drop)(y * scale.astype(self.dtype))


class ConvNeXt(nn.Module):
    """A ConvNeXt without its classifier; features are the normalised spatial mean.

    Attributes:
      blocks: number of blocks in each stage.
      widths: channels of each stage.
      drop_path: stochastic depth rate of the last block; rates rise linearly from 0 in the first.
      dtype: computation dtype; statistics of normalisation are always float32.
      remat: whether the backward pass recomputes the activations of each block to save memory.
      frozen: number of parts (stem, stage 1, …) that get no gradient; if all parts are frozen, so
        is the last normalisation.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Maps float images [batch, height, width, channels] to (features, stages).

        Features are float32 [batch, widths[-1]]; stages are a dict of intermediate outputs. With
        four stages, sides must have at least 32 pixels.
        """
        require(
            len(self.blocks) == len(self.widths),
            f"blocks and widths must have equal lengths, got {self.blocks} and {self.widths}.",
        )
        require(
            0 <= self.drop_path < 1,
            f"drop_path must be at least 0 and below 1, got {self.drop_path}.",
        )
        shrinking = 4 * 2 ** (len(self.blocks) - 1)
        require(
            min(images.shape[1:3]) >= shrinking,
            "sides of images must be at least "
            f"{shrinking} pixels, got {images.shape[1]}×{images.shape[2]}: resize them.",
        )
        norm = layer_norm(self.dtype)
        x = self._shrink(4, self.widths[0], "conv_stem", images.astype(self.dtype))
        x = self._stop(0, norm(name="norm_stem")(x))
        intermediates = {"stem": x}
        make_block = nn.remat(Block) if self.remat else Block
        rate = iter(drop_rates(self.drop_path, sum(self.blocks)))
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths)):
            if stage:
                x = norm(name=f"stage{stage + 1}_norm")(x)
                x = self._shrink(2, width, f"stage{stage + 1}_conv", x)
            for i in range(blocks):
                drop = next(rate) * (train and stage + 1 >= self.frozen)
                x = make_block(drop, self.dtype, name=f"stage{stage + 1}_block{i + 1}")(x)
            x = intermediates[f"stage{stage + 1}"] = self._stop(stage + 1, x)
        x = norm(name="norm")(jnp.mean(x, axis=(1, 2)))
        return self._stop(len(self.blocks), x).astype(jnp.float32), intermediates

    def _shrink(self, factor, width, name, x):
        return nn.Conv(
            width,
            (factor, factor),
            strides=factor,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=_INIT,
            name=name,
        )(x)

    def _stop(self, depth, x):
        return jax.lax.stop_gradient(x) if depth < self.frozen else x


ConvNeXtTiny = functools.partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768))
