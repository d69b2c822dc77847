"""Cross-entropy: a linear classifier on the backbone, trained with it."""

import jax
import jax.numpy as jnp

from jaxpt import losses, models
from jaxpt.errors import require
from jaxpt.methods import encoding
from jaxpt.methods.setup import Method, Setup
from jaxpt.train.state import TrainState, apply_gradients


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    require(0 <= config.label_smoothing < 1,
            f"label_smoothing must be at least 0 and below 1, got {config.label_smoothing}.")
    encoder = models.Encoder(models.make_backbone(config.model, axis_name=axis),
                             models.Classifier(setup.classes))

    def init(key, images):
        params, stats = models.init(encoder, key, images)
        return TrainState(jnp.zeros((), jnp.int32), params, stats, setup.optimizer.init(params))

    def step(state, batch):
        images, labels, _ = encoding.query_views(config, batch)

        def loss_of(params):
            logits, _, stats = models.encode(encoder, params, state.batch_stats, images,
                                             train=True)
            per_example = losses.cross_entropy(logits, labels,
                                               label_smoothing=config.label_smoothing)
            return jnp.mean(per_example), (stats, jnp.mean(jnp.argmax(logits, -1) == labels))

        (loss, (stats, accuracy)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params)
        state = apply_gradients(state, gradients, stats, setup.optimizer, axis)
        return state, encoding.mean_over_devices({"loss": loss, "accuracy": accuracy}, axis)

    return Method(encoder, init, step)
