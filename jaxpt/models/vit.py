"""Vision transformers (Dosovitskiy et al., ICLR 2021), equal to timm's ``vit_*_patch16_224``."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import require
from jaxpt.models.layers import StochasticDepth, drop_rates, layer_norm

POOLS = ("token", "mean")
POSITIONS = ("learnt", "sincos")
INITS = ("deit", "xavier")


def _deit(fan_in, fan_out):
    """Initialisation of DeiT (Touvron et al., ICML 2021)."""
    return nn.initializers.truncated_normal(0.02)


def _xavier(fan_in, fan_out):
    """Xavier's uniform initialisation, as of MoCo v3 (Chen et al., ICCV 2021)."""
    # The fans are those of the matrix as in MoCo v3's code: query, key and value are three
    # matrices, and a patch is one vector of inputs.
    return nn.initializers.variance_scaling(2 * fan_in / (fan_in + fan_out), "fan_in", "uniform")


class Block(nn.Module):
    """Pre-norm transformer block of self-attention and an MLP."""

    heads: int
    mlp: int
    drop: float
    dtype: Any
    init_of: Any

    @nn.compact
    def __call__(self, x):
        """Maps float [batch, tokens, width] to the same shape."""
        norm, drop = layer_norm(self.dtype), StochasticDepth(self.drop)
        width = x.shape[-1]

        def dense(features, name, inputs=width, outputs=None):
            kernel_init = self.init_of(inputs, outputs or features)
            return nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, name=name)

        y = dense(3 * width, "qkv", outputs=width)(norm(name="norm1")(x))
        query, key, value = jnp.moveaxis(
            y.reshape(*x.shape[:2], 3, self.heads, width // self.heads), 2, 0
        )
        y = jax.nn.dot_product_attention(query, key, value)  # its softmax is float32
        x = x + drop(dense(width, "proj")(y.reshape(x.shape)))
        y = nn.gelu(dense(self.mlp, "fc1")(norm(name="norm2")(x)), approximate=False)
        return x + drop(dense(width, "fc2", inputs=self.mlp)(y))


class ViT(nn.Module):
    """A vision transformer without its classifier.

    Attributes:
      width: width of tokens and features.
      depth: number of blocks.
      heads: number of attention heads, a divisor of the width.
      patch: side of a patch, pixels.
      image_size: side of the square images for which learnt positions are made, pixels. For images
        of another size the network resizes the positions (bicubic).
      pool: "token" (features are the class token, after the last normalisation) or "mean" (no
        class token; features are the normalised mean of the patches).
      positions: "learnt", or "sincos", fixed sines and cosines of row and column (Chen et al.,
        ICCV 2021) for the patches, zero for the class token.
      initialisation: "deit" (truncated normal weights, standard deviation 0.02) or "xavier" (MoCo
        v3's: uniform weights, and a class token of almost zero).
      drop_path: stochastic depth rate of the last block; rates rise linearly from 0 in the first.
      dtype: computation dtype; normalisation and softmax are always computed in float32.
      remat: whether the backward pass recomputes the activations of each block to save memory.
      frozen: number of parts (stem with patches, class token and positions; block 1, …) that get no
        gradient; if all parts are frozen, so is the last normalisation.
    """

    width: int
    depth: int
    heads: int
    patch: int = 16
    image_size: int = 224
    pool: str = "token"
    positions: str = "learnt"
    initialisation: str = "deit"
    drop_path: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Maps float images [batch, height, width, channels] to (features, intermediates).

        Features are float32 [batch, width]; intermediates are a dict of the tokens [batch, tokens,
        width] of the stem and of each block.
        """
        self._check(images.shape)
        xavier = self.initialisation == "xavier"
        init, pixels = _xavier if xavier else _deit, self.patch**2 * images.shape[-1]
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=init(pixels, self.width) if xavier else nn.initializers.lecun_normal(),
            name="patch_embed",
        )(images.astype(self.dtype))
        batch, *grid, _ = x.shape
        x = x.reshape(batch, -1, self.width)
        tokens = int(self.pool == "token")
        if tokens:
            token_init = nn.initializers.normal(1e-6) if xavier else init(1, 1)
            token = self.param("cls_token", token_init, (1, 1, self.width)).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, self.width)), x], axis=1)
        x = self._stop(0, x + self._positions(tuple(grid), tokens).astype(self.dtype))
        intermediates = {"stem": x}
        make_block = nn.remat(Block) if self.remat else Block
        for i, rate in enumerate(drop_rates(self.drop_path, self.depth)):
            drop = rate if train and i + 1 >= self.frozen else 0.0
            block = make_block(
                self.heads, 4 * self.width, drop, self.dtype, init, name=f"block{i + 1}"
            )
            x = block(x)
            x = intermediates[f"block{i + 1}"] = self._stop(i + 1, x)
        x = x[:, :1] if tokens else x  # only the class token is used from here on
        x = layer_norm(self.dtype)(name="norm")(jnp.mean(x, axis=1))
        return self._stop(self.depth, x).astype(jnp.float32), intermediates

    def fixed_positions(self, grid: tuple[int, int], tokens: int) -> np.ndarray:
        """Positions of "sincos": float32 [1, tokens + rows · columns, width]."""
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
        learnt = self.param("positions", _deit(1, 1), (1, tokens + own[0] * own[1], self.width))
        return resize_positions(learnt, own, grid)

    def _stop(self, depth, x):
        return jax.lax.stop_gradient(x) if depth < self.frozen else x

    def _check(self, shape):
        for name, known in ("pool", POOLS), ("positions", POSITIONS), ("initialisation", INITS):
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
    """Resizes learnt positions to another grid of patches, like timm's ``resample_abs_pos_embed``.

    The interpolation is bicubic.

    Args:
      positions: float [1, tokens + rows · columns, width]; tokens before the patches are unchanged.
      grid: current (rows, columns).
      wanted: new (rows, columns).

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
# Arguments are passed by name, so that options can override them.
VITS = {
    name: functools.partial(ViT, width=width, depth=depth, heads=heads)
    for name, (width, depth, heads) in SIZES.items()
}
