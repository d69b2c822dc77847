"""SupCon: supervised contrastive pre-training within the batch (Khosla et al., NeurIPS 2020)."""

import jax
import jax.numpy as jnp

from jaxpt import losses, models
from jaxpt.errors import require
from jaxpt.methods import encoding
from jaxpt.methods.setup import Method, Setup
from jaxpt.train.state import TrainState, apply_gradients


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    require(config.temperature > 0, f"temperature must be positive, got {config.temperature}.")
    encoder = encoding.projected_encoder(setup)

    def init(key, images):
        params, stats = models.init(encoder, key, images)
        return TrainState(jnp.zeros((), jnp.int32), params, stats, setup.optimizer.init(params))

    def step(state, batch):
        images, labels, _ = encoding.query_views(config, batch)

        def loss_of(params):
            embeddings, _, stats = models.encode(encoder, params, state.batch_stats, images,
                                                 train=True)
            # The contrast is the whole batch, not this device's part of it.
            per_anchor = losses.sup_con(embeddings, labels, temperature=config.temperature,
                                        axis_name=axis)
            return jnp.mean(per_anchor), stats

        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        state = apply_gradients(state, gradients, stats, setup.optimizer, axis)
        return state, encoding.mean_over_devices({"loss": loss}, axis)

    return Method(encoder, init, step)
