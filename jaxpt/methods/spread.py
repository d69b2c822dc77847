"""Spread: SupCon plus instance discrimination within each class (Chen et al., ICML 2022).

``weight`` is the share of instance discrimination, which keeps a class from collapsing to a point.
"""

import math

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    encoding.check_temperature(config)
    encoding.check_two_views(config)
    encoding.check_shares(config, "spread.weight")
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_anchor = losses.spread(
                queries.output,
                queries.labels,
                queries.ids,
                temperature=config.temperature,
                weight=config.spread.weight,
                axis_name=axis,
            )
            return per_anchor, (queries, {})

        return updating.descend(setup, state, loss_of)

    # SupCon contrasts with the whole batch, instance discrimination with the class.
    anchors, share = 2 * config.batch_size, config.spread.weight
    in_class = max(anchors / setup.classes - 1, 1)
    chance = (1 - share) * math.log(anchors - 1) + share * math.log(in_class)
    return Method(encoder, updating.make_init(setup, encoder), step, chance=chance)
