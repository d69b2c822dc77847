"""ResNet v1.5, wide ResNets, and pre-activation ResNets for small images.

ResNet: He et al. 2016, with the stride in the 3×3 convolution of a bottleneck (v1.5). Wide ResNet:
Zagoruyko and Komodakis 2016, in torchvision's form with twice the width inside bottlenecks.
Pre-activation ResNet: He et al., ECCV 2016.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpt.errors import require
from jaxpt.models.layers import check_widths, make_norm

STEMS = ("imagenet", "small")
CHANNELS = 8  # the tensor cores of GPUs take multiples of it


class BasicBlock(nn.Module):
    """Residual block of two 3×3 convolutions."""

    width: int
    stride: int
    conv: Any
    norm: Any
    last_scale: Any
    expansion = 1

    @nn.compact
    def __call__(self, x):
        y = self.conv(self.width, (3, 3), strides=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, (3, 3), name="conv2")(y)
        y = self.norm(name="norm2", scale_init=self.last_scale)(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


class Bottleneck(nn.Module):
    """Residual block of 1×1, 3×3 and 1×1 convolutions."""

    width: int
    stride: int
    conv: Any
    norm: Any
    last_scale: Any
    expansion = 4
    widening = 1

    @nn.compact
    def __call__(self, x):
        inner = self.width * self.widening
        y = nn.relu(self.norm(name="norm1")(self.conv(inner, (1, 1), name="conv1")(x)))
        y = self.conv(inner, (3, 3), strides=self.stride, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.width * self.expansion, (1, 1), name="conv3")(y)
        y = self.norm(name="norm3", scale_init=self.last_scale)(y)
        return nn.relu(y + _shortcut(self, x, y.shape[-1]))


class WideBottleneck(Bottleneck):
    """A bottleneck with twice the inner width and the same outer width."""

    widening = 2


def _shortcut(block, x, channels):
    if x.shape[-1] == channels and block.stride == 1:
        return x
    x = block.conv(channels, (1, 1), strides=block.stride, name="conv_shortcut")(x)
    return block.norm(name="norm_shortcut")(x)


class ResNet(nn.Module):
    """A residual network without its classifier.

    Attributes:
      blocks: number of blocks in each of the four stages.
      block: ``BasicBlock``, ``Bottleneck`` or ``WideBottleneck``.
      stem: "imagenet" (7×7 stride 2, then max-pool) or "small" (3×3 stride 1) for small images.
      width: channels of the first stage.
      norm, dtype, axis_name: as in ``make_norm``.
      zero_init: whether the scale of the last norm of each block starts at zero, which makes the
        block the identity at the start (Goyal et al. 2017); torchvision's ``zero_init_residual``.
      standardised: whether to standardise the convolution weights to mean 0 and variance 1 in each
        output channel (Qiao et al. 2019), which is recommended with GroupNorm.
      remat: whether the backward pass recomputes the activations of each block to save memory.
        XLA's CPU compiler undoes this.
      frozen: number of parts (stem, stage 1, …, stage 4) that get no gradient and stay in
        evaluation mode.
    """

    blocks: tuple[int, ...]
    block: Any
    stem: str = "imagenet"
    width: int = 64
    norm: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    zero_init: bool = True
    standardised: bool = False
    remat: bool = False
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Maps float images [batch, height, width, channels] to (features [batch, dim], stages)."""
        require(self.stem in STEMS, f"stem must be one of {STEMS}, got {self.stem!r}.")
        check_widths(self.norm, [self.width])
        # Explicit symmetric padding as in PyTorch, so that weights can be exchanged.
        conv = functools.partial(
            symmetric_conv,
            dtype=self.dtype,
            conv_general_dilated=_standardised if self.standardised else convolve,
        )
        x = images.astype(self.dtype)
        large = self.stem == "imagenet"
        kernel, strides = ((7, 7), 2) if large else ((3, 3), 1)
        x = conv(self.width, kernel, strides=strides, name="conv_stem")(x)
        x = nn.relu(self._norm(0, train)(name="norm_stem")(x))
        if large:
            x = max_pool(x)
        x = self._stop(0, x)
        intermediates = {"stem": x}
        make_block = nn.remat(self.block) if self.remat else self.block
        last_scale = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        for stage, n_blocks in enumerate(self.blocks):
            norm = self._norm(stage + 1, train)
            for i in range(n_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = make_block(self.width * 2**stage, stride, conv, norm, last_scale, name=name)(x)
            x = intermediates[f"stage{stage + 1}"] = self._stop(stage + 1, x)
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


class PreactBlock(nn.Module):
    """Pre-activation residual block of two 3×3 convolutions.

    The first block of a stage takes its shortcut after the first activation.
    """

    width: int
    stride: int
    first: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.norm(name="norm1")(x))
        x = y if self.first else x
        y = self.conv(self.width, (3, 3), strides=self.stride, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.width, (3, 3), name="conv2")(y)
        if x.shape[-1] != self.width:
            x = self.conv(self.width, (1, 1), strides=self.stride, name="conv_shortcut")(x)
        return x + y


class PreactResNet(nn.Module):
    """A pre-activation ResNet for small images, without its classifier.

    Three stages of (depth − 2) / 6 blocks, with 1, 2 and 4 times the width; the last activation
    comes before the pooling. In detail that of hysts/pytorch_image_classification.

    Attributes:
      depth: number of layers with weights, 6n + 2.
      width: channels of the first stage.
      norm, dtype, axis_name: as in ``make_norm``.
      frozen: number of parts (stem, stage 1, …, stage 3) that get no gradient and stay in
        evaluation mode; the last norm belongs to the last part.
    """

    depth: int = 20
    width: int = 16
    norm: str = "batch"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    frozen: int = 0

    @nn.compact
    def __call__(self, images, train: bool):
        """Maps float images [batch, height, width, channels] to (features [batch, dim], stages)."""
        require(
            self.depth >= 8 and self.depth % 6 == 2,
            f"depth must be 6n + 2, such as 20, got {self.depth}.",
        )
        check_widths(self.norm, [self.width])
        conv = functools.partial(symmetric_conv, dtype=self.dtype)
        x = conv(self.width, (3, 3), name="conv_stem")(images.astype(self.dtype))
        x = self._stop(0, x)
        intermediates = {"stem": x}
        for stage in range(3):
            norm = self._norm(stage + 1, train)
            for i in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage + 1}_block{i + 1}"
                x = PreactBlock(self.width * 2**stage, stride, i == 0, conv, norm, name=name)(x)
            x = intermediates[f"stage{stage + 1}"] = self._stop(stage + 1, x)
        x = self._stop(3, nn.relu(self._norm(3, train)(name="norm_last")(x)))
        return jnp.mean(x, axis=(1, 2)).astype(jnp.float32), intermediates

    _norm, _stop = ResNet._norm, ResNet._stop


def max_pool(x):
    """Largest of windows of 3 × 3 pixels, two apart: [batch, height, width, channels]."""
    return jax.lax.platform_dependent(x, cuda=_max_pool_of_gpus, default=_pool)


_pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1),) * 2)


@jax.custom_vjp
def _max_pool_of_gpus(x):
    """``max_pool`` with a gradient that is gathered; XLA would scatter it, pixel by pixel."""
    return _pool(x)


def _max_pool_forward(x):
    pooled = _pool(x)
    return pooled, (x, pooled)


def _max_pool_backward(residuals, slopes):
    x, pooled = residuals
    (height, width), (rows, columns) = x.shape[1:3], pooled.shape[1:3]
    lowest = jnp.array(-jnp.inf, x.dtype)
    padded = jnp.pad(
        x,
        ((0, 0), (1, 2 * rows - height), (1, 2 * columns - width), (0, 0)),
        constant_values=lowest,
    )
    # Which pixel of its window is the largest, the first of ties.
    first = jnp.full(pooled.shape, 9, jnp.uint8)
    for place in reversed(range(9)):
        down, right = divmod(place, 3)
        there = padded[:, down : down + 2 * rows : 2, right : right + 2 * columns : 2]
        first = jnp.where(there == pooled, jnp.uint8(place), first)

    def of_window(place, down, right):
        """Slopes of the windows ``down`` and ``right`` of a pixel in which it is at ``place``."""
        slope = jnp.where(first == place, slopes, 0)
        missing = ((0, 0), (0, down), (0, right), (0, 0))
        return jnp.pad(slope[:, down:, right:], missing)

    # A pixel in an even row is in one window of that row's axis, in an odd row in two.
    shares = {0: ((1, 0),), 1: ((2, 0), (0, 1))}  # (place in the window, window from here)
    gradient = [
        [
            sum(
                of_window(3 * row + column, down, right)
                for row, down in shares[odd_row]
                for column, right in shares[odd_column]
            )
            for odd_column in range(2)
        ]
        for odd_row in range(2)
    ]
    gradient = jnp.stack([jnp.stack(row, axis=3) for row in gradient], axis=2)
    gradient = gradient.reshape(len(x), 2 * rows, 2 * columns, x.shape[-1])
    return (gradient[:, :height, :width],)


_max_pool_of_gpus.defvjp(_max_pool_forward, _max_pool_backward)


def convolve(images, kernel, strides, padding, **options):
    """``jax.lax.conv_general_dilated``, in a form that is fast for small images and few channels.

    XLA's CPU compiler has no fast code for a kernel that is larger than the image. The last stage
    of a ResNet on images of 64 pixels, 2 × 2, would take longer than all others together. GPUs have
    none for images of three channels, so for strides of two, blocks of 2 × 2 pixels become one of
    twelve channels.
    """
    plain = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    height, width, inputs, outputs = kernel.shape
    even = not any(side % 2 for side in images.shape[1:3])
    if inputs == images.shape[-1] <= 4 and tuple(strides) == (2, 2) and even:
        of_blocks = functools.partial(_convolve_blocks, padding=padding, **options)
        return jax.lax.platform_dependent(images, kernel, cuda=of_blocks, default=plain)
    sides = [-(-side // stride) for side, stride in zip(images.shape[1:3], strides)]
    if sides[0] >= height and sides[1] >= width or inputs < images.shape[-1]:
        return plain(images, kernel)

    def of_patches(images, kernel):
        padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        (rows, columns), (down, right) = sides, strides
        patches = [
            padded[:, y : y + down * rows : down, x : x + right * columns : right]
            for y in range(height)
            for x in range(width)
        ]
        return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, outputs)

    return jax.lax.platform_dependent(images, kernel, cpu=of_patches, default=plain)


def _convolve_blocks(images, kernel, *, padding, **options):
    """Convolution with strides of two, of blocks of 2 × 2 pixels with strides of one."""
    of_blocks, zeros = [], []
    for side, size, (low, high) in zip(images.shape[1:3], kernel.shape, padding):
        # A window begins with a whole block, and ends with one: zeros fill the kernel up.
        zeros.append((low % 2, (size + low % 2) % 2))
        first, last = (low + 1) // 2, (side + low + high - size) // 2  # padding, last window
        blocks = (size + sum(zeros[-1])) // 2
        of_blocks.append((first, last + blocks - first - side // 2))

    def blocked(x):
        _, height, width, channels = x.shape
        x = x.reshape(-1, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, height // 2, width // 2, 4 * channels)
        return jnp.pad(x, (*[(0, 0)] * 3, (0, -4 * channels % CHANNELS)))

    kernel = jnp.pad(kernel, (*zeros, (0, 0), (0, 0))).transpose(3, 0, 1, 2)
    kernel = blocked(kernel).transpose(1, 2, 3, 0)
    return jax.lax.conv_general_dilated(blocked(images), kernel, (1, 1), of_blocks, **options)


def symmetric_conv(features, kernel_size, *, strides=1, conv_general_dilated=convolve, **options):
    """Bias-free convolution with PyTorch's padding and initialisation as in He et al. (2015)."""
    padding = [((k - 1) // 2, (k - 1) // 2) for k in kernel_size]
    return nn.Conv(
        features,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=conv_general_dilated,
        **options,
    )


def _standardised(images, kernel, *args, **options):
    """Convolves with a standardised kernel; ε 1e-6, as in timm's StdConv2d."""
    weights = jax.nn.standardize(kernel.astype(jnp.float32), axis=(0, 1, 2), epsilon=1e-6)
    return convolve(images, weights.astype(kernel.dtype), *args, **options)


ResNet18 = functools.partial(ResNet, (2, 2, 2, 2), BasicBlock)
ResNet34 = functools.partial(ResNet, (3, 4, 6, 3), BasicBlock)
ResNet50 = functools.partial(ResNet, (3, 4, 6, 3), Bottleneck)
ResNet101 = functools.partial(ResNet, (3, 4, 23, 3), Bottleneck)
ResNet152 = functools.partial(ResNet, (3, 8, 36, 3), Bottleneck)
WideResNet50 = functools.partial(ResNet, (3, 4, 6, 3), WideBottleneck)
WideResNet101 = functools.partial(ResNet, (3, 4, 23, 3), WideBottleneck)
