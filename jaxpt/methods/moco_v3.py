"""MoCo v3: finds the target's output for the other view in the batch (Chen et al., ICCV 2021).

Labels are not used. As in the paper, the loss has a factor of 2τ, which makes the scale of the
gradient independent of τ. Both views pass through BatchNorm together, and projector and predictor
have no final BatchNorm.
"""

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
        targets, target_stats = encoding.target_outputs(
            encoder, state.target, encoding.global_images(config, batch), config
        )

        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_view = losses.info_nce(
                queries.prediction,
                encoding.other_view(targets),
                temperature=config.temperature,
                query_ids=queries.ids,
                axis_name=setup.axis_name,
            )
            # Twice the factor 2τ, as the paper adds the two orders and the mean averages them.
            return 4 * config.temperature * jnp.mean(per_view), (queries.batch_stats, {})

        state, metrics = updating.descend(setup, state, loss_of)
        return updating.follow(setup, state, target_stats), metrics

    return Method(encoder, updating.make_init(setup, encoder, target=True), step)
