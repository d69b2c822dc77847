"""What methods share: queries' views, the target's keys, their memory."""

import jax
import jax.numpy as jnp

from jaxpt import memory as memories
from jaxpt import models
from jaxpt.data import augment
from jaxpt.errors import require
from jaxpt.losses.similarity import gather, unit_vectors
from jaxpt.models.encoder import encode

KEY_VIEW = 1_000  # far from the query views' numbers 0, 1, …
TARGET_NORMS = ("batch", "running")


def projected_encoder(setup) -> models.Encoder:
    """The configured backbone with the configured projector on it."""
    config = setup.config.model
    return models.Encoder(models.make_backbone(config, axis_name=setup.axis_name),
                          models.make_projector(config, axis_name=setup.axis_name))


def query_views(config, batch):
    """``config.views`` augmented views of a batch, one after the other.

    Returns:
      (images [views·batch, …], labels [views·batch], ids [views·batch]).
    """
    images = [augment.draw_view(config.augment, batch, view=v)
              for v in range(config.views)]
    return (jnp.concatenate(images), jnp.tile(batch.label, config.views),
            jnp.tile(batch.id, config.views))


def target_keys(encoder, target, batch, config):
    """Unit keys [batch, dim] of the target encoder for a view of its own, and its statistics.

    With BatchNorm the target normalises by the key batch's own statistics (``target_norm``
    "batch", as MoCo does) or by its running ones ("running": no leak between the examples of a
    batch, but keys lag behind).
    """
    view = augment.draw_view(config.key_augment, batch, view=KEY_VIEW)
    keys, _, stats = encode(encoder, target.params, target.batch_stats, view,
                            train=config.target_norm == "batch")
    return unit_vectors(keys), stats


def check_memory(config) -> None:
    """Raises InputError where the memory or the target make no sense."""
    require(config.memory >= config.batch_size,
            f"memory must hold at least one batch, {config.batch_size}, got {config.memory}.")
    require(0 <= config.ema < 1, f"ema must be at least 0 and below 1, got {config.ema}.")
    require(config.target_norm in TARGET_NORMS,
            f"target_norm must be one of {TARGET_NORMS}, got {config.target_norm!r}.")


def push_keys(memory, keys, batch, axis_name):
    """The memory with the keys of all devices pushed, in device order."""
    return memories.push(memory, *(gather(x, axis_name) for x in (keys, batch.label, batch.id)))


def mean_over_devices(metrics: dict, axis_name) -> dict:
    """Float32 metrics, averaged over the devices."""
    return jax.lax.pmean(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics), axis_name)
