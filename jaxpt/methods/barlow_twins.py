"""Barlow Twins: decorrelates the features of two views (Zbontar et al., ICML 2021).

Each feature should correlate with itself across the views, and with no other feature. Labels are
not used. In the paper the views pass through BatchNorm one after the other: set ``separate_views``.
"""

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, rw_sam, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    encoding.check_two_views(config)
    rw_sam.check_loss_per_image(config)
    redundancy = config.barlow_twins.redundancy
    require(redundancy >= 0, f"barlow_twins.redundancy must not be negative, got {redundancy}.")
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            first, second = jnp.split(queries.output, 2)
            loss = losses.barlow_twins(first, second, redundancy=redundancy, axis_name=axis)
            return loss, (queries, {})

        return updating.descend(setup, state, loss_of)

    dim = config.model.projector.dim  # the diagonal's part without any correlation
    return Method(encoder, updating.make_init(setup, encoder), step, chance=float(dim))
