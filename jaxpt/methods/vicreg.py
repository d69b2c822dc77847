"""VICReg: makes views agree and features vary without correlation (Bardes et al., ICLR 2022).

Labels are not used. In the paper the views pass through BatchNorm one after the other: set
``separate_views``.
"""

import jax.numpy as jnp

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, rw_sam, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    encoding.check_two_views(config)
    rw_sam.check_loss_per_image(config)
    for name, weight in config.vicreg.items():
        require(weight >= 0, f"vicreg.{name} must not be negative, got {weight}.")
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            first, second = jnp.split(queries.output, 2)
            loss = losses.vicreg(first, second, **config.vicreg, axis_name=axis)
            return loss, (queries, {})

        return updating.descend(setup, state, loss_of)

    # Constant outputs have no variance, and agree in everything else.
    return Method(encoder, updating.make_init(setup, encoder), step, chance=config.vicreg.variance)
