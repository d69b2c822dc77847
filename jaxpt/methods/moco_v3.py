"""MoCo v3: finds the target's output for the other view in the batch (Chen et al., ICCV 2021).

Labels are not used. As in the paper, the loss has a factor of 2τ, which makes the scale of the
gradient independent of τ. In the authors' code the views pass through BatchNorm one after the
other: set ``separate_views``.
"""

import math

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_temperature(config)
    encoding.check_two_views(config)
    encoding.check_target(config)
    encoder = encoding.projected_encoder(setup, predictor=True)

    def step(state, batch):
        # Outside ``loss_of``: no gradient flows into the target encoder.
        views = encoding.apart(encoding.global_images(config, batch), config)
        targets, target_stats = encoding.target_outputs(encoder, state.target, views, config)

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            # A query is compared with the targets of the other view only, as in the paper.
            both_orders = [
                losses.info_nce(
                    predictions, others, temperature=config.temperature, axis_name=setup.axis_name
                )
                for predictions, others in zip(
                    jnp.split(queries.prediction, 2), jnp.split(targets, 2)[::-1], strict=True
                )
            ]
            # Twice the factor 2τ, as the paper adds the two orders and the mean averages them.
            return 4 * config.temperature * jnp.stack(both_orders), (queries, {})

        state, metrics = updating.descend(setup, state, loss_of)
        return updating.follow(setup, state, target_stats), metrics

    chance = 4 * config.temperature * math.log(config.batch_size)
    return Method(encoder, updating.make_init(setup, encoder, target=True), step, chance=chance)
