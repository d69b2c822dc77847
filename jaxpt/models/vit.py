"""Vision transformers (Dosovitskiy et al., ICLR 2021), as timm's ``vit_*_patch16_224``."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require
from jaxpt.models.norm import layer_norm
from jaxpt.models.stochastic_depth import StochasticDepth, rates

POOLS = ("token", "mean")
POSITIONS = ("learnt", "sincos")
# Started as DeiT is (Touvron et al., ICML 2021).
_INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them."""

    heads: int
    mlp: int
    drop: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """float [batch, tokens, width] → the same."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_INIT)
        norm, drop = layer_norm(self.dtype), StochasticDepth(self.drop)
        width = x.shape[-1]
        y = dense(3 * width, name="qkv")(norm(name="norm1")(x))
        query, key, value = jnp.moveaxis(
            y.reshape(*x.shape[:2], 3, self.heads, width // self.heads), 2, 0
        )
        y = jax.nn.dot_product_attention(query, key, value)  # with its softmax in float32
        x = x + drop(dense(width, name="proj")(y.reshape(x.shape)))
        y = nn.gelu(dense(self.mlp, name="fc1")(norm(name="norm2")(x)), approximate=False)
        return x + drop(dense(width, name="fc2")(y))


class ViT(nn.Module):
    """A vision transformer without its classifier.

    Attributes:
      width: of tokens, and of the features.
      depth: blocks.
      heads: of attention, a divisor of the width.
      patch: side of a patch, pixels.
      image_size: side of the square images that learnt positions are for. Images of another size
        see them resized (bicubic), in the network.
      pool: "token" (features are the class token, after the last normalisation) or "mean" (no
        class token; features are the normalised mean of the patches).
      positions: "learnt", or "sincos": fixed sines and cosines of row and column (Chen et al.,
        ICCV 2021), none for the class token.
      drop_path: stochastic depth of the last block, rising to it from 0 in the first.
      dtype: computation dtype; normalisation and softmax compute in float32 in any case.
      remat: the backward pass makes each block's activations again instead of keeping them.
      frozen: so many of stem (patches, class token, positions), block 1, … get no gradient; with
        all of them the last normalisation has none either.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    pool: str = "token"
    positions: str = "learnt"
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Float images [batch, height, width, channels] → (features [batch, width], tokens
        [batch, tokens, width] of the stem and of each block)."""
        self._check(images.shape)
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            name="patch_embed",
        )(images.astype(self.dtype))
        batch, *grid, _ = x.shape
        x = x.reshape(batch, -1, self.width)
        tokens = int(self.pool == "token")
        if tokens:
            token = self.param("cls_token", _INIT, (1, 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.width)), x], axis=1)
        x = self._stop(0, x + self._positions(tuple(grid), tokens).astype(self.dtype))
        intermediates = {"stem": x}
        make_block = nn.remat(Block) if self.remat else Block
        for i, rate in enumerate(rates(self.drop_path, self.depth)):
            drop = rate if train and i + 1 >= self.frozen else 0.0
            x = make_block(self.heads, 4 * self.width, drop, self.dtype, name=f"block{i + 1}")(x)
            x = intermediates[f"block{i + 1}"] = self._stop(i + 1, x)
        x = x[:, :1] if tokens else x  # the others are not looked at any more
        x = layer_norm(self.dtype)(name="norm")(jnp.mean(x, axis=1))
        return self._stop(self.depth, x).astype(jnp.float32), intermediates

    def fixed_positions(self, grid: tuple[int, int], tokens: int) -> np.ndarray:
        """Those of "sincos": float32 [1, tokens + rows · columns, width]."""
        quarter = self.width // 4
        frequencies = 10_000.0 ** -(np.arange(quarter) / quarter)
        rows, columns = (np.reshape(place, (-1, 1)) * frequencies for place in np.indices(grid))
        table = np.concatenate(
            [f(angles) for angles in (columns, rows) for f in (np.sin, np.cos)], axis=1
        )
        return np.pad(table, [(tokens, 0), (0, 0)])[None].astype(np.float32)

    def _positions(self, grid, tokens):
        if self.positions == "sincos":
            return jnp.asarray(self.fixed_positions(grid, tokens))
        own = (self.image_size // self.patch,) * 2
        learnt = self.param("positions", _INIT, (1, tokens + own[0] * own[1], self.width))
        return resize_positions(learnt, own, grid)

    def _stop(self, depth, x):
        return jax.lax.stop_gradient(x) if depth < self.frozen else x

    def _check(self, shape):
        for name, known in ("pool", POOLS), ("positions", POSITIONS):
            value = getattr(self, name)
            require(value in known, f"{name} must be one of {known}, got {value!r}.")
        require(
            self.width % self.heads == 0,
            f"heads must divide the width {self.width}, got {self.heads}.",
        )
        require(
            self.positions != "sincos" or self.width % 4 == 0,
            f"positions sincos need a width that is a multiple of 4, got {self.width}.",
        )
        require(
            0 <= self.drop_path < 1,
            f"drop_path must be at least 0 and below 1, got {self.drop_path}.",
        )
        require(
            self.image_size % self.patch == 0 and self.image_size > 0,
            "image_size must be a "
            f"multiple of the patch's {self.patch} pixels, got {self.image_size}.",
        )
        require(
            all(side % self.patch == 0 for side in shape[1:3]),
            "sides of images must be "
            f"multiples of the patch's {self.patch} pixels, got {shape[1]}×{shape[2]}: resize "
            "or crop them, or set another patch.",
        )


def resize_positions(positions, grid: tuple[int, int], wanted: tuple[int, int]):
    """Learnt positions on another grid of patches, bicubic, as timm's ``resample_abs_pos_embed``.

    Args:
      positions: float [1, tokens + rows · columns, width]; those of tokens before the patches stay.
      grid, wanted: (rows, columns) that they are of, and that are wanted.

    Returns:
      float [1, tokens + wanted rows · columns, width].
    """
    if grid == wanted:
        return positions
    tokens, width = positions.shape[1] - grid[0] * grid[1], positions.shape[2]
    resized = jax.image.resize(
        positions[:, tokens:].reshape(1, *grid, width), (1, *wanted, width), "cubic", antialias=True
    )
    return jnp.concatenate([positions[:, :tokens], resized.reshape(1, -1, width)], axis=1)


SIZES = {
    "vit_ti16": (192, 12, 3),
    "vit_s16": (384, 12, 6),
    "vit_b16": (768, 12, 12),
    "vit_l16": (1024, 24, 16),
}  # width, depth, heads
# By name, so that options may say otherwise.
VITS = {
    name: functools.partial(ViT, width=width, depth=depth, heads=heads)
    for name, (width, depth, heads) in SIZES.items()
}
