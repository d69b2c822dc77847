"""Shared steps of methods before the loss: encoders, views, queries and the target's keys."""

import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpt import models
from jaxpt.data import augment, crops
from jaxpt.errors import require
from jaxpt.methods import unread
from jaxpt.models.layers import stochastic_depth_key
from jaxpt.ops.similarity import unit_vectors

KEY_VIEW = 1_000  # view numbers seed the augmentation; those of query views are 0, 1, …
LOCAL_VIEW = 2_000
TARGET_NORMS = ("batch", "running")


def projected_encoder(setup, *, predictor: bool = False) -> models.Encoder:
    """Builds the config's backbone with its projector and, optionally, its predictor."""
    config, axis = setup.config.model, setup.axis_name
    return models.make_encoder(
        config,
        models.make_projector(config, axis_name=axis),
        models.make_predictor(config, axis_name=axis) if predictor else None,
        axis_name=axis,
    )


class Queries(NamedTuple):
    """Outputs of the online encoder for all views of a batch, one view after the other.

    Attributes:
      output: float32 [views · batch, dim], output of the head.
      features: float32 [views · batch, width], output of the backbone.
      prediction: float32 [views · batch, dim], output of the predictor, or None.
      labels, ids: int32 [views · batch].
      batch_stats: BatchNorm's running statistics after all views.
    """

    output: jax.Array
    features: jax.Array
    prediction: jax.Array | None
    labels: jax.Array
    ids: jax.Array
    batch_stats: Any


def queries(encoder, params, state, batch, config, *, images=None) -> Queries:
    """Encodes ``config.views`` views and ``config.local_views`` small crops of a batch.

    ``images`` are these views if they already exist, as from ``view_images``; None draws them.
    """
    stats, outputs, features, predictions = state.batch_stats, [], [], []
    key = stochastic_depth_key(batch)
    for i, part in enumerate(view_images(config, batch) if images is None else images):
        encoded = encode(encoder, params, stats, part, config, key=jax.random.fold_in(key, i))
        stats = encoded.batch_stats
        outputs.append(encoded.output)
        features.append(encoded.features)
        predictions.append(encoded.prediction)
    return Queries(
        jnp.concatenate(outputs),
        jnp.concatenate(features),
        None if predictions[0] is None else jnp.concatenate(predictions),
        each_view(batch.label, config),
        each_view(batch.id, config),
        stats,
    )


def encode(
    encoder, params, batch_stats, images, config, *, train: bool = True, key=None
) -> models.Encoded:
    """Runs ``models.encode`` on ``config.micro_batches`` parts, one after another.

    Only the activations of one part exist at a time: the backward pass recomputes them part by
    part, while the loss sees the outputs of all parts (GradCache: Gao et al., RepL4NLP 2021). So,
    unlike with gradient accumulation over small batches, the contrast is the whole batch. Gradients
    equal those of a single pass, to rounding, except through BatchNorm, whose statistics are those
    of a part and whose running statistics are updated once per part.

    Args:
      encoder, params, batch_stats, train, key: as for ``models.encode``.
      images: float [views · batch, …]; every part gets all views of its examples.
      config: the pre-training config.
    """
    parts = config.micro_batches
    if parts == 1:
        return models.encode(encoder, params, batch_stats, images, train=train, key=key)

    @jax.checkpoint  # discards the activations of a part and recomputes them when needed
    def visit(stats, part):
        encoded = models.encode(encoder, params, stats, part[0], train=train, key=part[1])
        return encoded.batch_stats, encoded._replace(batch_stats=None)

    # Part i takes every ``parts``-th row from i on. As ``parts`` divides the batch size, all views
    # of an example are in the same part.
    split = jnp.swapaxes(images.reshape(-1, parts, *images.shape[1:]), 0, 1)
    stats, encoded = jax.lax.scan(
        visit, batch_stats, (split, None if key is None else jax.random.split(key, parts))
    )
    encoded = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(images.shape[0], *x.shape[2:]), encoded
    )
    return encoded._replace(batch_stats=stats)


def check_micro_batches(config, devices: int) -> None:
    """Raises InputError if ``micro_batches`` does not divide each device's share of the batch."""
    share, parts = config.batch_size // devices, config.micro_batches
    require(parts >= 1, f"micro_batches must be at least 1, got {parts}.")
    require(
        share % parts == 0,
        f"micro_batches {parts} does not divide the {share} images of a "
        f"device (batch_size {config.batch_size} over {devices}): choose a divisor of {share}.",
    )


def view_images(config, batch) -> list[jax.Array]:
    """Draws all views: those of ``config.augment``, then the small crops, if there are any.

    Each array passes through the network on its own. Small crops are one, as they may have another
    size; full views are one, or with ``separate_views`` one each.
    """
    images = apart(global_images(config, batch), config)
    if config.local_views:
        images.append(
            jnp.concatenate(
                [
                    augment.draw_view(config.local_augment, batch, view=LOCAL_VIEW + v)
                    for v in range(config.local_views)
                ]
            )
        )
    return images


def global_images(config, batch) -> jax.Array:
    """Draws the ``config.views`` full views, one after the other: [views · batch, …]."""
    return jnp.concatenate(
        [augment.draw_view(config.augment, batch, view=v) for v in range(config.views)]
    )


def first_view(config, batch) -> jax.Array:
    """Draws the first full view of each image: [batch, …]."""
    return augment.draw_view(config.augment, batch, view=0)


def cropped_views(config, side: int) -> dict[int, crops.View]:
    """Views that the config's method draws, by number, as the host takes them from pictures.

    Args:
      config: the pre-training config.
      side: side of a view without ``crop_size``, in pixels.
    """
    drawn = {v: config.augment for v in range(config.views)}
    drawn |= {LOCAL_VIEW + v: config.local_augment for v in range(config.local_views)}
    if "key_augment" not in unread(config):
        drawn[KEY_VIEW] = config.key_augment
    return {
        number: crops.View(
            tuple(settings.crop_area),
            settings.crop_size or side,
            interpolation=augment.Settings(**settings).crop_interpolation,
        )
        for number, settings in drawn.items()
    }


def each_view(rows, config):
    """Repeats per-image rows [batch, …] for each view: [views · batch, …]."""
    return jnp.tile(rows, (config.views + config.local_views,) + (1,) * (rows.ndim - 1))


def apart(views, config) -> list[jax.Array]:
    """Splits full views [views · batch, …] into one array each if ``separate_views`` is set."""
    return jnp.split(views, config.views) if config.separate_views else [views]


def other_view(rows):
    """Swaps the two halves, so that each row becomes the other view of its image."""
    return jnp.roll(rows, rows.shape[0] // 2, axis=0)


def target_keys(encoder, target, batch, config):
    """Returns unit keys [batch, dim] from the target encoder, and its BatchNorm statistics."""
    keys, stats = target_outputs(encoder, target, key_images(config, batch), config)
    return unit_vectors(keys), stats


def key_images(config, batch) -> jax.Array:
    """Draws the view of each image from which its key is computed: [batch, …]."""
    return augment.draw_view(config.key_augment, batch, view=KEY_VIEW)


def target_outputs(encoder, target, images, config, *, norm: str | None = None):
    """Returns the target encoder's outputs, without gradient, and its BatchNorm statistics.

    Args:
      encoder, target: the online ``Encoder`` and the ``Target``.
      images: float [batch, …], or a list of these that pass one after the other.
      config: the pre-training config.
      norm: statistics that BatchNorm uses; None means ``config.target_norm``. "batch" uses those of
        ``images``, as MoCo does. "running" uses the average of the online encoder's running
        statistics: no information leaks between the examples of a batch, but at the start of
        training these statistics are meaningless.
    """
    norm = norm or config.target_norm
    stats, outputs = target.batch_stats, []
    for part in images if isinstance(images, list) else [images]:
        encoded = encode(
            encoder.clone(predictor=None),  # the target has no parameters for a predictor
            target.params,
            stats,
            part,
            config,
            train=norm == "batch",
        )
        stats = encoded.batch_stats
        outputs.append(encoded.output)
    return jax.lax.stop_gradient((jnp.concatenate(outputs), stats))


def check_target(config) -> None:
    """Raises InputError if a setting of the target encoder is invalid."""
    require(0 <= config.ema < 1, f"ema must be at least 0 and below 1, got {config.ema}.")
    require(config.ema_end <= 1, f"ema_end must be at most 1, got {config.ema_end}.")
    require(
        config.target_norm in TARGET_NORMS,
        f"target_norm must be one of {TARGET_NORMS}, got {config.target_norm!r}.",
    )


def check_two_views(config) -> None:
    """Raises InputError if the config does not have exactly two views."""
    require(
        config.views == 2 and config.local_views == 0,
        f"method {config.method} compares two views of each image: set views to 2 and "
        f"local_views to 0, got {config.views} and {config.local_views}.",
    )


def check_temperature(config, name: str = "temperature") -> None:
    """Raises InputError if the temperature with this dotted name is not positive and finite."""
    value = operator.attrgetter(name)(config)
    require(value > 0, f"{name} must be positive, got {value}.")
    require(math.isfinite(value), f"{name} must be finite, got {value}.")


def check_shares(config, *names: str) -> None:
    """Raises InputError if one of the fields with these dotted names is not in 0 … 1."""
    for name in names:
        value = operator.attrgetter(name)(config)
        require(0 <= value <= 1, f"{name} must lie in 0 … 1, got {value}.")
