"""SupCon: supervised contrastive pre-training within the batch (Khosla et al., NeurIPS 2020).

The paper uses two views of each image. Here ``config.views`` sets their number, one by default as
in the methods with a memory.
"""

import math

from jaxpt import losses
from jaxpt.errors import require
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config, axis = setup.config, setup.axis_name
    encoding.check_temperature(config)
    form = config.sup_con.form
    require(form in losses.FORMS, f"sup_con.form must be one of {losses.FORMS}, got {form!r}.")
    encoder = encoding.projected_encoder(setup)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            # With ``axis_name`` the contrast is the whole batch, not only this device's part.
            per_anchor = losses.sup_con(
                queries.output,
                queries.labels,
                form=form,
                temperature=config.temperature,
                label_sources=setup.label_sources,
                axis_name=axis,
            )
            return per_anchor, (queries, {})

        return updating.descend(setup, state, loss_of)

    rows = config.batch_size * (config.views + config.local_views)
    chance = setup.chance(lambda _, share: math.log(max(share * rows - 1, 1)))
    return Method(encoder, updating.make_init(setup, encoder), step, chance=chance)
