"""SimCLR: finds the other view of each image in the batch (Chen et al., ICML 2020).

Labels are not used.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    encoding.check_temperature(config)
    encoding.check_two_views(config)
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_anchor = losses.nt_xent(
                queries.output, queries.ids, temperature=config.temperature, axis_name=axis
            )
            return per_anchor, (queries, {})

        return updating.descend(setup, state, loss_of)

    return Method(
        encoder,
        updating.make_init(setup, encoder),
        step,
        chance=math.log(2 * config.batch_size - 1),
    )
