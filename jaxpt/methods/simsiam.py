"""SimSiam: predicts one view from the other, with a stop-gradient (Chen and He, CVPR 2021).

No labels, negatives, target encoder or memory are used. In the authors' code the views pass through
BatchNorm one after the other, the projector ends in BatchNorm, and the predictor's learning rate is
constant: set ``separate_views``, ``model.projector.last_norm`` and
``optimizer.constant_predictor``, as the recipe does.
"""

from jaxpt import losses
from jaxpt.methods import Method, Setup, encoding, updating


def make(setup: Setup) -> Method:
    config = setup.config
    encoding.check_two_views(config)
    encoder = encoding.projected_encoder(setup, predictor=True)

    def step(state, batch):
        def loss_of(params):
            queries = encoding.queries(encoder, params, state, batch, config)
            per_view = losses.cosine_regression(
                queries.prediction, encoding.other_view(queries.output)
            )
            # Half of 2 − 2·cos has the gradient of the paper's −cos; the mean averages both orders.
            return 0.5 * per_view, (queries, {})

        return updating.descend(setup, state, loss_of)

    return Method(encoder, updating.make_init(setup, encoder), step, chance=1.0)
